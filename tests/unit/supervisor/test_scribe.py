"""The scribe: written, then told; in order; a disk that refuses is told and made up for."""

import errno

import trio

from supervisor.bus import Bus
from supervisor.journal import Journal, Record
from supervisor.scribe import Note, Scribe
from tests.unit.supervisor.scripted import inline, virtually

WEB = Record("web", "hash", "boot")


def test_written_before_told(tmp_path):
    async def main():
        bus, journal = Bus("shop"), Journal(tmp_path)
        seen = []

        async def offload(work, *arguments):
            seen.append(("writing", len(bus.history())))
            work(*arguments)
            seen.append(("written", len(bus.history())))

        scribe = Scribe("shop", journal, bus, lambda: 1.0, offload)
        number = await scribe.commit("web", WEB, Note("died", "x", "exit"), Note("restarting", "y"))
        assert seen == [("writing", 0), ("written", 0)]
        assert [(event.seq, event.event, event.cause) for event in bus.history()] == [
            (1, "died", None),
            (2, "restarting", 1),
        ]
        assert number == 2
        assert journal.past() == bus.history()

    virtually(main)


def test_many_at_once_share_writes_and_keep_their_order(tmp_path):
    async def main():
        bus, journal, writes = Bus("shop"), Journal(tmp_path), []

        async def offload(work, *arguments):
            writes.append(len(arguments[1]))
            await trio.sleep(0.01)
            work(*arguments)

        scribe = Scribe("shop", journal, bus, lambda: 1.0, offload)
        async with trio.open_nursery() as nursery:
            for index in range(100):
                nursery.start_soon(scribe.commit, f"c{index}", Record(f"c{index}", "", ""), Note("started", ""))
        assert [event.seq for event in bus.history()] == list(range(1, 101))
        assert sum(writes) == 100
        assert len(writes) <= 3
        assert len(journal.records()) == 100

    virtually(main)


def test_cancelled_commit_is_carried_out(tmp_path):
    async def main():
        bus, journal = Bus("shop"), Journal(tmp_path)
        scribe = Scribe("shop", journal, bus, lambda: 1.0, inline)
        with trio.CancelScope() as scope:
            scope.cancel()
            await scribe.commit("web", WEB, Note("started", ""))
        assert journal.records() == {"web": WEB}
        assert [event.event for event in bus.history()] == ["started"]

    virtually(main)


def test_disk_that_refuses_is_told_once_and_made_up_for(tmp_path):
    async def main():
        bus, journal = Bus("shop"), Journal(tmp_path)
        full = True

        async def offload(work, *arguments):
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            work(*arguments)

        scribe = Scribe("shop", journal, bus, lambda: 1.0, offload)
        await scribe.commit("web", WEB, Note("started", ""))
        await scribe.commit("db", Record("db", "", ""), Note("started", ""))
        full = False
        await scribe.commit("api", Record("api", "", ""), Note("started", ""))
        assert [(event.seq, event.event) for event in bus.history()] == [
            (1, "started"),
            (2, "journal-failed"),
            (3, "started"),
            (4, "started"),
        ]
        assert set(journal.records()) == {"web", "db", "api"}

    virtually(main)
