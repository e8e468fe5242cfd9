"""Netlink's wire: attributes, batches of requests sent at once, acknowledgements, dumps (netlink(7)).

The kernel works through a request while it is being sent, so that every answer waits in the socket when
`send` returns: nothing here can hang, and an answer that is not there is an error. pyroute2 would cost 0.15 s to import
and 0.5 ms a message; wiring two hundred containers is two thousand messages.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

import attrs

ROUTE = socket.NETLINK_ROUTE
NETFILTER = 12

REQUEST, ACK, EXCL, REPLACE, CREATE, APPEND, DUMP = 0x1, 0x4, 0x200, 0x100, 0x400, 0x800, 0x300

_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED, _TYPE = 0x8000, 0x3FFF
_SOL_NETLINK, _EXT_ACK, _CAP_ACK, _STRICT_CHECK = 270, 11, 10, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_CAPPED, _ACK_TLVS = 0x100, 0x200
_MESSAGE_ATTRIBUTE = 1
_CHUNK = 1 << 16
ANSWER = 2048
"""What one acknowledgement weighs in a receive buffer at most, the kernel's bookkeeping included."""


class NetlinkError(OSError):
    """The kernel refused a request: errno, what it refused, and the kernel's own words where it has some."""


@attrs.frozen
class Request:
    """One message: its kind, flags beyond REQUEST, body, and in words what it makes or removes."""

    kind: int
    flags: int
    body: bytes
    what: str


@attrs.frozen
class Refusal:
    """One request that failed. `what` names the object."""

    what: str
    errno: int
    reason: str

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.what}: {os.strerror(self.errno)}{reason}"


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded; `value` at most 65,531 bytes (the length is 16 bits)."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What `attribute` wrote: kind without its flag bits, and the value."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE, data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3


def opened(family: int) -> socket.socket:
    """A socket of this thread's network namespace that explains its errors."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    try:
        explain(channel)
    except OSError:
        channel.close()
        raise
    return channel


def explain(channel: socket.socket) -> None:
    """Ask for extended acknowledgements, and for errors that do not repeat the request."""
    channel.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    channel.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)


def make_room(channel: socket.socket, sent: int, answers: int) -> None:
    """Let the socket hold `sent` bytes of one request and `answers` acknowledgements; needs CAP_NET_ADMIN."""
    channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, max(1 << 18, 2 * sent))
    channel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, max(1 << 18, answers * ANSWER))


def send(channel: socket.socket, requests: Sequence[Request], acknowledge: Iterable[int]) -> list[Refusal]:
    """Send all requests in one system call, return those that the kernel refused, in order.

    `acknowledge` are the indices of the requests whose success the kernel has to confirm.
    Raises NetlinkError when one of them stays without any answer.
    """
    confirmed = set(acknowledge)
    packets: list[bytes] = []
    for index, request in enumerate(requests):
        flags = request.flags | REQUEST | (ACK if index in confirmed else 0)
        packets.append(_HEADER.pack(_HEADER.size + len(request.body), request.kind, flags, index + 1, 0))
        packets.append(request.body)
    data = b"".join(packets)
    make_room(channel, len(data), len(requests))
    channel.send(data)
    refusals: list[Refusal] = []
    for kind, flags, sequence, body in _waiting(channel):
        if kind != _ERROR or not 0 < sequence <= len(requests):
            continue
        confirmed.discard(sequence - 1)
        number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
        if number:
            refusals.append(Refusal(requests[sequence - 1].what, number, _explanation(body, flags)))
    if confirmed and not refusals:
        lost = requests[min(confirmed)].what
        raise NetlinkError(errno.ENOBUFS, f"the kernel did not answer {lost!r}")
    return refusals


def transact(channel: socket.socket, requests: Sequence[Request]) -> None:
    """Send all, each acknowledged; raises NetlinkError that names everything that failed."""
    refusals = send(channel, requests, range(len(requests)))
    if refusals:
        raise NetlinkError(refusals[0].errno, "; ".join(map(str, refusals)))


def dump(channel: socket.socket, kind: int, body: bytes, what: str) -> Iterator[bytes]:
    """The bodies of all objects that a dump request lists, each after its netlink header."""
    channel.send(_HEADER.pack(_HEADER.size + len(body), kind, REQUEST | DUMP, 1, 0) + body)
    while True:
        for answer, _, _, found in _messages(channel.recv(_CHUNK)):
            if answer == _DONE:
                return
            if answer == _ERROR:
                number = -int.from_bytes(found[:4], sys.byteorder, signed=True)
                raise NetlinkError(number, f"{what}: {os.strerror(number)}")
            yield found


def _waiting(channel: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    while True:
        try:
            data = channel.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        yield from _messages(data)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += length + 3 & ~3


def _explanation(body: bytes, flags: int) -> str:
    """The text of an extended acknowledgement, after the error and the (capped) header of the request."""
    if not flags & _ACK_TLVS:
        return ""
    offset = 4 + _HEADER.size
    if not flags & _CAPPED:
        (length,) = struct.unpack_from("=I", body, 4)
        offset = 4 + (length + 3 & ~3)
    for kind, value in attributes(body[offset:]):
        if kind == _MESSAGE_ATTRIBUTE:
            return value.rstrip(b"\0").decode(errors="replace")
    return ""
