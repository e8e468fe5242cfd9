"""The logger in a process of its own: bytes, caps, flush, adoption, refusals, full disks, fairness, idleness."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runtime import logs, segments
from runtime.launch import logger
from tests.kernel.logger.rig import Output, Rig, flooding, write_all


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as rig:
        yield rig


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def hasty() -> None:
    """Before a logger starts: try again soon."""
    logger.RETRY_SECONDS = 0.05


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# Bytes


def test_every_byte_of_both_streams(rig: Rig) -> None:
    output = rig.output(max_size=1 << 20, max_files=100)
    rig.start()
    texts = [os.urandom(20 << 20), os.urandom(5 << 20)]
    threads = [threading.Thread(target=write_all, args=pair) for pair in zip(output.writers, texts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rig.flush(output)
    assert [output.kept(0), output.kept(1)] == texts


def test_flushed_means_on_disk(rig: Rig) -> None:
    output = rig.output()
    rig.start()
    for count in range(200):
        os.write(output.out, b"%d\n" % count)
        rig.flush(output)
        assert logs.last_lines(output.directory, 1) == [str(count)]


def test_lines_are_in_order_and_times_never_decrease(rig: Rig) -> None:
    output = rig.output()
    rig.start()
    begun = time.time_ns()
    for count in range(100):
        os.write(output.writers[count % 2], b"%d\n" % count)
        rig.flush(output)
    lines = list(logs.read(output.directory))
    assert [line.text for line in lines] == [b"%d" % count for count in range(100)]
    assert begun <= lines[0].time_ns <= lines[-1].time_ns <= time.time_ns()


def test_a_log_without_files_keeps_nothing_and_holds_nobody_back(rig: Rig) -> None:
    output = rig.output(max_files=0)
    (output.directory / "000001.out").write_bytes(b"of another time")
    rig.start()
    write_all(output.out, bytes(10 << 20))
    rig.flush(output)
    assert list(output.directory.iterdir()) == []


def test_the_end_of_a_source_is_the_end_of_it(rig: Rig) -> None:
    output = rig.output()
    rig.start()
    os.write(output.out, b"bye")
    os.close(output.writers.pop(0))
    rig.flush(output)
    os.write(output.err, b"still here")
    rig.flush(output)
    assert (output.kept(0), output.kept(1)) == (b"bye", b"still here")


def test_the_end_of_the_channel_drains_and_ends(rig: Rig) -> None:
    output = rig.output()
    rig.start()
    os.kill(rig.pid, signal.SIGSTOP)
    os.write(output.out, b"last words\n")
    rig.channel.shutdown(socket.SHUT_WR)
    os.kill(rig.pid, signal.SIGCONT)
    assert rig.end() == 0
    assert output.kept(0) == b"last words\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_everybody_do_not_end_it(rig: Rig, number: signal.Signals) -> None:
    output = rig.output()
    rig.start()
    os.kill(rig.pid, number)
    rig.flush(output)


# The cap


@pytest.mark.parametrize(
    ("max_size", "max_files"), [(512, 1), (512, 2), (4096, 1), (10_000, 3), (65536, 1), (1 << 20, 2)]
)
def test_the_cap_holds_at_every_moment(rig: Rig, max_size: int, max_files: int) -> None:
    """The logger is stopped for each look, so that the sizes are of one moment."""
    output = rig.output(max_size=max_size, max_files=max_files)
    rig.start()
    most, emptied = 0, False
    with flooding(output.out), flooding(output.err):
        for _ in range(100):
            time.sleep(0.003)
            os.kill(rig.pid, signal.SIGSTOP)
            wait_until(lambda: "T (stopped)" in Path(f"/proc/{rig.pid}/status").read_text())
            sizes = [path.stat().st_size for path in output.directory.iterdir()]
            emptied |= most > 0 and not sum(sizes)
            most = max(most, sum(sizes))
            os.kill(rig.pid, signal.SIGCONT)
    assert max_size * max_files // 3 < most <= max_size * max_files
    assert not emptied


def test_what_stays_is_the_end_of_what_was_written(rig: Rig) -> None:
    output = rig.output(max_size=20_000, max_files=2)
    rig.start()
    text = b"".join(b"%d\n" % count for count in range(200_000))
    write_all(output.out, text)
    rig.flush(output)
    kept = output.kept(0)
    assert len(kept) > 15_000
    assert text.endswith(kept)


def test_a_smaller_cap_holds_from_the_start(rig: Rig) -> None:
    output = rig.output(max_size=1 << 20, max_files=4)
    rig.start()
    write_all(output.out, bytes(3 << 20))
    rig.flush(output)
    rig.kill()
    output.request |= {"max_size": 100_000, "max_files": 2}
    rig.start()
    assert sum(path.stat().st_size for path in output.directory.iterdir()) <= 200_000


def test_blocks_on_disk_stay_within_the_cap_too(rig: Rig) -> None:
    output = rig.output(max_size=256 << 10, max_files=2)
    rig.start()
    for _ in range(30):
        write_all(output.out, bytes(100_001))
        write_all(output.err, bytes(10_001))
        rig.flush(output)
        blocks = sum(-(-path.stat().st_size // 4096) for path in output.directory.iterdir())
        assert blocks * 4096 <= 512 << 10


# Adoption


def test_the_next_logger_goes_on_where_the_last_one_died(rig: Rig) -> None:
    output = rig.output()
    rig.start()
    os.write(output.out, b"one ")
    rig.flush(output)
    rig.kill()
    os.write(output.fds[2], b"two ")  # as if the dead one had taken it and no more
    os.write(output.out, b"three\n")
    rig.start()
    rig.flush(output)
    assert [line.text for line in logs.read(output.directory)] == [b"one two three"]


@pytest.mark.parametrize("damage", ["half a record", "a record missing", "no index", "garbage"])
def test_an_index_is_mended(rig: Rig, damage: str) -> None:
    output = rig.output()
    rig.start()
    for text in (b"a\n", b"b\n"):
        os.write(output.out, text)
        rig.flush(output)
    rig.kill()
    index = output.directory / "000001.idx"
    raw = index.read_bytes()
    index.write_bytes(
        {
            "half a record": raw[:-10],
            "a record missing": raw[: -segments.RECORD_SIZE],
            "no index": b"",
            "garbage": raw[: -segments.RECORD_SIZE] + b"\xff" * (5 * segments.RECORD_SIZE + 3),
        }[damage]
    )
    rig.start()
    os.write(output.err, b"c\n")
    rig.flush(output)
    assert [line.text for line in logs.read(output.directory)] == [b"a", b"b", b"c"]
    assert None not in output.records()
    assert output.unindexed() == 0


def test_times_go_on_from_the_last_one_when_the_clock_was_set_back(rig: Rig) -> None:
    output = rig.output()
    future = time.time_ns() + 3600 * 10**9
    (output.directory / "000001.out").write_bytes(b"a\n")
    (output.directory / "000001.idx").write_bytes(segments.pack(segments.Record(future, 2, 0)))
    for suffix in segments.SUFFIXES:  # a segment without any record yet does not hide the one before
        (output.directory / f"000002.{suffix}").touch()
    rig.start()
    os.write(output.out, b"b\n")
    rig.flush(output)
    assert [line.time_ns for line in logs.read(output.directory)] == [future, future]


def test_a_half_deleted_segment_is_deleted(rig: Rig) -> None:
    output = rig.output()
    (output.directory / "000001.out").write_bytes(b"stale\n")
    for suffix in segments.SUFFIXES:
        (output.directory / f"000002.{suffix}").touch()
    rig.start()
    os.write(output.out, b"new\n")
    rig.flush(output)
    assert [line.text for line in logs.read(output.directory)] == [b"new"]
    assert not (output.directory / "000001.out").exists()


def test_a_removed_container_can_come_back(rig: Rig) -> None:
    output = rig.output()
    rig.start()
    before = descriptors(rig.pid)
    os.write(output.out, b"a")
    assert rig.ask({"op": "remove", "name": "web"}) == {"removed": "web", "left": 0}
    assert output.kept(0) == b"a"
    assert descriptors(rig.pid) == before - 10
    os.write(output.out, b"b")
    assert rig.add(output) == {"added": "web"}
    rig.flush(output)
    assert output.kept(0) == b"ab"


def test_inherited_descriptors_are_closed(rig: Rig) -> None:
    rig.output()  # both ends of whose pipes the fork inherits
    rig.start()
    names = [os.readlink(f"/proc/{rig.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{rig.pid}/fd") if int(fd) > 2]
    assert sum(name.startswith("pipe:") for name in names) == 6
    assert sum(name.startswith("socket:") for name in names) == 1


def test_two_loggers_never_write_one_log(rig: Rig) -> None:
    """The second waits, as it does for a disk, until the first is gone."""
    output = rig.output()
    rig.start()
    with Rig(rig.root) as second:
        heir = second.output()
        second.start(before=hasty)
        trouble = second.receive()
        assert (trouble["trouble"], trouble["errno"]) == ("web", errno.EAGAIN)
        os.write(heir.out, b"b\n")
        os.write(output.out, b"a\n")
        assert rig.end() == 0
        assert second.receive() == {"recovered": "web"}
        second.flush(heir)
        assert heir.kept(0) == b"a\nb\n"


# Refusals

ADD = {"op": "add", "name": "new", "directory": "/", "max_size": 4096, "max_files": 1}


@pytest.mark.parametrize(
    ("request_", "descriptors_sent", "why"),
    [
        ({"op": "dance"}, 0, "not a message for the logger"),
        ({}, 0, "not a message for the logger"),
        ([1], 0, "not a JSON object"),
        ({"op": "flush", "name": "nobody"}, 1, "no container nobody"),
        ({"op": "remove", "name": "nobody"}, 0, "no container nobody"),
        (ADD | {"name": "web"}, 6, "here already"),
        (ADD, 5, "5 descriptors instead of 6"),
        (ADD | {"max_size": 100}, 6, "the least is 512"),
        (ADD | {"max_files": -1}, 6, "the least is 512"),
        (ADD | {"max_size": "4K"}, 6, "not a message for the logger"),
        (ADD | {"directory": "/no/such/place"}, 6, "/no/such/place"),
        ({"op": "x" * 70_000}, 0, "more than 65536 bytes"),
    ],
)
def test_a_refused_message_says_why_and_changes_nothing(
    rig: Rig, request_: Any, descriptors_sent: int, why: str
) -> None:
    output = rig.output()
    rig.start()
    before = descriptors(rig.pid)
    answer = rig.ask(request_, output.fds[:descriptors_sent])
    assert why in answer["error"]
    assert descriptors(rig.pid) == before
    rig.flush(output)


def test_a_message_that_is_not_json_is_refused(rig: Rig) -> None:
    rig.start()
    rig.channel.send(b"{")
    assert "not JSON" in rig.receive()["error"]


def test_files_in_place_of_pipes_are_refused(rig: Rig, tmp_path: Path) -> None:
    rig.start()
    with (tmp_path / "file").open("w") as file:
        assert "neither pipes nor terminals" in rig.ask(ADD, [file.fileno()] * 6)["error"]


def test_descriptors_lost_on_the_way_refuse_the_message(rig: Rig) -> None:
    output = rig.output("first")
    rig.start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (18, 18)))
    before = descriptors(rig.pid)
    late = Output("late", output.directory, 4096, 1, 4096)
    answer = rig.ask(late.request, late.fds)
    late.close()
    assert answer["name"] == "late"
    assert "RLIMIT_NOFILE" in answer["error"]
    assert descriptors(rig.pid) == before
    rig.flush(output)


# A disk that refuses


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB in a mount namespace of its own, filled to the last byte by the file `ballast`."""
    place = tmp_path / "disk"
    place.mkdir()
    script = f"mount -t tmpfs -o size=256k,mode=700 logger-test {place} && echo ready && exec sleep 300"
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"ready\n"
            seen = Path(f"/proc/{process.pid}/root{place}")
            with (seen / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
                while True:
                    ballast.write(bytes(4096))
            yield seen
        finally:
            process.kill()


def test_a_full_disk_loses_nothing_and_stops_nobody_else(full_disk: Path, tmp_path: Path) -> None:
    text = b"".join(b"%d\n" % count for count in range(12_000))
    with Rig(full_disk) as rig:
        output = rig.output()
        rig.start(before=hasty)
        other = Output("other", tmp_path, 1 << 20, 4, 65536)
        rig.outputs.append(other)
        assert rig.add(other) == {"added": "other"}
        write_all(output.out, text[:30_000])
        trouble = rig.receive()
        assert (trouble["trouble"], trouble["errno"]) == ("web", errno.ENOSPC)
        assert "cannot be written now" in rig.ask({"op": "flush", "name": "web"})["error"]

        write_all(other.out, b"unhindered\n")
        rig.flush(other)
        assert other.kept(0) == b"unhindered\n"
        write_all(output.out, text[30_000:])  # waits in the pipes

        (full_disk / "ballast").unlink()
        assert rig.receive() == {"recovered": "web"}
        rig.flush(output)
        assert output.kept(0) == text
        assert output.unindexed() == 0


def test_a_disk_that_fills_in_the_middle_of_writing_loses_nothing(full_disk: Path) -> None:
    """Room is made and taken again, page by page, so that chunks and records are cut anywhere."""
    (full_disk / "ballast").write_bytes(bytes(240 << 10))
    text = b"".join(b"%d\n" % count for count in range(40_000))
    with Rig(full_disk) as rig:
        output = rig.output(pipe_size=4096)
        rig.start(before=hasty)
        thread = threading.Thread(target=write_all, args=(output.out, text))
        thread.start()
        for pages in range(50, -1, -10):
            assert rig.receive()["trouble"] == "web"
            os.truncate(full_disk / "ballast", pages * 4096)
            assert rig.receive() == {"recovered": "web"}
        thread.join()
        rig.flush(output)
        assert output.kept(0) == text
        assert None not in output.records()
        assert output.unindexed() == 0


def test_what_a_full_disk_keeps_out_is_told_on_removal_and_stays_in_the_pipes(full_disk: Path) -> None:
    with Rig(full_disk) as rig:
        output = rig.output()
        rig.start(before=hasty)
        os.write(output.out, b"kept back\n")
        assert rig.receive()["trouble"] == "web"
        assert rig.ask({"op": "remove", "name": "web"}) == {"removed": "web", "left": 10}
        (full_disk / "ballast").unlink()
        assert rig.add(output) == {"added": "web"}
        assert output.kept(0) == b"kept back\n"


def test_trouble_on_adoption_is_told_after_the_container_is_added(full_disk: Path) -> None:
    with Rig(full_disk) as rig:
        output = rig.output()
        os.write(output.fds[2], b"left by the dead one\n")
        rig.start(before=hasty)
        assert rig.receive()["trouble"] == "web"
        (full_disk / "ballast").unlink()
        assert rig.receive() == {"recovered": "web"}
        assert output.kept(0) == b"left by the dead one\n"


# Many at once


def test_a_flood_does_not_starve_a_quiet_container(rig: Rig) -> None:
    quiet = rig.output("quiet")
    floods = [rig.output(f"flood{number}", max_size=1 << 20) for number in range(4)]
    rig.start()
    slowest = 0.0
    with ExitStack() as stack:
        for flood in floods:
            stack.enter_context(flooding(flood.out))
        reader = stack.enter_context(logs.Reader(quiet.directory))
        for _ in range(20):
            begun = time.monotonic()
            os.write(quiet.out, b"hello\n")
            wait_until(lambda: reader.poll() != [])
            slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 1


def test_a_follower_reads_on_over_rotation(rig: Rig) -> None:
    output = rig.output(max_size=50_000, max_files=3)
    rig.start()
    seen: list[bytes] = []
    with logs.Reader(output.directory) as reader:
        for count in range(100):
            write_all(output.out, b"".join(b"%d:%d\n" % (count, line) for line in range(500)))
            rig.flush(output)
            seen += [line.text for line in reader.poll()]
    assert seen == [b"%d:%d" % (count, line) for count in range(100) for line in range(500)]
    assert segments.numbers(output.directory)[0] > 1


def test_answers_that_nobody_reads_do_not_hold_the_logger_up(rig: Rig) -> None:
    output = rig.output()
    rig.start()
    for _ in range(2000):
        rig.send({"op": "flush", "name": "web"})
    os.write(output.out, b"hello\n")
    wait_until(lambda: output.kept(0) == b"hello\n")
    for _ in range(2000):
        assert rig.receive() == {"flushed": "web"}


def test_idle_containers_wake_nothing(rig: Rig) -> None:
    for number in range(200):
        rig.output(f"c{number}", pipe_size=4096)
    rig.start()

    def wakeups() -> int:
        lines = Path(f"/proc/{rig.pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    time.sleep(0.1)
    before = wakeups()
    time.sleep(1)
    assert wakeups() == before


def test_the_logger_imports_nothing_once_it_runs() -> None:
    """It is cloned from the launcher, where an import could reach into a container's files."""
    script = (
        "import sys, os, json, socket\n"
        "from runtime.launch import logger\n"
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "before = set(sys.modules)\n"
        "a.send(b'{}'); a.send(b'?'); a.shutdown(socket.SHUT_WR)\n"
        "out = os.dup(1); os.dup2(a.fileno(), 2)\n"
        "logger.main(b.detach())\n"
        "print(sorted(set(sys.modules) - before))\n"
        "banned = {'attrs', 'attr', 'trio', 'pyroute2', 'ctypes', 'asyncio'}\n"
        "print(sorted(banned & set(sys.modules)))\n"
    )
    root = Path(logger.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[]\n[]\n"
