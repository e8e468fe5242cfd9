"""One container's cgroup: a directory for life that holds its limits, and a fresh leaf in it for every run.

In every hierarchy that matters to the container, below the mount point (or the subtree that was delegated to us):

    creche/<app>/<container>            limits, made once; holds no process
    creche/<app>/<container>/run-<n>    one run's processes; gone after it

Leaves are fresh because a write to `cgroup.kill` poisons a cgroup: children cloned into it later are born killed.
Nothing outside `creche/` is touched, but for `cgroup.subtree_control` of the directories that lead there. An OCI
bundle's `cgroupsPath` may lead anywhere: such a group holds its processes itself, and of the directories there only
those that we made are ever removed.
"""

import errno
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from runtime.cgroups import delegation, devices, freezer, oom, stats, tree, v1, v2
from runtime.cgroups.files import failed, pids, read, read_if_there, walk, write
from runtime.cgroups.hierarchy import CgroupError, Hierarchy, Layout, MissingController, read_only
from runtime.cgroups.resources import Resources
from runtime.cgroups.rules import Uncoverable
from runtime.cgroups.tree import remove_tree as remove_tree

_ALWAYS = ("memory", "pids", "devices")
"""Controllers used even without a limit: memory counts OOM kills, devices denies, pids counts."""
_MOVES = 100
"""How often the members of a group are listed until all of them have entered one more hierarchy."""


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
    """The cgroup of one run: one directory in each hierarchy of its container.

    `later` are the hierarchies that an update may bring it into. `shared` says that it is the group itself, of which
    only what we made is removed.
    """

    places: tuple[Hierarchy, ...]
    path: str
    later: tuple[Hierarchy, ...] = ()
    shared: bool = False

    def open(self) -> Entry:
        """Open the way into this leaf; the caller closes it after cloning."""
        unified: int | None = None
        tasks: list[int] = []
        try:
            for place in self.places:
                directory = place.directory(self.path)
                if place.version == 2:
                    unified = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                else:
                    tasks.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            Entry(unified, tuple(tasks)).close()
            raise
        return Entry(unified, tuple(tasks))

    def kill(self) -> None:
        """SIGKILL all that is left in this leaf, which must then be removed: nothing can be cloned into it again.

        A frozen one is thawed, with its group: else the dead would not end on v1, the next run be born frozen on v2.
        """
        tree.kill(self.places, self.path, final=not self.shared)
        if not self.shared:
            freezer.release(self.places, self.path.rpartition("/")[0])

    def freeze(self, timeout: float = freezer.TIMEOUT) -> None:
        """Stop this run's processes; raises CgroupError with the pids that do not stand still, and lets all go on."""
        freezer.freeze(self.places, self.path, timeout)

    def thaw(self, timeout: float = freezer.TIMEOUT) -> None:
        """Let this run's processes go on."""
        freezer.thaw(self.places, self.path, timeout)

    def frozen(self) -> bool:
        """Return whether this run's processes stand still."""
        return freezer.frozen(self.places, self.path)

    def oom_kills(self) -> int:
        """Return how many processes of this run the OOM killer took; 0 also where no memory controller counts."""
        for place in self.places:
            if "memory" in place.controllers:
                directory = place.directory(self.path)
                if place.version == 2:
                    return v2.oom_kills(read(f"{directory}/memory.events"))
                return v1.oom_kills(read(f"{directory}/memory.oom_control"))
        return 0

    def oom_watch(self) -> oom.OomWatch:
        """Watch for OOM kills in this run by a descriptor; raises CgroupError where no memory controller counts."""
        return oom.watch(self.places, self.path)

    def populated(self) -> bool:
        """Return whether a process of this run is left; a zombie no longer counts."""
        return any(tree.populated(place, self.path) for place in tree.tellers(self.places))

    def members(self) -> list[int]:
        """Return the pids of this run."""
        return tree.members(self.places, self.path)

    def remove(self) -> bool:
        """Remove this leaf and what its processes made below; False while one of them is still there."""
        return tree.remove((*self.places, *self.later), self.path, made_only=self.shared)


