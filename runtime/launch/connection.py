"""One client of the launcher: what it cannot take at once waits, so that nobody who reads slowly holds the launcher."""

import os
import socket
from collections import deque

from runtime.launch.messages import Message, parcel, rights


class Connection:
    """One client of the launcher; what it cannot take at once waits in `owed`."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self.channel = channel
        self.owed: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.control = False

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send or keep for later; descriptors are duplicated while they wait."""
        data, letter = parcel(message)
        owed = tuple(os.dup(each) for each in descriptors)
        self.owed.append((data, owed if letter is None else (*owed, letter)))
        self.flush()

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
            self.owed.popleft()
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Close the connection and what it was owed."""
        for _, descriptors in self.owed:
            for descriptor in descriptors:
                os.close(descriptor)
        self.owed.clear()
        self.channel.close()


Reply = tuple[Connection, int]  # whom to answer, and the request's id
