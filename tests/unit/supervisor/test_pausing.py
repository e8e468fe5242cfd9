"""Pausing on a virtual clock: requests in every state, stops of paused containers, survivors that are frozen."""

import pytest
import trio

from supervisor import NotRunning
from supervisor.machine import OperationFailed
from tests.unit.supervisor.scripted import FOREVER, Life, Place, box, events_of, state, status, until, virtually

CRASH = Life(lasts=0.0, code=1)


@pytest.fixture
def place(tmp_path):
    def build(*lives):
        return Place(tmp_path, {"web": lives or (FOREVER,)})

    return build


def paused(here, body, **keys):
    """Run `body(app)` once web is paused."""

    async def main():
        async with here.app(box("web", **keys)) as app:
            await app.ready()
            await app.pause(["web"])
            await body(app)

    virtually(main)


def test_a_pause_freezes_and_an_unpause_thaws(place):
    here = place()

    async def body(app):
        assert (state(app, "web"), here.machine.frozen) == ("paused", {"web"})
        await app.unpause(["web"])
        assert (state(app, "web"), here.machine.frozen) == ("running", set())
        assert events_of(app, "web")[-2:] == ["paused", "unpaused"]

    paused(here, body)


def test_a_paused_container_keeps_its_run(place):
    here = place()

    async def body(app):
        assert status(app, "web").pid == here.machine.alive()["web"]
        assert here.machine.published == {"web"}

    paused(here, body)


def test_a_second_pause_is_refused(place):
    async def body(app):
        with pytest.raises(NotRunning, match="web is already paused"):
            await app.pause(["web"])

    paused(place(), body)


def test_an_unpause_of_what_runs_is_refused(place):
    here = place()

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            with pytest.raises(NotRunning, match="web is not paused"):
                await app.unpause(["web"])

    virtually(main)


@pytest.mark.parametrize("verb", ["pause", "unpause"])
def test_what_does_not_run_refuses(place, verb):
    here = place(Life(lasts=1.0, code=0))

    async def main():
        async with here.app(box("web")) as app:
            await app.wait("web")
            with pytest.raises(NotRunning, match=f"web is completed: there is nothing to {verb}"):
                await getattr(app, verb)(["web"])
            await app.stop(["web"])

    virtually(main)


@pytest.mark.parametrize("verb", ["pause", "unpause"])
def test_a_back_off_refuses_and_goes_on(place, verb):
    here = place(CRASH, FOREVER)

    async def main():
        async with here.app(box("web", restart={"delay": "5s"})) as app:
            await until(lambda: state(app, "web") == "backing-off")
            with pytest.raises(NotRunning, match="backing-off"):
                await getattr(app, verb)(["web"])
            await app.ready()
            assert here.machine.times("start", "web") == pytest.approx([0.0, 5.0])

    virtually(main)


@pytest.mark.parametrize("verb", ["pause", "unpause"])
def test_a_stop_under_way_refuses_and_goes_on(place, verb):
    here = place(Life(dies_after=3.0))

    async def main():
        async with here.app(box("web")) as app, trio.open_nursery() as nursery:
            await app.ready()
            nursery.start_soon(app.stop, ["web"])
            await trio.sleep(1)
            with pytest.raises(NotRunning, match="stopping"):
                await getattr(app, verb)(["web"])
            await app.wait("web")
            assert status(app, "web").exit_signal == 15

    virtually(main)


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_a_stop_thaws_first(place, verb):
    """A frozen process hears no signal: without the thaw it would be killed after its time."""
    here = place()

    async def body(app):
        await getattr(app, verb)(["web"])
        assert [call[1] for call in here.machine.calls if call[1] in ("thaw", "signal", "kill")] == ["thaw", "signal"]

    paused(here, body)


def test_a_kill_thaws_and_the_signal_arrives(place):
    here = place(Life(ignores=(1,)))

    async def body(app):
        await app.kill(["web"], 1)
        assert (state(app, "web"), here.machine.times("signal", "web")) == ("running", [0.0])

    paused(here, body)


def test_a_death_while_paused_follows_the_policy(place):
    here = place(FOREVER, FOREVER)

    async def body(app):
        here.machine.crash("web")
        await until(lambda: status(app, "web").restarts == 1 and state(app, "web") == "running")
        assert status(app, "web").exit_signal == 9

    paused(here, body)


def test_what_cannot_be_frozen_runs_on(place):
    here = place()

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            with (
                here.machine.fails("freeze", OperationFailed("a process hangs")),
                pytest.raises(NotRunning, match="web cannot be paused: a process hangs"),
            ):
                await app.pause(["web"])
            assert state(app, "web") == "running"

    virtually(main)


def test_what_cannot_be_thawed_stays_paused(place):
    here = place()

    async def body(app):
        with (
            here.machine.fails("thaw", OperationFailed("no")),
            pytest.raises(NotRunning, match="cannot be unpaused: no"),
        ):
            await app.unpause(["web"])
        assert state(app, "web") == "paused"

    paused(here, body)


def test_what_cannot_be_thawed_is_killed_after_its_time(place):
    here = place()

    async def body(app):
        with here.machine.fails("thaw", OperationFailed("no")):
            await app.stop(["web"], 2)
        assert here.machine.times("kill", "web") == [2.0]
        assert "warning" in events_of(app, None) + events_of(app, "web")

    paused(here, body)


def test_down_of_a_paused_app_takes_no_stop_timeout(place):
    here = place()

    async def body(app):
        before = trio.current_time()
        await app.down()
        assert trio.current_time() == before

    paused(here, body)
    assert here.machine.left() == []


@pytest.mark.parametrize(
    ("change", "adopted"), [(lambda here: None, "paused"), (lambda here: here.frozen.clear(), "running")]
)
def test_the_kernel_says_whether_a_survivor_is_paused(place, change, adopted):
    here = place()

    async def main():
        async with here.app(box("web"), detached=True) as app:
            await app.ready()
            await app.pause(["web"])
        change(here.machine)
        async with here.app(box("web")) as app:
            await until(lambda: "adopted" in events_of(app, "web"))
            assert state(app, "web") == adopted

    virtually(main)


def test_one_that_was_frozen_between_two_supervisors_is_paused(place):
    here = place()

    async def main():
        async with here.app(box("web"), detached=True) as app:
            await app.ready()
        here.machine.frozen.add("web")
        async with here.app(box("web")) as app:
            await until(lambda: "adopted" in events_of(app, "web"))
            assert state(app, "web") == "paused"
            await app.unpause(["web"])

    virtually(main)


def test_a_frozen_container_that_the_file_has_no_more_hears_its_signal(place):
    here = place()

    async def main():
        async with here.app(box("web"), detached=True) as app:
            await app.ready()
            await app.pause(["web"])
        async with here.app():
            assert here.machine.times("thaw", "web")
            assert here.machine.left() == ["app"]

    virtually(main)