class Group(NamedTuple):
    """A container's cgroup at `path`; `places` are the hierarchies that its limits need.

    `anywhere` says that it is OCI's: its path may lie outside `creche/`, and it holds its processes itself.
    """

    layout: Layout
    path: str
    places: tuple[Hierarchy, ...]
    anywhere: bool = False

    @classmethod
    def at(cls, layout: Layout, path: str, resources: Mapping[str, Any], *, anywhere: bool = False) -> "Group":
        """Name the group at `path` for limits in OCI's form (`linux.resources`) without touching the kernel.

        `path` starts with `creche/`, or is OCI's `cgroupsPath` with `anywhere`: from a `/`, below the mount point of
        each hierarchy, else below where our groups begin. OCI's are in every hierarchy, because tools expect that, and
        an update finds them there; ours are in those that count for them, because each costs time at every start.
        Raises MissingController where a limit cannot be kept, ValueError for limits and paths that make no sense,
        CgroupError (ENOTSUP) for what the version of cgroups here has not.
        """
        if anywhere and path.startswith("/"):
            path = path[1:]
            layout = Layout(layout.v1, None if layout.v2 is None else layout.v2._replace(base=""))
        tree.check(path, anywhere=anywhere)
        limits = Resources.parse(resources)
        chosen = {place.mount: place for place in _needed(layout, limits, _ALWAYS)}
        if anywhere:
            chosen |= {place.mount: place for place in layout.v1 if not place.read_only}
        if layout.v2 is not None:
            if layout.v2.read_only:
                raise read_only(layout.v2, f"the cgroup {path}")
            chosen[layout.v2.mount] = layout.v2
        elif (found := layout.of("freezer")) is not None:
            chosen[found.mount] = found  # without cgroup.kill, only frozen processes can be killed without a race
        return cls(layout, path, tuple(chosen.values()), anywhere)

    def create(self, resources: Mapping[str, Any]) -> list[str]:
        """Make the directories and set the limits; return warnings about what this kernel cannot do.

        An existing group is kept and its limits are set again; one of OCI's must not hold processes yet.
        Raises CgroupError naming the file and the value.
        """
        limits = Resources.parse(resources)
        warnings = list(limits.warnings)
        places = self.used()
        fresh = {place.mount: tree.make(place, self.path, marking=self._foreign) for place in places}
        if self.anywhere and not all(fresh.values()) and (found := tree.members(places, self.path)):
            advice = "choose another cgroupsPath, or end what runs there"
            raise CgroupError(errno.EBUSY, f"the cgroup holds processes already: {found}", self.path, advice)
        self._enable(controller for place in places for controller in place.controllers & {*_ALWAYS, *limits.asked})
        for place in places:
            lifted = limits
            if not fresh[place.mount] and limits.memory is not None and limits.memory_and_swap is None:
                lifted = limits._replace(memory_and_swap=-1)  # an older limit of both may be below the new one
            self._set(place, lifted, warnings, fresh=fresh[place.mount])
            if "devices" in place.controllers:
                self._set_devices(place, limits, fresh=fresh[place.mount])
        if not any("devices" in place.controllers for place in places):
            warnings += self._device_program(limits, again=False)
        return warnings

    def update(self, resources: Mapping[str, Any]) -> list[str]:
        """Change the limits that `resources` names, while the container runs; return warnings.

        Memory and swap, quota and period change in an order that the kernel takes; device rules change at once on v2,
        on v1 allowing first. A v1 hierarchy that the container was not in takes its processes then. Raises ValueError,
        MissingController or CgroupError; what was set before the error stays set.
        """
        limits = Resources.parse(resources, update=True)
        warnings = list(limits.warnings)
        needed = _needed(self.layout, limits, ("devices",) if limits.devices_named else ())
        if limits.check_before_update:
            self._check_memory(limits)
        known = {place.mount for place in self.used()}
        joining = [place for place in needed if place.mount not in known]
        for place in joining:
            tree.make(place, self.path, marking=self._foreign)
        self._enable(controller for place in needed for controller in place.controllers & {*limits.asked})
        for place in needed:
            self._set(place, limits, warnings)
            if limits.devices_named and "devices" in place.controllers:
                self._set_devices(place, limits, fresh=False)
        if limits.devices_named and self.layout.of("devices") is None:
            warnings += self._device_program(limits, again=True)
        for place in joining:
            self._join(place)
            self._set(place, limits, warnings)  # once more, for what v1 wants to be told of each leaf
        return warnings

    def leaf(self, run: int) -> Leaf:
        """Make the fresh cgroup of run number `run`; an empty one left by a dead creche is replaced."""
        leaf = self.known_leaf(run)
        try:
            for place in leaf.places:
                directory = place.directory(leaf.path)
                try:
                    os.mkdir(directory, 0o755)
                except FileExistsError:
                    os.rmdir(directory)
                    os.mkdir(directory, 0o755)
                if place.version == 1 and "blkio" in place.controllers:
                    _copy(place.directory(self.path), directory, v1.THROTTLES)
        except OSError as error:
            tree.remove(leaf.places, leaf.path)
            advice = "the group is gone: create it again" if error.errno == errno.ENOENT else None
            raise failed(error, "cannot make the run's cgroup", advice) from error
        return leaf

    def known_leaf(self, run: int) -> Leaf:
        """Return the leaf of a run that lives already."""
        return Leaf(self.used(), f"{self.path}/run-{run}", self._later())

    def itself(self) -> Leaf:
        """Return the group's own directory as the place of processes; raises ValueError for a group with leaves.

        A v2 cgroup either holds processes or passes controllers on: only groups made with `anywhere` do the first.
        """
        if not self.anywhere:
            raise ValueError(
                f"{self.path} has a leaf for each run; make it with anywhere=True to hold processes itself"
            )
        return Leaf(self.used(), self.path, self._later(), shared=True)

    def members(self) -> list[int]:
        """Return the pids of all runs."""
        return tree.members(self.places, self.path)

    def stats(self) -> stats.Stats:
        """Read what all runs together have used; what nobody counts here is absent, and nothing is an error."""
        readers: dict[str, stats.Read] = {}
        unified: stats.Read | None = None
        for place in self.used():
            if place.version == 2:
                unified = _reader(place.directory(self.path))
            else:
                readers |= dict.fromkeys(place.controllers, _reader(place.directory(self.path)))
        sizes = _huge_page_sizes() if "hugetlb" in self.layout.controllers else ()
        found = stats.collect(readers, unified, sizes)
        memory = self.layout.of("memory")
        if memory is not None and memory.version == 1:
            # v1 counts a kill where it happened, in the leaf; v2 in every cgroup above it.
            counts = [oom.count(1, each) or 0 for each in walk(memory.directory(self.path))]
            found = found._replace(memory=found.memory._replace(oom_kills=sum(counts)))
        return found

    def freeze(self, timeout: float = freezer.TIMEOUT) -> None:
        """Stop all processes; raises CgroupError (ETIMEDOUT) with the pids that do not, and lets all go on then."""
        freezer.freeze(self.places, self.path, timeout)

    def thaw(self, timeout: float = freezer.TIMEOUT) -> None:
        """Let all processes go on; raises CgroupError where a cgroup above is frozen."""
        freezer.thaw(self.places, self.path, timeout)

    def frozen(self) -> bool:
        """Return whether all processes stand still."""
        return freezer.frozen(self.places, self.path)

    def oom_watch(self) -> oom.OomWatch:
        """Watch for OOM kills by a descriptor; on v1 only those of processes in the group's own directory count."""
        return oom.watch(self.places, self.path)

    def remove(self) -> bool:
        """Remove the container's directory and dead leaves in it; False while a process is still there.

        Of OCI's directories only those that we made are removed, parents among them when they are empty.
        """
        return tree.remove((*self.used(), *self._later()), self.path, made_only=self._foreign)

    def used(self) -> tuple[Hierarchy, ...]:
        """Return the hierarchies that the group is in: `places`, and those that an update or a budget above needs."""
        if self.anywhere:
            return self.places
        parent = self.path.rpartition("/")[0]
        budget = parent.count("/") > 1
        return (
            *self.places,
            *(
                place
                for place in self._later(self.places)
                if os.path.isdir(place.directory(self.path)) or (budget and os.path.isdir(place.directory(parent)))
            ),
        )

    @property
    def _foreign(self) -> bool:
        return self.anywhere

    def _later(self, known: tuple[Hierarchy, ...] | None = None) -> tuple[Hierarchy, ...]:
        mounts = {place.mount for place in (self.used() if known is None else known)}
        return tuple(place for place in self.layout.v1 if place.mount not in mounts and not place.read_only)

    def _enable(self, controllers: Iterable[str]) -> None:
        unified = self.layout.v2
        if unified is not None and (wanted := sorted({*controllers} & unified.controllers)):
            tree.enable(unified, self.path, wanted, leaves=not self.anywhere)

    def _set(self, place: Hierarchy, limits: Resources, warnings: list[str], *, fresh: bool = False) -> None:
        """Write the limits of one hierarchy's controllers."""
        directory = place.directory(self.path)
        now = v1.nothing if fresh else _reader(directory)

        def has(file: str) -> bool:
            return os.path.exists(f"{directory}/{file}")

        for line in v2.writes(limits, now, has) if place.version == 2 else v1.writes(limits, now, has):
            if line.controller not in place.controllers and line.controller != "cgroup":
                continue
            if line.optional is not None and not has(line.file):
                if line.optional and line.optional not in warnings:
                    warnings.append(line.optional)
                continue
            write(f"{directory}/{line.file}", line.value, line.advice)
            if not fresh and place.version == 1 and line.file.startswith(v1.FLAT):
                for each in walk(directory):
                    write(f"{each}/{line.file}", line.value, line.advice)

    def _set_devices(self, place: Hierarchy, limits: Resources, *, fresh: bool) -> None:
        """Write v1's device rules; denying reaches the cgroups below by itself, allowing has to be said to each."""
        directory = place.directory(self.path)
        now = read(f"{directory}/devices.list")
        try:
            writes = v1.device_writes(limits.devices, now)
        except Uncoverable as error:
            raise CgroupError(errno.ENOTSUP, str(error), directory) from error
        below = [] if fresh else [each for each in reversed([*walk(directory)]) if each != directory]
        for line in writes:
            write(f"{directory}/{line.file}", line.value, line.advice)
            if line.file == "devices.allow":
                for each in below:
                    write(f"{each}/{line.file}", line.value, line.advice)

    def _device_program(self, limits: Resources, *, again: bool) -> list[str]:
        if self.layout.v2 is None:
            return [] if not limits.devices_named else [devices.NOT_LIMITED]
        refused = devices.limit(self.layout.v2.directory(self.path), limits.devices, again=again)
        return [refused] if refused else []

    def _check_memory(self, limits: Resources) -> None:
        """Refuse a limit below what is used (`checkBeforeUpdate`): v2 would kill for it, v1 refuses by itself."""
        place = self.layout.of("memory")
        if limits.memory is None or limits.memory < 0 or place is None or place.version == 1:
            return
        used = stats.number(read(f"{place.directory(self.path)}/memory.current")) or 0
        if used > limits.memory:
            raise CgroupError(
                errno.EBUSY,
                f"memory.limit {limits.memory} is below the {used} bytes that are used",
                f"{place.directory(self.path)}/memory.max",
                "leave checkBeforeUpdate out to have memory reclaimed, and processes killed where that is not enough",
            )

    def _join(self, place: Hierarchy) -> None:
        """Bring all members into one more v1 hierarchy: its directories become those of the one that knows them."""
        teller = tree.tellers(self.places)[0]
        top = teller.directory(self.path)
        for _ in range(_MOVES):
            moved = False
            for directory in reversed([*walk(top)]):
                path = f"{self.path}{directory[len(top) :]}"
                here = place.directory(path)
                found = pids(directory)
                if not os.path.isdir(here):
                    tree.make(place, path, marking=self._foreign)
                known = set(pids(here))
                for pid in found:
                    if pid not in known:
                        moved = True
                        _move(here, pid)
            if not moved:
                return
        raise CgroupError(
            errno.EBUSY,
            "processes are born faster than they can be moved",
            place.directory(self.path),
            "pause the container, update it, and let it go on",
        )


