"""Requests and answers over the launcher's socket: each its own, none lost, no descriptor kept."""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from runtime.launch import messages
from supervisor.connection import Connection, LauncherGone, Refused

Events = list[messages.Message]
Body = Callable[[Connection, trio.Nursery], Awaitable[None]]


class Launcher:
    """The other end of the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel

    def asked(self) -> messages.Message:
        packet = messages.receive(self.channel)
        assert packet is not None
        packet.close()
        return packet.message

    def say(self, message: messages.Message, descriptors: tuple[int, ...] = ()) -> None:
        messages.send(self.channel, message, descriptors)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = len(os.listdir("/proc/self/fd"))
    with theirs:
        made = Launcher(theirs)
        made.ours = ours  # type: ignore[attr-defined]
        yield made
        ours.close()
        ended = 2 if theirs.fileno() < 0 else 1
        assert len(os.listdir("/proc/self/fd")) == before - ended, "descriptors were left open"


def run(launcher: Any, body: Body) -> Events:
    """Run `body` beside the pump; return the events."""
    events: Events = []

    async def main() -> None:
        connection = Connection(launcher.ours)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.pump, events.append)
                await body(connection, nursery)
                nursery.cancel_scope.cancel()
        finally:
            connection.close()

    trio.run(main)
    return events


def test_answers_out_of_order(launcher: Launcher) -> None:
    got: dict[str, Any] = {}

    async def ask(connection: Connection, name: str) -> None:
        packet = await connection.ask("create", name=name)
        got[name] = packet.message

    async def body(connection: Connection, _: trio.Nursery) -> None:
        async with trio.open_nursery() as asking:
            for name in ("a", "b", "c"):
                asking.start_soon(ask, connection, name)
            await trio.testing.wait_all_tasks_blocked()
            requests = [launcher.asked() for _ in range(3)]
            for request in reversed(requests):
                launcher.say({"id": request["id"], "ok": {"you": request["name"]}})

    run(launcher, body)
    assert got == {name: {"you": name} for name in ("a", "b", "c")}


def test_descriptors_go_both_ways(launcher: Launcher) -> None:
    async def body(connection: Connection, _: trio.Nursery) -> None:
        null = os.open("/dev/null", os.O_RDONLY)

        async def answer() -> None:
            await trio.testing.wait_all_tasks_blocked()
            packet = messages.receive(launcher.channel)
            assert packet is not None
            assert os.path.samestat(os.fstat(packet.descriptors[0]), os.fstat(null))
            launcher.say({"id": packet.message["id"], "ok": {}}, packet.descriptors)
            packet.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            packet = await connection.ask("reserve", (null,))
        assert len(packet.descriptors) == 1
        packet.close()
        os.close(null)

    run(launcher, body)


def test_refused(launcher: Launcher) -> None:
    fields = {"operation": "exec 'x'", "errno": 2, "message": "none", "path": "x", "advice": None, "exit_code": 127}

    async def body(connection: Connection, nursery: trio.Nursery) -> None:
        async def answer() -> None:
            await trio.testing.wait_all_tasks_blocked()
            null = os.open("/dev/null", os.O_RDONLY)
            launcher.say({"id": launcher.asked()["id"], "error": fields}, (null,))
            os.close(null)

        nursery.start_soon(answer)
        with pytest.raises(Refused, match="exec 'x': none") as caught:
            await connection.ask("create")
        assert caught.value.fields == fields

    run(launcher, body)


def test_events_pass_between_answers(launcher: Launcher) -> None:
    async def body(connection: Connection, nursery: trio.Nursery) -> None:
        async def answer() -> None:
            await trio.testing.wait_all_tasks_blocked()
            number = launcher.asked()["id"]
            null = os.open("/dev/null", os.O_RDONLY)
            launcher.say({"event": "exited", "name": "a"}, (null,))
            os.close(null)
            launcher.say({"id": number, "ok": {}})
            launcher.say({"event": "exited", "name": "b"})

        nursery.start_soon(answer)
        await connection.ask("kill")
        await trio.testing.wait_all_tasks_blocked()

    assert [event["name"] for event in run(launcher, body)] == ["a", "b"]


def test_the_late_answer_of_a_cancelled_request_is_dropped(launcher: Launcher) -> None:
    async def body(connection: Connection, _: trio.Nursery) -> None:
        with trio.move_on_after(0.01):
            await connection.ask("hold")
        late = launcher.asked()["id"]
        null = os.open("/dev/null", os.O_RDONLY)
        launcher.say({"id": late, "ok": {"late": True}}, (null,))
        os.close(null)

        async def answer() -> None:
            await trio.testing.wait_all_tasks_blocked()
            launcher.say({"id": launcher.asked()["id"], "ok": {"late": False}})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert (await connection.ask("hold")).message == {"late": False}

    run(launcher, body)


def test_an_answer_that_comes_in_the_moment_of_the_cancel_is_closed(launcher: Launcher) -> None:
    async def body(connection: Connection, nursery: trio.Nursery) -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        launcher.say({"id": 1, "ok": {}}, (null,))  # before it is asked: the pump has it as soon as anybody waits
        os.close(null)
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_asked, launcher, scope)
            packet = await connection.ask("hold")
            packet.close()

    run(launcher, body)


async def _cancel_when_asked(launcher: Launcher, scope: trio.CancelScope) -> None:
    scope.cancel()


def test_cancelled_with_the_answer_there_already(launcher: Launcher) -> None:
    """The pump ran while the request was being sent; then the wait ends in a cancel, and nobody has the descriptors."""

    async def main() -> None:
        connection = Connection(launcher.ours)  # type: ignore[attr-defined]
        null = os.open("/dev/null", os.O_RDONLY)

        async def sendmsg(*_: object) -> None:
            launcher.say({"id": 1, "ok": {}}, (null,))
            with trio.move_on_after(0.01):
                await connection.pump(lambda _: None)
            connection._gone = False
            scope.cancel()

        connection._channel.sendmsg = sendmsg  # type: ignore[method-assign]
        with trio.CancelScope() as scope:
            await connection.ask("hold")
        assert scope.cancelled_caught
        os.close(null)
        connection.close()

    trio.run(main)


@pytest.mark.parametrize("broken", [False, True], ids=["gone", "talks nonsense"])
def test_a_launcher_that_goes_wakes_everybody(launcher: Launcher, broken: bool) -> None:
    told: list[str] = []

    async def ask(connection: Connection, name: str) -> None:
        with pytest.raises(LauncherGone, match="before it answered 'create'"):
            await connection.ask("create", name=name)
        told.append(name)

    async def body(connection: Connection, _: trio.Nursery) -> None:
        async with trio.open_nursery() as asking:
            for name in ("a", "b"):
                asking.start_soon(ask, connection, name)
            await trio.testing.wait_all_tasks_blocked()
            if broken:
                launcher.channel.send(b"nonsense")
            else:
                launcher.channel.close()
        with pytest.raises(LauncherGone):
            await connection.ask("create")

    run(launcher, body)
    assert sorted(told) == ["a", "b"]


def test_the_pump_ends_with_the_launcher(launcher: Launcher) -> None:
    async def main() -> None:
        connection = Connection(launcher.ours)  # type: ignore[attr-defined]
        launcher.channel.close()
        await connection.pump(lambda _: None)
        connection.close()

    trio.run(main)


def test_a_request_too_long_for_a_packet_waits_for_nothing(launcher: Launcher) -> None:
    async def body(connection: Connection, _: trio.Nursery) -> None:
        with pytest.raises(messages.ProtocolError, match="memfd"):
            await connection.ask("create", plan="x" * 200_000)

    run(launcher, body)
