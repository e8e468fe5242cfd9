"""A container's log on disk: the format of its segments, which the logger writes and `runtime.logs` reads.

A log is a directory of *segments*, numbered upwards from 1, written by `runtime.launch.logger` alone. Segment N is
three files:

    NNNNNN.out    standard output, byte for byte
    NNNNNN.err    standard error, byte for byte
    NNNNNN.idx    one record of 32 bytes, little endian, for each chunk that was appended to either of them:
                      u64 time       nanoseconds since the epoch, never less than the record before it
                      u64 out, err   the sizes of both files once the chunk was there
                      u32 magic      "LOG1"
                      u32 check      CRC-32 of the 28 bytes before it

The size of `.out` and `.err` is the only truth. The index adds times and the order between the streams: a record that
is torn or fails its check is skipped, and the next good one covers its bytes. A segment exists while its `.idx` does:
that file is made last and deleted first. Lines may be cut anywhere by chunks and segments; the reader joins them.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

SUFFIXES = ("out", "err", "idx")

RECORD_SIZE = 32
_BODY = struct.Struct("<QQQ4s")
_CHECK = struct.Struct("<I")
_MAGIC = b"LOG1"
_NAME = re.compile(r"([0-9]{6,})\.(out|err|idx)")


class Record(NamedTuple):
    """One entry of the index: when a chunk came, and both streams' sizes once it was there."""

    time_ns: int
    out: int
    err: int

    def end(self, stream: int) -> int:
        return self.err if stream else self.out


ZERO = Record(0, 0, 0)


def pack(record: Record) -> bytes:
    body = _BODY.pack(record.time_ns, record.out, record.err, _MAGIC)
    return body + _CHECK.pack(zlib.crc32(body))


def unpack(raw: bytes) -> Record | None:
    """The record in 32 bytes of an index, or None when they are torn or damaged."""
    if len(raw) != RECORD_SIZE or _CHECK.unpack_from(raw, 28)[0] != zlib.crc32(raw[:28]):
        return None
    time_ns, out, err, magic = _BODY.unpack_from(raw)
    return Record(time_ns, out, err) if magic == _MAGIC else None


def numbers(directory: str | os.PathLike[str] | int, suffixes: Iterable[str] = ("idx",)) -> list[int]:
    """The numbers of all segments that have a file with one of these suffixes, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = (_NAME.fullmatch(name) for name in names)
    return sorted({int(match[1]) for match in found if match and match[2] in suffixes})


def file_name(number: int, suffix: str) -> str:
    return f"{number:06d}.{suffix}"
