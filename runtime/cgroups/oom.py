"""News of the OOM killer without polling: a descriptor that becomes readable, and the counter that confirms it."""

import contextlib
import errno
import os

from runtime import syscalls
from runtime.cgroups import v1, v2
from runtime.cgroups.files import failed, read_if_there, write
from runtime.cgroups.hierarchy import CgroupError, Hierarchy


class OomWatch:
    """One cgroup's OOM kills from now on; select or poll it for reading, then ask `kills`; close it once.

    v1 wakes by an eventfd (cgroup-v1/memory.rst, 10), also when the cgroup is removed, and a moment before the counter
    moves; v2 by inotify on `memory.events`, also for its other counters. Only the counter is the truth.
    """

    def __init__(self, place: Hierarchy, path: str) -> None:
        self._directory = place.directory(path)
        self._version = place.version
        self._wakes = 0
        self._open = True
        if place.version == 2:
            self._descriptor = syscalls.inotify_init()
            try:
                syscalls.inotify_add_watch(self._descriptor, f"{self._directory}/memory.events", syscalls.IN_MODIFY)
            except OSError as error:
                os.close(self._descriptor)
                raise failed(error, "cannot watch the OOM killer") from error
        else:
            self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                self._register()
            except OSError:
                os.close(self._descriptor)
                raise
        self._before = self._count() or 0
        self._last = 0
        self._own_before = self._own_events()

    def fileno(self) -> int:
        """Return the descriptor, which is readable when something happened."""
        return self._descriptor

    def kills(self) -> int:
        """Make the descriptor wait for news again; return how many processes were killed since the watch began.

        The last count stays where the cgroup is gone.
        """
        self._drain()
        count = self._count()
        if count is not None:
            self._last = count - self._before
        return self._last

    def own(self) -> int:
        """Return how often this very cgroup's limit, not one of a cgroup below it, called the OOM killer since then.

        v1 tells it by its eventfd, which a cgroup's own limit and those above it wake; v2 by `memory.events.local`.
        """
        self._drain()
        return self._wakes if self._version == 1 else max(self._own_events() - self._own_before, 0)

    def close(self) -> None:
        """Stop watching; the second time does nothing."""
        if self._open:
            self._open = False
            os.close(self._descriptor)

    def _register(self) -> None:
        control = os.open(f"{self._directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(f"{self._directory}/cgroup.event_control", f"{self._descriptor} {control}")
        finally:
            os.close(control)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._version == 1:
                woken = os.eventfd_read(self._descriptor)
                # Removal wakes, too: then nothing was killed and nothing is there to ask.
                self._wakes += woken if self._count() is not None else 0
            else:
                while os.read(self._descriptor, 4096):
                    pass

    def _count(self) -> int | None:
        return count(self._version, self._directory)

    def _own_events(self) -> int:
        text = read_if_there(f"{self._directory}/memory.events.local") if self._version == 2 else None
        return v2.fields(text or "").get("oom", 0)


def count(version: int, directory: str) -> int | None:
    """Return a cgroup's OOM kills (v2: those below it, too); None where it is gone or has no memory controller."""
    text = read_if_there(f"{directory}/{'memory.events' if version == 2 else 'memory.oom_control'}")
    if text is None:
        return None
    return v2.oom_kills(text) if version == 2 else v1.oom_kills(text)


def watch(places: tuple[Hierarchy, ...], path: str) -> OomWatch:
    """Watch `path` in the hierarchy with the memory controller; raises CgroupError where there is none."""
    for place in places:
        if "memory" in place.controllers:
            return OomWatch(place, path)
    raise CgroupError(errno.ENOTSUP, f"OOM kills of {path} are not counted: there is no memory controller", None, None)
