"""The helper: a short-lived clone that makes or visits a container's lasting namespaces and hands out a socket.

The launcher itself never enters a namespace: a failure on the way back would leave it in the wrong one.
"""

import array
import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
from typing import NamedTuple, NoReturn

from runtime import syscalls

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


class Namespaces(NamedTuple):
    """A container's namespaces for life, as descriptors; no `user` means that it has the host's."""

    user: int | None
    net: int


def make(identity: tuple[int, int] | None) -> tuple[Namespaces, int]:
    """Make a user and a network namespace; return them and a NETLINK_ROUTE socket opened inside.

    `identity` is (first host id, count) for both id maps; None means no user namespace of its own. Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flags = syscalls.CLONE_NEWNET | (syscalls.CLONE_NEWUSER if identity else 0)
    pid = syscalls.clone3(flags | syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
    if pid == 0:
        ours.close()  # or it would never see that its parent gave up
        _serve(theirs, None)
    theirs.close()
    opened: list[int] = []
    try:
        with ours:
            if identity is not None:
                _write(f"/proc/{pid}/uid_map", "0 {} {}".format(*identity))
                _write(f"/proc/{pid}/gid_map", "0 {} {}".format(*identity))
            user = None
            if identity is not None:
                user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
                opened.append(user)
            opened.append(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            ours.send(b"go")
            inner = _answer(ours)
        return Namespaces(user, opened[-1]), inner
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    finally:
        os.waitpid(pid, 0)


def visit(namespaces: Namespaces) -> int:
    """Return a new NETLINK_ROUTE socket opened inside `namespaces`; raise OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = syscalls.clone3(syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
    if pid == 0:
        ours.close()
        _serve(theirs, namespaces)
    theirs.close()
    try:
        with ours:
            ours.send(b"go")
            return _answer(ours)
    finally:
        os.waitpid(pid, 0)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"cannot write {text!r}: {error.strerror}", path) from error
    finally:
        os.close(descriptor)


def _answer(channel: socket.socket) -> int:
    """Return the descriptor that the helper sent, or raise the OSError it met."""
    data, ancillary, _, _ = channel.recvmsg(64, socket.CMSG_SPACE(4))
    if len(data) == 4 and not ancillary:
        number: int = struct.unpack("=i", data)[0]
        raise OSError(number, os.strerror(number), "the namespace helper")
    if not ancillary:
        raise OSError(errno.ESRCH, "died", "the namespace helper")
    descriptor: int = struct.unpack("=i", ancillary[0][2][:4])[0]
    os.set_inheritable(descriptor, False)
    return descriptor


def _serve(channel: socket.socket, namespaces: Namespaces | None) -> NoReturn:
    """In the clone: wait for the maps, enter, bring the loopback up, send a route socket, end."""
    try:
        if channel.recv(2) == b"go":
            if namespaces is not None:
                if namespaces.user is not None:
                    syscalls.setns(namespaces.user, syscalls.CLONE_NEWUSER)
                syscalls.setns(namespaces.net, syscalls.CLONE_NEWNET)
            else:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
                    fcntl.ioctl(inside, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
            route = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
            channel.sendmsg([b"ok"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [route.fileno()]))])
    except OSError as error:
        with contextlib.suppress(OSError):
            channel.send(struct.pack("=i", error.errno or errno.EIO))
    except BaseException:  # noqa: BLE001 -- the last frame of a clone; the silence is reported by the parent
        os._exit(70)
    os._exit(0)
