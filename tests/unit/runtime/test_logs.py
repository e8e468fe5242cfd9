"""Logs as they are read: joined, cut, merged, followed, rendered. The segments are made by hand here."""

import json
import os
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import logs, segments
from runtime.logs import Line
from runtime.segments import Record


class Writer:
    """Lays a log out as the logger does, one tick of the clock for each chunk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = 0
        self.clock = 0
        self.rotate()

    def rotate(self) -> None:
        self.number += 1
        self.ends = [0, 0]
        for suffix in segments.SUFFIXES:
            self.path(suffix).touch()

    def path(self, suffix: str, number: int | None = None) -> Path:
        return self.directory / segments.file_name(number or self.number, suffix)

    def append(self, suffix: str, data: bytes) -> None:
        with self.path(suffix).open("ab") as file:
            file.write(data)

    def data(self, stream: int, text: bytes) -> None:
        self.append(segments.SUFFIXES[stream], text)
        self.ends[stream] += len(text)

    def note(self) -> None:
        self.clock += 1
        self.append("idx", segments.pack(Record(self.clock, *self.ends)))

    def chunk(self, stream: int, text: bytes) -> None:
        self.data(stream, text)
        self.note()

    def delete(self, number: int) -> None:
        for suffix in segments.SUFFIXES:
            self.path(suffix, number).unlink()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def out(time_ns: int, text: bytes, complete: bool = True, start: bool = True) -> Line:
    return Line(time_ns, "stdout", text, complete, start)


def err(time_ns: int, text: bytes, complete: bool = True, start: bool = True) -> Line:
    return Line(time_ns, "stderr", text, complete, start)


def test_both_streams_come_in_time_order(writer: Writer) -> None:
    writer.chunk(0, b"a\nb\n")
    writer.chunk(1, b"c\n")
    writer.chunk(0, b"d\n")
    assert list(logs.read(writer.directory)) == [out(1, b"a"), out(1, b"b"), err(2, b"c"), out(3, b"d")]


def test_a_line_over_chunks_and_segments_has_the_time_of_its_first_byte(writer: Writer) -> None:
    writer.chunk(0, b"first\nlo")
    writer.chunk(1, b"between\n")
    writer.chunk(0, b"ng ")
    writer.rotate()
    writer.chunk(0, b"line\nx\n")
    expected = [out(1, b"first"), out(1, b"long line"), err(2, b"between"), out(4, b"x")]
    assert list(logs.read(writer.directory)) == expected


def test_the_unfinished_last_line_is_marked(writer: Writer) -> None:
    writer.chunk(0, b"Password: ")
    writer.chunk(1, b"done\n")
    assert list(logs.read(writer.directory)) == [out(1, b"Password: ", complete=False), err(2, b"done")]


@pytest.mark.parametrize("text", [b"", b"\r", b"\0\xff\xfe", b"\x1b[31mred", "räksmörgås".encode(), b" trailing "])
def test_text_is_byte_for_byte(writer: Writer, text: bytes) -> None:
    writer.chunk(0, text + b"\n")
    assert list(logs.read(writer.directory)) == [out(1, text)]


def test_a_missing_directory_is_an_empty_log(tmp_path: Path) -> None:
    assert list(logs.read(tmp_path / "none", since_ns=1, tail=3)) == []


def test_foreign_files_are_left_alone(writer: Writer) -> None:
    writer.chunk(0, b"a\n")
    for name in ("notes.idx", "1.idx", "000001.idx.bak", "-00001.idx"):
        (writer.directory / name).touch()
    assert [segment.number for segment in logs.segments(writer.directory)] == [1]


def test_segments_tell_the_bytes_of_each_file(writer: Writer) -> None:
    writer.chunk(0, b"abc")
    writer.chunk(1, b"d")
    assert logs.segments(writer.directory) == [logs.Segment(1, 3, 1, 2 * segments.RECORD_SIZE)]


@pytest.mark.parametrize("garbage", [b"\1" * 7, b"\0" * segments.RECORD_SIZE, b"\xff" * (segments.RECORD_SIZE + 5)])
def test_bytes_behind_a_torn_or_damaged_record_belong_to_their_stream(writer: Writer, garbage: bytes) -> None:
    writer.chunk(0, b"a\n")
    writer.data(0, b"b\n")
    writer.data(1, b"c\n")
    writer.append("idx", garbage)
    assert sorted(line[1:4] for line in logs.read(writer.directory)) == [
        ("stderr", b"c", True),
        ("stdout", b"a", True),
        ("stdout", b"b", True),
    ]


def test_the_next_good_record_covers_a_damaged_one(writer: Writer) -> None:
    writer.data(0, b"a\n")
    writer.append("idx", b"\0" * segments.RECORD_SIZE)
    writer.chunk(0, b"b\n")
    assert list(logs.read(writer.directory)) == [out(1, b"a"), out(1, b"b")]


def test_a_record_that_promises_more_than_there_is_gives_what_there_is(writer: Writer) -> None:
    writer.chunk(0, b"abc\n")
    os.truncate(writer.path("out"), 2)
    assert list(logs.read(writer.directory)) == [out(1, b"ab", complete=False)]


def test_times_of_bytes_without_a_record_never_go_back(writer: Writer) -> None:
    writer.clock = 4_000_000_000 * 10**9  # far in the future
    writer.chunk(0, b"a\n")
    writer.data(0, b"b\n")
    first, second = logs.read(writer.directory)
    assert first.time_ns == second.time_ns == writer.clock


def test_a_line_of_a_hundred_megabytes_needs_little_memory(writer: Writer) -> None:
    with writer.path("out").open("wb") as file:
        file.truncate(100 << 20)
    writer.ends[0] = 100 << 20
    writer.note()
    tracemalloc.start()
    try:
        sizes = [(len(line.text), line.complete, line.start) for line in logs.read(writer.directory)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sizes == [(logs.PIECE, False, True)] + 99 * [(logs.PIECE, False, False)]
    assert peak < 8 * logs.PIECE


def test_last_lines_are_short_text(writer: Writer) -> None:
    writer.chunk(0, b"one\n" + b"x" * 5000 + b"\nbad \xff\n")
    writer.chunk(1, b"end")
    assert logs.last_lines(writer.directory, 3) == ["x" * 1024, "bad \\xff", "end"]


# Since


def test_since_leaves_out_lines_that_began_earlier(writer: Writer) -> None:
    writer.chunk(0, b"a\nbe")
    writer.rotate()
    writer.chunk(0, b"gan\nc\n")
    writer.chunk(1, b"d\n")
    assert list(logs.read(writer.directory, since_ns=2)) == [out(2, b"c"), err(3, b"d")]
    assert list(logs.read(writer.directory, since_ns=3)) == [err(3, b"d")]
    assert list(logs.read(writer.directory, since_ns=0)) == list(logs.read(writer.directory))


# Any chunks, any segments

Step = tuple[int, bytes] | None
TEXT = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\n\n", b"0123456789", b"\xff"]), max_size=6).map(b"".join)
STEPS: st.SearchStrategy[list[Step]] = st.lists(st.none() | st.tuples(st.integers(0, 1), TEXT), max_size=25)


def write(writer: Writer, steps: Iterable[Step]) -> None:
    for step in steps:
        if step is None:
            writer.rotate()
        elif step[1]:
            writer.chunk(*step)


def expected(steps: Iterable[Step]) -> list[Line]:
    """The same lines found the slow way: byte by byte, then sorted."""
    lines: list[tuple[int, int, Line]] = []
    chunks = [step for step in steps if step is not None and step[1]]
    for stream in (0, 1):
        text, began = b"", 0
        start = True
        for tick, (at, data) in enumerate(chunks, 1):
            if at != stream:
                continue
            for byte in data:
                if byte == 10:
                    time = began or tick
                    lines.append((time, stream, Line(time, logs.STREAMS[stream], text, True, start)))
                    text, began, start = b"", 0, True
                    continue
                began = began or tick
                if len(text) == logs.PIECE:
                    lines.append((began, stream, Line(began, logs.STREAMS[stream], text, False, start)))
                    text, start = b"", False
                text += bytes([byte])
        if began:
            lines.append((began, stream, Line(began, logs.STREAMS[stream], text, False, start)))
    return [line for _, _, line in sorted(lines, key=lambda entry: entry[:2])]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Writer]]:
    """Endless empty logs, for Hypothesis; lines are cut into pieces of 8 bytes there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "PIECE", 8)
        yield (Writer(tmp_path_factory.mktemp("log")) for _ in iter(int, 1))


