"""Tables, spans and moments for eyes: plain aligned text, through rich only when a person's terminal shows it."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

COLOURS = {
    "running": "green",
    "completed": "green",
    "ok": "green",
    "starting": "cyan",
    "pending": "cyan",
    "backing-off": "yellow",
    "stopping": "yellow",
    "paused": "yellow",
    "warn": "yellow",
    "stopped": "bright_black",
    "failed": "red",
    "exhausted": "red",
    "fail": "red",
}


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; known states are coloured on a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.write(aligned(header, rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell), style=COLOURS.get(cell, "")) for cell in row))
    Console().print(table)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as text, columns two spaces apart, nothing after the last one."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in padded)


def printable(text: str) -> str:
    """Text whose control characters cannot move a terminal's cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def span(seconds: float) -> str:
    """`3s`, `5m12s`, `2h05m`, `4d03h`: two units at most."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def clock(wall: float) -> str:
    """Unix seconds → RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
