"""Clients that do not read, or do not stop: each costs itself at most, and no launcher grows. Needs root."""

import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.launch import client, connection, messages
from tests.faults.launcher.weight import MOST, resident, worse
from tests.kernel.runtime.launching import Launching, alive, eventually, open_files

SLEEP = ("/bin/sleep", "1000")
HELLO = json.dumps({"op": "hello", "id": 1, "version": messages.VERSION}).encode()
UNBOUNDED = "from runtime.launch import connection as c; c.OWED_MESSAGES = c.OWED_BYTES = c.OWED_DESCRIPTORS = 1 << 60"


@contextlib.contextmanager
def stranger(launcher: Launching) -> Iterator[socket.socket]:
    channel = client.connect(launcher.directory / "run")
    assert channel is not None
    with channel:
        channel.settimeout(30)
        yield channel


def pour(channel: socket.socket, packet: bytes, most: int) -> int:
    """Send a packet again and again without reading an answer; how many times it went before the launcher hung up."""
    for number in range(most):
        try:
            channel.send(packet)
        except (BrokenPipeError, ConnectionResetError):
            return number
    return most


def drain(channel: socket.socket) -> int:
    """Read until the end; how many packets came."""
    for number in range(1 << 30):
        try:
            if not channel.recv(messages.PACKET_LIMIT):
                return number
        except ConnectionResetError:
            return number
    raise AssertionError("without end")


def test_a_client_that_does_not_read_is_let_go_of(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        pid = launcher.run(1, *SLEEP)
        before = open_files(launcher.pid).keys()
        with stranger(launcher) as channel:
            assert pour(channel, HELLO, 200_000) < 200_000
            assert drain(channel) < connection.OWED_MESSAGES, "what was owed is gone with it"
        assert resident(launcher.pid) <= MOST
        assert launcher.greet()["held"]["web"]["pid"] == pid
        assert eventually(lambda: open_files(launcher.pid).keys() == before)


def test_without_a_bound_the_same_would_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control."""
    monkeypatch.setattr(client, "_BOOT", worse(UNBOUNDED))
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        with stranger(launcher) as channel:
            assert pour(channel, HELLO, 60_000) == 60_000
            assert eventually(lambda: resident(launcher.pid) > MOST)


def test_a_controller_that_does_not_read_leaves_its_containers_alone(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        pid = launcher.run(1, *SLEEP)
        assert pour(launcher.channel, HELLO, 200_000) < 200_000
        launcher.channel.close()
        launcher.answers.clear()
        assert launcher.reconnect()["held"]["web"]["pid"] == pid
        assert alive(pid)


def test_an_embedding_program_that_does_not_read_ends_its_containers(tmp_path: Path) -> None:
    """It is let go of as if it had died."""
    with Launching(tmp_path) as launcher:
        launcher.hold()
        pid = launcher.run(1, *SLEEP)
        assert pour(launcher.channel, HELLO, 200_000) < 200_000
        assert launcher.ended() == 0
        assert not alive(pid)
        assert not launcher.cgroups()


def test_descriptors_that_nobody_fetches_are_bounded(tmp_path: Path) -> None:
    """Each answer to `hold` brings two."""
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        before = open_files(launcher.pid).keys()
        hold = json.dumps({"op": "hold", "id": 1, "name": "web"}).encode()
        with stranger(launcher) as channel:
            assert pour(channel, hold, 5000) < 5000
            assert len(open_files(launcher.pid)) < len(before) + connection.OWED_DESCRIPTORS
        assert eventually(lambda: open_files(launcher.pid).keys() == before)
        assert launcher.greet()["held"]


def test_flushes_that_nobody_answers_are_bounded(tmp_path: Path) -> None:
    """The logger stands still; who asks for more than a thousand flushes is told so."""
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        logger = launcher.logger()
        os.kill(logger, signal.SIGSTOP)
        try:
            asked = [launcher.send("flush", name="web") for _ in range(3000)]
            assert launcher.greet()["pid"] == launcher.pid
            refused = sum("error" in launcher.answers.get(number, {}) for number in asked)
            assert 1000 < refused < 2000
            assert resident(launcher.pid) <= MOST
        finally:
            os.kill(logger, signal.SIGCONT)
        for number in asked:
            with contextlib.suppress(Exception):
                launcher.answer(number)


def test_clients_that_never_stop_hold_up_nobody(tmp_path: Path) -> None:
    """Three of them ask and read as fast as they can, while another one lives its life."""
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        flooders = [flood(launcher) for _ in range(3)]
        try:
            for run in range(20):
                launcher.run(run, "/bin/true")
                assert launcher.exited("web", run)[0] == 0
            assert all(map(alive, flooders))
        finally:
            for pid in flooders:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        assert resident(launcher.pid) <= MOST


def flood(launcher: Launching) -> int:
    """A process that asks without end."""
    pid = os.fork()
    if pid:
        return pid
    try:
        with stranger(launcher) as channel:
            for _ in range(50):
                channel.send(HELLO)
            while True:
                channel.recv(messages.PACKET_LIMIT)
                channel.send(HELLO)
    finally:
        os._exit(1)


def test_connections_beyond_the_descriptors_are_turned_away(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        former = resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, (64, former[1]))
        channels = [client.connect(launcher.directory / "run") for _ in range(200)]
        try:
            assert launcher.greet()["pid"] == launcher.pid
        finally:
            for channel in channels:
                if channel is not None:
                    channel.close()
            resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, former)
        assert eventually(lambda: len(open_files(launcher.pid)) < 30)
        with stranger(launcher) as channel:
            channel.send(HELLO)
            assert json.loads(channel.recv(messages.PACKET_LIMIT))["ok"]["pid"] == launcher.pid