@given(steps=STEPS)
def test_reading_joins_what_chunks_and_segments_cut(fresh: Iterator[Writer], steps: list[Step]) -> None:
    writer = next(fresh)
    write(writer, steps)
    assert list(logs.read(writer.directory)) == expected(steps)


@given(steps=STEPS, tail=st.integers(0, 12))
def test_a_tail_is_the_end_of_the_whole(fresh: Iterator[Writer], steps: list[Step], tail: int) -> None:
    writer = next(fresh)
    write(writer, steps)
    whole = expected(steps)
    starts = [position for position, line in enumerate(whole) if line.start]
    wanted = whole[starts[-tail] if tail <= len(starts) else 0 :] if tail else []
    assert list(logs.read(writer.directory, tail=tail)) == wanted


@given(steps=STEPS, since=st.integers(0, 26), tail=st.none() | st.integers(0, 12))
def test_since_and_tail_together(fresh: Iterator[Writer], steps: list[Step], since: int, tail: int | None) -> None:
    writer = next(fresh)
    write(writer, steps)
    wanted = [line for line in expected(steps) if line.time_ns >= since]
    if tail is not None:
        starts = [position for position, line in enumerate(wanted) if line.start]
        wanted = wanted[starts[-tail] if tail <= len(starts) else 0 :] if tail else []
    assert list(logs.read(writer.directory, since_ns=since, tail=tail)) == wanted


