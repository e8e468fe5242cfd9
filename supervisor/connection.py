"""The supervisor's end of the launcher's socket: requests with answers, and events, on trio."""

import socket
from collections.abc import Callable
from typing import Any

import trio

from runtime.launch import messages
from runtime.launch.messages import Message, Packet, ProtocolError


class LauncherGone(Exception):
    """The launcher ended, or ended the connection, before it answered."""


class Refused(Exception):
    """The launcher says no; `fields` are those of runtime.launch.birth.StartFailure."""

    def __init__(self, fields: Message) -> None:
        super().__init__(f"{fields['operation']}: {fields['message']}")
        self.fields = fields


class Connection:
    """Requests may overlap; each waits for its own answer."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = trio.socket.from_stdlib_socket(channel)
        self._sending = trio.Lock()
        self._waiting: dict[int, _Answer] = {}
        self._last = 0
        self._gone = False

    async def ask(self, operation: str, descriptors: tuple[int, ...] = (), **fields: Any) -> Packet:
        """Send a request and return its answer: `message` is the answer's `ok`, its descriptors are the caller's.

        Raises Refused and LauncherGone. The answer to a cancelled request is dropped when it comes.
        """
        self._last += 1
        number = self._last
        data = messages.encode({"op": operation, "id": number, **fields})
        answer = self._waiting[number] = _Answer()
        try:
            async with self._sending:
                if self._gone:
                    raise LauncherGone("the launcher is gone")
                try:
                    await self._channel.sendmsg([data], messages.rights(descriptors))
                except OSError as error:
                    raise LauncherGone(f"the launcher cannot be reached: {error.strerror}") from error
            await answer.come.wait()
        except BaseException:
            if answer.packet is not None:  # it came in the moment of the cancel
                answer.packet.close()
            raise
        finally:
            del self._waiting[number]
        packet = answer.packet
        if packet is None:
            raise LauncherGone(f"the launcher ended before it answered {operation!r}")
        if "error" in packet.message:
            packet.close()
            raise Refused(packet.message["error"])
        return Packet(packet.message["ok"], packet.descriptors)

    async def pump(self, event: Callable[[Message], None]) -> None:
        """Read until the launcher is gone, handing answers to those who wait and events to `event`."""
        try:
            while True:
                data, ancillary, flags, _ = await self._channel.recvmsg(
                    messages.PACKET_LIMIT + 1, messages.DESCRIPTOR_SPACE
                )
                if not data:
                    return
                packet = messages.decode(data, ancillary, flags)
                number = packet.message.get("id")
                if number is None:
                    packet.close()
                    event(packet.message)
                elif number in self._waiting:
                    self._waiting[number].packet = packet
                    self._waiting[number].come.set()
                else:  # whoever asked was cancelled
                    packet.close()
        except (OSError, ProtocolError):
            return
        finally:
            self._gone = True
            for answer in self._waiting.values():
                answer.come.set()

    def close(self) -> None:
        """Close the socket."""
        self._gone = True
        self._channel.close()


class _Answer:
    def __init__(self) -> None:
        self.come = trio.Event()
        self.packet: Packet | None = None
