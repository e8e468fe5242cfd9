"""One container's life on a virtual clock: restarts, stops, requests in every state."""

import signal
from itertools import pairwise

import pytest
import trio

from supervisor import AppFailed, NotRunning, StartError
from tests.unit.supervisor.scripted import (
    FOREVER,
    Life,
    Place,
    box,
    events_of,
    state,
    status,
    until,
    virtually,
)

CRASH = Life(lasts=0.0, code=1)
MISSING = StartError("web", "exec", "/bin/nope does not exist in the root filesystem", exit_code=127, advice="fix it")


@pytest.fixture
def place(tmp_path):
    """Build a place whose only container, web, lives the given lives."""

    def build(*lives, **keys):
        return Place(tmp_path, {"web": lives or (FOREVER,)}, **keys)

    return build


def gaps(machine, name="web"):
    times = machine.times("start", name)
    return [round(after - before, 4) for before, after in pairwise(times)]


def test_runs_and_is_ready(place):
    here = place()

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            now = status(app, "web")
            assert (now.state, now.ready, now.restarts, now.userns) == ("running", True, 0, "mapped")
            assert now.pid == here.machine.alive()["web"]
            assert events_of(app, "web") == ["created", "started", "ready"]
            assert here.machine.published == {"web"}

    virtually(main)


def test_gaps_double_up_to_the_cap(place):
    here = place(CRASH)

    async def main():
        async with here.app(box("web", restart={"max_delay": "1s"})):
            await trio.sleep(5)

    virtually(main)
    assert gaps(here.machine)[:6] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_run_of_reset_after_clears_the_back_off(place):
    here = place(CRASH, CRASH, CRASH, Life(lasts=10.0, code=1), CRASH, CRASH)

    async def main():
        async with here.app(box("web")) as app:
            await trio.sleep(12)
            assert status(app, "web").restarts >= 5

    virtually(main)
    assert gaps(here.machine)[:6] == [0.1, 0.2, 0.4, 10.1, 0.2, 0.4]


def test_creates_during_the_back_off_and_starts_at_its_end(place):
    here = place(Life(lasts=1.0, code=1), takes=0.0)

    async def main():
        async with here.app(box("web", restart={"delay": "5s"})) as app:
            await until(lambda: state(app, "web") == "backing-off")
            await trio.testing.wait_all_tasks_blocked()
            assert status(app, "web").pid is not None
            assert here.machine.times("create", "web") == [0.0, 1.0]
            await trio.sleep(5)
        assert here.machine.times("start", "web") == [0.0, 6.0]

    virtually(main)


def test_creating_costs_nothing_of_the_delay(place):
    """With a slow machine the next start is at the deadline all the same."""
    here = place(Life(lasts=1.0, code=1), takes=0.05)

    async def main():
        async with here.app(box("web", restart={"delay": "1s"})) as app:
            await until(lambda: status(app, "web").restarts == 2)

    virtually(main)
    first, second = here.machine.times("start", "web")[:2]
    # The run begins when start returns, its end is seen at once, ports are withdrawn before the policy is asked.
    assert second - first == pytest.approx(0.05 + 1.0 + 0.05 + 1.0)


@pytest.mark.parametrize(
    ("policy", "life", "final"),
    [
        ("on-failure", Life(lasts=1.0), "completed"),
        ("never", Life(lasts=1.0), "completed"),
        ("never", CRASH, "failed"),
        ({"fatal_codes": [1]}, CRASH, "failed"),
        ({"max_restarts": 2}, CRASH, "exhausted"),
        ("never", Life(start_error=MISSING), "failed"),
        ("never", Life(create_error=MISSING), "failed"),
    ],
)
def test_ends_for_good(place, policy, life, final):
    here = place(life)

    async def main():
        async with here.app(box("web", restart=policy)) as app:
            end = await app.wait("web")
            assert (end.state, end.ready, end.pid) == (final, False, None)
            assert events_of(app, "web")[-2:] == ["died", final]
            assert here.machine.published == set()
            if final == "completed":
                await app.ready()
            else:
                with pytest.raises(AppFailed, match="shop is not ready: web ") as caught:
                    await app.ready()
                assert [(one.name, one.state) for one in caught.value.exceptions] == [("web", final)]

    virtually(main)


