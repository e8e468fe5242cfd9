"""Durations and sizes: how the app file writes them, as seconds and bytes."""

import re
from decimal import Decimal
from fractions import Fraction

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|us|ns|[dhms]))+", re.ASCII)
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|us|ns|[dhms])", re.ASCII)
_SECONDS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
}
_ORDER = {"d": 0, "h": 1, "m": 2, "s": 3, "ms": 4, "us": 5, "ns": 6}

_SIZE = re.compile(rf"({_NUMBER})(?:([kmgt])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LARGEST_SIZE = (1 << 63) - 1
_LONGEST_SECONDS = 10**10


def parse_duration(text: str) -> float:
    """Return the seconds of `100ms`, `10s`, `1.5s`, `5m`, `1h30m`; units fall from left to right, each once.

    Raises ValueError for anything else, a bare number included.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(text)
    parts = _DURATION_PART.findall(text)
    order = [_ORDER[unit] for _, unit in parts]
    if order != sorted(set(order)):
        raise ValueError(text)
    seconds = sum((Fraction(number) * _SECONDS[unit] for number, unit in parts), Fraction())
    if seconds > _LONGEST_SECONDS:
        raise ValueError(text)
    return float(seconds)


def print_duration(seconds: float) -> str:
    """Return the shortest usual form that `parse_duration` reads back as the very same number of seconds."""
    milliseconds = round(seconds * 1000)
    if milliseconds / 1000 == seconds:
        if milliseconds == 0:
            return "0s"
        if milliseconds % 1000:
            return f"{milliseconds}ms" if milliseconds < 1000 else f"{Decimal(milliseconds) / 1000:f}s"
        minutes, rest = divmod(milliseconds // 1000, 60)
        hours, minutes = divmod(minutes, 60)
        units = ((hours, "h"), (minutes, "m"), (rest, "s"))
        return "".join(f"{count}{unit}" for count, unit in units if count)
    return f"{Decimal(repr(seconds)):f}s"


def parse_size(text: str) -> int:
    """Return the bytes of `64K`, `512M`, `2G`, `1.5GiB`, `4096`; units are powers of 1024.

    A broken byte is dropped. Raises ValueError for anything else.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(text)
    size = int(Fraction(match[1]) * _BYTES[(match[2] or "").lower()])
    if size > _LARGEST_SIZE:
        raise ValueError(text)
    return size


def print_size(size: int) -> str:
    """Return bytes in the largest unit that keeps them whole: `16M`, `1000`."""
    for unit in "TGMK":
        if size and size % _BYTES[unit.lower()] == 0:
            return f"{size // _BYTES[unit.lower()]}{unit}"
    return str(size)
