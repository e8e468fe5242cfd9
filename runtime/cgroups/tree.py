"""Directories of cgroups in several hierarchies at once: made, filled with controllers, emptied and removed."""

import errno
import os
import signal
import time
from collections.abc import Iterable

from runtime.cgroups import freezer, v2
from runtime.cgroups.files import GONE, failed, mark, marked, pids, read, walk, write, write_if_there
from runtime.cgroups.hierarchy import OURS, CgroupError, Hierarchy, Layout

_ATTEMPTS = 20
"""How often a directory is tried whose parents other apps may remove at the same moment."""
_ROUNDS = 10
"""How often processes are listed and killed where nothing holds them still meanwhile."""
_FREEZE = 0.5
"""Seconds that killing waits for a cgroup to stand still; it goes on without it."""
_ENOTSUPP = 524
"""The kernel's own ENOTSUPP, which `cgroup.subtree_control` answers below a threaded cgroup."""


def check(path: str, *, anywhere: bool = False) -> None:
    """Raise ValueError where `path` names no cgroup, or, without `anywhere`, none below `creche/`."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(ord(character) < 32 for character in path):
        rule = "a cgroup's path without empty parts, dots and control characters" if anywhere else f"{OURS}/…"
        raise ValueError(f"{path!r} is no cgroup of ours: it must be {rule}")
    if not anywhere and (parts[0] != OURS or len(parts) < 2):
        raise ValueError(f"{path!r} is no cgroup of ours: it must be {OURS}/… without empty parts or dots")


def make(place: Hierarchy, path: str, *, marking: bool = False) -> bool:
    """Make `path` with its parents; return whether it is new. `marking` remembers on each that we made it."""
    parts = path.split("/")
    attempt = 0
    while True:
        try:
            if attempt:
                for depth in range(1, len(parts)):
                    _mkdir(place, "/".join(parts[:depth]), marking)
            fresh = _mkdir(place, path, marking)
            break
        except OSError as error:
            # No parents yet; or another app just removed `creche`, which was empty for a moment.
            attempt += 1
            if error.errno not in GONE or attempt == _ATTEMPTS:
                raise
    if place.version == 1 and "cpuset" in place.controllers and not _cpus(place, path):
        for depth in range(1, len(parts) + 1):
            _fill(place, "/".join(parts[:depth]))
    return fresh


def _mkdir(place: Hierarchy, path: str, marking: bool) -> bool:
    directory = place.directory(path)
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except OSError as error:
        advice = "creche needs root for cgroups" if error.errno in (errno.EACCES, errno.EPERM) else None
        raise failed(error, "cannot make the cgroup", advice) from error
    if marking:
        mark(directory)
    return True


def _cpus(place: Hierarchy, path: str) -> str:
    return read(f"{place.directory(path)}/cpuset.cpus").strip()


def _fill(place: Hierarchy, path: str) -> None:
    """Give a v1 cpuset its parent's CPUs and memory nodes where it has none: such a one takes no process at all."""
    if _cpus(place, path):
        return
    directory = place.directory(path)
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not read(f"{directory}/{file}").strip():
            write(f"{directory}/{file}", read(f"{os.path.dirname(directory)}/{file}").strip())
    write(f"{directory}/cgroup.clone_children", "1")


def enable(place: Hierarchy, path: str, controllers: Iterable[str], *, leaves: bool) -> None:
    """Pass v2 `controllers` down to `path`, from where our groups begin; with `leaves` to those below it, too."""
    parts = path.split("/")
    for depth in range(len(parts) + leaves):
        directory = place.directory("/".join(parts[:depth]))
        file = f"{directory}/cgroup.subtree_control"
        have = read(file).split()
        missing = [controller for controller in controllers if controller not in have]
        if not missing:
            continue
        try:
            write(file, " ".join(f"+{controller}" for controller in missing))
        except CgroupError as error:
            error.advice = _why_not(error.errno, directory, missing)
            raise


def _why_not(number: int | None, directory: str, missing: list[str]) -> str | None:
    if number == errno.EBUSY:
        return (
            f"the cgroup at {directory} holds processes itself, so the kernel refuses: run creche in a "
            "scope or service with Delegate=yes, or in a container whose processes sit one level deeper"
        )
    if number == errno.ENOENT:
        return f"the cgroup above {directory} does not pass {', '.join(missing)} on: have it delegated"
    if number in (errno.EOPNOTSUPP, _ENOTSUPP):
        return "below a threaded cgroup only threads' controllers can be had: choose another cgroup"
    return None


