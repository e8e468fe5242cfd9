"""What containers write: every byte once, in order, with times that never go back, on no more disk than allowed."""

import hashlib
import re
import time
from pathlib import Path
from statistics import median

import pytest

from tests.system.driver import PYTHON, Creche, until

MIB = 1 << 20
LINE = b"%015d the quick brown fox jumps over the lazy dog, again and again and again and again\n"
WRITER = """
import sys
line, count = sys.argv[1].encode() + b"\\n", int(sys.argv[2])
for start in range(0, count, 1000):
    sys.stdout.buffer.write(b"".join(line % number for number in range(start, min(start + 1000, count))))
"""


def expected(count: int) -> tuple[str, int]:
    """The digest and the length of what a writer of so many lines writes."""
    digest, length = hashlib.sha256(), 0
    for number in range(count):
        line = LINE % number
        digest.update(line)
        length += len(line)
    return digest.hexdigest(), length


def flood(creche: Creche, size: int, more: str = "") -> int:
    """An app whose one container writes about `size` bytes at full speed; how many lines that are."""
    count = size // len(LINE % 0)
    (creche.directory / "writer.py").write_text(WRITER)
    text = f"""
[containers.writer]
rootfs = "/"
command = ["{PYTHON}", "/writer.py", "{LINE.decode().rstrip()}", "{count}"]
volumes = ["./writer.py:/writer.py:ro"]
restart = "never"
{more}
"""
    creche.up("flood", text, wait=False)
    return count


def through(creche: Creche, limit: float, timeout: float) -> list[float]:
    """Ask ps again and again until the writer is done; how long each answer took."""
    seen: list[float] = []

    def look() -> bool:
        began = time.monotonic()
        status = creche.ps()["writer"]
        seen.append(time.monotonic() - began)
        return status["state"] == "completed"

    until(look, timeout, "the writer's end")
    assert median(seen) < limit, seen
    return seen


def assert_whole(creche: Creche, count: int) -> None:
    raw = creche("logs", "writer", timeout=300).raw
    assert (hashlib.sha256(raw).hexdigest(), len(raw)) == expected(count)


def assert_in_time(creche: Creche, count: int) -> None:
    raw = creche("logs", "-t", "writer", timeout=600).raw
    times = [line.split(b" ", 1)[0] for line in raw.splitlines()]
    assert len(times) == count
    assert times == sorted(times)


def test_50_megabytes_are_there_once_and_in_order(creche: Creche) -> None:
    count = flood(creche, 50 * MIB, 'logs = { max_size = "64M", max_files = 4 }')
    through(creche, 1.0, 60)
    assert_whole(creche, count)
    assert_in_time(creche, count)


def test_lines_that_changed_places_are_noticed(creche: Creche) -> None:
    """The negative control of the one above: the same bytes, two lines of them exchanged."""
    count = flood(creche, MIB)
    through(creche, 1.0, 60)
    assert_whole(creche, count)
    (file,) = (creche.root / "apps/flood/logs/writer").glob("*.out")
    first, second, rest = file.read_bytes().split(b"\n", 2)
    file.write_bytes(b"\n".join((second, first, rest)))
    with pytest.raises(AssertionError):
        assert_whole(creche, count)


def disk(creche: Creche, name: str = "writer") -> int:
    return sum(path.stat().st_size for path in (creche.root / "apps/flood/logs" / name).iterdir())


def test_disk_stays_within_the_cap_and_the_rest_is_the_end(creche: Creche) -> None:
    count = flood(creche, 50 * MIB, 'logs = { max_size = "2M", max_files = 3 }')
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, disk(creche))
        return creche.status("writer")["state"] == "completed"

    until(done, 60)
    assert most <= 6 * MIB
    assert disk(creche) <= 6 * MIB
    raw = creche("logs", "writer", timeout=60).raw
    assert raw
    tail = b"".join(LINE % number for number in range(count - raw.count(b"\n") - 1, count))
    assert tail.endswith(raw)


