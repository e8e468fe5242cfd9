"""Mounts that a container makes reach nobody else; what it is given read-only or masked stays so."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attack.attacking import Attacking, Change, every, open_root, python, without_filter
from tests.kernel.runtime.launching import eventually

LOOSE = every(open_root, without_filter)
"""CAP_SYS_ADMIN, every system call, the host's ids."""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount of the host whose changes every namespace that has it is told of, as systemd makes all of them."""
    place = tmp_path / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "creche-attack", place], check=True)
    try:
        subprocess.run(["mount", "--make-shared", place], check=True)
        (place / "below").mkdir()
        yield place
    finally:
        subprocess.run(["umount", "-R", "-l", place], check=True)


def mounts_below(place: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{place}/")]


def volume(source: Path, *options: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        mount = {"destination": "/vol", "type": "bind", "source": str(source), "options": ["rbind", *options]}
        config["mounts"].append(mount)

    return change


MOUNT = """
print(said(libc.mount(b"planted", b"/vol/below", b"tmpfs", 0, None)), flush=True)
"""


def test_a_mount_below_a_shared_volume_stays_inside(shared: Path, tmp_path: Path) -> None:
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(userns=None)
        launcher.begin(1, python(MOUNT + "time.sleep(1000)"), change=every(LOOSE, volume(shared)))
        assert launcher_said(launcher) == "done\n"
        assert mounts_below(shared) == []


def test_a_volume_that_is_asked_to_be_shared_lets_mounts_out(shared: Path, tmp_path: Path) -> None:
    """The control: OCI's `rshared`, which nobody has but who asks for it."""
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(userns=None)
        launcher.begin(1, python(MOUNT + "time.sleep(1000)"), change=every(LOOSE, volume(shared, "rshared")))
        assert launcher_said(launcher) == "done\n"
        assert mounts_below(shared) == [f"{shared}/below"]
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["umount", shared / "below"], check=True)


def launcher_said(launcher: Attacking) -> str:
    assert eventually(lambda: launcher.output().endswith(b"\n"))
    return launcher.told()


UNDO = """
MS_REMOUNT, MS_BIND, MS_MOVE = 0x20, 0x1000, 0x2000
seen = {}
for path in ("/vol", "/proc/sys", "/sys"):
    seen[f"remount {path}"] = said(libc.mount(None, path.encode(), None, MS_REMOUNT | MS_BIND, None))
for path in ("/proc/interrupts", "/proc/keys", "/proc/sys", "/vol"):
    seen[f"unmount {path}"] = said(libc.umount2(path.encode(), 0))
    seen[f"detach {path}"] = said(libc.umount2(path.encode(), 2))
os.makedirs("/tmp/moved")
seen["move"] = said(libc.mount(b"/proc/sys", b"/tmp/moved", None, MS_MOVE, None))
seen["proc"] = said(libc.mount(b"proc", b"/tmp/moved", b"proc", 0, None))
seen["sysfs"] = said(libc.mount(b"sysfs", b"/tmp/moved", b"sysfs", 0, None))
seen["cgroup"] = said(libc.mount(b"cgroup", b"/tmp/moved", b"cgroup", 0, b"memory"))
print(json.dumps(seen), flush=True)
"""


@pytest.mark.parametrize("loose", (False, True), ids=("real", "control"))
def test_masks_and_read_only_mounts_cannot_be_undone(loose: bool, tmp_path: Path) -> None:
    """By the container's own root. The control has CAP_SYS_ADMIN over what it stands in, and undoes what it likes."""
    given = tmp_path / "given"
    given.mkdir()
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(userns=None if loose else [0x7FFF0000, 65536])
        change = every(*([LOOSE] if loose else []), volume(given, "ro"))
        seen = json.loads(launcher.attack(1, python(UNDO), change=change))
    if loose:
        assert seen["remount /vol"] == seen["unmount /proc/interrupts"] == seen["proc"] == "done", seen
    else:
        assert set(seen.values()) == {"EPERM"}, seen
