"""A whole app over the scripted machine: order, readiness, embedding, leaving."""

import os
import signal

import pytest
import trio
import trio.testing

from supervisor import App, AppFailed, AppFileError, AppHeld, Container, StartError
from supervisor.failures import Closing, NoApp, NotAllowed, UnknownContainer
from tests.unit.supervisor.scripted import (
    FOREVER,
    Life,
    Place,
    box,
    events_of,
    inline,
    state,
    status,
    until,
    virtually,
)


def first(machine, verb, name):
    return machine.times(verb, name)[0]


def test_embedding_leaves_nothing_behind(tmp_path):
    """design.md's example: an app built in code."""
    here = Place(tmp_path)

    async def main():
        async with App(
            "tests", machine=here.machine, root=tmp_path / "root", run=tmp_path / "run", offload=inline
        ) as app:
            redis = await app.start(Container(name="redis", rootfs="/", command=["redis-server"]))
            assert redis.address == "10.0.0.1"
            assert redis.status().state == "running"
            await redis.restart()
            await redis.stop()
            assert (await redis.wait()).state == "stopped"
            await redis.start()
            with pytest.raises(ValueError, match="has a container redis already"):
                await app.start(Container(name="redis", rootfs="/", command="x"))
            with pytest.raises(AppFileError, match="images are not yet supported"):
                await app.start(Container(name="db", image="postgres"))
            assert here.files()

    virtually(main)
    assert here.machine.left() == []
    assert here.files() == []


def test_containers_added_at_once_are_all_there(tmp_path):
    """Also when the app is taken down while one is being added."""
    here = Place(tmp_path, takes=0.1)

    async def main():
        async with here.app() as app:
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(app.start, box(f"c{number}"))
            assert set(app.spec.containers) == here.machine.alive().keys() == {f"c{number}" for number in range(10)}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app.start, box("late"))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(app.down)

    virtually(main)
    assert here.machine.left() == here.files() == []


def test_threads_and_a_real_clock_do_as_well(tmp_path):
    here = Place(tmp_path)

    async def main():
        async with here.app(box("web"), box("db"), offload=None) as app:
            await app.ready()
            assert {event.event for event in app.history()} == {"created", "started", "ready"}

    trio.run(main)
    assert here.files() == here.machine.left() == []


def test_starts_by_links_and_after_and_stops_in_reverse(tmp_path):
    here = Place(tmp_path, {"job": [Life(lasts=2.0)], "web": [Life(dies_after=1.0)]}, takes=0.01)

    async def main():
        containers = [
            box("web", links=["api"]),
            box("api", links=["db", {"to": "web", "wait": False}], after={"job": "completed", "cache": "started"}),
            box("db"),
            box("cache"),
            box("job", links=["db"]),
        ]
        async with here.app(*containers) as app:
            await until(lambda: state(app, "job") == "running")
            assert status(app, "api").waiting_for == ("job",)
            assert status(app, "web").waiting_for == ("api",)
            assert state(app, "web") == "pending"
            await app.ready()
            assert [one.name for one in app.statuses()] == ["web", "api", "db", "cache", "job"]

    virtually(main)
    machine = here.machine
    assert first(machine, "settle", "db") == first(machine, "settle", "cache")
    assert first(machine, "start", "db") < first(machine, "settle", "job")
    assert first(machine, "start", "job") + 2.0 <= first(machine, "settle", "api")
    assert first(machine, "start", "api") < first(machine, "settle", "web")
    assert first(machine, "signal", "web") + 1.0 <= first(machine, "signal", "api")
    assert first(machine, "signal", "api") < first(machine, "signal", "db")
    assert first(machine, "signal", "cache") == first(machine, "signal", "db")
    assert machine.left() == []


