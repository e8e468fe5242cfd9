"""Which host programs can be a container's pid 1."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.launch.inits import find, is_static
from runtime.launch.messages import content

LOAD, DYNAMIC, INTERP, NOTE = 1, 2, 3, 4


def elf(*kinds: int, magic: bytes = b"\x7fELF\x02\x01\x01", size: int = 56, offset: int = 64) -> bytes:
    """An ELF file of program headers alone (elf(5))."""
    head = struct.pack("<16sHHIQQQIHHHHHH", magic, 2, 62, 1, 0, offset, 0, 0, 64, size, len(kinds), 0, 0, 0)
    return head + bytes(offset - 64) + b"".join(struct.pack("<I", kind).ljust(size, b"\0") for kind in kinds)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (elf(LOAD, NOTE), True),
        (elf(LOAD, DYNAMIC), True),  # static-pie
        (elf(), True),
        (elf(LOAD, INTERP), False),
        (elf(INTERP, LOAD), False),
        (elf(LOAD, INTERP, size=64, offset=80), False),
        (elf(LOAD, size=64, offset=80), True),
        (elf(LOAD, magic=b"\x7fELF\x01\x01\x01"), False),
        (elf(LOAD, magic=b"\x7fELF\x02\x02\x01"), False),  # big-endian: not this machine's
        (elf(LOAD, magic=b"\x7fELG\x02\x01\x01"), False),
        (b"#!/bin/sh\n", False),
        (b"", False),
        (elf(LOAD)[:40], False),
        (elf(LOAD, LOAD)[:-60], False),
    ],
)
def test_is_static(program: bytes, expected: bool) -> None:
    assert is_static(program) is expected


@given(st.binary(max_size=300).map(lambda tail: b"\x7fELF\x02\x01" + tail))
@example(b"\x7fELF\x02\x01")
def test_no_bytes_raise(program: bytes) -> None:
    assert is_static(program) in (True, False)


def test_the_first_static_one_is_taken_and_sealed(tmp_path: Path) -> None:
    programs = {"loader": elf(LOAD, INTERP), "good": elf(LOAD), "better": elf(NOTE)}
    for name, program in programs.items():
        (tmp_path / name).write_bytes(program)
    found = find(tuple(str(tmp_path / name) for name in ("missing", *programs)))
    assert found is not None
    path, descriptor = found
    try:
        assert path == str(tmp_path / "good")
        assert content(descriptor) == programs["good"]
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
    finally:
        os.close(descriptor)


def test_a_host_without_one(tmp_path: Path) -> None:
    assert find((str(tmp_path / "missing"), str(tmp_path))) is None
