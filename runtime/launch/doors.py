"""The launcher's socket, and who came in by it: every client has its turn, and nobody waits who cannot be served."""

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable

from runtime.launch.connection import Connection
from runtime.launch.messages import Message, Packet, ProtocolError, receive

_TURN = 64  # requests of one client in a row: then the others, and the dead, have their turn


class Doors:
    """The clients, on the launcher's epoll. `answer` gets what they say, `parted` who is gone."""

    def __init__(
        self,
        epoll: select.epoll,
        listener: socket.socket,
        answer: Callable[[Connection, Packet], None],
        parted: Callable[[Connection], None],
    ) -> None:
        self.connections: dict[int, Connection] = {}
        self.unread: set[Connection] = set()  # who said more than one turn's worth
        self.closed = False  # nothing more is to be heard
        self._epoll = epoll
        self._listener = listener
        self._answer, self._parted = answer, parted
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        epoll.register(listener, select.EPOLLIN)

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self.connections or descriptor == self._listener.fileno()

    def serve(self, descriptor: int, events: int) -> None:
        """Do what epoll says of a descriptor that is one of these."""
        connection = self.connections.get(descriptor)
        if connection is None:
            self._accept()
        else:
            connection.flush()
            if events & (select.EPOLLIN | select.EPOLLHUP):
                self._hear(connection)

    def go_on(self) -> None:
        """Hear once more those who had not said all."""
        for connection in tuple(self.unread):
            if not self.closed:
                self._hear(connection)

    def welcome(self, channel: socket.socket) -> None:
        """Take a client in."""
        self.connections[channel.fileno()] = Connection(channel)
        self._epoll.register(channel, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def tell(self, event: Message) -> None:
        """Send an event to who controls."""
        for connection in self.connections.values():
            if connection.control:
                connection.send(event)

    def _hear(self, connection: Connection) -> None:
        self.unread.discard(connection)
        for _ in range(_TURN):
            try:
                packet = receive(connection.channel)
            except BlockingIOError:
                return
            except (OSError, ProtocolError):
                packet = None
            if packet is None:
                self._part(connection)
                return
            self._answer(connection, packet)
            if self.closed:
                return
        self.unread.add(connection)

    def _part(self, connection: Connection) -> None:
        self.unread.discard(connection)
        self._epoll.unregister(connection.channel)
        del self.connections[connection.channel.fileno()]
        connection.close()
        self._parted(connection)

    def _accept(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return
        _, uid, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid in (0, os.getuid()):
            self.welcome(channel)
        else:
            channel.close()

    def _turn_away(self) -> None:
        """Use the spare descriptor for who would be waiting for ever; it may have left already."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        with contextlib.suppress(OSError):  # somebody else of this host was faster: the next turn tries again
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
