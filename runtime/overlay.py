"""The steps that make a container's root of layers: a writable layer in memory or on disk over read-only ones."""

import errno
import os
from typing import NamedTuple

from runtime import syscalls
from runtime.mounts import new_filesystem
from runtime.world import World


class MemoryLayer(NamedTuple):
    """A bounded tmpfs that holds a writable layer's two directories and is forgotten with the run."""

    key: str
    size: int  # bytes

    def describe(self) -> str:
        return f"make a writable layer of {self.size} bytes in memory"

    def execute(self, world: World) -> None:
        layer = new_filesystem("tmpfs", {"size": str(self.size), "mode": "700"}, 0)
        world.keep(self.key, layer)
        for name in ("upper", "work"):
            os.mkdir(name, 0o755, dir_fd=layer)


class Overlay(NamedTuple):
    """The container's root: read-only layers below, `upper` of the writable layer above (overlayfs).

    The writable layer is never idmapped: overlayfs works in it as the one who mounts, whose id no such mapping has
    (EOVERFLOW, told in the kernel's log only). It holds host ids, and the root's owner is that of `upper`.
    """

    key: str
    lowers: tuple[str, ...]  # keys, the topmost first
    writable: str  # the key of a tree that holds the directories `upper` and `work`
    owner: int  # of the root directory, as a host id

    ADVICE = {
        errno.EINVAL: "creche gives overlay layers as detached mounts: Linux 6.15 or newer, see `creche doctor`",
        errno.ENODEV: "load the overlay module",
    }

    def describe(self) -> str:
        return f"make the root of {len(self.lowers)} layer(s)"

    def execute(self, world: World) -> None:
        writable = world.descriptors[self.writable]
        os.chown("upper", self.owner, self.owner, dir_fd=writable, follow_symlinks=False)
        context = syscalls.fsopen("overlay")
        opened: list[int] = []
        try:
            for lower in self.lowers:
                syscalls.fsconfig_descriptor(context, "lowerdir+", world.descriptors[lower])
            for option, name in (("upperdir", "upper"), ("workdir", "work")):
                directory = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=writable)
                opened.append(directory)
                syscalls.fsconfig_descriptor(context, option, directory)
            syscalls.fsconfig_string(context, "source", "creche")
            syscalls.fsconfig_create(context)
            root = syscalls.fsmount(context, syscalls.MOUNT_ATTR_NODEV)
        finally:
            for descriptor in (context, *opened):
                os.close(descriptor)
        world.keep(self.key, root)
        world.root = root