def test_max_files_0_keeps_nothing(creche: Creche) -> None:
    flood(creche, MIB, "logs = { max_files = 0 }")
    creche.wait_for("writer", lambda status: status["state"] == "completed")
    assert creche.logs("writer") == b""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_gigabyte_is_there_once_and_in_order(creche: Creche) -> None:
    count = flood(creche, 1024 * MIB, 'logs = { max_size = "512M", max_files = 4 }')
    through(creche, 0.3, 300)
    assert_whole(creche, count)
    assert_in_time(creche, count)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_gigabyte_within_a_small_cap(creche: Creche) -> None:
    flood(creche, 1024 * MIB, 'logs = { max_size = "16M", max_files = 4 }')
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, disk(creche))
        return creche.status("writer")["state"] == "completed"

    until(done, 300)
    assert most <= 64 * MIB


TALK = """
[containers.one]
rootfs = "/"
command = ["sh", "-c", "echo one-1; sleep 0.3; echo one-2 >&2; sleep 0.3; echo one-3; exec sleep 60"]
[containers.two]
rootfs = "/"
command = ["sh", "-c", "printf 'two-1\\\\nno newline'; exec sleep 60"]
after = ["one"]
"""


@pytest.fixture
def talking(creche: Creche) -> Creche:
    creche.up("talk", TALK)
    until(lambda: b"one-3" in creche.logs() and b"no newline" in creche.logs(), what="all lines")
    return creche


def test_one_container_is_printed_byte_for_byte(talking: Creche) -> None:
    assert talking.logs("one") == b"one-1\none-2\none-3\n"
    assert talking.logs("two").rstrip(b"\n") == b"two-1\nno newline"


def test_several_are_merged_with_their_names(talking: Creche) -> None:
    seen = talking.logs().splitlines()
    assert [line for line in seen if line.startswith(b"one | ")] == [b"one | one-1", b"one | one-2", b"one | one-3"]
    assert [line for line in seen if line.startswith(b"two | ")] == [b"two | two-1", b"two | no newline"]
    assert len(seen) == 5


def test_tail_and_timestamps(talking: Creche) -> None:
    seen = talking.logs("--tail", "1", "-t", "one")
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z one-3\n", seen), seen


def test_followed_logs_go_on_and_end_with_the_app(creche: Creche) -> None:
    creche.up("tick", '[containers.t]\nrootfs = "/"\ncommand = ["sh", "-c", "while echo tick; do sleep 0.1; done"]\n')
    with creche.following("logs", "-f", "t") as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(5)] == [b"tick\n"] * 5
        creche("down")
        assert child.wait(10) == 0


def test_logs_go_on_in_one_file_over_restarts(creche: Creche) -> None:
    text = '[containers.t]\nrootfs = "/"\ncommand = ["sh", "-c", "echo born; exec sleep 60"]\nrestart = "always"\n'
    creche.up("again", text)
    for count in (1, 2, 3):
        until(lambda count=count: creche.logs("t") == b"born\n" * count, what=f"{count} lines")
        creche("restart", "t")
    until(lambda: creche.logs("t") == b"born\n" * 4, what="4 lines")


def test_the_last_lines_are_in_the_death(creche: Creche) -> None:
    text = '[containers.t]\nrootfs = "/"\ncommand = ["sh", "-c", "echo my last words; exit 3"]\nrestart = "never"\n'
    creche.up("words", text, wait=False)
    creche.wait_for("t", lambda status: status["state"] == "failed")
    assert "my last words" in creche.events(name="t", event="died")[0]["detail"]


def test_a_containers_user_may_open_its_own_output_again(creche: Creche) -> None:
    """As programs of images do that log to /dev/stdout."""
    text = '[containers.t]\nrootfs = "/"\nuser = "1000:1000"\n'
    creche.up("reopen", text + 'command = ["sh", "-c", "echo again > /dev/stdout; echo error > /dev/stderr"]\n')
    until(lambda: creche.logs("t").count(b"\n") == 2, what="two lines")
    assert sorted(creche.logs("t").splitlines()) == [b"again", b"error"]


def test_nothing_of_a_log_is_left_after_down(creche: Creche) -> None:
    creche.up("talk", TALK)
    creche("down")
    assert not Path(creche.root / "apps/talk").exists()
    assert creche("logs", code=2).raw == b""
