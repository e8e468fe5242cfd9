"""A procfs that nobody can have put anything into: the one place through which a container's process writes to /proc.

A root filesystem, a mount of the config or a racing process can put something else on /proc, and a write meant for the
kernel then goes elsewhere, or a security label nowhere (CVE-2019-16884, CVE-2025-52881). So the process mounts a
procfs that is attached to no path (fsopen(2), fsmount(2)), makes sure that it is one, and opens files in it by
openat2(2) without symbolic links and without leaving the mount.

In a user namespace the kernel gives a procfs only to who already sees a whole one (mount_too_revealing in
fs/namespace.c). Before pivot_root that is the host's; whatever needs /proc afterwards finds the one that was `of` the
world before. A process that enters a running container finds the container's own.
"""

import errno
import os

from runtime import syscalls
from runtime.world import World

KEY = "procfs"
"""Where a world keeps it."""

_MAGIC = 0x9FA0  # PROC_SUPER_MAGIC in statfs(2)
_ROOT = 1  # PROC_ROOT_INO: what is bound from inside a procfs is none
_BELOW = (
    syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
)


def of(world: World) -> int:
    """Return the procfs of `world`, mounted when it is asked for first; raise as `fresh` does."""
    if KEY not in world.descriptors:
        world.keep(KEY, fresh())
    return world.descriptors[KEY]


def fresh() -> int:
    """Return a descriptor of a detached, verified procfs of the caller's pid namespace.

    Where the kernel refuses a new one, it is a copy of the one on /proc without anything that covers parts of it.
    Raises OSError where there is neither.
    """
    try:
        descriptor = _mounted()
    except PermissionError as error:
        descriptor = _copied(error)
    try:
        verify(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def verify(descriptor: int) -> None:
    """Raise OSError(EXDEV) where `descriptor` is not the root of a procfs."""
    if syscalls.filesystem_type(descriptor) != _MAGIC or os.fstat(descriptor).st_ino != _ROOT:
        raise OSError(errno.EXDEV, "is not the root of a procfs", "/proc")


def read(procfs: int, path: str, limit: int = 4096) -> str:
    """Return a file's text, at most `limit` bytes; a `path` below `self/` is the calling process's."""
    descriptor = _open(procfs, path, os.O_RDONLY)
    try:
        return os.read(descriptor, limit).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{path}") from error
    finally:
        os.close(descriptor)


def write(procfs: int, path: str, text: str) -> None:
    """Write `text` to a file in one piece; a `path` below `self/` is the calling process's."""
    data = os.fsencode(text)
    descriptor = _open(procfs, path, os.O_WRONLY)
    try:
        written = os.write(descriptor, data)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {text!r}: {error.strerror}", f"/proc/{path}") from error
    finally:
        os.close(descriptor)
    if written != len(data):
        raise OSError(errno.EIO, f"took {written} of the {len(data)} bytes of {text!r}", f"/proc/{path}")


def _mounted() -> int:
    context = syscalls.fsopen("proc")
    try:
        syscalls.fsconfig_create(context)
        quiet = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
        return syscalls.fsmount(context, quiet)
    finally:
        os.close(context)


def _copied(refusal: PermissionError) -> int:
    try:
        return syscalls.open_tree("/proc")
    except OSError as error:
        why = f"{refusal.strerror}; nor can the one on /proc be copied: {error.strerror}"
        raise OSError(errno.EPERM, f"no procfs can be mounted: {why}", "/proc") from refusal


def _open(procfs: int, path: str, flags: int) -> int:
    resolved = path
    if path.startswith("self/"):
        # The link says who the caller is in this very procfs, whichever pid namespace it shows.
        resolved = os.readlink("self", dir_fd=procfs) + path[4:]
    try:
        return syscalls.openat2(procfs, resolved, flags, resolve=_BELOW)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{path}") from error
