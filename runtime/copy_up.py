"""What lies beneath a mount, copied into it (`tmpcopyup`): bounded, by descriptors, never out of the root.

The tree is an image's and hostile: no link is followed, nothing mounted in it is entered, a device is left out, and
what has more entries, bytes or depth than is sensible for a tmpfs is an error instead of a machine without memory.
"""

import errno
import os
import stat

from runtime import syscalls
from runtime.paths import open_below

MAX_ENTRIES = 65_536
MAX_BYTES = 1 << 30
MAX_DEPTH = 128

_BELOW = (
    syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
)
_PIECE = 1 << 20


class _Budget:
    """What may still be copied."""

    __slots__ = ("bytes", "entries", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.entries = MAX_ENTRIES
        self.bytes = MAX_BYTES

    def take(self, entries: int, size: int) -> None:
        self.entries -= entries
        self.bytes -= size
        if self.entries < 0 or self.bytes < 0:
            limits = f"at most {MAX_ENTRIES} entries of {MAX_BYTES} bytes"
            raise OSError(errno.E2BIG, f"is too large for tmpcopyup, which copies {limits}", self.path)


def copy_up(root: int, path: str, into: int, *, itself: bool) -> None:
    """Copy the directory `path` below `root` into the directory `into`; raise OSError naming `path` where it is large.

    Modes, owners, times, links and FIFOs are kept, with `itself` the directory's own, too; devices and sockets are left
    out; of hard links each is a file.
    """
    try:
        source = open_below(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # the target is made for the mount: nothing lies there
    try:
        _directory(source, into, _Budget(path), 0)
        if itself:
            opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=into)  # a mount's is O_PATH
            try:
                _attributes(opened, os.fstat(source))
            finally:
                os.close(opened)
    finally:
        os.close(source)


def _directory(source: int, into: int, budget: _Budget, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise OSError(errno.E2BIG, f"is deeper than the {MAX_DEPTH} directories that tmpcopyup copies", budget.path)
    with os.scandir(source) as entries:
        for entry in entries:
            budget.take(1, 0)
            about = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                _below(source, entry.name, into, budget, depth)
            elif stat.S_ISLNK(about.st_mode):
                os.symlink(os.readlink(entry.name, dir_fd=source), entry.name, dir_fd=into)
                os.chown(entry.name, about.st_uid, about.st_gid, dir_fd=into, follow_symlinks=False)
            elif stat.S_ISREG(about.st_mode):
                _file(source, entry.name, into, budget)
            elif stat.S_ISFIFO(about.st_mode):
                os.mkfifo(entry.name, stat.S_IMODE(about.st_mode), dir_fd=into)
                os.chown(entry.name, about.st_uid, about.st_gid, dir_fd=into, follow_symlinks=False)


def _below(source: int, name: str, into: int, budget: _Budget, depth: int) -> None:
    try:
        inner = syscalls.openat2(source, name, os.O_RDONLY | os.O_DIRECTORY, resolve=_BELOW)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        os.mkdir(name, 0o755, dir_fd=into)  # something is mounted here: only its place is copied
        return
    try:
        os.mkdir(name, 0o700, dir_fd=into)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=into)
        try:
            _directory(inner, made, budget, depth + 1)
            _attributes(made, os.fstat(inner))
        finally:
            os.close(made)
    finally:
        os.close(inner)


def _file(source: int, name: str, into: int, budget: _Budget) -> None:
    try:
        inner = syscalls.openat2(source, name, os.O_RDONLY | os.O_NONBLOCK, resolve=_BELOW)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return  # mounted from elsewhere
        raise
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        made = os.open(name, flags, 0o600, dir_fd=into)
        try:
            while piece := os.read(inner, _PIECE):
                budget.take(0, len(piece))
                while piece:
                    piece = piece[os.write(made, piece) :]
            _attributes(made, os.fstat(inner))
        finally:
            os.close(made)
    finally:
        os.close(inner)


def _attributes(descriptor: int, about: os.stat_result) -> None:
    os.fchown(descriptor, about.st_uid, about.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(about.st_mode))
    os.utime(descriptor, ns=(about.st_atime_ns, about.st_mtime_ns))