def test_waiting_does_not_end_when_a_dependency_dies_meanwhile(tmp_path):
    """All conditions hold at one moment, or the container goes on waiting."""
    here = Place(tmp_path, {"db": [Life(lasts=1.0, code=1), FOREVER], "cache": [FOREVER]}, takes=0.0)

    async def main():
        containers = [box("web", after={"db": "ready", "job": "completed"}), box("db"), box("job")]
        here.machine.lives["job"] = [Life(lasts=1.05)]
        async with here.app(*containers) as app:
            await app.ready()

    virtually(main)
    assert first(here.machine, "settle", "web") == pytest.approx(1.1)


def test_200_start_and_stop_at_once(tmp_path):
    here = Place(tmp_path, takes=0.1)

    async def main():
        async with here.app(*[box(f"c{number}") for number in range(200)]) as app:
            await app.ready()
            assert trio.current_time() < 1.0
            assert len(here.machine.alive()) == 200
            began = trio.current_time()
        assert trio.current_time() - began < 1.0

    virtually(main)
    assert here.machine.left() == here.files() == []


def test_down_takes_one_deadline_for_everything(tmp_path):
    """Three that wait for each other and ignore their signals: 9 seconds, or what is given."""
    stubborn = [Life(ignores=(signal.SIGTERM,))]
    here = Place(tmp_path, {"web": stubborn, "api": stubborn, "db": stubborn})
    stop = {"timeout": "3s"}

    def containers():
        return [box("web", links=["api"], stop=stop), box("api", links=["db"], stop=stop), box("db", stop=stop)]

    async def main(timeout):
        async with here.app(*containers()) as app:
            await app.ready()
            began = trio.current_time()
            await app.down(timeout)
            await app.ended()
            return trio.current_time() - began

    assert virtually(main, None) == pytest.approx(9.0)
    assert virtually(main, 4.0) == pytest.approx(4.0)
    assert virtually(main, 0.0) == pytest.approx(0.0)
    assert here.machine.left() == here.files() == []


def test_second_down_hurries_the_first(tmp_path):
    here = Place(tmp_path, {"web": [Life(ignores=(signal.SIGTERM,))]})

    async def main():
        async with here.app(box("web")) as app, trio.open_nursery() as nursery:
            await app.ready()
            nursery.start_soon(app.down)
            await trio.sleep(1)
            await app.down(0)
            assert trio.current_time() == pytest.approx(1.0)

    virtually(main)
    assert here.machine.left() == here.files() == []


def test_down_keeps_volumes_unless_asked(tmp_path):
    here = Place(tmp_path)
    volume = tmp_path / "root" / "volumes" / "shop" / "data"

    async def main(volumes):
        volume.mkdir(parents=True, exist_ok=True)
        async with here.app(box("web")) as app:
            await app.ready()
            await app.down(volumes=volumes)
            with pytest.raises(Closing):
                await app.start_again(["web"])

    virtually(main, False)
    assert volume.exists()
    virtually(main, True)
    assert not volume.parent.exists()


def test_ready_names_all_that_failed_and_the_error_arrives_bare(tmp_path):
    here = Place(tmp_path, {"a": [Life(lasts=1, code=1)], "b": [Life(lasts=1, code=2)]})

    async def main():
        async with here.app(box("a", restart="never"), box("b", restart="never"), box("c")) as app:
            await trio.sleep(2)
            await app.ready()

    with pytest.raises(AppFailed) as caught:
        virtually(main)
    assert str(caught.value) == (
        "shop is not ready: a failed for good: it exited with code 1, and its restart policy is never; "
        "b failed for good: it exited with code 2, and its restart policy is never"
    )
    assert here.machine.left() == here.files() == []


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), ExceptionGroup("ours", [ValueError()])])
def test_errors_of_the_block_pass_unwrapped_and_nothing_stays(tmp_path, error):
    here = Place(tmp_path, {"web": [Life(dies_after=1.0)]})

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            raise error

    with pytest.raises(type(error)) as caught:
        virtually(main)
    assert caught.value is error or type(error) is ExceptionGroup
    assert here.machine.times("kill", "web") == []
    assert here.machine.left() == here.files() == []