@given(steps=STEPS, later=STEPS)
def test_following_reads_each_line_once(fresh: Iterator[Writer], steps: list[Step], later: list[Step]) -> None:
    writer = next(fresh)
    write(writer, steps)
    with logs.Reader(writer.directory) as reader:
        seen = reader.poll()
        for step in later:
            write(writer, [step])
            seen += reader.poll()
        seen += reader.finish()
    whole = expected(steps + later)
    for stream in logs.STREAMS:
        assert [line for line in seen if line.stream == stream] == [line for line in whole if line.stream == stream]


@given(steps=STEPS, later=STEPS)
def test_following_from_now_reads_what_begins_later(
    fresh: Iterator[Writer], steps: list[Step], later: list[Step]
) -> None:
    writer = next(fresh)
    write(writer, steps)
    now = writer.clock
    with logs.Reader(writer.directory, tail=0) as reader:
        assert reader.poll() == []
        write(writer, later)
        seen = list(reader.finish())
    seen.sort(key=lambda line: line.time_ns)  # unfinished lines came last
    assert seen == [line for line in expected(steps + later) if line.time_ns > now]


# Following


def test_an_unfinished_line_waits_for_its_end(writer: Writer) -> None:
    with logs.Reader(writer.directory) as reader:
        writer.chunk(0, b"be")
        assert reader.poll() == []
        writer.chunk(0, b"gun\n")
        assert reader.poll() == [out(1, b"begun")]
        assert reader.poll() == []


def test_bytes_wait_for_their_record(writer: Writer) -> None:
    with logs.Reader(writer.directory) as reader:
        writer.data(0, b"a\n")
        assert reader.poll() == []
        writer.note()
        assert reader.poll() == [out(1, b"a")]


def test_a_reader_starts_before_the_log_does(tmp_path: Path) -> None:
    with logs.Reader(tmp_path / "log") as reader:
        assert reader.poll() == []
        (tmp_path / "log").mkdir()
        Writer(tmp_path / "log").chunk(0, b"a\n")
        assert reader.poll() == [out(1, b"a")]


