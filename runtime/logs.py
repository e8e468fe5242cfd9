"""A container's log, read: cut into lines, merged, followed and rendered. `runtime.segments` has its format.

Everything here only reads. A missing directory is an empty log; segments that are deleted while they are read just end.
"""

import base64
import functools
import heapq
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from runtime.segments import RECORD_SIZE, SUFFIXES, ZERO, Record, file_name, numbers, unpack

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")
PIECE = 1 << 20
"""Longer lines are handed out in pieces of this many bytes."""

_BLOCK = 1024 * RECORD_SIZE


class Segment(NamedTuple):
    """A segment as it was when looked at: its number and the bytes of its three files."""

    number: int
    out: int
    err: int
    idx: int


def segments(directory: str | Path) -> list[Segment]:
    """The log's segments, oldest first; a file that is not there counts 0 bytes."""

    def size(number: int, suffix: str) -> int:
        try:
            return (Path(directory) / file_name(number, suffix)).stat().st_size
        except FileNotFoundError:
            return 0

    return [Segment(n, *(size(n, suffix) for suffix in SUFFIXES)) for n in numbers(directory)]


class Line(NamedTuple):
    """A line, or a piece of one.

    `text` has no newline. `complete` says that one followed; without it the line was not finished yet, was cut by the
    deletion of old segments, or goes on in the next piece (pieces are 1 MiB). `start` is false for a piece that goes on
    with a line. `time_ns` is when the logger met the line's first byte.
    """

    time_ns: int
    stream: Stream
    text: bytes
    complete: bool
    start: bool = True


class _Part:
    """One stream of one segment, open for reading."""

    def __init__(self, directory: str | Path, number: int, stream: int) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        self._index = os.open(Path(directory) / file_name(number, "idx"), flags)
        try:
            self._data = os.open(Path(directory) / file_name(number, SUFFIXES[stream]), flags)
        except OSError:
            os.close(self._index)
            raise
        self._stream = stream

    def close(self) -> None:
        os.close(self._index)
        os.close(self._data)

    def count(self) -> int:
        return os.fstat(self._index).st_size // RECORD_SIZE

    def size(self) -> int:
        return os.fstat(self._data).st_size

    def linked(self) -> bool:
        """Whether the segment still exists."""
        return os.fstat(self._index).st_nlink > 0

    def record(self, position: int) -> Record:
        """The record there, or where it is damaged the last good one before it."""
        while position >= 0:
            if record := unpack(os.pread(self._index, RECORD_SIZE, position * RECORD_SIZE)):
                return record
            position -= 1
        return ZERO

    def records(self, position: int) -> Iterator[tuple[int, Record]]:
        """All good records from there to the end, each with the position after it."""
        while len(block := os.pread(self._index, _BLOCK, position * RECORD_SIZE)) >= RECORD_SIZE:
            for at in range(0, len(block) - RECORD_SIZE + 1, RECORD_SIZE):
                position += 1
                if record := unpack(block[at : at + RECORD_SIZE]):
                    yield position, record

    def unindexed_time(self) -> int:
        """The time of bytes that no record covers yet: the file's, but never before the last record's."""
        return max(self.record(self.count() - 1).time_ns, os.fstat(self._data).st_mtime_ns)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        while start < end and (data := os.pread(self._data, min(PIECE, end - start), start)):
            yield data
            start += len(data)

    def bounds(self, position: int) -> tuple[int, int]:
        """Where the chunk of that record starts and ends; one past the last record are the bytes without any."""
        size = self.size()
        start = self.record(position - 1).end(self._stream)
        end = size if position >= self.count() else self.record(position).end(self._stream)
        return min(start, size), min(end, size)


class _Place(NamedTuple):
    """A position in a log: the next record to read of a segment. Segment 0 is before the oldest."""

    number: int
    record: int


_BEGINNING = _Place(0, 0)


def _open(directory: str | Path, number: int, stream: int) -> _Part | None:
    try:
        return _Part(directory, number, stream)
    except FileNotFoundError:
        return None


def _starts_line(directory: str | Path, number: int, stream: int, part: _Part, offset: int) -> bool:
    """Whether the byte at that offset is a line's first: nothing or a newline stands before it."""
    if offset:
        return b"".join(part.read(offset - 1, offset)) == b"\n"
    for earlier in reversed([n for n in numbers(directory) if n < number]):
        if before := _open(directory, earlier, stream):
            try:
                if size := before.size():
                    return b"".join(before.read(size - 1, size)) == b"\n"
            finally:
                before.close()
    return True


def _lines_from(directory: str | Path, number: int, stream: int, part: _Part, position: int) -> int:
    """How many lines have their first byte in one chunk."""
    start, end = part.bounds(position)
    if start >= end:
        return 0
    first = _starts_line(directory, number, stream, part, start)
    return first + sum(data.count(b"\n") for data in part.read(start, end - 1))