def test_failure_before_anything_runs_leaves_nothing(tmp_path):
    here = Place(tmp_path)
    problem = StartError("shop", "reserve ports", "127.0.0.1:80 is taken")

    async def main(verb):
        with here.machine.fails(verb, problem):
            async with here.app(box("web")):
                pytest.fail("it ran")

    for verb in ("serve", "survivors", "establish"):
        with pytest.raises(StartError, match="is taken"):
            virtually(main, verb)
        assert here.machine.left() == here.files() == []
    assert here.machine.times("create", "web") == []


def test_two_supervisors_never_hold_one_app(tmp_path):
    here = Place(tmp_path)

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            with pytest.raises(AppHeld, match=f"process {os.getpid()} supervises the app shop already"):
                async with here.app(box("web")):
                    pytest.fail("it ran")
            assert state(app, "web") == "running"
            async with Place(tmp_path / "other").app(box("web")) as other:
                await other.ready()
            async with here.app(box("other"), name="mall", machine=Place(tmp_path).machine) as mall:
                await mall.ready()
            assert (app.directory / "app.json").exists()

    virtually(main)
    assert here.machine.left() == []


def test_groups_are_branches(tmp_path):
    here = Place(tmp_path)
    spec = {"groups": {"back": {}, "deep": {"parent": "back"}}}

    async def main():
        containers = [box("web"), box("db", group="deep"), box("api", group="back")]
        async with here.app(*containers, spec=spec) as app:
            await app.ready()
            root = app.tree()
            assert (root.name, root.strategy) == ("shop", "one-for-one")
            assert [child.name for child in root.children] == ["back", "web"]
            assert [child.name for child in root.children[0].children] == ["deep", "api"]
            assert [child.name for child in root.children[0].children[0].children] == ["db"]
            assert status(app, "db").group == "deep"

    virtually(main)


def test_one_death_restarts_one(tmp_path):
    here = Place(tmp_path)

    async def main():
        async with here.app(box("web", links=["db"]), box("db")) as app:
            await app.ready()
            here.machine.crash("db")
            await until(lambda: status(app, "db").restarts == 1)
            await app.ready()
            assert status(app, "web").restarts == 0
            assert events_of(app, "web") == ["created", "started", "ready"]

    virtually(main)


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    here = Place(tmp_path)

    async def main():
        async with here.app(box("web"), box("db")) as app:
            for ask in (app.stop, app.start_again, app.restart):
                with pytest.raises(UnknownContainer, match="no container wbe; it has: web, db"):
                    await ask(["web", "wbe"])
            assert here.machine.times("signal", "web") == []

    virtually(main)


def test_readers_follow_events(tmp_path):
    here = Place(tmp_path)

    async def main():
        async with here.app(box("web")) as app:
            seen = []
            async for event in app.events(0):
                seen.append(event.event)
                if event.event == "ready":
                    break
            assert seen == ["created", "started", "ready"]

    virtually(main)


def test_needs_root_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    async def main():
        async with App("shop", root=tmp_path / "root", run=tmp_path / "run"):
            pytest.fail("it ran")

    with pytest.raises(NotAllowed, match="creche needs root for now"):
        virtually(main)
    assert here_files(tmp_path) == []


def here_files(path):
    return list(path.rglob("*"))


def test_reopening_what_never_was(tmp_path):
    with pytest.raises(NoApp, match="there is no app shop"):
        Place(tmp_path).reopen()
    assert here_files(tmp_path) == []


def test_what_is_less_than_was_asked_for_is_told(tmp_path):
    """A machine's notice becomes a warning event: of a container, or of the app."""
    here = Place(tmp_path)
    told = []

    async def main():
        async with here.app() as app:
            await here.machine.notices_in.send(("db", "db: no swap limit here"))
            await here.machine.notices_in.send((None, "forwarding is on now"))
            await trio.testing.wait_all_tasks_blocked()
            told.extend((event.container, event.detail) for event in app.history() if event.event == "warning")

    virtually(main)
    assert told == [("db", "db: no swap limit here"), (None, "forwarding is on now")]
