"""The ladder: what the supervisor, the launcher, the middle process and pid 1 of a container say to each other.

    supervisor                    launcher                       middle            pid 1
      │ hello ────────────────────▶│
      │◀──────── pid, what it holds│
      │ hold NAME ────────────────▶│ a helper is cloned with NEWUSER|NEWNET, its ids mapped,
      │                            │ its namespaces opened; the helper is gone
      │◀─ netns, a socket inside it│
      │ create NAME RUN, plan ────▶│ prepare: layers, root, /dev as descriptors
      │                            │ clone3 into the leaf cgroup ──▶│ "0" to v1 tasks
      │                            │                                │ setns user, net
      │                            │◀─────────────────────── its pid│ clone3 PARENT ──▶│
      │                            │ pidfd_open, then reap          ╵                  │ enter: mounts, pivot,
      │                            │                                                   │ ids, filter
      │                            │◀──────────────────────────── "created" or an error│
      │◀────────────── pid or error│                                                   │ waits
      │ start NAME ───────────────▶│ one byte ────────────────────────────────────────▶│ execve
      │                            │◀─────────── end of the report pipe (exec closed it)│
      │◀─────────────────────── ok │                                                   │ the program
      │                            │◀───────────────────────────────── its pidfd wakes │ dead
      │◀─────────── exited NAME RUN│ kept until the next create of NAME, or its forget

Where nothing is to be waited for, both in one; pid 1 stays on the memory of the launcher, which stands still:

      │ run NAME RUN, plan ───────▶│ prepare, as above
      │                            │ clone3 ───────────────────────▶│ as above
      │                            ╵                                │ clone3 PARENT|VM|VFORK ▶│ enter
      │                            ╷                                ╵                         │ execve
      │◀────────────── pid or error│ pidfd_open                                               │ the program

One more process beside pid 1 takes the same way through a middle of its own:

      │ exec NAME EXEC, plan, ────▶│ refused unless pid 1's program runs, and while NAME is paused
      │   filter, streams          │ clone3 into the leaf cgroup ──▶│ "0" to v1 tasks
      │   or console socket        │                                │ setns through pid 1's pidfd
      │                            │◀─────────────────────── its pid│ clone3 PARENT ──▶│
      │                            │ pidfd_open                     ╵                  │ ids, filter
      │                            │◀──────────────────────────── "created" or an error│
      │                            │ one byte at once ────────────────────────────────▶│ execve
      │◀────────────── pid or error│                                                   │ the program
      │ exec-signal NAME EXEC ────▶│ to its pidfd ────────────────────────────────────▶│
      │◀── exec-exited NAME EXEC ──│ told to who asked for it; with him gone, to nobody ╵ dead

One packet is one message: a JSON object, with descriptors beside it (SCM_RIGHTS) where it says so. Requests carry `id`,
the answer has the same `id` and either `ok` or `error`; a message without `id` is an event. Large plans travel in a
memfd. A packet cut short or short of descriptors is refused: a receiver near its descriptor limit gets fewer and no
error (MSG_CTRUNC).
"""

import array
import errno
import fcntl
import json
import os
import socket
import stat
from typing import Any, NamedTuple

VERSION = 1
PACKET_LIMIT = 160_000  # bytes; about 200 kB is where the kernel refuses a packet
DESCRIPTOR_LIMIT = 253  # SCM_MAX_FD, unix(7)
CONTENT_LIMIT = 4 << 20  # bytes of a memfd; a plan with a thousand mounts has 200 kB

Message = dict[str, Any]

_LETTER: Message = {"letter": True}  # what a packet says whose message is in the memfd beside it

DESCRIPTOR_SPACE = socket.CMSG_SPACE(DESCRIPTOR_LIMIT * array.array("i").itemsize)


class ProtocolError(Exception):
    """The other side said something that this side cannot take; the connection is of no use any more."""


