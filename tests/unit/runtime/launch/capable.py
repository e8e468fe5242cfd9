"""Being an ordinary user for a moment, where the tests run as root."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def ordinary_user(place: Path) -> Generator[None]:
    """Give up root's rights to files; every directory above `place` must let nobody pass."""
    if os.geteuid():
        yield
        return
    opened = [each for each in place.parents if not each.stat().st_mode & 1]
    for each in opened:
        each.chmod(each.stat().st_mode | 1)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for each in opened:
            each.chmod(each.stat().st_mode & ~1)