def tellers(places: tuple[Hierarchy, ...]) -> tuple[Hierarchy, ...]:
    """Return the hierarchies that are enough to know all members: the unified one knows every process."""
    unified = tuple(place for place in places if place.version == 2)
    return unified or places


def populated(place: Hierarchy, path: str) -> bool:
    """Return whether a process lives at `path` or below; a zombie does not count."""
    try:
        if place.version == 2:
            return v2.populated(read(f"{place.directory(path)}/cgroup.events"))
    except CgroupError as error:
        if error.errno in GONE:
            return False
        raise
    return bool(members((place,), path))


def members(places: tuple[Hierarchy, ...], path: str) -> list[int]:
    """Return the pids at `path` and below."""
    found: set[int] = set()
    for place in tellers(places):
        for directory in walk(place.directory(path)):
            found.update(pids(directory))
    return sorted(found)


def kill(places: tuple[Hierarchy, ...], path: str, *, final: bool = True) -> None:
    """SIGKILL all at `path` and below, frozen or not. Not `final`: the cgroup stays, for other processes.

    A cgroup that `cgroup.kill` was written to has to be removed: what is cloned into it later is born killed.
    """
    unified = next((place for place in places if place.version == 2), None)
    if unified is not None and final:
        write_if_there(f"{unified.directory(path)}/cgroup.kill", "1")
        freezer.thaw_all(places, path)
        return
    # Frozen, nobody forks and no pid changes hands between reading and killing; the kill acts on thawing.
    still = _still(places, path)
    try:
        for _ in range(1 if still else _ROUNDS):
            found = members(places, path)
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not found:
                break
    finally:
        if unified is not None:
            write_if_there(f"{unified.directory(path)}/cgroup.freeze", "0")
        freezer.thaw_all(places, path)


def _still(places: tuple[Hierarchy, ...], path: str) -> bool:
    if freezer.place_of(places) is None:
        return False
    try:
        freezer.freeze(places, path, _FREEZE)
    except CgroupError as error:
        if error.errno not in (*GONE, errno.ETIMEDOUT, errno.EBUSY):
            raise
        return False
    return True


def remove(places: tuple[Hierarchy, ...], path: str, *, made_only: bool = False) -> bool:
    """Remove `path` and what its processes made below; False while one of them is still there.

    With `made_only`, a directory that we did not make stays, and of its parents those that we made go when empty.
    """
    gone = True
    for place in places:
        directory = place.directory(path)
        if made_only and not marked(directory):
            gone = not populated(place, path) and gone
            continue
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise failed(error, "cannot remove the cgroup") from error
            if not _remove_deep(directory):
                gone = False
                continue
        if made_only:
            _remove_parents(place, path, made_only=True)
    return gone


def _remove_deep(directory: str) -> bool:
    """Remove a cgroup with children, deepest first; False as soon as one is busy."""
    for each in walk(directory):
        try:
            os.rmdir(each)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise failed(error, "cannot remove the cgroup") from error
            return False
    return True


def _remove_parents(place: Hierarchy, path: str, *, made_only: bool = False) -> None:
    parts = path.split("/")
    for depth in range(len(parts) - 1, 0, -1):
        directory = place.directory("/".join(parts[:depth]))
        if made_only and not marked(directory):
            return
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY, errno.EROFS):
                raise failed(error, "cannot remove the cgroup") from error
            if error.errno != errno.ENOENT:
                return


def remove_tree(layout: Layout, path: str, timeout: float = 5.0) -> None:
    """Kill all below `path`, in every hierarchy, and remove it: what a dead run, container or app left behind.

    Takes at most `timeout` seconds and then raises CgroupError with the pids that did not go. Also removes `creche`
    itself when nothing else is in it. Nothing there is no error.
    """
    check(path)
    deadline = time.monotonic() + timeout
    pause = 0.0005
    present = tuple(place for place in layout.places if os.path.isdir(place.directory(path)))
    while present:
        # Again on each round: a process that was moved or forked while we looked is caught by the next one.
        for place in present:
            kill((place,), path)
        present = tuple(place for place in present if not remove((place,), path))
        if present and time.monotonic() > deadline:
            left = sorted({pid for place in present for pid in members((place,), path)})
            raise CgroupError(
                errno.EBUSY,
                f"processes {left} did not die within {timeout:g} s of SIGKILL",
                present[0].directory(path),
                "they hang in the kernel (state D in ps); see their stacks in /proc/PID/stack",
            )
        if present:
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
    for place in layout.places:
        _remove_parents(place, path)
