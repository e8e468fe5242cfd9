"""One container's cgroup: a directory for life that holds its limits, and a fresh leaf in it for every run.

In every hierarchy that matters to the container, below the mount point:

    creche/<app>/<container>            limits, made once; holds no process
    creche/<app>/<container>/run-<n>    one run's processes; gone after it

Leaves are fresh because a write to `cgroup.kill` poisons a cgroup: children cloned into it later are born killed.
Nothing outside `creche/` is touched, but for `cgroup.subtree_control` of the directories that lead there.
"""

import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from runtime.cgroups import devices, v1, v2
from runtime.cgroups.hierarchy import OURS, CgroupError, Hierarchy, Layout, MissingController, read_only
from runtime.cgroups.resources import Resources

_ALWAYS = ("memory", "pids", "devices")
"""Controllers used even without a limit: memory counts OOM kills, devices denies, pids counts."""
_ATTEMPTS = 20
"""How often a directory is tried whose parents other apps may remove at the same moment."""


class Entry(NamedTuple):
    """Open descriptors that lead a process into a leaf: cloned into `unified`, then `enter` from the inside."""

    unified: int | None
    tasks: tuple[int, ...]

    def enter(self) -> None:
        """Move the calling thread into the leaf's v1 cgroups.

        A thread that writes 0 to `tasks` takes 0.13 ms; a pid in `cgroup.procs` waits 9 ms for a grace period.
        """
        for descriptor in self.tasks:
            os.write(descriptor, b"0")

    def close(self) -> None:
        """Close the descriptors; once."""
        for descriptor in self.tasks if self.unified is None else (*self.tasks, self.unified):
            os.close(descriptor)


class Leaf(NamedTuple):
    """The cgroup of one run: one directory in each hierarchy of its container."""

    places: tuple[Hierarchy, ...]
    path: str

    def open(self) -> Entry:
        """Open the way into this leaf; the caller closes it after cloning."""
        unified: int | None = None
        tasks: list[int] = []
        try:
            for place in self.places:
                directory = f"{place.mount}/{self.path}"
                if place.version == 2:
                    unified = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                else:
                    tasks.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            Entry(unified, tuple(tasks)).close()
            raise
        return Entry(unified, tuple(tasks))

    def kill(self) -> None:
        """SIGKILL all that is left in this leaf, which must then be removed: nothing can be cloned into it again."""
        _kill(self.places, self.path)

    def oom_kills(self) -> int:
        """Return how many processes of this run the OOM killer took; 0 also where no memory controller counts."""
        for place in self.places:
            if "memory" in place.controllers:
                if place.version == 2:
                    return v2.oom_kills(_read(f"{place.mount}/{self.path}/memory.events"))
                return v1.oom_kills(_read(f"{place.mount}/{self.path}/memory.oom_control"))
        return 0

    def populated(self) -> bool:
        """Return whether a process of this run is left; a zombie no longer counts."""
        return any(_populated(place, self.path) for place in _tellers(self.places))

    def members(self) -> list[int]:
        """Return the pids of this run."""
        return _members(self.places, self.path)

    def remove(self) -> bool:
        """Remove this leaf and what its processes made below; False while one of them is still there."""
        return _remove(self.places, self.path)


