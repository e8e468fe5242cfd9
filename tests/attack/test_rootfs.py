"""Root filesystems that are made to lead out: links, fifos, devices and garbage where a container's own things go."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attack.attacking import (
    Attacking,
    canary,
    every,
    install,
    without_filter,
    without_userns,
)
from tests.kernel.runtime.launching import BASE, Refused

Spoil = Callable[[Path], object]


def link(path: str, to: str) -> Spoil:
    """`path` becomes a symbolic link; {canary} in its target is the host's directory."""

    def make(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(to.format(canary=canary().place))

    return make


def node(path: str, kind: int, device: tuple[int, int] = (0, 0)) -> Spoil:
    def make(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(root / path, kind | 0o666, os.makedev(*device))

    return make


def passwd(content: bytes) -> Spoil:
    def make(root: Path) -> None:
        (root / "etc").mkdir()
        (root / "etc/passwd").write_bytes(content)

    return make


HOST_DISK = (254, 0)
RUNS: dict[str, Spoil] = {
    "honest": lambda _: None,
    "dev": link("dev", "{canary}"),
    "dev-up": link("dev", "../../../../../../..{canary}"),
    "dev-is-proc": link("dev", "proc"),
    "proc-is-dev": link("proc", "dev"),
    "null": link("dev/null", "{canary}/secret"),
    "null-fifo": node("dev/null", stat.S_IFIFO),
    "null-is-the-disk": node("dev/null", stat.S_IFBLK, HOST_DISK),
    "sys": link("sys", "{canary}"),
    "etc": link("etc", "{canary}"),
    "etc-magic": link("etc", "/proc/self/root/etc"),
    "hosts": link("etc/hosts", "{canary}/secret"),
    "hosts-up": link("etc/hosts", "../../../../../..{canary}/secret"),
    "hosts-magic": link("etc/hosts", "/proc/self/fd/0"),
    "target": link("data", "{canary}"),
    "target-magic": link("data", "/proc/self/cwd"),
    "file-target": link("file", "{canary}/secret"),
    "file-target-fifo": node("file", stat.S_IFIFO),
    "file-target-device": node("file", stat.S_IFCHR, (1, 8)),
    "hosts-fifo": node("etc/hosts", stat.S_IFIFO),
    "passwd": link("etc/passwd", "{canary}/passwd"),
    "passwd-up": link("etc/passwd", "../../../../../..{canary}/passwd"),
    "passwd-fifo": node("etc/passwd", stat.S_IFIFO),
    "passwd-device": node("etc/passwd", stat.S_IFCHR, (1, 8)),
    "passwd-disk": node("etc/passwd", stat.S_IFBLK, HOST_DISK),
    "group": link("etc/group", "{canary}/passwd"),
    "group-fifo": node("etc/group", stat.S_IFIFO),
    "passwd-huge": passwd(b"planted:x:0:0::/:/bin/sh\n" * 200_000),
    "passwd-negative": passwd(b"planted:x:-1:4294967295::/:/bin/sh\nplanted:x:0x0:0::/:\n"),
    "passwd-endless": passwd(b"p" * 100_000),
    "passwd-a-directory": lambda root: (root / "etc/passwd").mkdir(parents=True),
}
"""How a root filesystem is made hostile."""


def root_of(place: Path, spoil: Spoil) -> Path:
    place.mkdir(parents=True)
    place.chmod(0o755)
    spoil(place)
    for directory in ("proc", "dev", "sys", "tmp"):
        if not (place / directory).is_symlink():
            (place / directory).mkdir(exist_ok=True)
    install("read.c", place / "read")
    return place


LOOK = (
    "/read",
    *(f"{at}/secret" for at in ("/dev", "/proc", "/sys", "/etc", "/data")),
    "/etc/hosts",
    "/file",
    "/data/own",
)


def mounting(place: Path, user: str = "", only: str = "") -> Callable[[dict[str, Any]], None]:
    """A volume, the container's own hosts file and one more file, each with a target in the hostile root."""

    def change(config: dict[str, Any]) -> None:
        mapped = [] if config["linux"]["namespaces"][0]["type"] != "user" else ["idmap"]
        for source, target in (("volume", "/data"), ("volume", "/data/below"), ("own", "/etc/hosts"), ("own", "/file")):
            if only not in ("", target):
                continue
            config["mounts"].append(
                {"destination": target, "type": "bind", "source": str(place / source), "options": ["bind", *mapped]}
            )
        if user:
            config["process"]["user"] = {"username": user}

    return change


def sources(place: Path) -> Path:
    (place / "volume").mkdir()
    (place / "volume/own").write_text("volume\n")
    (place / "own").write_text("own\n")
    return place


@pytest.mark.parametrize("mapped", (True, False), ids=("own ids", "the host's ids"))
def test_hostile_roots_lead_nowhere(mapped: bool, tmp_path: Path) -> None:
    """Each runs in its own root or is refused; none hangs, none tells or touches what its links name."""
    place = sources(tmp_path)
    loose = () if mapped else (without_userns, without_filter)
    ran: set[str] = set()
    believed: set[str] = set()
    with Attacking(tmp_path / "launcher") as launcher:
        launcher.hold(userns=[BASE, 65536] if mapped else None)
        for run, (name, spoil) in enumerate(RUNS.items()):
            root = root_of(tmp_path / f"root-{name}", spoil)
            for user, into in (("", ran), ("planted:planted" if name.startswith("group") else "planted", believed)):
                try:
                    change = every(*loose, mounting(place, user))
                    launcher.begin(2 * run + bool(user), LOOK, root=root, change=change, memory=1 << 20)
                except Refused:
                    continue
                into.add(name)
                launcher.exited("web", 2 * run + bool(user))
        told = launcher.told()
    assert "honest" in ran and "own\n" in told and "volume\n" in told, "the rig itself does not work"
    assert believed == set(), "a user that only the host's file has was believed, or a file that is none"
    assert {"passwd-fifo", "passwd-disk", "null", "null-fifo", "null-is-the-disk"} <= ran
    assert canary().secret not in told
    assert (place / "own").read_text() == "own\n"


def test_links_that_are_followed_lead_to_the_host(tmp_path: Path) -> None:
    """The control: targets are made in the host's directory."""
    place = sources(tmp_path)
    root = root_of(tmp_path / "root", RUNS["target"])
    below = canary().place / "below"
    try:
        with Attacking(tmp_path / "weak", "links followed") as weak:
            weak.hold(userns=None)
            change = every(without_userns, without_filter, mounting(place, only="/data/below"))
            weak.begin(1, LOOK, root=root, change=change, memory=1 << 20)
            assert below.is_dir()
    finally:
        if below.exists():
            below.rmdir()


MAGIC = "/proc/self/fd/{number}{canary}/passwd"


@pytest.mark.parametrize(("weakness", "believed"), [((), False), (("links followed",), True)], ids=("real", "control"))
def test_no_magic_link_leads_to_the_hosts_accounts(weakness: tuple[str, ...], believed: bool, tmp_path: Path) -> None:
    """While accounts are looked up, descriptors of host directories are open; links may name them by number."""
    started: set[int] = set()
    host = tmp_path / "host"
    host.mkdir()
    with Attacking(tmp_path / "launcher", *weakness) as launcher:
        launcher.hold()
        for number in range(3, 40):
            spoil = link("etc/passwd", MAGIC.replace("{number}", str(number)))
            root = root_of(tmp_path / f"root-{number}", spoil)

            def change(config: dict[str, Any]) -> None:
                config["mounts"].append(
                    {"destination": "/data", "type": "bind", "source": "/", "options": ["bind", "ro"]}
                )
                config["process"]["user"] = {"username": "planted"}

            try:
                launcher.begin(number, ("/read",), root=root, change=change, memory=1 << 20)
            except Refused:
                continue
            launcher.exited("web", number)
            started.add(number)
    assert bool(started) == believed
