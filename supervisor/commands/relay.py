"""This command's standard streams and terminal, joined to a process's over one connection. Byte for byte.

One loop, no threads. Input is read only when what was read before is sent; output is written before more is received:
who is slow on one side slows the other, and nothing piles up here.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty
from collections.abc import Callable, Generator
from fcntl import ioctl
from types import FrameType
from typing import NoReturn

from supervisor.control.client import ControlError

PIECE = 64 << 10


def occupy_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed, before a socket takes its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def size_of(descriptor: int) -> tuple[int, int] | None:
    """A terminal's rows and columns (TIOCGWINSZ, ioctl_tty(2)); None without one, or without a size."""
    try:
        rows, columns, _, _ = struct.unpack("4H", ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


def relay(
    peer: socket.socket, early: bytes, *, stdin: bool, terminal: bool, resized: Callable[[int, int], object]
) -> None:
    """Return when the other side has ended the connection. `early` is what it sent already.

    `terminal`: what comes is raw, else it is frames. `resized` is called with rows and columns when this terminal
    changes its size. With `stdin` and a terminal this one is raw meanwhile, and itself again whatever happens.
    """
    with contextlib.ExitStack() as stack:
        if terminal and stdin:
            stack.enter_context(raw(0))
        changes = stack.enter_context(_size_changes()) if terminal else -1
        out = Raw() if terminal else Frames()
        out.take(early)
        peer.setblocking(False)
        _join(peer, out, stdin, changes, resized)


def _join(peer: socket.socket, out: "Raw", stdin: bool, changes: int, resized: Callable[[int, int], object]) -> None:
    owed = memoryview(b"")
    reading = stdin
    while True:
        wanted = [peer, *([0] if reading and not owed else []), *([changes] if changes >= 0 else [])]
        readable, writable, _ = select.select(wanted, [peer] if owed else [], [])
        if changes in readable:
            os.read(changes, PIECE)
            size = size_of(0) or size_of(1)
            if size is not None:
                with contextlib.suppress(ControlError):  # the process ended in this moment
                    resized(*size)
        if 0 in readable:
            data = _input()
            owed = memoryview(data)
            if not data:
                reading = False
                with contextlib.suppress(OSError):  # the other side is gone: what it sent last is read below
                    peer.shutdown(socket.SHUT_WR)
        if writable:
            try:
                owed = owed[peer.send(owed) :]
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                owed, reading = memoryview(b""), False
        if peer in readable:
            try:
                data = peer.recv(PIECE)
            except ConnectionResetError:
                return
            if not data:
                return
            out.take(data)


def _input() -> bytes:
    """The next bytes of standard input; none at its end, which a terminal that hung up has, too."""
    try:
        return os.read(0, PIECE)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


class Raw:
    """Output as it comes."""

    def take(self, data: bytes) -> None:
        """Write all of it."""
        write(1, data)


class Frames(Raw):
    """Output in frames: stream, three zeros, a length in four bytes, and so many bytes."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def take(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if not self._left:
                missing = 8 - len(self._head)
                self._head, view = self._head + bytes(view[:missing]), view[missing:]
                if len(self._head) < 8:
                    return
                self._left = int.from_bytes(self._head[4:], "big")
            piece, view = view[: self._left], view[self._left :]
            self._left -= len(piece)
            write(2 if self._head[0] == 2 else 1, piece)
            if not self._left:
                self._head = b""


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it, also where somebody made the stream non-blocking. Raises BrokenPipeError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


@contextlib.contextmanager
def raw(descriptor: int) -> Generator[None]:
    """A terminal that passes every key on, Ctrl-C too; back to what it was at the end, also by a signal."""
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # keys that were typed ahead are kept
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _only_wake(_number: int, _frame: FrameType | None) -> None:
    """Python writes to the wakeup descriptor only for signals that have a handler."""


@contextlib.contextmanager
def _size_changes() -> Generator[int]:
    """A descriptor that becomes readable with every SIGWINCH."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGWINCH, _only_wake)
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGWINCH, before)
        os.close(reading)
        os.close(writing)
