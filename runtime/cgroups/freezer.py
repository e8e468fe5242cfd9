"""A cgroup standing still: all of its processes and those of the cgroups below, without a signal they could notice."""

import errno
import os
import select
import time

from runtime import text_file
from runtime.cgroups import v2
from runtime.cgroups.files import GONE, pids, read, read_if_there, walk, write, write_if_there
from runtime.cgroups.hierarchy import CgroupError, Hierarchy

TIMEOUT = 10.0
"""Seconds that a process in the kernel may take to reach a place where it can stand still."""
_PAUSE, _LONGEST_PAUSE = 0.0005, 0.01
_ROUNDS = 50
"""After so many looks at a v1 cgroup that stays FREEZING, it is thawed for a moment, as runc does."""
_STILL = ("do_freezer_trap", "__refrigerator", "ptrace_stop")
"""Where a frozen process waits in the kernel (/proc/PID/wchan)."""


def place_of(places: tuple[Hierarchy, ...]) -> Hierarchy | None:
    """Return the hierarchy that freezes: the unified one, which knows every process, before v1's freezer."""
    unified = next((place for place in places if place.version == 2), None)
    return unified or next((place for place in places if "freezer" in place.controllers), None)


def freeze(places: tuple[Hierarchy, ...], path: str, timeout: float = TIMEOUT) -> None:
    """Stop all processes below `path`; afterwards none of them runs a single instruction.

    Raises CgroupError: ETIMEDOUT with the pids that do not stand still, and then all run again; ENOTSUP where no
    hierarchy freezes.
    """
    place = _needed(places, path)
    directory = place.directory(path)
    stopped = _freeze_v2(directory, timeout) if place.version == 2 else _freeze_v1(directory, timeout)
    if stopped:
        return
    moving = [pid for pid in _moving(place, directory) if _wchan(pid) not in _STILL]
    thaw(places, path, timeout)
    raise CgroupError(
        errno.ETIMEDOUT,
        f"processes {moving} did not stand still within {timeout:g} s; all run again",
        directory,
        "they hang in the kernel (state D in ps); see their stacks in /proc/PID/stack",
    )


def thaw(places: tuple[Hierarchy, ...], path: str, timeout: float = TIMEOUT) -> None:
    """Let all processes below `path` go on; raises CgroupError where a cgroup above keeps them frozen."""
    place = _needed(places, path)
    directory = place.directory(path)
    if place.version == 2:
        write(f"{directory}/cgroup.freeze", "0")
        gone_on = _wait_v2(directory, False, timeout)
    else:
        write(f"{directory}/freezer.state", "THAWED")
        gone_on = _wait_v1(directory, "THAWED", timeout)
    if not gone_on:
        raise CgroupError(
            errno.EBUSY, "the processes still stand still", directory, "a cgroup above it is frozen: thaw that one"
        )


def frozen(places: tuple[Hierarchy, ...], path: str) -> bool:
    """Return whether all processes below `path` stand still, by its own freezer or by one above."""
    place = place_of(places)
    if place is None:
        return False
    if place.version == 2:
        return v2.frozen(read(f"{place.directory(path)}/cgroup.events"))
    return read(f"{place.directory(path)}/freezer.state").strip() == "FROZEN"


def thaw_all(places: tuple[Hierarchy, ...], path: str) -> None:
    """Thaw `path` and whatever a container's own processes froze below: what is killed has to run to its end."""
    for place in places:
        if place.version == 1 and "freezer" in place.controllers:
            for directory in reversed([*walk(place.directory(path))]):
                write_if_there(f"{directory}/freezer.state", "THAWED")


def release(places: tuple[Hierarchy, ...], path: str) -> None:
    """Take the freeze off `path` itself without waiting: killed processes below it have to run to their end."""
    place = place_of(places)
    if place is not None:
        file, value = ("cgroup.freeze", "0") if place.version == 2 else ("freezer.state", "THAWED")
        write_if_there(f"{place.directory(path)}/{file}", value)


def _needed(places: tuple[Hierarchy, ...], path: str) -> Hierarchy:
    place = place_of(places)
    if place is None:
        raise CgroupError(
            errno.ENOTSUP, f"{path} cannot be frozen: neither cgroup v2 nor v1's freezer is there", None, None
        )
    return place


def _freeze_v2(directory: str, timeout: float) -> bool:
    write(f"{directory}/cgroup.freeze", "1")
    return _wait_v2(directory, True, timeout)


def _wait_v2(directory: str, wanted: bool, timeout: float) -> bool:
    """Wait until `cgroup.events` says so; the kernel wakes whoever polls that file (cgroup-v2.rst)."""
    deadline = time.monotonic() + timeout
    file = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(file, select.POLLPRI)
        while True:
            if v2.frozen(os.pread(file, 4096, 0).decode()) == wanted:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 0.1) * 1000)
    finally:
        os.close(file)


def _freeze_v1(directory: str, timeout: float) -> bool:
    """Write FROZEN until it holds: a cgroup that forks meanwhile stays FREEZING (cgroup-v1/freezer-subsystem.rst)."""
    deadline = time.monotonic() + timeout
    pause = _PAUSE
    while True:
        for _ in range(_ROUNDS):
            write(f"{directory}/freezer.state", "FROZEN")
            if read(f"{directory}/freezer.state").strip() == "FROZEN":
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        write(f"{directory}/freezer.state", "THAWED")
        time.sleep(_PAUSE)


def _wait_v1(directory: str, wanted: str, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while (text := read_if_there(f"{directory}/freezer.state")) is not None and text.strip() != wanted:
        if time.monotonic() > deadline or read(f"{directory}/freezer.parent_freezing").strip() == "1":
            return False
        time.sleep(_PAUSE)
    return True


def _moving(place: Hierarchy, directory: str) -> list[int]:
    """Return the pids of those cgroups below that are not frozen."""
    found: list[int] = []
    for each in walk(directory):
        if place.version == 2:
            still = v2.frozen(read_if_there(f"{each}/cgroup.events") or "frozen 1")
        else:
            still = (read_if_there(f"{each}/freezer.state") or "FROZEN").strip() == "FROZEN"
        if not still:
            found += pids(each)
    return sorted(found)


def _wchan(pid: int) -> str:
    try:
        return text_file.read(f"/proc/{pid}/wchan")
    except OSError as error:
        if error.errno in (*GONE, errno.ESRCH, errno.EACCES, errno.EPERM):
            return ""
        raise