class Group(NamedTuple):
    """A container's cgroup at `path`, which starts with `creche/`; `places` are the hierarchies it uses."""

    layout: Layout
    path: str
    places: tuple[Hierarchy, ...]

    @classmethod
    def at(cls, layout: Layout, path: str, resources: Mapping[str, Any]) -> "Group":
        """Name the group at `path` for limits in OCI's form (`linux.resources`) without touching the kernel.

        Raises MissingController where a limit cannot be kept, ValueError for limits that make no sense.
        """
        _check(path)
        asked = Resources.parse(resources).asked
        chosen: dict[str, Hierarchy] = {}
        for controller in dict.fromkeys((*_ALWAYS, *asked)):
            limit = asked.get(controller)
            place = layout.of(controller, limit)
            if place is None:
                continue
            if place.version == 1 and limit is not None and limit.startswith("unified."):
                raise MissingController(f"{controller} (v2)", limit, layout)
            chosen[place.mount] = place
        if layout.v2 is not None:
            if layout.v2.read_only:
                raise read_only(layout.v2, f"the cgroup {path}")
            chosen[layout.v2.mount] = layout.v2
        elif (freezer := layout.of("freezer")) is not None:
            chosen[freezer.mount] = freezer  # without cgroup.kill, only frozen processes can be killed without a race
        return cls(layout, path, tuple(chosen.values()))

    def create(self, resources: Mapping[str, Any]) -> list[str]:
        """Make the directories and set the limits; return warnings about what this kernel cannot do.

        An existing group is kept and its limits are set again. Raises CgroupError naming the file and the value.
        """
        limits = Resources.parse(resources)
        warnings: list[str] = []
        fresh = {place.mount: _make(place, self.path) for place in self.places}
        v2_wanted = sorted(
            controller
            for place in self.places
            if place.version == 2
            for controller in place.controllers
            if controller in _ALWAYS or controller in limits.asked
        )
        if v2_wanted and self.layout.v2 is not None:
            _enable(self.layout.v2, self.path, v2_wanted)
        for place in self.places:
            writes = v2.writes(limits) if place.version == 2 else v1.writes(limits, fresh=fresh[place.mount])
            directory = f"{place.mount}/{self.path}"
            if "devices" in place.controllers and (
                fresh[place.mount] or "a *:* rwm" in _read(f"{directory}/devices.list")
            ):
                writes += v1.device_writes(limits.devices)
            for write in writes:
                if write.controller not in place.controllers:
                    continue
                if write.optional is not None and not os.path.exists(f"{directory}/{write.file}"):
                    if write.optional and write.optional not in warnings:
                        warnings.append(write.optional)
                    continue
                _write(f"{directory}/{write.file}", write.value)
        v1_devices = any("devices" in place.controllers for place in self.places)
        if v1_devices or self.layout.v2 is None:
            return warnings
        refused = devices.limit(f"{self.layout.v2.mount}/{self.path}", limits.devices)
        return [*warnings, refused] if refused else warnings

    def leaf(self, run: int) -> Leaf:
        """Make the fresh cgroup of run number `run`; an empty one left by a dead creche is replaced."""
        leaf = self.known_leaf(run)
        made: list[Hierarchy] = []
        try:
            for place in self.places:
                directory = f"{place.mount}/{leaf.path}"
                try:
                    os.mkdir(directory, 0o755)
                except FileExistsError:
                    os.rmdir(directory)
                    os.mkdir(directory, 0o755)
                made.append(place)
        except OSError as error:
            _remove(tuple(made), leaf.path)
            advice = "the group is gone: create it again" if error.errno == errno.ENOENT else None
            raise _failed(error, "cannot make the run's cgroup", advice) from error
        return leaf

    def known_leaf(self, run: int) -> Leaf:
        """Return the leaf of a run that lives already."""
        return Leaf(self.places, f"{self.path}/run-{run}")

    def members(self) -> list[int]:
        """Return the pids of all runs."""
        return _members(self.places, self.path)

    def remove(self) -> bool:
        """Remove the container's directory and dead leaves in it; False while a process is still there."""
        return _remove(self.places, self.path)


def remove_tree(layout: Layout, path: str, timeout: float = 5.0) -> None:
    """Kill all below `path`, in every hierarchy, and remove it: what a dead run, container or app left behind.

    Takes at most `timeout` seconds and then raises CgroupError with the pids that did not go. Also removes `creche`
    itself when nothing else is in it. Nothing there is no error.
    """
    _check(path)
    # The unified hierarchy first: it kills without a race, and then the v1 ones are empty already.
    places = layout.v1 if layout.v2 is None else (layout.v2, *layout.v1)
    deadline = time.monotonic() + timeout
    pause = 0.0005
    present = tuple(place for place in places if os.path.isdir(f"{place.mount}/{path}"))
    while present:
        # Again on each round: a process that was moved or forked while we looked is caught by the next one.
        for place in present:
            _kill((place,), path)
        present = tuple(place for place in present if not _remove((place,), path))
        if present and time.monotonic() > deadline:
            pids = sorted({pid for place in present for pid in _members((place,), path)})
            raise CgroupError(
                errno.EBUSY,
                f"processes {pids} did not die within {timeout:g} s of SIGKILL",
                f"{present[0].mount}/{path}",
                "they hang in the kernel (state D in ps); see their stacks in /proc/PID/stack",
            )
        if present:
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
    for place in places:
        parts = path.split("/")
        for depth in range(len(parts) - 1, 0, -1):
            try:
                os.rmdir(f"{place.mount}/{'/'.join(parts[:depth])}")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY, errno.EROFS):
                    raise
                if error.errno != errno.ENOENT:
                    break


def _check(path: str) -> None:
    parts = path.split("/")
    if parts[0] != OURS or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{path!r} is no cgroup of ours: it must be {OURS}/… without empty parts or dots")


def _make(place: Hierarchy, path: str) -> bool:
    """Make `path` with its parents; return whether it is new."""
    parts = path.split("/")
    attempt = 0
    while True:
        try:
            if attempt:
                for depth in range(1, len(parts)):
                    _mkdir(place, "/".join(parts[:depth]))
            return _mkdir(place, path)
        except OSError as error:
            # No parents yet; or another app just removed `creche`, which was empty for a moment.
            attempt += 1
            if error.errno not in (errno.ENOENT, errno.ENODEV) or attempt == _ATTEMPTS:
                raise


