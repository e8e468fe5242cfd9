"""Paths below a container's root: opened and made without ever being led outside it.

A root filesystem is hostile, while it is looked at too: openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) resolves a
path in one system call; a symlink swapped afterwards cannot change the descriptor that it returns (CVE-2021-30465).
"""

import errno
import os
import stat

from runtime import syscalls

IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


def open_below(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path` inside the tree at `root`, never outside it (openat2(2))."""
    return syscalls.openat2(root, path, flags, resolve=IN_ROOT)


def make_directory(root: int, path: str, owner: tuple[int, int] = (0, 0)) -> int:
    """Return an O_PATH descriptor of the directory `path` below `root`, made with its parents where it is missing.

    What is made belongs to `owner`, a uid and a gid: the host's root makes targets in roots of other ids.
    """
    try:
        return open_below(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        parent, name = os.path.split(path.rstrip("/"))
        if not name:
            raise
    above = make_directory(root, parent or "/", owner)
    try:
        os.mkdir(name, 0o755, dir_fd=above)
        _give(above, name, owner)
    except FileExistsError as error:  # a dangling symlink: following it by hand is how containers are escaped
        raise OSError(errno.ELOOP, "is a symbolic link that leads nowhere", path) from error
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from error
    finally:
        os.close(above)
    return open_below(root, path, os.O_PATH | os.O_DIRECTORY)


def _give(directory: int, name: str, owner: tuple[int, int]) -> None:
    if any(owner):
        os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)


def make_file(root: int, path: str, *, replace_link: bool, owner: tuple[int, int] = (0, 0)) -> int:
    """Return an O_PATH descriptor of the file `path` below `root`, made empty where it is missing.

    With `replace_link` a symbolic link as the last component gives way to an empty file: what is mounted there is the
    container's own, whatever the image linked it to. What is made belongs to `owner`, as in `make_directory`.
    """
    parent, name = os.path.split(path)
    above = make_directory(root, parent or "/", owner)
    try:
        try:
            kind = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        except FileNotFoundError:
            kind = 0
        if stat.S_ISLNK(kind) and replace_link:
            os.unlink(name, dir_fd=above)
            kind = 0
        if kind == 0:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=above))
            _give(above, name, owner)
        elif stat.S_ISDIR(kind):
            raise OSError(errno.EISDIR, "is a directory where a file is to be mounted", path)
        return open_below(root, path)
    finally:
        os.close(above)
