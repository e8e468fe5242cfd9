"""The journal's files: what is read is what was written, or an error with a way out."""

import errno
import json

import attrs
import pytest

from supervisor.events import Event
from supervisor.failures import JournalError
from supervisor.journal import EVENTS_LIMIT, Journal, Owner, Record

WEB = Record("web", "hash", "boot", "backing-off", run=3, pid=12, deaths=(1.5, 2.5), next_start_at=3.0)


def event(number):
    return Event(number, 1.0, "shop", "web", "died", "exit", None, "é" * 10)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "shop")


def test_round_trip(journal):
    journal.write([WEB, attrs.evolve(WEB, name="db", state="running")], [event(1), event(2)])
    journal.write([attrs.evolve(WEB, run=4)], [event(3)])
    assert journal.records() == {"db": attrs.evolve(WEB, name="db", state="running"), "web": attrs.evolve(WEB, run=4)}
    assert journal.past() == [event(1), event(2), event(3)]
    journal.forget("db")
    journal.forget("db")
    assert list(journal.records()) == ["web"]


def test_owner_round_trip(journal):
    assert journal.owner() is None
    owner = Owner("shop", "/etc/shop.toml", {"name": "shop"})
    journal.own(owner)
    assert journal.owner() == owner


def test_files_are_their_owners_alone(journal):
    journal.write([WEB], [event(1)])
    assert (journal.directory / "state").stat().st_mode & 0o777 == 0o700
    files = [path for path in journal.directory.rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o600]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"version": 1', '"version": 9'),
        lambda text: text.replace('"state": "backing-off"', '"state": "dancing"'),
        lambda text: text.replace('"web"', '"api"'),
        lambda text: text.replace('"run"', '"walk"'),
    ],
)
def test_torn_or_foreign_record_is_refused_with_its_name_and_a_way_out(journal, change):
    journal.write([WEB])
    file = journal.directory / "state" / "web.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(JournalError, match=rf"{file} cannot be read: .*creche down shop"):
        journal.records()


def test_event_line_cut_by_a_kill_is_cut_off(journal):
    journal.write([WEB], [event(1), event(2)])
    file = journal.directory / "events.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert journal.past() == [event(1)]
    journal.write([], [event(3)])
    assert journal.past() == [event(1), event(3)]


def test_foreign_event_line_is_refused(journal):
    journal.write([WEB], [event(1)])
    (journal.directory / "events.jsonl").write_text(json.dumps({"seq": 1}) + "\n")
    with pytest.raises(JournalError, match=r"events\.jsonl cannot be read"):
        journal.past()


def test_events_are_bounded_and_the_latest_stay(journal):
    long = attrs.evolve(event(1), detail="x" * 50_000)
    for number in range(1, 200):
        journal.write([WEB], [attrs.evolve(long, seq=number)])
    assert journal.past()[-1].seq == 199
    assert len(journal.past()) > 50
    sizes = [path.stat().st_size for path in journal.directory.glob("events*")]
    assert len(sizes) == 2
    assert all(size < EVENTS_LIMIT + 60_000 for size in sizes)


def test_full_disk_leaves_whole_lines(journal, monkeypatch):
    import os

    journal.write([WEB], [event(1)])
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(OSError, match="No space left") as caught:
        journal.write([], [event(2)])
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    journal.write([], [event(3)])
    assert journal.past() == [event(1), event(3)]
