"""A supervisor dies, its containers do not: what the next one makes of them."""

import json

import attrs
import pytest
import trio

from supervisor.adoption import carried_over
from supervisor.failures import Foreign, JournalError
from supervisor.journal import Journal, Record
from supervisor.machine import Exit
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


def _ready(app):
    return all(one.ready for one in app.statuses())


def killed(here, *containers, when=_ready, **keys):
    """Run an app until `when` holds, then leave as if its process were killed: the machine and the disk stay."""

    async def main():
        async with here.app(*containers, detached=True, **keys) as app:
            await until(lambda: when(app))
            await trio.testing.wait_all_tasks_blocked()
            return app.statuses()

    return {one.name: one for one in virtually_on(here, main)}


def virtually_on(here, main, rest=0.0):
    """Run on one clock that goes on from run to run, as the machine's does."""

    async def later():
        await trio.sleep(here.__dict__.setdefault("now", 0.0) + rest)
        try:
            return await main()
        finally:
            here.now = trio.current_time()

    return virtually(later)


def test_running_ones_go_on_with_their_pids_and_histories(tmp_path):
    here = Place(tmp_path, {"web": [Life(lasts=0.1, code=1)] * 2 + [FOREVER]})
    before = killed(here, box("web"), box("db"), when=lambda app: status(app, "web").restarts == 2 and _ready(app))

    async def main():
        async with here.app(box("web"), box("db")) as app:
            await app.ready()
            assert {one.name: one for one in app.statuses()} == before
            assert events_of(app, "db") == ["created", "started", "ready", "adopted"]
            assert [event.seq for event in app.history()] == list(range(1, len(app.history()) + 1))
            here.machine.crash("web")
            await until(lambda: status(app, "web").restarts == 3)
            restarting = [event for event in app.history() if event.event == "restarting"][-1]
            assert restarting.detail.startswith("web restarts in 0.4 s")

    virtually_on(here, main)
    assert here.machine.left() == here.files() == []


def test_one_that_died_meanwhile_follows_its_policy(tmp_path):
    here = Place(tmp_path, {"web": [Life(lasts=5.0, code=3)], "job": [Life(lasts=5.0)]})
    killed(here, box("web", restart="never"), box("job"))

    async def main():
        async with here.app(box("web", restart="never"), box("job")) as app:
            await until(lambda: state(app, "web") == "failed")
            assert (status(app, "web").exit_code, state(app, "job")) == (3, "completed")

    virtually_on(here, main, rest=60.0)


def test_one_whose_end_nobody_saw_follows_its_policy(tmp_path):
    """Supervisor and launcher died: a new machine knows no run."""
    here = Place(tmp_path)
    killed(here, box("web"))
    here.machine.crash("web")
    here.machine.runs["web"][1].end = Exit(None, None)

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            died = next(event for event in app.history() if event.event == "died")
            assert died.detail == "web died: it ended, and nobody saw how"
            assert (status(app, "web").restarts, here.machine.alive().keys()) == (1, {"web"})

    virtually_on(here, main)


def test_back_off_keeps_its_deadline(tmp_path):
    here = Place(tmp_path, {"web": [Life(lasts=1.0, code=1), FOREVER]})
    patient = box("web", restart={"delay": "30s"})
    before = killed(here, patient, when=lambda app: state(app, "web") == "backing-off")

    async def main():
        async with here.app(patient) as app:
            await until(lambda: state(app, "web") == "backing-off")
            now = status(app, "web")
            assert (now.pid, now.next_start_at) == (before["web"].pid, before["web"].next_start_at)
            await app.ready()

    virtually_on(here, main, rest=10.0)
    assert here.machine.times("start", "web") == [0.0, pytest.approx(31.0)]
    assert len(here.machine.times("create", "web")) == 2


def test_back_off_over_meanwhile_starts_at_once(tmp_path):
    here = Place(tmp_path, {"web": [Life(lasts=1.0, code=1), FOREVER]})
    patient = box("web", restart={"delay": "30s"})
    killed(here, patient, when=lambda app: state(app, "web") == "backing-off")

    async def main():
        async with here.app(patient) as app:
            await app.ready()
            assert trio.current_time() == pytest.approx(here.now + 100.0)

    virtually_on(here, main, rest=100.0)


def test_created_one_that_vanished_is_created_anew(tmp_path):
    here = Place(tmp_path, {"web": [Life(lasts=1.0, code=1), FOREVER]})
    patient = box("web", restart={"delay": "30s"})
    killed(here, patient, when=lambda app: state(app, "web") == "backing-off")
    here.machine.crash("web")

    async def main():
        async with here.app(patient) as app:
            await app.ready()
            assert events_of(app, "web").count("died") == 1

    virtually_on(here, main)
    assert here.machine.times("start", "web") == [0.0, pytest.approx(31.0)]


def test_survivor_that_the_journal_does_not_know_is_killed(tmp_path):
    here = Place(tmp_path)
    before = killed(here, box("web"))
    (tmp_path / "root/apps/shop/state/web.json").unlink()

    async def main():
        async with here.app(box("web")) as app:
            await app.ready()
            assert status(app, "web").pid != before["web"].pid
            assert "died" in events_of(app, "web")
            assert list(here.machine.alive()) == ["web"]
            assert sorted(here.machine.runs["web"]) == [1, 2]

    virtually_on(here, main)


