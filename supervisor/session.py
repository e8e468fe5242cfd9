"""The real session: a process in a container, its streams as pipes or as the master of a pseudoterminal.

The supervisor's ends never block; a full pipe and a slow reader hold nobody but each other. The process's end is the
launcher's word (`over`); what it wrote before is read until nothing is left, even where a child of it that lives on
still holds the stream open.
"""

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping

import trio

from supervisor.machine import Exit

PIECE = 64 << 10  # bytes read at once: a pipe's capacity


class Ends:
    """The descriptors of one session: what goes to the launcher, and what stays. Closed once each."""

    def __init__(self, *, terminal: bool, stdin: bool, owner: int | None) -> None:
        self.given: tuple[int, ...] = ()
        """For the launcher: the console socket, or standard input, output and error."""
        self.outputs: dict[int, int] = {}
        self.input = -1
        self._console: socket.socket | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if terminal:
                self._console, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                self._console.setblocking(False)
                self.given = (theirs.detach(),)
            else:
                self._pipes(stdin, owner)
            undo.pop_all()

    def _pipes(self, stdin: bool, owner: int | None) -> None:
        if stdin:
            reading, self.input = os.pipe2(os.O_CLOEXEC)
        else:
            reading = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.given = (reading,)
        for stream in (1, 2):
            self.outputs[stream], writing = os.pipe2(os.O_CLOEXEC)
            self.given += (writing,)
        if owner is not None:  # the container's root may open /dev/stdin and the others again; nobody else could
            for descriptor in self.given if stdin else self.given[1:]:
                os.fchown(descriptor, owner, owner)
        for descriptor in (self.input, *self.outputs.values()):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)

    def hand_over(self) -> None:
        """Close what the launcher has by now."""
        given, self.given = self.given, ()
        for descriptor in given:
            os.close(descriptor)

    def receive_master(self) -> None:
        """Take the terminal that the process sent before it executed. Raises OSError where none came."""
        assert self._console is not None, "a session without a terminal has pipes"
        with self._console as console:
            space = socket.CMSG_SPACE(array.array("i").itemsize)
            _, ancillary, _, _ = console.recvmsg(4096, space, socket.MSG_CMSG_CLOEXEC)
        self._console = None
        for level, kind, carried in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                master = array.array("i", carried)[0]
                os.set_blocking(master, False)
                self.outputs[1] = self.input = master
                return
        raise OSError(errno.EBADMSG, "the process sent no terminal")

    def close(self) -> None:
        """Close everything; twice is nothing."""
        self.hand_over()
        kept = {*self.outputs.values(), self.input} - {-1}
        self.outputs, self.input = {}, -1
        for descriptor in kept:
            _wake_waiters(descriptor)
            os.close(descriptor)
        if self._console is not None:
            self._console.close()
            self._console = None


def _wake_waiters(descriptor: int) -> None:
    """Wake whoever waits for a descriptor that is about to be closed; outside an event loop nobody does."""
    if trio.lowlevel.in_trio_run():
        trio.lowlevel.notify_closing(descriptor)


class KernelSession:
    """supervisor.machine.Session over pipes or a terminal."""

    def __init__(self, ends: Ends, terminal: bool, signals: Callable[[int], Awaitable[None]]) -> None:
        self.pid = 0
        self.streams: tuple[int, ...] = (1,) if terminal else (1, 2)
        self._ends = ends
        self._terminal = terminal
        self._signals = signals
        self.closed: Callable[[], object] = list
        """Called when it is let go of."""
        self._end = Exit(None, None)
        self._over = trio.Event()

    def finish(self, end: Exit) -> None:
        """The launcher's word: the process is dead. Readers find what is left and then the end."""
        if self._over.is_set():
            return
        self._end = end
        self._over.set()
        for descriptor in {*self._ends.outputs.values(), self._ends.input} - {-1}:
            _wake_waiters(descriptor)

    async def receive(self, stream: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while (descriptor := self._ends.outputs.get(stream)) is not None:
            try:
                return os.read(descriptor, PIECE)
            except BlockingIOError:
                if self._over.is_set():
                    return b""
            except OSError as error:
                if error.errno == errno.EIO:  # a terminal that nobody has open any more
                    return b""
                raise
            with contextlib.suppress(trio.ClosedResourceError):  # it ended meanwhile: look once more
                await trio.lowlevel.wait_readable(descriptor)
        return b""

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            if self._ends.input < 0 or self._over.is_set():
                raise trio.BrokenResourceError("the process reads no more input")
            try:
                view = view[os.write(self._ends.input, view) :]
            except BlockingIOError:
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._ends.input)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                raise trio.BrokenResourceError("the process reads no more input") from error

    def end_input(self) -> None:
        if not self._terminal and self._ends.input >= 0:
            _wake_waiters(self._ends.input)
            os.close(self._ends.input)
            self._ends.input = -1

    def resize(self, rows: int, columns: int) -> None:
        if self._terminal and self._ends.input >= 0:
            set_size(self._ends.input, rows, columns)

    async def signal(self, signum: int) -> None:
        if not self._over.is_set():
            await self._signals(signum)

    async def wait(self) -> Exit:
        await self._over.wait()
        return self._end

    def close(self) -> None:
        self._ends.close()
        self.closed()


def set_size(descriptor: int, rows: int, columns: int) -> None:
    """Tell a terminal its size (TIOCSWINSZ, ioctl_tty(2)); its foreground processes get SIGWINCH."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def exit_of(event: Mapping[str, int | None]) -> Exit:
    """Return the launcher's `code` and `signal` as Docker shows them."""
    code, signum = event["code"], event["signal"]
    return Exit(code if signum is None else 128 + signum, signum)
