"""The root taken without pivot_root(2), for hosts that run from an initramfs, whose root cannot be pivoted away."""

import os
from pathlib import Path
from typing import NamedTuple

from runtime import syscalls
from runtime.world import World

_MS_MOVE = 0x2000  # mount(2)
_REVEALING = frozenset({"proc", "sysfs"})


class MoveRoot(NamedTuple):
    """The root is moved over `/` and becomes the process's root; the host's tree stays below it, out of sight.

    Other than after pivot_root a process with CAP_SYS_ADMIN and CAP_SYS_CHROOT can come back to it. The host's procfs
    and sysfs are detached first: they would let others be mounted that show all (mount_namespaces(7)).
    """

    place: str  # where the root is attached

    def describe(self) -> str:
        return "move the root over / (no pivot_root)"

    def execute(self, world: World) -> None:
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            left, _, right = line.partition(" - ")
            point = left.split(" ")[4]
            if right.split(" ")[0] in _REVEALING and not point.startswith(f"{self.place}/") and "\\" not in point:
                syscalls.umount2(point, syscalls.MNT_DETACH)
        os.fchdir(world.root)
        syscalls.mount(".", "/", None, _MS_MOVE)
        os.chroot(".")
        os.chdir("/")