@pytest.mark.parametrize(("policy", "expected"), [("unless-stopped", "stopped"), ("always", "running")])
def test_stopped_by_request_stays_so_unless_always(tmp_path, policy, expected):
    here = Place(tmp_path)

    async def first():
        async with here.app(box("web", restart=policy), detached=True) as app:
            await app.ready()
            await app.stop(["web"])

    async def second():
        async with here.app(box("web", restart=policy)) as app:
            await app.ready()
            assert state(app, "web") == expected

    virtually_on(here, first)
    virtually_on(here, second)


def test_least_action_when_the_file_changed(tmp_path):
    """Unchanged: adopted. Changed: restarted with the new spec. Removed: stopped and discarded. New: started."""
    here = Place(tmp_path, {"old": [Life(dies_after=1.0)]})
    before = killed(here, box("same"), box("changed"), box("old"))

    async def main():
        async with here.app(box("same"), box("changed", env={"A": "1"}), box("new")) as app:
            await app.ready()
            assert status(app, "same").pid == before["same"].pid
            assert status(app, "changed").pid != before["changed"].pid
            assert events_of(app, "changed")[3:] == ["adopted", "stopping", "stopped", "created", "started", "ready"]
            stopping = next(event for event in app.history() if event.event == "stopping")
            assert stopping.reason == "update"
            assert events_of(app, "old")[-1] == "removed"
            assert here.machine.alive().keys() == {"same", "changed", "new"}
            assert here.machine.homes["changed"].env == {"A": "1"}
            assert set(Journal(app.directory).records()) == {"same", "changed", "new"}
            records = Journal(app.directory).records()
        return records

    virtually_on(here, main)
    assert here.machine.times("kill", "old") == [pytest.approx(here.machine.times("signal", "old")[0] + 1.0)]


def test_changed_one_is_not_restarted_twice(tmp_path):
    here = Place(tmp_path)
    killed(here, box("web"))
    changed = box("web", env={"A": "1"})
    killed(here, changed)
    before = status_of_run(here)
    killed(here, changed)
    assert status_of_run(here) == before


def status_of_run(here):
    return [run.pid for run in here.machine.runs["web"].values() if run.end is None]


def test_interrupted_stop_is_finished(tmp_path):
    """Down was interrupted: what was stopping ends, and starts again because up wants it."""
    here = Place(tmp_path, {"web": [Life(dies_after=5.0), FOREVER]})

    async def first():
        async with here.app(box("web"), detached=True) as app, trio.open_nursery() as nursery:
            await app.ready()
            nursery.start_soon(app.down)
            await until(lambda: state(app, "web") == "stopping")
            nursery.cancel_scope.cancel()

    async def second():
        async with here.app(box("web")) as app:
            await until(lambda: state(app, "web") == "running")

    virtually_on(here, first)
    virtually_on(here, second)
    assert here.machine.left() == here.files() == []


def test_reopen_takes_down_what_survived_and_starts_nothing(tmp_path):
    here = Place(tmp_path)
    killed(here, box("web", links=["db"]), box("db"), box("gone", restart="never"))
    here.machine.crash("gone")

    async def main():
        async with here.reopen() as app:
            assert {one.name for one in app.statuses()} == {"web", "db"}
            await app.down()

    virtually_on(here, main)
    assert here.machine.left() == here.files() == []
    assert len(here.machine.times("start", "gone")) == 1


def test_another_file_may_not_take_the_app_over(tmp_path):
    here = Place(tmp_path)
    killed(here, box("web"), spec={"file": tmp_path / "a.toml"})

    async def main():
        async with here.app(box("web"), spec={"file": tmp_path / "b.toml"}):
            pytest.fail("it ran")

    with pytest.raises(Foreign, match=r"belongs to .*a\.toml, not to .*b\.toml.*creche down shop"):
        virtually_on(here, main)
    assert list(here.machine.alive()) == ["web"]


def test_torn_journal_is_refused_and_touches_nothing(tmp_path):
    here = Place(tmp_path)
    killed(here, box("web"))
    file = tmp_path / "root/apps/shop/state/web.json"
    file.write_text(file.read_text()[:50])

    async def main():
        async with here.app(box("web")):
            pytest.fail("it ran")

    with pytest.raises(JournalError, match=r"web\.json"):
        virtually_on(here, main)
    assert list(here.machine.alive()) == ["web"]
    assert file.exists()


def test_another_boot_starts_anew():
    record = Record("web", "hash", "old", "running", run=7, pid=3, restarts=2, streak=5, deaths=(1.0,), ready=True)
    fresh = carried_over(record, box("web"), "hash", "new")
    assert fresh == Record("web", "hash", "new", run=7, restarts=2)
    failed = attrs.evolve(record, state="failed")
    assert carried_over(failed, box("web"), "hash", "old") == failed
    asked = attrs.evolve(record, state="stopped", desired="stopped")
    assert carried_over(asked, box("web"), "hash", "new").state == "stopped"
    assert carried_over(asked, box("web"), "other", "new").state == "pending"


def test_journal_is_readable_json(tmp_path):
    here = Place(tmp_path)
    killed(here, box("web"))
    assert json.loads((tmp_path / "root/apps/shop/app.json").read_text())["name"] == "shop"


def test_a_removed_container_that_is_added_again_starts_with_a_clean_slate(tmp_path):
    """A program that was killed and runs again adds the same container: the journal of the old one is over."""
    here = Place(tmp_path)
    killed(here, box("web"))
    stories = []

    async def main():
        async with here.app() as app:
            await app.start(box("web"))
            seen = [event.event for event in app.history()]
            stories.extend(seen[seen.index("removed") :])

    virtually(main)
    assert stories == ["removed", "created", "started", "ready"]