def step_aside(layout: Layout) -> None:
    """Move the calling process out of the delegated cgroup that it alone would keep from passing controllers on.

    To be called once, before others are started: they follow. Where nothing is delegated, or the process lives deeper
    already, nothing happens; other processes are never moved. Raises CgroupError.
    """
    place = layout.v2
    if place is None or not place.base or delegation.shown(place.root, place.own) != place.base:
        return
    directory = place.directory(delegation.SUBGROUP)
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        raise failed(error, "cannot make a cgroup for creche itself") from error
    write(f"{directory}/cgroup.procs", "0", "is the subtree delegated to this user? See Delegate= in systemd.exec")


def _needed(layout: Layout, limits: Resources, always: tuple[str, ...]) -> tuple[Hierarchy, ...]:
    """Return the hierarchies of the limits and of `always`; raises where a limit cannot be kept here."""
    asked = limits.asked
    chosen: dict[str, Hierarchy] = {}
    for controller in dict.fromkeys((*always, *asked)):
        here = controller
        if controller == "io" and "io" not in layout.controllers and "blkio" in layout.controllers:
            here = "blkio"
        place = layout.of(here, asked.get(controller))
        if place is not None:
            chosen[place.mount] = place
    for file, _ in limits.unified:
        controller = file.partition(".")[0]
        if layout.v2 is None or (controller not in layout.v2.controllers and controller != "cgroup"):
            raise MissingController(f"{controller} (v2)", f"unified.{file}", layout)
        if layout.v2.read_only:
            raise read_only(layout.v2, f"unified.{file}")
        chosen[layout.v2.mount] = layout.v2
    refused = v1.unsupported(limits)
    if refused is None and layout.v2 is not None:
        refused = v2.unsupported(limits, layout.v2.controllers)
    if refused is not None:
        limit, reason = refused
        raise CgroupError(errno.ENOTSUP, f"{limit} is not supported: {reason}", None, f"leave {limit} out")
    return tuple(chosen.values())


def _reader(directory: str) -> stats.Read:
    return lambda file: read_if_there(f"{directory}/{file}")


def _copy(above: str, below: str, files: tuple[str, ...]) -> None:
    for file in files:
        for line in (read_if_there(f"{above}/{file}") or "").splitlines():
            write(f"{below}/{file}", line)


def _move(directory: str, pid: int) -> None:
    try:
        write(f"{directory}/cgroup.procs", str(pid))
    except CgroupError as error:
        if error.errno != errno.ESRCH:  # it ended meanwhile
            raise


def _huge_page_sizes() -> tuple[str, ...]:
    """Return the page sizes of this machine as cgroup files spell them: 2MB, 1GB."""
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except FileNotFoundError:  # a kernel without them
        return ()
    sizes = [int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names]
    return tuple(
        f"{size >> 20}GB" if size >= 1 << 20 else f"{size >> 10}MB" if size >= 1 << 10 else f"{size}KB"
        for size in sorted(sizes)
    )
