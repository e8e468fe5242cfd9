"""Exec instances on a virtual clock: started once, outliving their clients, bounded, refused where nothing runs."""

import pytest
import trio

from supervisor import NotRunning, StartError
from supervisor.execs import LIMIT, REMEMBERED, ExecState, NoExec, TooManyExecs
from supervisor.machine import Exit, Process
from tests.unit.supervisor.scripted import Doing, Place, box, until, virtually

MISSING = StartError("web", "exec", "nope is not there", exit_code=127)


@pytest.fixture
def within(tmp_path):
    """Run `body(app, machine)` beside a running web, whose programs are given."""

    def go(body, **programs):
        here = Place(tmp_path)
        here.machine.programs = programs

        async def main():
            async with here.app(box("web")) as app:
                await app.ready()
                await body(app, here.machine)
            assert all(session.closed for session in here.machine.sessions), "a session was left open"

        virtually(main)

    return go


def process(*arguments, **keys):
    return Process(arguments=arguments, **keys)


def test_output_and_the_exit_code(within):
    async def body(app, _machine):
        one = app.execs.create("web", process("say"))
        session = await app.execs.start(one)
        assert await session.receive(1) == b"out"
        assert await session.receive(2) == b"err"
        app.execs.leave(one)
        assert await one.wait() == Exit(3, None)

    within(body, say=Doing(((1, b"out"), (2, b"err")), code=3))


def test_a_client_that_leaves_ends_the_input_and_not_the_process(within):
    async def body(app, machine):
        one = app.execs.create("web", process("work"))
        await app.execs.start(one)
        app.execs.leave(one)
        assert one.running
        assert await one.wait() == Exit(0, None)
        assert trio.current_time() == pytest.approx(30.0)
        assert "end" in machine.sessions[0].told

    within(body, work=Doing(lasts=30.0))


def test_output_that_nobody_reads_any_more_holds_no_process(within):
    async def body(app, _machine):
        one = app.execs.create("web", process("chatter"))
        await app.execs.start(one)
        app.execs.leave(one)
        assert await one.wait() == Exit(0, None)

    within(body, chatter=Doing(tuple((1, b"x") for _ in range(100))))


def test_output_that_somebody_still_may_read_holds_the_process(within):
    """The control of the test above: nothing is dropped while a client is there."""

    async def body(app, _machine):
        one = app.execs.create("web", process("chatter"))
        await app.execs.start(one)
        await trio.sleep(100)
        assert one.running
        app.execs.leave(one)

    within(body, chatter=Doing(tuple((1, b"x") for _ in range(100))))


def test_a_start_that_fails_shows_its_code(within):
    async def body(app, _machine):
        one = app.execs.create("web", process("nope"))
        with pytest.raises(StartError):
            await app.execs.start(one)
        assert (await one.wait()).code == 127

    within(body, nope=MISSING)


def test_a_start_that_is_given_up_leaves_the_process_to_itself(within):
    async def body(app, machine):
        machine.takes = 5.0
        one = app.execs.create("web", process("work"))
        with trio.move_on_after(1):
            await app.execs.start(one)
        machine.takes = 0.0
        assert await one.wait() == Exit(4, None)

    within(body, work=Doing(code=4))


def test_it_starts_once(within):
    async def body(app, _machine):
        one = app.execs.create("web", process("true"))
        await app.execs.start(one)
        app.execs.leave(one)
        with pytest.raises(ExecState, match="was started already"):
            await app.execs.start(one)

    within(body)


def test_a_size_before_the_start_is_the_first_one(within):
    async def body(app, machine):
        one = app.execs.create("web", process("sh", terminal=True))
        app.execs.resize(one, 40, 100)
        await app.execs.start(one)
        app.execs.resize(one, 50, 120)
        assert [call[3].size for call in machine.calls if call[1] == "exec"] == [(40, 100)]
        assert machine.sessions[0].told == [(50, 120)]
        app.execs.leave(one)

    within(body, sh=Doing(lasts=1.0))


def test_without_a_terminal_there_is_nothing_to_resize(within):
    async def body(app, _machine):
        with pytest.raises(ExecState, match="has no terminal"):
            app.execs.resize(app.execs.create("web", process("true")), 1, 1)

    within(body)


def test_after_its_end_there_is_nothing_to_resize(within):
    async def body(app, _machine):
        one = app.execs.create("web", process("true", terminal=True))
        await app.execs.start(one)
        app.execs.leave(one)
        await one.wait()
        with pytest.raises(ExecState, match="has ended"):
            app.execs.resize(one, 1, 1)

    within(body)


def test_ended_ones_are_forgotten_in_time(within):
    async def body(app, _machine):
        one = app.execs.create("web", process("true"))
        await app.execs.start(one)
        app.execs.leave(one)
        await one.wait()
        await trio.sleep(REMEMBERED)
        app.execs.create("web", process("true"))
        with pytest.raises(NoExec):
            app.execs.find(one.id)

    within(body)


def test_running_ones_are_never_forgotten(within):
    async def body(app, _machine):
        one = app.execs.create("web", process("work"))
        await app.execs.start(one)
        await trio.sleep(2 * REMEMBERED)
        app.execs.create("web", process("true"))
        assert app.execs.find(one.id) is one
        app.execs.leave(one)

    within(body, work=Doing(lasts=10 * REMEMBERED))


def test_their_number_is_bounded(within):
    async def body(app, _machine):
        for _ in range(LIMIT):
            app.execs.create("web", process("true"))
        with pytest.raises(TooManyExecs):
            app.execs.create("web", process("true"))

    within(body)


def test_an_ended_one_makes_room(within):
    async def body(app, _machine):
        made = [app.execs.create("web", process("true")) for _ in range(LIMIT)]
        await app.execs.start(made[0])
        app.execs.leave(made[0])
        await made[0].wait()
        app.execs.create("web", process("true"))

    within(body)


def test_the_apps_end_ends_them(within):
    async def body(app, _machine):
        await app.execs.start(app.execs.create("web", process("work")))

    within(body, work=Doing(lasts=1e6))


def test_a_paused_container_refuses(within):
    async def body(app, _machine):
        await app.pause(["web"])
        with pytest.raises(NotRunning, match=r"web is paused: .*creche unpause shop/web"):
            await app.exec("web", process("true"))
        await app.unpause(["web"])

    within(body)


def test_a_container_that_does_not_run_refuses(within):
    async def body(app, _machine):
        await app.stop(["web"])
        await until(lambda: app.statuses()[0].state == "stopped")
        with pytest.raises(NotRunning, match="web is not running, it is stopped"):
            await app.exec("web", process("true"))

    within(body)
