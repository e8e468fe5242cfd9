"""One client of the launcher: what it cannot take at once waits, so that nobody who reads slowly holds the launcher."""

import os
import socket
from collections import deque
from typing import Any, NamedTuple

from runtime.launch.messages import Message, parcel, rights

OWED_MESSAGES = 4096
OWED_BYTES = 1 << 19  # four thousand exits
OWED_DESCRIPTORS = 1024
"""What may wait for one client. Who is owed more does not read, and is let go of with all that it is owed."""
_LONGEST_WORD = 2000  # characters of a string in a refusal, which may quote what was asked


class Connection:
    """One client of the launcher; what it cannot take at once waits in `owed`."""

    def __init__(self, channel: socket.socket, *, bounded: bool = True) -> None:
        channel.setblocking(False)
        self.channel = channel
        self.owed: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.control = False
        self.was_cut = False
        self._bounded = bounded
        self._bytes = self._descriptors = 0

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send or keep for later; descriptors are duplicated while they wait. A client that is owed too much is cut."""
        data, letter = parcel(message)
        own: list[int] = [] if letter is None else [letter]
        try:
            for each in reversed(descriptors):
                own.insert(0, os.dup(each))
        except OSError:
            for each in own:
                os.close(each)
            raise
        owed = tuple(own)
        self.owed.append((data, owed))
        self._bytes += len(data)
        self._descriptors += len(owed)
        self.flush()
        too_much = len(self.owed) > OWED_MESSAGES or self._bytes > OWED_BYTES or self._descriptors > OWED_DESCRIPTORS
        if self._bounded and too_much:
            self.cut()

    def flush(self) -> None:
        """Send what is owed until the peer's queue is full; a peer that is gone is owed nothing."""
        while self.owed:
            data, descriptors = self.owed[0]
            try:
                self.channel.sendmsg([data], rights(descriptors))
            except BlockingIOError:
                return
            except OSError:  # its end of the connection comes through epoll
                pass
            self._drop_first()

    def _drop_first(self) -> None:
        data, descriptors = self.owed.popleft()
        self._bytes -= len(data)
        self._descriptors -= len(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def cut(self) -> None:
        """Owe nothing any more and end the connection; epoll tells the launcher, which parts from it as from any."""
        self.was_cut = True
        while self.owed:
            self._drop_first()
        try:
            self.channel.shutdown(socket.SHUT_RDWR)
        except OSError:  # the peer was faster
            return

    def close(self) -> None:
        """Close the connection and what it was owed."""
        while self.owed:
            self._drop_first()
        self.channel.close()


class Reply(NamedTuple):
    """Whom to answer, and the request's id. One whose connection is closed by now is answered into nothing."""

    connection: Connection
    number: int

    def ok(self, fields: Message | None = None, descriptors: tuple[int, ...] = ()) -> None:
        """Say yes."""
        self.connection.send({"id": self.number, "ok": fields or {}}, descriptors)

    def refuse(self, fields: dict[str, Any]) -> None:
        """Say no, with the fields of runtime.launch.failures.StartFailure."""
        cut = {key: value[:_LONGEST_WORD] if isinstance(value, str) else value for key, value in fields.items()}
        self.connection.send({"id": self.number, "error": cut})
