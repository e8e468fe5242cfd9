"""Paths that another process swaps while containers start: CVE-2021-30465, CVE-2025-31133.

The racer has what an attacker may have: a directory of the root filesystem, or of a volume that two containers share.
"""

import contextlib
import os
import stat
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.attack.attacking import Attacking, Change, canary, every, install, without_filter, without_userns
from tests.kernel.runtime.launching import Refused


@contextlib.contextmanager
def racing(place: Path, names: tuple[str, str], program: Path) -> Generator[None]:
    """Exchange two names below a directory without a pause."""
    with subprocess.Popen([program, place, *names], stderr=subprocess.PIPE) as racer:
        try:
            yield
            assert racer.poll() is None, "the racer gave up"
        finally:
            racer.kill()


def planted() -> set[str]:
    return {path.name for path in canary().place.iterdir()} - {"secret", "passwd"}


def sweep() -> None:
    """Take away what a successful attack, a control's, has left in the canary directory."""
    for path in canary().place.iterdir():
        if path.name not in ("secret", "passwd"):
            path.rmdir() if path.is_dir() else path.unlink()


class Arena:
    """A launcher, a root, a volume that is raced, and a mount whose target lies in what is swapped."""

    def __init__(self, launcher: Attacking, place: Path, *, mapped: bool, where: str) -> None:
        self.launcher, self.mapped, self.run = launcher, mapped, 0
        self.root, self.volume, self.data = place / "root", place / "volume", place / "data"
        for each in (self.root, self.volume, self.data):
            each.mkdir()
            each.chmod(0o777)
        install("read.c", self.root / "read")
        for each in ("proc", "dev", "sys", "tmp", "vol"):
            (self.root / each).mkdir()
        (self.data / "mine").write_text("mine\n")
        self.raced = self.volume if where == "volume" else self.root
        (self.raced / "swapped").mkdir()
        (self.raced / "other").symlink_to(canary().place)
        self.target = "/vol/swapped/at" if where == "volume" else "/swapped/at"
        launcher.hold(userns=None if not mapped else [0x7FFF0000, 65536])

    def change(self, config: dict[str, Any]) -> None:
        options = ["bind", "nosuid", "nodev", *(["idmap"] if self.mapped else [])]
        for source, target in ((self.volume, "/vol"), (self.data, self.target)):
            config["mounts"].append({"destination": target, "type": "bind", "source": str(source), "options": options})

    def start(self) -> bool:
        """Start one container and let it look; whether it started at all."""
        self.run += 1
        change: Change = every(self.change, *(() if self.mapped else (without_userns, without_filter)))
        secret = ("/vol/swapped/secret", "/vol/other/secret", "/swapped/secret", f"{self.target}/../secret")
        try:
            # A layer of each run's own: what is copied up stays what it is, and could not be raced any more.
            self.launcher.begin(self.run, ("/read", *secret), root=self.root, change=change, memory=1 << 20)
        except Refused:
            return False
        self.launcher.exited("web", self.run)
        return True


CASES = [(where, mapped) for where in ("volume", "root") for mapped in (True, False)]


def attacked(tries: int, place: Path, where: str, mapped: bool, *weaknesses: str) -> tuple[int, set[str], str]:
    """Start up to so many containers against the racer; how many ran, what appeared on the host, what they saw."""
    with Attacking(place, *weaknesses) as launcher:
        arena = Arena(launcher, place, mapped=mapped, where=where)
        racer = install("swap.c", place / "swap")
        ran = 0
        with racing(arena.raced, ("swapped", "other"), racer):
            for _ in range(tries):
                ran += arena.start()
                if weaknesses and planted():
                    break
        return ran, planted(), launcher.told()


@pytest.mark.parametrize(("where", "mapped"), CASES)
def test_a_mount_target_that_is_swapped_leads_nowhere(where: str, mapped: bool, tmp_path: Path) -> None:
    """The target's last part is made in a directory that becomes a link to the host. Some starts may be refused."""
    ran, found, told = attacked(60, tmp_path / "real", where, mapped)
    assert found == set()
    assert canary().secret not in told
    assert ran > 0, "nothing was raced"


@pytest.mark.parametrize(("where", "mapped"), CASES)
def test_a_launcher_that_follows_links_loses_the_race(where: str, mapped: bool, tmp_path: Path) -> None:
    """The control: the target is made in the host's directory, where the container's root may never write."""
    try:
        _, found, _ = attacked(400, tmp_path / "weak", where, mapped, "links followed")
        assert "at" in found
    finally:
        sweep()


# The places of a container's own things


