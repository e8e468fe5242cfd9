"""Output that has nowhere to go: a logger that stands still, a disk that is full. Nothing is lost and nobody waits who
need not. Needs root."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import syscalls
from tests.faults.launcher.weight import MOST, resident
from tests.kernel.runtime.launching import Launching, alive, eventually

LINES = 60_000
COUNT = ("/usr/bin/seq", str(LINES))
COUNTED = b"".join(b"%d\n" % line for line in range(1, LINES + 1))
SLEEP = ("/bin/sleep", "1000")


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launching]:
    with Launching(tmp_path) as launcher:
        yield launcher
        launcher.ask("end")
        assert launcher.ended() == 0
        assert launcher.log() == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 128 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    syscalls.mount("tmpfs", str(place), "tmpfs", 0, "size=128k")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def log_at(place: Path) -> dict[str, Any]:
    return {"directory": str(place), "max_size": 8 << 20, "max_files": 4}


def on_disk(place: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(place.glob("*.out")))


def trouble(launcher: Launching, word: str) -> dict[str, Any]:
    """The event by which the logger's trouble, or its end, is told."""
    while True:
        for event in launcher.events:
            if event.get("event") == "logger" and word in event:
                return event
        launcher._receive()


# Full pipes


def test_a_full_pipe_holds_its_writer_alone(launcher: Launching) -> None:
    launcher.hold("busy")
    launcher.hold("other")
    logger = launcher.logger()
    os.kill(logger, signal.SIGSTOP)
    try:
        busy = launcher.run(1, *COUNT, name="busy", init=False)
        assert eventually(lambda: "pipe_write" in Path(f"/proc/{busy}/wchan").read_text())
        launcher.run(1, "/bin/true", name="other")
        assert launcher.exited("other", 1)[0] == 0
        assert alive(busy)
    finally:
        os.kill(logger, signal.SIGCONT)
    assert launcher.exited("busy", 1)[0] == 0
    assert launcher.output("busy") == COUNTED


def test_what_a_killed_writer_left_in_its_pipe_is_kept(launcher: Launching) -> None:
    launcher.hold()
    logger = launcher.logger()
    os.kill(logger, signal.SIGSTOP)
    try:
        pid = launcher.run(1, *COUNT, init=False)
        assert eventually(lambda: "pipe_write" in Path(f"/proc/{pid}/wchan").read_text())
        launcher.ask("kill", name="web")
        assert launcher.exited("web", 1)[1] == signal.SIGKILL
    finally:
        os.kill(logger, signal.SIGCONT)
    kept = launcher.output()
    assert len(kept) >= 1 << 16, "as much as a pipe holds"
    assert COUNTED.startswith(kept)


def test_a_container_that_nobody_logs_can_be_forgotten(launcher: Launching) -> None:
    """Its logger stands still, then dies; the next one drains the pipe."""
    launcher.hold()
    logger = launcher.logger()
    os.kill(logger, signal.SIGSTOP)
    pid = launcher.run(1, *COUNT, init=False)
    assert eventually(lambda: "pipe_write" in Path(f"/proc/{pid}/wchan").read_text())
    asked = launcher.send("forget", name="web")
    os.kill(logger, signal.SIGKILL)
    launcher.answer(asked)
    assert not alive(pid)
    kept = on_disk(launcher.directory / "web/log")
    assert len(kept) >= 1 << 16
    assert COUNTED.startswith(kept)


# A full disk


def test_a_full_disk_is_told_and_loses_nothing(launcher: Launching, small_disk: Path) -> None:
    launcher.hold(log=log_at(small_disk))
    pid = launcher.run(1, *COUNT, init=False)
    assert "No space left" in trouble(launcher, "trouble")["message"]
    assert eventually(lambda: "pipe_write" in Path(f"/proc/{pid}/wchan").read_text())
    assert COUNTED.startswith(on_disk(small_disk))
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    trouble(launcher, "recovered")
    assert launcher.exited("web", 1)[0] == 0
    launcher.ask("flush", name="web")
    assert on_disk(small_disk) == COUNTED


def test_a_full_disk_is_its_containers_own_trouble(launcher: Launching, small_disk: Path) -> None:
    launcher.hold("full", log=log_at(small_disk))
    launcher.hold("other")
    launcher.run(1, *COUNT, name="full", init=False)
    trouble(launcher, "trouble")
    launcher.run(1, *COUNT, name="other")
    assert launcher.exited("other", 1)[0] == 0
    assert launcher.output("other") == COUNTED
    assert resident(launcher.pid) <= MOST


@pytest.mark.parametrize("how", ["kill", "forget"])
def test_a_container_on_a_full_disk_is_let_go_of(launcher: Launching, small_disk: Path, how: str) -> None:
    launcher.hold(log=log_at(small_disk))
    pid = launcher.run(1, *COUNT, init=False)
    trouble(launcher, "trouble")
    launcher.ask(how, name="web")
    assert eventually(lambda: not alive(pid))


def test_a_logger_that_dies_on_a_full_disk_is_followed_by_one_that_goes_on(
    launcher: Launching, small_disk: Path
) -> None:
    launcher.hold(log=log_at(small_disk))
    launcher.run(1, *COUNT, init=False)
    trouble(launcher, "trouble")
    for _ in range(3):
        first = launcher.logger()
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda gone=first: gone not in launcher.children())
        assert eventually(lambda: "creche-logger" in launcher.children().values())
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert launcher.exited("web", 1)[0] == 0
    launcher.ask("flush", name="web")
    assert on_disk(small_disk) == COUNTED