def _mkdir(place: Hierarchy, path: str) -> bool:
    directory = f"{place.mount}/{path}"
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        if "/" in path or place.version == 2 or "cpuset" not in place.controllers:
            return False
    except OSError as error:
        advice = "creche needs root for cgroups" if error.errno in (errno.EACCES, errno.EPERM) else None
        raise _failed(error, "cannot make the cgroup", advice) from error
    if "/" not in path and place.version == 1 and "cpuset" in place.controllers:
        # A v1 cpuset without CPUs and memory nodes takes no process; below ours the kernel copies them.
        for file in ("cpuset.cpus", "cpuset.mems"):
            _write(f"{directory}/{file}", _read(f"{place.mount}/{file}").strip())
        _write(f"{directory}/cgroup.clone_children", "1")
    return True


def _enable(place: Hierarchy, path: str, controllers: list[str]) -> None:
    """Pass `controllers` down to the leaves of `path`, from the root of the hierarchy on."""
    parts = path.split("/")
    for depth in range(len(parts) + 1):
        directory = "/".join((place.mount, *parts[:depth]))
        file = f"{directory}/cgroup.subtree_control"
        have = _read(file).split()
        missing = [controller for controller in controllers if controller not in have]
        if not missing:
            continue
        advice = None
        if depth == 0:
            advice = (
                f"the cgroup at {place.mount} holds processes itself, so the kernel refuses: run creche in a "
                "scope or service with Delegate=yes, or in a container whose processes sit one level deeper"
            )
        _write(file, " ".join(f"+{controller}" for controller in missing), advice)


def _tellers(places: tuple[Hierarchy, ...]) -> tuple[Hierarchy, ...]:
    """Return the hierarchies that are enough to know all members: the unified one knows every process."""
    unified = tuple(place for place in places if place.version == 2)
    return unified or places


def _populated(place: Hierarchy, path: str) -> bool:
    try:
        if place.version == 2:
            return v2.populated(_read(f"{place.mount}/{path}/cgroup.events"))
    except CgroupError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise
    return bool(_members((place,), path))


def _members(places: tuple[Hierarchy, ...], path: str) -> list[int]:
    found: set[int] = set()
    for place in _tellers(places):
        for directory in _walk(f"{place.mount}/{path}"):
            try:
                found.update(int(pid) for pid in _read(f"{directory}/cgroup.procs").split())
            except CgroupError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
    return sorted(found)


def _walk(directory: str) -> Iterator[str]:
    """Yield the cgroups below `directory` and then it, deepest first."""
    try:
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for each in below:
        yield from _walk(each)
    yield directory


def _kill(places: tuple[Hierarchy, ...], path: str) -> None:
    for place in places:
        if place.version == 2:
            try:
                _write(f"{place.mount}/{path}/cgroup.kill", "1")
            except CgroupError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
            return
    freezer = next((place for place in places if "freezer" in place.controllers), None)
    state = None if freezer is None else f"{freezer.mount}/{path}/freezer.state"
    # Frozen, nobody forks and no pid changes hands between reading and killing; the kill acts on thawing.
    if state is not None:
        _freeze(state, "FROZEN")
    try:
        for pid in _members(places, path):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    finally:
        if state is not None:
            _freeze(state, "THAWED")


def _freeze(state: str, wanted: str) -> None:
    try:
        _write(state, wanted)
        for _ in range(1000):
            if _read(state).strip() == wanted:
                return
            time.sleep(0.0005)
    except CgroupError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _remove(places: tuple[Hierarchy, ...], path: str) -> bool:
    gone = True
    for place in places:
        directory = f"{place.mount}/{path}"
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise _failed(error, "cannot remove the cgroup") from error
            gone = _remove_deep(directory) and gone
    return gone


def _remove_deep(directory: str) -> bool:
    """Remove a cgroup with children, deepest first; False as soon as one is busy."""
    for each in _walk(directory):
        try:
            os.rmdir(each)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise _failed(error, "cannot remove the cgroup") from error
            return False
    return True


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(error, "cannot read") from error
    try:
        parts: list[bytes] = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    except OSError as error:
        raise _failed(error, "cannot read", path=path) from error
    finally:
        os.close(descriptor)


def _write(path: str, value: str, advice: str | None = None) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failed(error, f"cannot write {value!r}", advice, path) from error


def _failed(error: OSError, what: str, advice: str | None = None, path: str | None = None) -> CgroupError:
    where = path or (os.fsdecode(error.filename) if error.filename else None)
    return CgroupError(error.errno or errno.EIO, f"{what}: {error.strerror}", where, advice)
