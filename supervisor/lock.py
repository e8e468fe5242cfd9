"""The app's lock: two supervisors never hold one app."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from supervisor.failures import AppHeld


@contextmanager
def held(directory: Path, app: str) -> Generator[None]:
    """Hold `directory`/lock, making the directory (0700) where needed; it may be removed meanwhile. Raises AppHeld."""
    path = directory / "lock"
    descriptor = _lock(path, app)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, app: str) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # its last holder removed the directory between the two calls
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            text = os.pread(descriptor, 32, 0).strip()
            os.close(descriptor)
            raise AppHeld(app, int(text) if text.isdigit() else None, path) from None
        os.close(descriptor)
