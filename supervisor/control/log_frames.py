"""A container's log as Docker's API streams it: frames of an 8-byte header (stream, length) and a line.

The frames are docs.docker.com/engine/api/v1.41 "Attach to a container", "Stream format".
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import trio

from runtime.logs import Line, Reader, plain, stamped
from supervisor.control.exchange import Send

POLL_SECONDS = 0.1  # while somebody follows


@attrs.frozen
class Choice:
    """What of a log is wanted; times in unix seconds."""

    streams: Sequence[str] = ("stdout", "stderr")
    since: float | None = None
    until: float | None = None
    tail: int | None = None
    timestamps: bool = False
    follow: bool = False


def frame(line: Line, *, timestamps: bool) -> bytes:
    """One line (or a piece of one) as a frame."""
    text = stamped(line) if timestamps else plain(line)
    return bytes((1 if line.stream == "stdout" else 2, 0, 0, 0)) + len(text).to_bytes(4, "big") + text


async def frames(directory: Path, choice: Choice, send: Send) -> None:
    """Send the log, and with `follow` what comes after it until cancelled; reads in worker threads."""
    since_ns = None if choice.since is None else int(choice.since * 1e9)
    until_ns = None if choice.until is None else int(choice.until * 1e9)
    reader = await trio.to_thread.run_sync(Reader, directory, since_ns, choice.tail)
    try:
        while True:
            lines = reader.lines() if choice.follow else reader.finish()
            while batch := await trio.to_thread.run_sync(_batch, lines, choice, until_ns):
                await send(batch)
            if not choice.follow:
                return
            await trio.sleep(POLL_SECONDS)
    finally:
        reader.close()


def _batch(lines: Iterator[Line], choice: Choice, until_ns: int | None) -> bytes:
    """The next wanted lines as frames, empty at the end."""
    out = bytearray()
    for line in lines:
        if line.stream in choice.streams and (until_ns is None or line.time_ns <= until_ns):
            out += frame(line, timestamps=choice.timestamps)
            if len(out) >= 64 << 10:
                break
    return bytes(out)