class Packet(NamedTuple):
    """One message and the descriptors that came with it, which now belong to the receiver."""

    message: Message
    descriptors: tuple[int, ...]

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def encode(message: Message) -> bytes:
    """Return a message as one packet's bytes; raise ProtocolError where it is too long for one."""
    data = _dump(message)
    if len(data) > PACKET_LIMIT:
        raise ProtocolError(f"a message of {len(data)} bytes does not fit into one packet; it belongs into a memfd")
    return data


def parcel(message: Message) -> tuple[bytes, int | None]:
    """Return a message as one packet and, where it is too long, the memfd with it, the last of its descriptors."""
    data = _dump(message)
    if len(data) <= PACKET_LIMIT:
        return data, None
    return _dump(_LETTER), memory_file("creche-letter", data)


def _dump(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def rights(descriptors: tuple[int, ...]) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that hands `descriptors` over (unix(7))."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]


def decode(data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int) -> Packet:
    """Return what arrived as a packet; raise ProtocolError, with every descriptor closed, where it is not whole."""
    descriptors = array.array("i")
    for level, kind, carried in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(carried[: len(carried) - len(carried) % descriptors.itemsize])
    packet = Packet({}, tuple(descriptors))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        packet.close()
        raise ProtocolError(
            "a packet arrived cut short: this process is out of file descriptors, or the peer is not creche"
        )
    try:
        message = _parse(data)
        if message == _LETTER and descriptors:
            last = descriptors.pop()
            try:
                message = letter(last)
            finally:
                os.close(last)
    except ProtocolError:
        Packet({}, tuple(descriptors)).close()
        raise
    return Packet(message, tuple(descriptors))


def _parse(data: bytes) -> Message:
    try:
        message: Any = json.loads(data.decode())  # bytes make it look for other encodings, which would be imported
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a packet is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("a packet is not a JSON object")
    return message  # pyright: ignore[reportUnknownVariableType]


def receive(channel: socket.socket) -> Packet | None:
    """Read one packet; None at the end of the connection."""
    data, ancillary, flags, _ = channel.recvmsg(PACKET_LIMIT, DESCRIPTOR_SPACE, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    return decode(data, ancillary, flags)


def send(channel: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Write one packet; the descriptors stay the sender's to close."""
    channel.sendmsg([encode(message)], rights(descriptors))


def memory_file(name: str, content: bytes, *, executable: bool = False) -> int:
    """Return a sealed memfd with `content` (memfd_create(2)): what a packet is too small for.

    An executable one stays so: whoever executes it cannot take that away from the others (F_SEAL_EXEC, Linux 6.3).
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name, flags | (_MFD_EXEC if executable else 0))
    except OSError as error:
        if not executable or error.errno != errno.EINVAL:
            raise
        executable = False  # an older kernel, on which every memfd is executable and may be changed to be none
        descriptor = os.memfd_create(name, flags)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    seal(descriptor, _F_SEAL_EXEC if executable else 0)
    return descriptor


_MFD_EXEC, _F_SEAL_EXEC = 0x10, 0x20


def seal(descriptor: int, more: int = 0) -> None:
    """Forbid every change of a memfd from here on (F_ADD_SEALS in fcntl(2)); `more` are further seals."""
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0xF | more)  # SEAL | SHRINK | GROW | WRITE


def letter(descriptor: int) -> Message:
    """Return the JSON object in a memfd; raise ProtocolError where it holds none."""
    return _parse(content(descriptor))


def content(descriptor: int) -> bytes:
    """Return a memfd's whole content; raise ProtocolError where it is none, or has more than anybody has to say."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise ProtocolError("a descriptor that came with a message is no memfd")
    if found.st_size > CONTENT_LIMIT:
        raise ProtocolError(f"a memfd of {found.st_size} bytes came with a message; the most is {CONTENT_LIMIT}")
    return os.pread(descriptor, found.st_size, 0)