def test_an_open_segment_is_read_to_its_end_after_it_was_deleted(writer: Writer) -> None:
    with logs.Reader(writer.directory) as reader:
        writer.chunk(0, b"a\n")
        assert reader.poll() == [out(1, b"a")]
        writer.chunk(0, b"b\n")
        writer.delete(1)
        writer.rotate()
        writer.chunk(0, b"c\n")
        assert reader.poll() == [out(2, b"b"), out(3, b"c")]


def test_deleted_segments_are_stepped_over_and_cut_lines_are_marked(writer: Writer) -> None:
    with logs.Reader(writer.directory) as reader:
        writer.chunk(0, b"cu")
        assert reader.poll() == []
        for number in (1, 2):
            writer.rotate()
            writer.chunk(0, b"lost")
            writer.delete(number)
        writer.delete(3)
        writer.rotate()
        writer.chunk(0, b"t\nnew\n")
        assert reader.poll() == [out(1, b"cu", complete=False), out(4, b"t"), out(4, b"new")]


def test_a_caller_that_stops_half_way_goes_on_there(writer: Writer) -> None:
    writer.chunk(0, b"a\nb\n")
    writer.chunk(1, b"c\n")
    with logs.Reader(writer.directory) as reader:
        assert next(reader.lines()) == out(1, b"a")
        assert reader.poll() == [out(1, b"b"), err(2, b"c")]


def test_a_closed_reader_keeps_no_descriptor(writer: Writer) -> None:
    writer.chunk(0, b"a\n")
    before = len(os.listdir("/proc/self/fd"))
    with logs.Reader(writer.directory, tail=1) as reader:
        reader.poll()
    assert len(os.listdir("/proc/self/fd")) == before


def test_several_containers_merge_by_time() -> None:
    sources = {"web": [out(1, b"a"), out(4, b"d")], "db": [err(2, b"b"), out(3, b"c"), out(5, b"e")]}
    assert [(name, line.text) for name, line in logs.merge(sources)] == [
        ("web", b"a"),
        ("db", b"b"),
        ("db", b"c"),
        ("web", b"d"),
        ("db", b"e"),
    ]


# Rendering

TIME = 1_700_000_000_000_000_042
STAMP = "2023-11-14T22:13:20.000000042Z"


@pytest.mark.parametrize(
    ("render", "line", "wanted"),
    [
        (logs.plain, out(TIME, b"a\xff"), b"a\xff\n"),
        (logs.plain, out(TIME, b"a", complete=False), b"a"),
        (logs.stamped, out(TIME, b"a"), f"{STAMP} a\n".encode()),
        (logs.stamped, out(TIME, b"a", complete=False), f"{STAMP} a".encode()),
        (logs.stamped, out(TIME, b"rest", start=False), b"rest\n"),
        (logs.cri, err(TIME, b"a\xff"), f"{STAMP} stderr F a".encode() + b"\xff\n"),
        (logs.cri, out(TIME, b"a", complete=False), f"{STAMP} stdout P a\n".encode()),
    ],
)
def test_lines_as_bytes(render: object, line: Line, wanted: bytes) -> None:
    assert callable(render)
    assert render(line) == wanted


@pytest.mark.parametrize(
    ("line", "log"),
    [(out(TIME, b'"a"'), '"a"\n'), (out(TIME, b"a", complete=False), "a"), (out(TIME, b"\xff"), "\ufffd\n")],
)
def test_docker_form(line: Line, log: str) -> None:
    assert json.loads(logs.docker(line)) == {"log": log, "stream": "stdout", "time": STAMP}


def test_json_form_is_exact_for_any_bytes() -> None:
    text, binary = (json.loads(logs.json_form(err(TIME, data))) for data in ("ä".encode(), b"\xff"))
    assert text == {"time": STAMP, "stream": "stderr", "text": "ä", "complete": True}
    assert binary == {"time": STAMP, "stream": "stderr", "base64": "/w==", "complete": True}
