"""Whatever arrives on the launcher's socket: it goes on, holds no descriptor more and grows by nothing. Needs root."""

import contextlib
import json
import os
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.launch import client, messages
from tests.faults.launcher.weight import MOST, resident
from tests.kernel.runtime.launching import Launching, eventually, open_files

SLEEP = ("/bin/sleep", "1000")
OPERATIONS = (
    *("hello", "hold", "create", "run", "start", "signal", "kill", "exec", "exec-signal", "flush", "forget"),
    *("reserve", "release", "_tell", "run_", "__init__", None, 7),
)
VALUES: tuple[Any, ...] = (None, True, -1, 0, 9, 1 << 70, 1.5, "", "web", "x" * 3000, "\x00", [], [1], {}, {"a": 1})
FIELDS = (
    *("name", "run", "version", "embedded", "exec", "seccomp", "terminal", "signal", "ports", "cgroup"),
    *("resources", "userns", "log", "idmapped", "required"),
)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launching]:
    """A launcher that holds a running container, and holds it still when the test is over."""
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        pid = launcher.run(1, *SLEEP)
        before = open_files(launcher.pid).keys()
        yield launcher
        assert launcher.greet()["held"]["web"]["pid"] == pid
        assert eventually(lambda: open_files(launcher.pid).keys() == before), launcher.log()
        assert resident(launcher.pid) <= MOST
        launcher.ask("end")
        assert launcher.ended() == 0


@contextlib.contextmanager
def stranger(launcher: Launching) -> Iterator[socket.socket]:
    channel = client.connect(launcher.directory / "run")
    assert channel is not None
    with channel:
        channel.settimeout(10)
        yield channel


def say(launcher: Launching, data: bytes, descriptors: tuple[int, ...] = ()) -> bytes:
    """Send one packet on a connection of its own; what comes back, nothing when the connection ends."""
    with stranger(launcher) as channel:
        channel.sendmsg([data], messages.rights(descriptors))
        try:
            return channel.recv(messages.PACKET_LIMIT)
        except ConnectionResetError:
            return b""


def words(launcher: Launching, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> str:
    """The refusal of a request."""
    answer = say(launcher, json.dumps({"id": 1, **message}).encode(), descriptors)
    assert answer, "it was no refusal but the end of the connection"
    error: str = json.loads(answer)["error"]["message"]
    return error


def test_a_packet_that_is_cut_short_anywhere(launcher: Launching) -> None:
    whole = json.dumps({"op": "signal", "id": 1, "name": "web", "signal": 0}).encode()
    for length in range(1, len(whole)):
        assert say(launcher, whole[:length]) == b""


@pytest.mark.parametrize("size", [messages.PACKET_LIMIT, messages.PACKET_LIMIT + 1, 200_000])
def test_a_packet_as_long_as_a_socket_carries(launcher: Launching, size: int) -> None:
    head, tail = b'{"op":"', b'","id":1}'
    answer = say(launcher, head + b"x" * (size - len(head) - len(tail)) + tail)
    assert (b"knows no" in answer) == (size <= messages.PACKET_LIMIT)


@pytest.mark.parametrize("seed", range(4))
def test_random_requests(launcher: Launching, seed: int) -> None:
    """Wild values in every field, but for what would rightly end the container that the fixture looks for."""
    chance = random.Random(seed)
    with stranger(launcher) as channel:
        for number in range(400):
            message = {field: chance.choice(VALUES) for field in chance.sample(FIELDS, chance.randrange(len(FIELDS)))}
            message |= {"op": chance.choice(OPERATIONS), "id": number}
            if message["op"] in ("kill", "signal", "forget"):
                message["name"] = "nobody"
            channel.send(json.dumps(message).encode())
            answer = json.loads(channel.recv(messages.PACKET_LIMIT))
            assert answer["id"] == number


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(launcher: Launching, seed: int) -> None:
    chance = random.Random(seed)
    whole = bytearray(json.dumps({"op": "exec", "id": 1, "name": "web", "exec": "a", "seccomp": False}).encode())
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        say(launcher, bytes(data), (0,) * chance.randrange(6))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_another_encoding(launcher: Launching, encoding: str) -> None:
    """Python's json would look for a codec, and there is nothing to import it from."""
    assert say(launcher, '{"op": "hello"}'.encode(encoding)) == b""
    plan = messages.memory_file("plan", '{"enter": []}'.encode(encoding))
    try:
        assert "not JSON" in words(launcher, {"op": "exec", "name": "web", "exec": "a"}, (plan, 0, 0, 0))
    finally:
        os.close(plan)


def test_as_many_descriptors_as_a_message_carries(launcher: Launching) -> None:
    assert "knows no" in words(launcher, {"op": "dance"}, (0,) * messages.DESCRIPTOR_LIMIT)


def test_a_letter_without_end(launcher: Launching) -> None:
    letter = os.memfd_create("endless", os.MFD_CLOEXEC)
    try:
        os.truncate(letter, 1 << 40)
        assert say(launcher, b'{"letter":true}', (letter,)) == b""
    finally:
        os.close(letter)


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"letter":true}', b"[" * 100_000, b"\xff"])
def test_a_letter_that_is_none(launcher: Launching, content: bytes) -> None:
    letter = messages.memory_file("letter", content)
    try:
        answer = say(launcher, b'{"letter":true}', (0, 0, letter))
        assert answer == b"" or b"error" in answer
    finally:
        os.close(letter)