def swapped(tries: int, place: Path, name: str) -> tuple[int, str]:
    """Start containers in a root whose `name` becomes a link to the host and back; how many ran, what they saw."""
    root = place / "root"
    for each in ("proc", "dev", "sys", "tmp", "etc"):
        (root / each).mkdir(parents=True)
    root.chmod(0o755)
    (root / "other").symlink_to(canary().place)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    install("read.c", root / "read")

    def change(config: dict[str, Any]) -> None:
        without_userns(config)
        without_filter(config)
        if name == "etc":  # a user whom the host's directory has
            config["process"]["user"] = {"username": "planted"}

    ran = 0
    with Attacking(place / "launcher") as launcher:
        launcher.hold(userns=None)
        with racing(root, (name, "other"), install("swap.c", place / "swap")):
            for run in range(tries):
                try:
                    launcher.begin(run, ("/read", f"/{name}/secret"), root=root, change=change, memory=1 << 20)
                except Refused:
                    continue
                launcher.exited("web", run)
                ran += 1
        return ran, launcher.told()


PLACES = ("proc", "dev", "sys", "etc")


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_is_swapped_leads_nowhere(name: str, tmp_path: Path) -> None:
    """No control can succeed: a launcher that follows links mounts on the host's directory in a namespace of its own,
    and looks accounts up when the host's tree is gone already. So nothing of the host is seen or believed.
    """
    ran, told = swapped(40, tmp_path / "it", name)
    assert planted() == set()
    assert canary().secret not in told
    assert (ran == 0) if name == "etc" else (ran > 0)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PLACES)
def test_ten_thousand_swapped_places_lead_nowhere(name: str, tmp_path: Path) -> None:
    ran, told = swapped(2_500, tmp_path / "it", name)
    assert planted() == set()
    assert canary().secret not in told
    assert (ran == 0) if name == "etc" else (ran > 0)


# CVE-2025-31133: what is to cover the masked paths is made to be something else


def devices(place: Path, null: str) -> Path:
    """A /dev of the attacker's, in which `null` is the honest device or a link; `other` is what it is swapped with."""
    device = place / "devices"
    for name in ("pts", "shm", "mqueue"):
        (device / name).mkdir(parents=True)
    link, node = ("null", "other") if null == "link" else ("other", "null")
    (device / link).symlink_to("/proc/version")
    os.mknod(device / node, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return device


def masked(tries: int, place: Path, *weaknesses: str, raced: bool) -> tuple[int, set[str]]:
    """Start up to so many containers in a raced /dev; how many ran, and what their masked file said."""
    place.mkdir()
    device = devices(place, "node" if raced else "link")

    def change(config: dict[str, Any]) -> None:
        without_userns(config)
        without_filter(config)
        mounts = [each for each in config["mounts"] if each["destination"] != "/dev"]
        mounts.insert(1, {"destination": "/dev", "type": "bind", "source": str(device), "options": ["bind", "nosuid"]})
        config["mounts"] = mounts

    ran, before, said = 0, "", set[str]()
    with Attacking(place / "launcher", *weaknesses) as launcher, contextlib.ExitStack() as opened:
        launcher.hold(userns=None)
        if raced:
            opened.enter_context(racing(device, ("null", "other"), install("swap.c", place / "swap")))
        for run in range(tries):
            try:
                text = launcher.attack(run, ("/bin/cat", "/proc/keys"), change=change)
            except Refused:
                continue
            ran += 1
            said.add(text.removeprefix(before).strip())
            before = text
            if weaknesses and said - {""}:
                break
    return ran, said


def test_a_null_device_that_is_a_link_covers_nothing(tmp_path: Path) -> None:
    """It is not believed, and the container does not start. The weakened launcher lays what it finds on the masks."""
    assert masked(1, tmp_path / "real", raced=False) == (0, set())
    ran, said = masked(1, tmp_path / "weak", "masks unchecked", raced=False)
    assert ran == 1 and any("Linux" in text for text in said), said


def test_a_null_device_that_is_swapped_covers_nothing_else(tmp_path: Path) -> None:
    ran, said = masked(60, tmp_path / "real", raced=True)
    assert said == {""}
    assert ran > 0
    _, said = masked(200, tmp_path / "weak", "masks unchecked", raced=True)
    assert any("Linux" in text for text in said), said


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_swapped_null_devices_cover_nothing_else(tmp_path: Path) -> None:
    ran, said = masked(10_000, tmp_path / "real", raced=True)
    assert said == {""} and ran > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("where", "mapped"), CASES)
def test_ten_thousand_swapped_targets_lead_nowhere(where: str, mapped: bool, tmp_path: Path) -> None:
    ran, found, told = attacked(2_500, tmp_path / "real", where, mapped)
    assert (found, canary().secret in told) == (set(), False)
    assert ran > 0
