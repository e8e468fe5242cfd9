"""What is remembered of a container: ids, the record, the lock, and the status that the kernel tells."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from runtime.oci import state
from runtime.oci.log import OciError
from runtime.oci.state import Directory, Record


def record(**fields: object) -> Record:
    me = os.getpid()
    found = state.birth_of(me)
    assert found is not None
    about = {
        "id": "x",
        "bundle": "/b",
        "rootfs": "/b/rootfs",
        "created": "2026-01-01T00:00:00Z",
        "owner": "root",
        "annotations": {},
        "cgroup": "creche-oci/x",
        "own": False,
        "places": (),
        "maker": (me, found[0]),
        "pid": me,
        "born": found[0],
        "made": True,
    }
    return Record(**{**about, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("identifier", ["a", "A_b+c.d-1", "..a", "0" * 64])
def test_ids_of_letters_digits_and_four_signs_are_taken(identifier: str) -> None:
    assert state.checked(identifier) == identifier


@pytest.mark.parametrize("identifier", ["", ".", "..", "a/b", "../x", "a b", "a\n", "ä", "a\0", "x" * 1025])
def test_any_other_id_is_refused(identifier: str) -> None:
    with pytest.raises(OciError, match="invalid container id"):
        state.checked(identifier)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory = Directory(tmp_path, "x")
    directory.make()
    directory.write("state.json", record(annotations={"a": "b"}).pack())
    assert directory.record() == record(annotations={"a": "b"})
    directory.unlock()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}'])
def test_a_damaged_record_says_what_to_do(tmp_path: Path, text: str) -> None:
    with pytest.raises(OciError, match="--force"):
        Record.unpack(text)


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    first, second = Directory(tmp_path, "x"), Directory(tmp_path, "x")
    first.make()
    with pytest.raises(OciError, match="container with given ID already exists"):
        second.make()
    first.unlock()


def _make(root: str, results: "multiprocessing.Queue[bool]") -> None:
    directory = Directory(Path(root), "x")
    try:
        directory.make()
    except OciError:
        results.put(False)
    else:
        results.put(True)


def test_of_many_that_make_one_id_one_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    racing = [context.Process(target=_make, args=(str(tmp_path), results)) for _ in range(8)]
    for each in racing:
        each.start()
    made = [results.get(timeout=20) for _ in racing]
    for each in racing:
        each.join()
    results.close()
    results.join_thread()
    assert sorted(made) == [False] * 7 + [True]


def test_who_waits_for_the_lock_of_what_is_removed_is_told(tmp_path: Path) -> None:
    first, second = Directory(tmp_path, "x"), Directory(tmp_path, "x")
    first.make()
    assert second.lock(wait=False) is False
    first.remove()
    first.unlock()
    with pytest.raises(OciError, match="container does not exist"):
        second.lock()


def test_nothing_is_left_of_what_is_removed(tmp_path: Path) -> None:
    directory = Directory(tmp_path, "x")
    directory.make()
    directory.write("state.json", "{}")
    directory.fifos()
    directory.remove()
    directory.unlock()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "running"),
        ({"made": False}, "creating"),
        ({"made": False, "maker": (1 << 22, 7)}, "stopped"),
        ({"pid": 1 << 22}, "stopped"),
        ({"born": 7}, "stopped"),  # another process got the number
    ],
)
def test_the_status_is_what_the_kernel_tells(tmp_path: Path, fields: dict[str, object], status: str) -> None:
    assert state.status(Directory(tmp_path, "x"), record(**fields)) == status


def test_a_container_whose_fifo_is_held_open_is_created(tmp_path: Path) -> None:
    directory = Directory(tmp_path, "x")
    directory.make()
    directory.fifos()
    held = os.open(directory.file("go"), os.O_RDWR)
    assert state.status(directory, record()) == "created"
    os.close(held)
    assert state.status(directory, record()) == "running"
    directory.unlock()


@pytest.mark.parametrize(("file", "text"), [("freezer.state", "FROZEN\n"), ("cgroup.freeze", "1\n")])
def test_a_frozen_container_is_paused(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    frozen = record(places=(str(tmp_path), str(tmp_path / "missing")))
    assert state.status(Directory(tmp_path, "x"), frozen) == "paused"
    (tmp_path / file).write_text("THAWED\n" if "state" in file else "0\n")
    assert state.status(Directory(tmp_path, "x"), frozen) == "running"


def test_the_document_is_ocis() -> None:
    told = state.document(record(annotations={"a": "b"}), "running")
    assert told == {
        "ociVersion": "1.2.0",
        "id": "x",
        "pid": os.getpid(),
        "status": "running",
        "bundle": "/b",
        "annotations": {"a": "b"},
    }
    assert state.document(record(), "stopped")["pid"] == 0


def test_only_containers_are_listed(tmp_path: Path) -> None:
    (tmp_path / ".seccomp").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "state.json").write_text(json.dumps(record()._asdict()))
    assert list(state.identifiers(tmp_path)) == ["b"]
    assert list(state.identifiers(tmp_path / "missing")) == []