def _since(directory: str | Path, since_ns: int) -> _Place:
    """The first record that is not older; times never decrease, so a binary search finds it."""
    for number in reversed(numbers(directory)):
        part = _open(directory, number, 0)
        if part is None:
            continue
        try:
            low, high = 0, part.count()
            if not high or part.record(0).time_ns >= since_ns:
                continue
            while low < high:
                middle = (low + high) // 2
                if part.record(middle).time_ns < since_ns:
                    low = middle + 1
                else:
                    high = middle
            return _Place(number, low)
        finally:
            part.close()
    return _BEGINNING


def _tail(directory: str | Path, tail: int, floor: _Place) -> tuple[_Place, int]:
    """The last place from which at least `tail` lines start, and how many more than that do. Reads backwards."""
    found = 0
    for number in reversed(numbers(directory)):
        if number < floor.number:
            break
        parts = [(stream, part) for stream in (0, 1) if (part := _open(directory, number, stream))]
        try:
            last = max((part.count() for _, part in parts), default=-1)
            first = floor.record if number == floor.number else 0
            for position in range(last, first - 1, -1):
                for stream, part in parts:
                    found += _lines_from(directory, number, stream, part, position)
                if found >= tail:
                    return _Place(number, position), found - tail
        finally:
            for _, part in parts:
                part.close()
    return floor, 0


_Keyed = tuple[tuple[int, int], Line]
"""A line and the place of its first byte (segment, record), which orders the lines of both streams."""


class _Cursor:
    """Reads one stream forwards from a place, and goes on there whenever there is more."""

    def __init__(self, directory: str | Path, stream: int, place: _Place) -> None:
        self._directory = directory
        self._stream = stream
        self._name: Stream = STREAMS[stream]
        self._number: int = place.number
        self._record: int = place.record
        self._offset = 0
        self._part: _Part | None = None
        self._skip = False
        self._rest = bytearray()
        self._began: tuple[tuple[int, int], int] | None = None
        self._start = True
        if place.number and (part := _open(directory, place.number, stream)):
            self._part = part
            self._offset = min(part.record(place.record - 1).end(stream), part.size())
            self._skip = not _starts_line(directory, place.number, stream, part, self._offset)

    def close(self) -> None:
        if self._part:
            self._part.close()
            self._part = None

    def lines(self, final: bool) -> Iterator[_Keyed]:
        """Every line from here on; with `final` also bytes without a record and the unfinished last line."""
        while True:
            # Looked up before the index is read: once a later segment exists, this one is as long as it will ever be.
            later = self._later()
            if self._part is None and self._number:
                self._part = _open(self._directory, self._number, self._stream)
            if self._part:
                yield from self._chunks(self._part, bool(later) or final)
            if not later:
                break
            self.close()
            if self._number and later[0] != self._number + 1:
                self._skip = False
                yield from self._finish()
            self._number, self._record, self._offset = later[0], 0, 0
        if final:
            yield from self._finish()

    def _later(self) -> list[int]:
        """The segments after this one. While this one exists, one look for the next tells that there are none."""
        following = os.path.join(self._directory, file_name(self._number + 1, "idx"))
        if self._part and self._part.linked() and not os.path.exists(following):
            return []
        return [n for n in numbers(self._directory) if n > self._number]

    def _chunks(self, part: _Part, whole: bool) -> Iterator[_Keyed]:
        for position, record in part.records(self._record):
            key = (self._number, self._record)
            self._record = position
            end = min(record.end(self._stream), part.size())
            for data in part.read(self._offset, end):
                self._offset += len(data)
                yield from self._feed(key, record.time_ns, data)
        if whole and self._offset < part.size():
            time_ns = part.unindexed_time()
            for data in part.read(self._offset, part.size()):
                self._offset += len(data)
                yield from self._feed((self._number, self._record), time_ns, data)

    def _feed(self, key: tuple[int, int], time_ns: int, data: bytes) -> Iterator[_Keyed]:
        if self._skip:
            _, newline, data = data.partition(b"\n")
            self._skip = not newline
        *ended, rest = data.split(b"\n")
        for text in ended:
            if self._began is None:
                yield key, Line(time_ns, self._name, text, True)
            else:
                yield from self._grow(text)
                yield self._piece(len(self._rest), True)
        if rest:
            self._began = self._began or (key, time_ns)
            yield from self._grow(rest)

    def _grow(self, text: bytes) -> Iterator[_Keyed]:
        self._rest += text
        while len(self._rest) > PIECE:
            yield self._piece(PIECE, False)

    def _piece(self, size: int, complete: bool) -> _Keyed:
        assert self._began
        key, time_ns = self._began
        line = Line(time_ns, self._name, bytes(self._rest[:size]), complete, self._start)
        del self._rest[:size]
        self._start = complete
        if complete:
            self._began = None
        return key, line

    def _finish(self) -> Iterator[_Keyed]:
        if self._began:
            yield self._piece(len(self._rest), False)
            self._began, self._start = None, True


