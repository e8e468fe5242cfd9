"""Cgroup files and directories: read, written and walked, with errors that name path, value and way out."""

import errno
import os
from collections.abc import Iterator

from runtime.cgroups.hierarchy import CgroupError

GONE = (errno.ENOENT, errno.ENODEV)
"""What a file of a cgroup answers that was removed: before it was opened, or while it was."""
MADE = "trusted.creche"
"""The extended attribute of a directory outside `creche/` that we made: no other one is ever removed there."""


def read(path: str) -> str:
    """Return a file's whole text; raises CgroupError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise failed(error, "cannot read") from error
    try:
        parts: list[bytes] = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    except OSError as error:
        raise failed(error, "cannot read", path=path) from error
    finally:
        os.close(descriptor)


def read_if_there(path: str) -> str | None:
    """Return a file's text, or None where the kernel has no such file or nothing to say in it."""
    try:
        return read(path)
    except CgroupError as error:
        if error.errno in (*GONE, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise


def write(path: str, value: str, advice: str | None = None) -> None:
    """Write one value by one system call; raises CgroupError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failed(error, f"cannot write {value!r}", advice, path) from error


def write_if_there(path: str, value: str) -> None:
    """Write a value where the cgroup still exists."""
    try:
        write(path, value)
    except CgroupError as error:
        if error.errno not in GONE:
            raise


def pids(directory: str) -> list[int]:
    """Return the processes of one cgroup alone; none where it is gone."""
    text = read_if_there(f"{directory}/cgroup.procs")
    # 0 stands for a process of another pid namespace.
    return [pid for pid in map(int, (text or "").split()) if pid]


def walk(directory: str) -> Iterator[str]:
    """Yield the cgroups below `directory` and then it, deepest first."""
    try:
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for each in below:
        yield from walk(each)
    yield directory


def mark(directory: str) -> None:
    """Remember on the directory that we made it."""
    try:
        os.setxattr(directory, MADE, b"made")
    except OSError as error:
        raise failed(error, "cannot mark the cgroup as made by creche", "creche needs root for cgroups") from error


def marked(directory: str) -> bool:
    """Return whether we made the directory."""
    try:
        return bool(os.getxattr(directory, MADE))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.EPERM, *GONE):
            return False
        raise failed(error, "cannot see who made the cgroup") from error


def failed(error: OSError, what: str, advice: str | None = None, path: str | None = None) -> CgroupError:
    """Return the error as one of cgroups: what was done, to which file, why it failed and what helps."""
    where = path or (os.fsdecode(error.filename) if error.filename else None)
    return CgroupError(error.errno or errno.EIO, f"{what}: {error.strerror}", where, advice)
