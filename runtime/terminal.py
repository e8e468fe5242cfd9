"""The container's terminal: a pty of its own devpts, whose other end goes to whoever asked for it.

Never one of the host's: a program on a host terminal could type commands into it (TIOCSTI in ioctl_tty(2)).
"""

import errno
import fcntl
import os
import socket
import stat
import struct
from typing import NamedTuple

from runtime import syscalls
from runtime.paths import make_file
from runtime.world import World

TTY_GROUP = 5
"""Debian's, Fedora's and everybody's `tty`, which OCI's default devpts mount has too."""
NAME = b"/dev/ptmx"
"""What travels with the descriptor, as runc sends it (its docs/terminals.md)."""

_MAGIC = 0x1CD1  # DEVPTS_SUPER_MAGIC in statfs(2)
_TIOCSPTLCK, _TIOCGPTN, _TIOCGPTPEER, _TIOCSWINSZ = 0x40045431, 0x80045430, 0x5441, 0x5414
_INSIDE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_BELOW = (
    syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
)


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


# Read while the host's tree is in sight: inside a container nothing tells a bound host's devpts from its own.
_HOST_DEVICES = frozenset({_device("/dev/pts"), _device("/dev")}) - {None}


class Terminal(NamedTuple):
    """Open a pty in the container, send its master away and make its slave the process's three streams.

    For after pivot_root, in a running container too. Birth makes it the controlling terminal of the new session.
    """

    rows: int  # 0 and 0: the kernel's own size, none
    columns: int
    console: str  # the key of a connected unix socket
    own_node: bool  # whether it is bound on /dev/console, too

    ADVICE = {
        errno.ENOENT: "a terminal needs a devpts on /dev/pts: add the mount of config-linux.md to the config",
        errno.ENODEV: "mount a devpts of the container's own, with newinstance, on /dev/pts",
        errno.EXDEV: "mount a devpts of the container's own, with newinstance, on /dev/pts",
        errno.ENOSPC: "all ptys are in use: see kernel.pty.max on the host, and the devpts option max",
        errno.EPIPE: "whoever listens at the console socket must keep it open until the terminal has come",
    }

    def describe(self) -> str:
        size = f" of {self.rows} rows and {self.columns} columns" if self.rows and self.columns else ""
        return f"open a terminal{size}"

    def execute(self, world: World) -> None:
        master, slave = open_pair()
        try:
            if self.rows or self.columns:
                resize(master, self.rows, self.columns)
            _own(slave, world.account.uid)
            if self.own_node:
                _bind(slave)
            _send(world.descriptors[self.console], master)
        except OSError:
            os.close(slave)
            raise
        finally:
            os.close(master)
        world.keep("terminal", slave)
        world.stdin = world.stdout = world.stderr = slave
        world.terminal = True


def open_pair() -> tuple[int, int]:
    """Return master and slave of a new pty of the devpts on /dev/pts, close-on-exec; no path leads to the slave."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            place = syscalls.openat2(root, "/dev/pts", os.O_PATH | os.O_DIRECTORY, resolve=_INSIDE)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ENODEV, "is or is below a symbolic link", "/dev/pts") from error
            raise
    finally:
        os.close(root)
    try:
        if syscalls.filesystem_type(place) != _MAGIC:
            raise OSError(errno.ENODEV, "is no devpts", "/dev/pts")
        if os.fstat(place).st_dev in _HOST_DEVICES:
            raise OSError(errno.ENODEV, "is the host's devpts, whose terminals are the host's", "/dev/pts")
        try:
            master = syscalls.openat2(place, "ptmx", os.O_RDWR | os.O_NOCTTY, resolve=_BELOW)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "/dev/pts/ptmx") from error
    finally:
        os.close(place)
    try:
        about = os.fstat(master)
        if not stat.S_ISCHR(about.st_mode) or about.st_rdev != os.makedev(5, 2):
            raise OSError(errno.ENODEV, "is not the terminal multiplexer", "/dev/pts/ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
        return master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise


def resize(descriptor: int, rows: int, columns: int) -> None:
    """Set a terminal's size in characters, and tell its foreground programs by SIGWINCH (TIOCSWINSZ)."""
    if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
        raise OSError(errno.EINVAL, "a terminal has at most 65535 rows and columns", f"{rows}x{columns}")
    fcntl.ioctl(descriptor, _TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0))


def _own(slave: int, uid: int) -> None:
    """Give the terminal to the user, and to the group `tty` where the container has its id, as login(1) does."""
    try:
        os.fchown(slave, uid, TTY_GROUP)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, "the terminal") from error
        os.fchown(slave, uid, -1)  # the id 5 is not mapped
        os.fchmod(slave, 0o600)
    else:
        os.fchmod(slave, 0o620)


def _bind(slave: int) -> None:
    """Make the terminal /dev/console too: mounted from its descriptor, on a descriptor (CVE-2025-52565)."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target = make_file(root, "/dev/console", replace_link=True)
    finally:
        os.close(root)
    try:
        tree = syscalls.open_tree("", directory=slave)
        try:
            syscalls.move_mount(tree, target)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "/dev/console") from error
        finally:
            os.close(tree)
    finally:
        os.close(target)


def _send(console: int, master: int) -> None:
    with socket.socket(fileno=os.dup(console)) as channel:
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", master))]
            channel.sendmsg([NAME], rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "the console socket") from error
