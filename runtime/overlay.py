"""The steps that make a container's root of layers: a writable layer in memory or on disk over read-only ones."""

import errno
import os
import signal
import struct
from typing import NamedTuple, NoReturn

from runtime import syscalls
from runtime.mounts import PIVOT_PLACE, new_filesystem
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
        errno.EINVAL: "overlayfs refuses a layer or the writable layer's filesystem (itself an overlay, or without "
        "extended attributes): its reason is in the kernel's log; put them on ext4, xfs, btrfs or tmpfs",
        errno.ENODEV: "load the overlay module",
    }

    def describe(self) -> str:
        return f"make the root of {len(self.lowers)} layer(s)"

    def execute(self, world: World) -> None:
        writable = world.descriptors[self.writable]
        os.chown("upper", self.owner, self.owner, dir_fd=writable, follow_symlinks=False)
        opened: list[int] = []
        try:
            for name in ("upper", "work"):
                opened.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=writable))
            layers = tuple(world.descriptors[lower] for lower in self.lowers)
            if takes_detached_layers():
                root = _of_descriptors(layers, *opened)
            else:
                root = _of_attached((*layers, writable), layers, *opened)
        finally:
            for descriptor in opened:
                os.close(descriptor)
        world.keep(self.key, root)
        world.root = root


_detached: bool | None = None


def takes_detached_layers() -> bool:
    """Return whether this kernel's overlayfs takes layers that are attached nowhere (6.15); it is asked once, for real.

    Raises OSError where it has no overlayfs.
    """
    global _detached
    if _detached is None:
        tree = new_filesystem("tmpfs", {"size": "65536", "mode": "700"}, 0)
        opened = [tree]
        try:
            for name in ("lower", "upper", "work"):
                os.mkdir(name, 0o700, dir_fd=tree)
                opened.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree))
            opened.append(_of_descriptors((opened[1],), opened[2], opened[3]))
            _detached = True
        except OSError as error:
            # 6.5 to 6.12 know no descriptors as options, 6.14 no detached layers; before, options are words alone.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            _detached = False
        finally:
            for descriptor in opened:
                os.close(descriptor)
    return _detached


def _of_descriptors(lowers: tuple[int, ...], upper: int, work: int) -> int:
    """Return a detached overlay of layers given by descriptor."""
    context = syscalls.fsopen("overlay")
    try:
        for lower in lowers:
            syscalls.fsconfig_descriptor(context, "lowerdir+", lower)
        syscalls.fsconfig_descriptor(context, "upperdir", upper)
        syscalls.fsconfig_descriptor(context, "workdir", work)
        syscalls.fsconfig_string(context, "source", "creche")
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, syscalls.MOUNT_ATTR_NODEV)
    finally:
        os.close(context)


def _of_attached(trees: tuple[int, ...], lowers: tuple[int, ...], upper: int, work: int) -> int:
    """Return the same on a kernel whose overlayfs takes attached layers only (`clone_private_mount` before 6.15).

    A short-lived child attaches the detached `trees` in a mount namespace that ends with it, so that nothing is ever
    seen of it and the launcher stays in the host's namespace; its descriptors are the launcher's. Layers are named
    by descriptor all the same: no path is escaped, looked up twice or too long. mount(2) takes a page of options, where
    fsconfig(2) takes 255 bytes each.
    """
    names = ":".join(f"/proc/self/fd/{lower}" for lower in lowers)
    options = f"lowerdir={names},upperdir=/proc/self/fd/{upper},workdir=/proc/self/fd/{work}"
    answer, said = os.pipe2(os.O_CLOEXEC)
    try:
        pid = syscalls.clone3(syscalls.CLONE_FILES | syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
        if pid == 0:
            _attach_and_mount(trees, options, said)
        os.waitpid(pid, 0)
        os.set_blocking(answer, False)
        try:
            result: int = _ANSWER.unpack(os.read(answer, _ANSWER.size))[0]
        except BlockingIOError:
            raise OSError(errno.ESRCH, "was killed", "the process that attaches the layers") from None
    finally:
        os.close(answer)
        os.close(said)
    if result < 0:
        raise OSError(-result, os.strerror(-result), "overlay over attached layers")
    return result


_ANSWER = struct.Struct("=i")  # a descriptor, or an errno below zero


def _attach_and_mount(trees: tuple[int, ...], options: str, said: int) -> NoReturn:
    """In the clone, whose descriptors are its parent's: say the number of a detached overlay's."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        for tree in trees:
            syscalls.move_mount_to(tree, PIVOT_PLACE)
        syscalls.mount("creche", PIVOT_PLACE, "overlay", syscalls.MS_NODEV, options)
        os.write(said, _ANSWER.pack(syscalls.open_tree(PIVOT_PLACE)))
    except OSError as error:
        os.write(said, _ANSWER.pack(-(error.errno or errno.EIO)))
    except BaseException:  # noqa: BLE001 -- the last frame of a clone; the silence is reported by the parent
        os._exit(70)
    os._exit(0)
