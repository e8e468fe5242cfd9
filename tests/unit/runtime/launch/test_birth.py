"""What a birth says of itself without being one: the program it finds, the failures it tells."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.launch import birth
from runtime.launch.birth import Program, StartFailure, failure, failure_from
from runtime.launch.failures import complain
from runtime.launch.program import find_program
from runtime.mounts import OpenTree
from runtime.namespaces import Entered
from runtime.world import World
from tests.unit.runtime.launch.capable import ordinary_user


@pytest.fixture
def place(tmp_path: Path) -> Path:
    def put(name: str, content: bytes, mode: int = 0o755) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)

    put("bin/tool", b"\x7fELF")
    put("bin/plain", b"text", 0o644)
    put("bin/script", b"#!/bin/sh\n")
    put("bin/spaced", b"#! /bin/sh -e\n")
    put("bin/lost", b"#!/no/such/interpreter -x\n")
    put("bin/bare", b"#!\n")
    put("bin/empty", b"")
    put("bin/unreadable", b"\x7fELF", 0o111)
    (tmp_path / "bin/directory").mkdir()
    (tmp_path / "bin/dangling").symlink_to("nothing")
    (tmp_path / "bin/link").symlink_to("tool")
    os.mkfifo(tmp_path / "bin/fifo", 0o755)
    put("other/tool", b"\x7fELF")
    put("other/plain", b"\x7fELF")
    return tmp_path


def find(place: Path, name: str, path: str = "bin") -> str:
    search = ":".join(str(place / part) if part else "" for part in path.split(":"))
    return find_program(Program((name,), {"PATH": search}, "/", None, False))


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("tool", "bin", "bin/tool"),
        ("tool", "bin:other", "bin/tool"),
        ("tool", "nothing:other", "other/tool"),
        ("tool", "bin/tool:other", "other/tool"),
        ("link", "bin", "bin/link"),
        ("script", "bin", "bin/script"),
        ("spaced", "bin", "bin/spaced"),
        ("bare", "bin", "bin/bare"),
        ("empty", "bin", "bin/empty"),
        ("unreadable", "bin", "bin/unreadable"),
        ("plain", "bin:other", "other/plain"),
    ],
)
def test_found(place: Path, name: str, path: str, expected: str) -> None:
    assert find(place, name, path) == str(place / expected)


def test_a_name_with_a_slash_is_a_path(place: Path) -> None:
    assert find(place, str(place / "bin/tool"), "other") == str(place / "bin/tool")


def test_an_empty_part_of_path_is_the_working_directory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "bin")
    assert find(place, "tool", "nothing:") == "./tool"


@pytest.mark.parametrize(
    ("name", "words", "number", "code"),
    [
        ("nothing", "no such program in PATH", errno.ENOENT, 127),
        ("dangling", "no such program in PATH", errno.ENOENT, 127),
        ("/nothing", "no such program in the root filesystem", errno.ENOENT, 127),
        ("plain", "not executable", errno.EACCES, 126),
        ("directory", "not a regular file", errno.EACCES, 126),
        ("fifo", "not a regular file", errno.EACCES, 126),
        ("lost", "interpreter '/no/such/interpreter'", errno.ENOENT, 127),
    ],
)
def test_not_found(place: Path, name: str, words: str, number: int, code: int) -> None:
    with pytest.raises(StartFailure, match=words) as caught:
        find(place, name)
    fields = caught.value.fields
    assert (fields["errno"], fields["exit_code"], fields["operation"]) == (number, code, f"exec {name!r}")
    assert fields["advice"]


def test_nothing_is_found_without_a_path() -> None:
    with pytest.raises(StartFailure) as caught:
        find_program(Program(("creche-no-such-program",), {}, "/", None, False))
    assert caught.value.fields["exit_code"] == 127


def test_a_directory_that_may_not_be_searched(place: Path) -> None:
    (place / "bin").chmod(0o700)
    place.chmod(0o755)
    with ordinary_user(place), pytest.raises(StartFailure, match="Permission denied") as caught:
        find(place, "tool")
    assert caught.value.fields["exit_code"] == 126


# Failures


def test_a_failure_has_every_field() -> None:
    told = StartFailure("do it", errno.EPERM, "may not", "/x", "ask", 125)
    assert told.fields == {
        "operation": "do it",
        "errno": errno.EPERM,
        "message": "may not",
        "path": "/x",
        "advice": "ask",
        "exit_code": 125,
    }
    assert str(told) == "do it: may not"


def test_a_told_failure_arrives_whole() -> None:
    told = StartFailure("do it", None, "süß", None, None, 126)
    said = b"created\nnoise\n" + json.dumps(told.fields).encode() + b"\nlater"
    assert failure_from(said).fields == told.fields


SILENCE = [b"", b"created\n", b"{", b"[]", b"1", b"{}", b"\xff\n", b'{"operation": "cut', b'{"operation": "x"}']


@pytest.mark.parametrize("said", SILENCE)
def test_silence_is_a_failure_too(said: bytes) -> None:
    fields = failure_from(said).fields
    assert (fields["message"], fields["exit_code"]) == ("the process died before its program ran", 125)


def test_an_operations_error_comes_with_its_advice() -> None:
    step = OpenTree("k", "/x", True, False, 0)
    fields = failure(step, OSError(errno.ENOENT, "No such file", "/x")).fields
    assert (fields["operation"], fields["path"]) == ("open /x idmapped", "/x")
    assert fields["advice"] == "create it, or correct the path"
    assert failure(step, OSError(errno.EIO, "I/O error", "/x")).fields["advice"] is None


def test_an_error_about_a_descriptor_has_no_path() -> None:
    assert failure(OpenTree("k", "/x", True, False, 0), OSError(errno.EIO, "I/O error", 5)).fields["path"] is None


def test_a_middle_that_was_killed_takes_nobody_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It left no pid: 0 would be the launcher's own process group to `kill`."""
    killed: list[int] = []

    def listed(_: str) -> list[str]:
        return ["1"]

    def nothing(_: Callable[[], None]) -> None:
        return None

    def kill(pid: int, _: int) -> None:
        killed.append(pid)

    def reaped(pid: int, _: int) -> tuple[int, int]:
        return pid, 0

    monkeypatch.setattr(birth.syscalls, "clone_shared", nothing)
    monkeypatch.setattr(birth.os, "kill", kill)
    monkeypatch.setattr(birth.os, "waitpid", reaped)
    monkeypatch.setattr(birth.os, "listdir", listed)
    program = Program(("true",), {}, "/", None, False)
    with pytest.raises(StartFailure, match="was killed"):
        birth.deliver(birth.Birth((), program, World(None, 1, 2), Entered((), frozenset()), None, ()))
    assert killed == []


def test_a_complaint_that_cannot_be_written_is_no_reason_to_end() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    former = os.dup(2)
    try:
        os.dup2(full, 2)
        complain("nobody hears it")
    finally:
        os.dup2(former, 2)
        os.close(former)
        os.close(full)
