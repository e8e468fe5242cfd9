"""One packet, one message: what is refused, and whose the descriptors are. Real sockets, real descriptors."""

import array
import json
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.launch import messages
from runtime.launch.connection import Connection
from runtime.launch.messages import PACKET_LIMIT, ProtocolError, decode, encode, memory_file, receive, send

Pair = tuple[socket.socket, socket.socket]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=5))
def test_round_trip(message: dict[str, object]) -> None:
    assert decode(encode(message), [], 0).message == message


def test_the_longest_message_arrives_and_a_longer_one_is_not_sent(pair: Pair) -> None:
    room = PACKET_LIMIT - len(encode({"x": ""}))
    send(pair[0], {"x": "a" * room})
    packet = receive(pair[1])
    assert packet is not None
    assert len(packet.message["x"]) == room
    with pytest.raises(ProtocolError, match="memfd"):
        send(pair[0], {"x": "a" * (room + 1)})


def test_descriptors_arrive_as_the_receivers_own(pair: Pair, pipe: tuple[int, int]) -> None:
    before = descriptors()
    send(pair[0], {}, pipe)
    assert descriptors() == before, "the sender's stay the sender's, and open"
    packet = receive(pair[1])
    assert packet is not None
    assert [os.fstat(each).st_ino for each in packet.descriptors] == [os.fstat(each).st_ino for each in pipe]
    assert not any(map(os.get_inheritable, packet.descriptors))
    packet.close()
    assert descriptors() == before


def test_as_many_descriptors_as_the_kernel_takes(pair: Pair, pipe: tuple[int, int]) -> None:
    send(pair[0], {}, pipe[:1] * messages.DESCRIPTOR_LIMIT)
    packet = receive(pair[1])
    assert packet is not None
    assert len(packet.descriptors) == messages.DESCRIPTOR_LIMIT
    packet.close()
    with pytest.raises(OSError):
        send(pair[0], {}, pipe[:1] * (messages.DESCRIPTOR_LIMIT + 1))


def test_the_end_of_the_connection(pair: Pair) -> None:
    pair[0].close()
    assert receive(pair[1]) is None


def test_a_packet_longer_than_allowed_is_refused(pair: Pair, pipe: tuple[int, int]) -> None:
    before = descriptors()
    pair[0].sendmsg([b'"' + b"x" * (PACKET_LIMIT + 10)], messages.rights(pipe))
    with pytest.raises(ProtocolError, match="cut short"):
        receive(pair[1])
    assert descriptors() == before


@pytest.mark.parametrize("flag", [socket.MSG_CTRUNC, socket.MSG_TRUNC])
def test_a_packet_that_lost_something_is_refused_with_what_came_closed(pipe: tuple[int, int], flag: int) -> None:
    before = descriptors()
    came = array.array("i", map(os.dup, pipe))
    with pytest.raises(ProtocolError, match="cut short"):
        decode(b"{}", [(socket.SOL_SOCKET, socket.SCM_RIGHTS, came.tobytes())], flag)
    assert descriptors() == before


def test_a_receiver_without_room_for_them_gets_no_descriptors(pair: Pair, pipe: tuple[int, int]) -> None:
    """The kernel itself gives fewer and sets MSG_CTRUNC."""
    before = descriptors()
    send(pair[0], {}, pipe * 4)
    data, ancillary, flags, _ = pair[1].recvmsg(100, socket.CMSG_SPACE(4))
    assert flags & socket.MSG_CTRUNC
    with pytest.raises(ProtocolError, match="cut short"):
        decode(data, ancillary, flags)
    assert descriptors() == before


@pytest.mark.parametrize(
    "data", [b"", b"x", b"{", b"[]", b"1", b"null", b'"a"', b"\xff", b"[" * 100_000, b'{"a":' * 20_000]
)
def test_what_is_no_json_object_is_refused_with_what_came_closed(pipe: tuple[int, int], data: bytes) -> None:
    before = descriptors()
    came = array.array("i", [os.dup(pipe[0])])
    with pytest.raises(ProtocolError, match=r"not JSON|not a JSON object"):
        decode(data, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, came.tobytes())], 0)
    assert descriptors() == before


def test_other_ancillary_data_is_no_descriptor() -> None:
    assert decode(b"{}", [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, bytes(12))], 0).descriptors == ()


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_protocol_error(data: bytes) -> None:
    try:
        decode(data, [], 0)
    except ProtocolError:
        return
    assert isinstance(json.loads(data), dict)


@given(st.binary(max_size=100_000))
def test_a_memory_file_holds_its_content_for_good(content: bytes) -> None:
    descriptor = memory_file("test", content)
    try:
        assert messages.content(descriptor) == content
        for change in (lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, 1 << 20)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(descriptor)


def test_what_is_too_long_for_a_packet_travels_beside_it() -> None:
    """The launcher's answer to hello names every container: with thousands no packet holds it."""
    message = {"id": 1, "ok": {"held": {f"c{number}": {"run": number} for number in range(20_000)}}}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        line = Connection(ours)
        kept, handed = os.pipe()
        try:
            line.send(message, (handed,))
            packet = messages.receive(theirs)
        finally:
            os.close(kept)
            os.close(handed)
    assert packet is not None
    assert packet.message == message
    assert len(packet.descriptors) == 1
    packet.close()