@pytest.mark.parametrize("where", ["create_error", "start_error"])
def test_start_error_is_a_death_that_the_policy_judges(place, where):
    here = place(Life(**{where: MISSING}))

    async def main():
        async with here.app(box("web")) as app:
            await trio.sleep(1)
            now = status(app, "web")
            assert (now.exit_code, now.last_reason, now.state) == (127, "start-error", "backing-off")
            assert now.restarts == 4
            died = next(event for event in app.history() if event.event == "died")
            assert died.reason == "start-error"
            assert died.detail == "web did not start: /bin/nope does not exist in the root filesystem (fix it)"

    virtually(main)


@pytest.mark.parametrize(
    ("life", "reason", "story"),
    [
        (Life(lasts=1, code=3, last_lines=("a", "boom")), "exit", 'exited with code 3; its last line was "boom"'),
        (Life(lasts=1, signal=signal.SIGSEGV), "signal", "was ended by SIGSEGV"),
        (Life(lasts=1, signal=signal.SIGKILL, oom=True), "oom", "was killed by the OOM killer"),
    ],
)
def test_deaths_are_typed_told_and_linked(place, life, reason, story):
    here = place(life)

    async def main():
        async with here.app(box("web")) as app:
            await until(lambda: status(app, "web").restarts == 1)
            await trio.testing.wait_all_tasks_blocked()
            died = next(event for event in app.history() if event.event == "died")
            assert (died.reason, died.detail) == (reason, f"web died: it {story}")
            restarting = next(event for event in app.history() if event.event == "restarting")
            assert restarting.cause == died.seq
            assert restarting.detail.startswith("web restarts in 0.1 s: it ")
            created = [event for event in app.history() if event.event == "created"][1]
            assert created.cause == restarting.seq
            assert status(app, "web").oom_killed is (reason == "oom")
            if reason == "oom":
                assert app.history()[died.seq - 2].event == "oom"
                assert died.cause == died.seq - 1
            causes = [event["event"] for event in app.inspect("web")["causes"]]
            assert causes[:3] == ["created", "restarting", "died"]

    virtually(main)


def test_stop_is_graceful_and_lasts(place):
    here = place(Life(dies_after=3.0))

    async def main():
        async with here.app(box("web", stop={"signal": "SIGINT"})) as app:
            await app.ready()
            await app.stop(["web"])
            assert trio.current_time() == pytest.approx(3.0)
            now = status(app, "web")
            assert (now.state, now.exit_code, now.exit_signal, now.last_reason) == ("stopped", 130, 2, "request")
            assert events_of(app, "web")[-2:] == ["stopping", "stopped"]
            assert here.machine.times("kill", "web") == []
            await trio.sleep(100)
            assert state(app, "web") == "stopped"
            await app.start_again(["web"])
            assert state(app, "web") == "running"
            assert status(app, "web").restarts == 0

    virtually(main)


def test_stop_kills_at_the_deadline(place):
    here = place(Life(ignores=(signal.SIGTERM,)))

    async def main():
        async with here.app(box("web", stop={"timeout": "4s"})) as app:
            await app.ready()
            await app.stop(["web"])
            assert here.machine.times("kill", "web") == [pytest.approx(4.0)]
            assert status(app, "web").exit_signal == signal.SIGKILL
            assert app.history()[-1].detail == (
                "web stopped: it was ended by SIGKILL; it had to be killed after its time to stop"
            )

    virtually(main)


def test_second_stop_with_less_time_hurries_the_first(place):
    here = place(Life(ignores=(signal.SIGTERM,)))

    async def main():
        async with here.app(box("web", stop={"timeout": "100s"})) as app, trio.open_nursery() as nursery:
            await app.ready()
            nursery.start_soon(app.stop, ["web"])
            await trio.sleep(1)
            await app.stop(["web"], 2)
            assert trio.current_time() == pytest.approx(3.0)

    virtually(main)


def test_stop_while_backing_off_kills_the_created_run(place):
    here = place(CRASH)

    async def main():
        async with here.app(box("web", restart={"delay": "60s", "max_delay": "60s"})) as app:
            await until(lambda: state(app, "web") == "backing-off")
            await trio.sleep(1)
            await app.stop(["web"])
            assert trio.current_time() < 2
            assert state(app, "web") == "stopped"
            assert here.machine.left() == ["home web", "app"]

    virtually(main)


