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
from runtime.namespaces import Entered

Maps = tuple[tuple[int, int, int], ...]

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


class Namespaces(NamedTuple):
    """A container's namespaces for life, as descriptors; no `user` means that it has the host's, -1 for none."""

    user: int | None
    net: int

    def entered(self) -> Entered:
        """Return what each of its runs is born into: these two, and new ones of all the other kinds."""
        joined = [("network", self.net)]
        if self.user is not None:
            joined.insert(0, ("user", self.user))
        return Entered(tuple(joined), RUN_KINDS)


RUN_KINDS = frozenset({"pid", "mount", "uts", "ipc", "cgroup"})
"""What each run has anew."""


def make(uid_mappings: Maps, gid_mappings: Maps, network: bool) -> tuple[Namespaces, int]:
    """Make a user and, with `network`, a network namespace; return them and a NETLINK_ROUTE socket opened inside.

    The mappings are OCI's: (id inside, id outside, size). No mappings mean no user namespace of its own; without a
    network there is no socket either (-1). Raises OSError.
    """
    flags = (syscalls.CLONE_NEWNET if network else 0) | (syscalls.CLONE_NEWUSER if uid_mappings else 0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = syscalls.clone3(flags | syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        ours.close()  # or it would never see that its parent gave up
        _serve(theirs, None)
    theirs.close()
    opened: list[int] = []
    try:
        with ours:
            user, net, inner = None, -1, -1
            if uid_mappings:
                _write(f"/proc/{pid}/uid_map", _lines(uid_mappings))
                _write(f"/proc/{pid}/gid_map", _lines(gid_mappings))
                user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
                opened.append(user)
            if network:
                net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                opened.append(net)
                ours.send(b"go")
                inner = _answer(ours)
        return Namespaces(user, net), inner
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    finally:
        os.waitpid(pid, 0)


def _lines(mappings: Maps) -> str:
    return "\n".join("{} {} {}".format(*mapping) for mapping in mappings)


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


def loopback_up() -> None:
    """Bring the loopback interface of this process's network namespace up (netdevice(7)). Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        fcntl.ioctl(inside, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


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
                loopback_up()
            route = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
            channel.sendmsg([b"ok"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [route.fileno()]))])
    except OSError as error:
        with contextlib.suppress(OSError):
            channel.send(struct.pack("=i", error.errno or errno.EIO))
    except BaseException:  # noqa: BLE001 -- the last frame of a clone; the silence is reported by the parent
        os._exit(70)
    os._exit(0)
