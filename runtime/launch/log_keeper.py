"""The launcher's hold on its logger: clones it, tells it which logs to write, and clones another where it dies.

The launcher keeps every pipe, so a dead logger costs nothing but the time until the next one. One that dies as soon as
it was born is followed by the next after a pause that doubles: a hot loop of clones would cost more than the waiting.
"""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterable

from runtime import syscalls
from runtime.launch import logger
from runtime.launch.connection import Connection
from runtime.launch.failures import complain
from runtime.launch.holding import Held
from runtime.launch.messages import Message, ProtocolError, receive

_SHORT_LIFE = 1.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds
_FAILED = 70  # EX_SOFTWARE


class LogKeeper:
    """One logger at a time, and what is said to it. `due` is when the next is to be started, None while one lives."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._line: Connection | None = None
        self._pidfd = -1
        self._born = self._pause = 0.0
        self.due: float | None = None
        self.start(())

    def fileno(self) -> int:
        """Return the descriptor that epoll names, -1 while no logger lives."""
        return -1 if self._line is None else self._line.channel.fileno()

    def start(self, holding: Iterable[Held]) -> None:
        """Clone a logger and tell it of every log; where that cannot be, another try is due after a pause."""
        try:
            self._clone()
            for held in holding:
                self.add(held)
        except OSError as error:  # no descriptors or no processes now: the pipes hold what is written meanwhile
            complain(f"no logger can be started now: {error}")
            if self._line is not None:
                self._epoll.unregister(self._line.channel)
                self.end()
            self._postpone()

    def _clone(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = syscalls.clone3(syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
        if pid == 0:
            code = _FAILED
            try:
                syscalls.set_name("creche-logger")
                channel = theirs.fileno()
                if channel > 3:
                    syscalls.close_range(3, channel - 1)
                syscalls.close_range(channel + 1)
                code = logger.main(channel)
            except BaseException as error:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
                complain(f"the logger died: {error!r}")
            os._exit(code)
        theirs.close()
        try:
            self._pidfd = syscalls.pidfd_open(pid)
        except OSError:
            ours.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._line = Connection(ours, bounded=False)  # by the containers, and by the flushes that may wait
        self._born, self.due = time.monotonic(), None
        self._epoll.register(ours, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def add(self, held: Held) -> None:
        """Have a container's output written."""
        out, _, staged_out, stage_out, err, _, staged_err, stage_err = held.pipes
        pipes = (out, staged_out, stage_out, err, staged_err, stage_err)
        self._ask({"op": "add", "name": held.name, **held.log}, pipes)

    def flush(self, name: str) -> None:
        """Ask that what a container has written by now is on disk."""
        self._ask({"op": "flush", "name": name})

    def remove(self, name: str) -> None:
        """Ask that a container's log is drained and closed."""
        self._ask({"op": "remove", "name": name})

    def _ask(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        if self._line is not None:  # else the next logger is told all that it must know
            self._line.send(message, descriptors)

    def hear(self) -> list[Message]:
        """Return what the logger says; where it is dead, see that another is due."""
        assert self._line is not None, "epoll names a logger that lives"
        self._line.flush()
        said: list[Message] = []
        while True:
            packet = None
            try:
                packet = receive(self._line.channel)
            except BlockingIOError:
                return said
            except (OSError, ProtocolError):
                pass
            if packet is None:
                self._bury()
                return said
            packet.close()
            said.append(packet.message)

    def _bury(self) -> None:
        assert self._line is not None
        self._epoll.unregister(self._line.channel)
        self.end()
        self._postpone()

    def _postpone(self) -> None:
        now = time.monotonic()
        if now - self._born > _SHORT_LIFE:
            self._pause = 0.0
        self.due = now + self._pause
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)

    def end(self) -> None:
        """Let the logger write what it has and end; wait for it. One that does not speak any more is killed."""
        if self._line is None:
            return
        if self.due is None:
            self._line.close()
        self._line = None
        ended = select.poll()  # a descriptor may be beyond what select takes
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(_SHORT_LIFE * 1000):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