def test_a_letter_that_is_a_pipe(launcher: Launching) -> None:
    reading, writing = os.pipe()
    try:
        assert say(launcher, b'{"letter":true}', (writing, reading)) == b""
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("operation", ["create", "exec"])
def test_a_plan_without_end(launcher: Launching, operation: str) -> None:
    plan = os.memfd_create("endless", os.MFD_CLOEXEC)
    try:
        os.truncate(plan, 1 << 40)
        if operation == "create":
            launcher.hold("other")
        request = {"op": operation, "name": "other" if operation == "create" else "web", "run": 1, "exec": "a"}
        assert "the most is" in words(launcher, request, (plan, 0, 0, 0))
    finally:
        os.close(plan)
        if operation == "create":
            launcher.ask("forget", name="other")


@pytest.mark.parametrize(
    "plan",
    [
        b"",
        b"null",
        b"{}",
        b'{"enter": [], "program": {}}',
        b'{"enter": [["Nothing"]], "program": {}}',
        b'{"enter": [["__class__", 1]], "program": {"arguments": ["x"], "environment": {}, "directory": "/"}}',
        b'{"enter": [["Limit"]], "program": {"arguments": ["x"], "environment": {}, "directory": "/"}}',
        b'{"enter": 7, "program": {"arguments": ["x"], "environment": {}, "directory": "/"}}',
        b'{"enter": [], "program": {"arguments": [], "environment": {}, "directory": "/"}}',
        b'{"enter": [], "program": {"arguments": [7], "environment": {}, "directory": "/"}}',
        b'{"enter": [], "program": {"arguments": ["x"], "environment": {"A": 1}, "directory": 7}}',
    ],
)
def test_a_plan_that_is_none(launcher: Launching, plan: bytes) -> None:
    """Refused where it is read, or by the child; never by a launcher that dies of it."""
    descriptor = messages.memory_file("plan", plan)
    try:
        assert words(launcher, {"op": "exec", "name": "web", "exec": "a"}, (descriptor, 0, 0, 0))
    finally:
        os.close(descriptor)


def test_an_exec_whose_descriptors_do_not_arrive_ends_the_connection(launcher: Launching) -> None:
    """RLIMIT_NOFILE: the kernel drops what does not fit and says so by MSG_CTRUNC alone."""
    with stranger(launcher) as channel:
        messages.send(channel, {"op": "signal", "id": 1, "name": "web", "signal": 0})
        channel.recv(1000)
        former = resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE)
        highest = max(open_files(launcher.pid)) + 1
        resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, (highest, former[1]))
        try:
            null = os.open("/dev/null", os.O_RDWR)
            messages.send(channel, {"op": "exec", "id": 2, "name": "web", "exec": "a"}, (null,) * 250)
            os.close(null)
            with contextlib.suppress(ConnectionResetError):
                assert channel.recv(1000) == b""
        finally:
            resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, former)


def test_who_hangs_up_in_the_middle_of_it(launcher: Launching) -> None:
    """The answer of an exec, and its end, find nobody."""
    for number in range(20):
        former, launcher.channel = launcher.channel, client.connect(launcher.directory / "run") or launcher.channel
        with launcher.channel:
            launcher.send_exec(f"a {number}", "/bin/true")
        launcher.channel = former
    assert eventually(lambda: len(launcher.children()) == 2), "the logger and the container's pid 1"
