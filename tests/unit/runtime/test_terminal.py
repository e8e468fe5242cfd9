"""A terminal's words and sizes."""

import errno
import fcntl
import os
import struct

import pytest

from runtime.terminal import Terminal, resize


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [(24, 80, "open a terminal of 24 rows and 80 columns"), (0, 0, "open a terminal"), (24, 0, "open a terminal")],
)
def test_words(rows: int, columns: int, words: str) -> None:
    assert Terminal(rows, columns, "console", False).describe() == words


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (1, 65535), (0, 0)])
def test_a_size(rows: int, columns: int) -> None:
    master, slave = os.openpty()
    try:
        resize(master, rows, columns)
        assert struct.unpack("=4H", fcntl.ioctl(slave, 0x5413, bytes(8)))[:2] == (rows, columns)
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize(("rows", "columns"), [(-1, 80), (24, 65536)])
def test_a_size_that_is_none(rows: int, columns: int) -> None:
    with pytest.raises(OSError, match=f"{rows}x{columns}") as caught:
        resize(-1, rows, columns)
    assert caught.value.errno == errno.EINVAL