@pytest.mark.parametrize("ask", ["start_again", "restart"])
def test_start_and_restart_end_the_back_off(place, ask):
    here = place(CRASH, FOREVER)

    async def main():
        async with here.app(box("web", restart={"delay": "60s", "max_delay": "60s"})) as app:
            await until(lambda: state(app, "web") == "backing-off")
            await getattr(app, ask)(["web"])
            assert (state(app, "web"), trio.current_time() < 1) == ("running", True)

    virtually(main)


def test_restart_stops_and_starts(place):
    here = place(Life(dies_after=1.0))

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            before = status(app, "web").pid
            await app.restart(["web"])
            now = status(app, "web")
            assert (now.state, now.restarts) == ("running", 0)
            assert now.pid != before
            assert events_of(app, "web")[3:] == ["stopping", "stopped", "created", "started", "ready"]

    virtually(main)


def test_start_during_a_stop_starts_again(place):
    here = place(Life(dies_after=5.0))

    async def main():
        async with here.app(box("web")) as app, trio.open_nursery() as nursery:
            await app.ready()
            nursery.start_soon(app.stop, ["web"])
            await trio.sleep(1)
            assert state(app, "web") == "stopping"
            await app.start_again(["web"])
            assert (state(app, "web"), status(app, "web").pid) == ("running", 1002)

    virtually(main)


def test_kill_signals_and_the_policy_follows(place):
    here = place()

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            await app.kill(["web"], signal.SIGUSR1)
            await until(lambda: status(app, "web").restarts == 1)
            died = next(event for event in app.history() if event.event == "died")
            assert died.detail == "web died: it was ended by SIGUSR1, as was asked"
            with pytest.raises(NotRunning, match="web is backing-off: there is nothing to signal"):
                await app.kill(["web"], signal.SIGTERM)

    virtually(main)


def test_exhausted_starts_again_with_a_clear_history(place):
    here = place(CRASH)

    async def main():
        async with here.app(box("web", restart={"max_restarts": 2})) as app:
            await app.wait("web")
            await app.start_again(["web"])
            assert (await app.wait("web")).state == "exhausted"
            assert status(app, "web").restarts == 4

    virtually(main)


@pytest.mark.parametrize("verb", ["wait", "create", "start", "publish", "settle"])
def test_bug_in_an_actor_is_survived(place, verb):
    """Whatever step breaks: it is told, nothing dies of it, and the actor goes on where it was."""
    here = place(Life(lasts=1.0, code=1))

    async def main():
        async with here.app(box("web")) as app:
            if verb != "settle":
                await app.ready()
            with here.machine.fails(verb, RuntimeError("oops")):
                await trio.sleep(3)
                told = [event.detail for event in app.history() if event.event == "actor-failed"]
                assert "RuntimeError('oops')" in told[0]
            before = len(told)
            await trio.sleep(60)
            assert status(app, "web").restarts > 2
            after = [event for event in app.history() if event.event == "actor-failed"]
            assert len(after) <= before + 1

    virtually(main)
    assert here.machine.left() == []


def test_bug_while_running_keeps_the_process(place):
    here = place()

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            pid = here.machine.alive()["web"]
            with here.machine.fails("wait", RuntimeError("oops")):
                await app.start_again(["web"])
                await trio.sleep(0.05)
            await trio.sleep(5)
            assert here.machine.alive()["web"] == pid
            assert events_of(app, "web")[-2:] == ["actor-failed", "adopted"]

    virtually(main)


def test_how_the_last_run_ended_is_kept_while_the_next_one_runs(tmp_path):
    """Whoever looks after a restart still sees what happened."""
    here = Place(tmp_path, {"web": [Life(1.0, 137), Life()]})
    seen = []

    async def main():
        async with here.app(box("web")) as app:
            await until(lambda: status(app, "web").restarts == 1 and status(app, "web").ready)
            seen.append(status(app, "web"))

    virtually(main)
    assert (seen[0].state, seen[0].exit_code) == ("running", 137)
    assert seen[0].finished_at is not None


def test_before_its_first_run_a_container_has_the_user_namespace_it_asks_for(tmp_path):
    here = Place(tmp_path)
    seen = []

    async def main():
        async with here.app(box("a", after=["b"]), box("b", after={}), box("c", security={"userns": "host"})) as app:
            seen.extend(status(app, name).userns for name in ("a", "c"))

    virtually(main)
    assert seen == ["mapped", "host"]