class Reader:
    """Reads a log and goes on with it as it grows, over rotation and deletion; never sleeps.

    `since_ns` leaves out lines that began before that time, `tail` all but the last so many (0: only what comes from
    now on).
    Within one look lines come in order of their first byte. Close it, or use it in a `with` block.
    """

    def __init__(self, directory: str | Path, since_ns: int | None = None, tail: int | None = None) -> None:
        place, self._excess = _BEGINNING if since_ns is None else _since(directory, since_ns), 0
        if tail is not None:
            place, self._excess = _tail(directory, tail, place)
        self._cursors = [_Cursor(directory, stream, place) for stream in (0, 1)]
        self._look = self._merged(final=False)

    def lines(self) -> Iterator[Line]:
        """What is there and was not read before, lazily; an unfinished last line waits for its end."""
        # Not `yield from`: a caller that stops half-way must find the rest here the next time.
        for line in self._look:  # noqa: UP028
            yield line
        self._look = self._merged(final=False)

    def poll(self) -> list[Line]:
        return list(self.lines())

    def finish(self) -> Iterator[Line]:
        """The last look: as `lines`, then the unfinished last line of each stream, `complete` false."""
        yield from self._look
        yield from self._merged(final=True)

    def close(self) -> None:
        for cursor in self._cursors:
            cursor.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _merged(self, final: bool) -> Iterator[Line]:
        streams = [cursor.lines(final) for cursor in self._cursors]
        for _, line in heapq.merge(*streams, key=lambda keyed: keyed[0]):
            if self._excess >= 0:
                self._excess -= line.start
            if self._excess < 0:
                yield line


def read(directory: str | Path, since_ns: int | None = None, tail: int | None = None) -> Iterator[Line]:
    """What the log holds now, in order of each line's first byte, byte for byte; see `Reader` for the arguments.

    Memory stays bounded whatever the log's size: lines come one by one, long ones in pieces of 1 MiB.
    """
    with Reader(directory, since_ns, tail) as reader:
        yield from reader._merged(final=True)  # pyright: ignore[reportPrivateUsage]


def last_lines(directory: str | Path, count: int = 10, width: int = 1024) -> list[str]:
    """The last lines as text for people: undecodable bytes escaped, each cut to `width` bytes."""
    lines = read(directory, tail=count)
    return [line.text[:width].decode(errors="backslashreplace") for line in lines if line.start]


def merge(sources: Mapping[str, Iterable[Line]]) -> Iterator[tuple[str, Line]]:
    """The lines of several containers in time order, each with its container's name; lazy if the sources are."""

    def named(name: str, lines: Iterable[Line]) -> Iterator[tuple[str, Line]]:
        return ((name, line) for line in lines)

    streams = [named(name, lines) for name, lines in sources.items()]
    return heapq.merge(*streams, key=lambda pair: pair[1].time_ns)


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def timestamp(time_ns: int) -> str:
    """RFC 3339 in UTC, always with nine digits of a second, so that stamps sort as text."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest:09d}Z"


def plain(line: Line) -> bytes:
    """As it was written."""
    return line.text + b"\n" if line.complete else line.text


def stamped(line: Line) -> bytes:
    """As it was written, after its time."""
    return timestamp(line.time_ns).encode() + b" " + plain(line) if line.start else plain(line)


def docker(line: Line) -> bytes:
    """Docker's json-file form: one object a line, the log's text with its newline; invalid UTF-8 is replaced."""
    text = plain(line).decode(errors="replace")
    return _object({"log": text, "stream": line.stream, "time": timestamp(line.time_ns)})


def cri(line: Line) -> bytes:
    """The Kubernetes CRI form: time, stream, F for a full line or P for a part, text."""
    head = f"{timestamp(line.time_ns)} {line.stream} {'F' if line.complete else 'P'} "
    return head.encode() + line.text + b"\n"


def json_form(line: Line) -> bytes:
    """creche's JSON form, exact for any bytes: `text`, or `base64` where the bytes are not UTF-8."""
    fields: dict[str, object] = {"time": timestamp(line.time_ns), "stream": line.stream}
    try:
        fields["text"] = line.text.decode()
    except UnicodeDecodeError:
        fields["base64"] = base64.b64encode(line.text).decode()
    return _object(fields | {"complete": line.complete})


def _object(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
