"""The machine's cgroup hierarchies: which there are, where they are mounted, which controller lives in which."""

import errno
import os
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from runtime import text_file
from runtime.cgroups import delegation

OURS = "creche"
"""The one directory at each hierarchy's root (or `base`, where that is delegated) that creche works below."""


class CgroupError(OSError):
    """A cgroup operation failed: `errno`, `filename` and, apart from the sentence, `advice` on what to do."""

    def __init__(self, number: int, message: str, path: str | None = None, advice: str | None = None) -> None:
        super().__init__(number, message, path)
        self.advice = advice

    def __str__(self) -> str:
        said = f"{self.strerror}: {self.filename}" if self.filename else str(self.strerror)
        return f"{said} ({self.advice})" if self.advice else said


class MissingController(CgroupError):
    """A limit was asked for whose controller this machine does not offer."""

    def __init__(self, controller: str, limit: str, layout: "Layout") -> None:
        found = ", ".join(sorted(layout.controllers)) or "none"
        super().__init__(
            errno.ENOTSUP,
            f"{limit} needs the cgroup controller {controller!r}, which is not available (found: {found})",
            advice=f"enable {controller} on the kernel command line (cgroup_enable={controller}), have it "
            f"delegated to this cgroup, or leave {limit} out",
        )
        self.controller = controller
        self.limit = limit


class Hierarchy(NamedTuple):
    """One mounted hierarchy: `own` is the calling process's cgroup in it, `root` what of it `mount` shows.

    `base` is the path below `mount` where our groups begin: empty, or the subtree that was delegated to us.
    """

    version: Literal[1, 2]
    mount: str
    root: str
    own: str
    controllers: frozenset[str]
    read_only: bool = False
    base: str = ""

    def directory(self, path: str = "") -> str:
        """Return the directory of the group `path`; without one, where our groups begin."""
        return f"{self.mount}{self.base}/{path}" if path else f"{self.mount}{self.base}"


class Layout(NamedTuple):
    """All usable hierarchies; each controller lives in exactly one."""

    v1: tuple[Hierarchy, ...]
    v2: Hierarchy | None

    @property
    def mode(self) -> Literal["v1", "v2", "hybrid"]:
        """The layout's name, as systemd's documents use it (v1 is their "legacy")."""
        if self.v2 is None:
            return "v1"
        return "hybrid" if self.v1 else "v2"

    @property
    def places(self) -> tuple[Hierarchy, ...]:
        """All hierarchies, the unified one first: it kills without a race, and then the others are empty already."""
        return self.v1 if self.v2 is None else (self.v2, *self.v1)

    @property
    def controllers(self) -> dict[str, Hierarchy]:
        """Each controller's hierarchy."""
        return {controller: place for place in reversed(self.places) for controller in place.controllers}

    def of(self, controller: str, limit: str | None = None) -> Hierarchy | None:
        """Return the hierarchy of `controller`, or None; with `limit` (its name for people) raise instead.

        Raises MissingController, or CgroupError where the hierarchy is mounted read-only.
        """
        found = self.controllers.get(controller)
        if found is None and limit is not None:
            raise MissingController(controller, limit, self)
        if found is not None and found.read_only:
            if limit is None:
                return None
            raise read_only(found, limit)
        return found


class _Mount(NamedTuple):
    number: int
    parent: int
    root: str
    point: str
    options: frozenset[str]
    kind: str
    super_options: frozenset[str]


def read_only(place: Hierarchy, what: str) -> CgroupError:
    """Say that `what` cannot be had because `place` is mounted read-only."""
    return CgroupError(
        errno.EROFS,
        f"{what} cannot be set: the cgroup hierarchy is mounted read-only",
        place.mount,
        "inside a container, run that container with a writable cgroup mount",
    )


def parse(mountinfo: str, cgroup: str, controllers: Callable[[str], str]) -> Layout:
    """Read the layout from /proc/self/mountinfo, /proc/self/cgroup (proc_pid_mountinfo(5), cgroups(7)).

    `controllers` returns the text of a path such as `<v2 mount>/cgroup.controllers`. Where a hierarchy is mounted more
    than once, a writable mount that shows most of it wins. Raises CgroupError where no hierarchy can be used.
    """
    memberships = dict(_memberships(cgroup))
    mounts = [_mount(line) for line in mountinfo.splitlines() if line]
    by_number = {mount.number: mount for mount in mounts}
    v1: dict[frozenset[str], Hierarchy] = {}
    v2: Hierarchy | None = None
    for mount in sorted(mounts, key=lambda mount: ("ro" in mount.options, len(mount.root))):
        if mount.kind not in ("cgroup", "cgroup2") or _hidden(mount, mounts, by_number):
            continue
        read_only = "ro" in mount.options or "ro" in mount.super_options
        if mount.kind == "cgroup2":
            if v2 is None:
                names = frozenset(controllers(f"{mount.point}/cgroup.controllers").split())
                own = memberships.get(frozenset(), "/")
                v2 = Hierarchy(2, mount.point, mount.root, own, names, read_only)
            continue
        for names, own in memberships.items():
            # A named hierarchy (name=systemd) limits nothing: it is somebody's book-keeping.
            if names and names <= mount.super_options and names not in v1 and not _named(names):
                v1[names] = Hierarchy(1, mount.point, mount.root, own, names, read_only)
    if v2 is None and not v1:
        raise CgroupError(
            errno.ENOTSUP,
            "no cgroup hierarchy with controllers is mounted",
            "/sys/fs/cgroup",
            "mount one: mount -t cgroup2 none /sys/fs/cgroup",
        )
    return Layout(tuple(sorted(v1.values(), key=lambda place: place.mount)), v2)


def find() -> Layout:
    """Read this process's layout from the kernel; raises CgroupError where no hierarchy can be used.

    Where the calling process lives in a subtree that systemd delegated, our groups begin there (`Hierarchy.base`).
    """
    layout = parse(
        text_file.read("/proc/self/mountinfo"),
        text_file.read("/proc/self/cgroup"),
        text_file.read,
    )
    return layout if layout.v2 is None else layout._replace(v2=based(layout.v2, delegated))


def based(place: Hierarchy, mark: Callable[[str], str | None]) -> Hierarchy:
    """Return the v2 hierarchy with the delegated subtree that the calling process lives in as its base, if any."""
    base = delegation.subtree(place.mount, place.root, place.own, mark)
    if not base:
        return place
    names = text_file.read(f"{place.mount}{base}/cgroup.controllers").split()
    return place._replace(base=base, controllers=frozenset(names))


def standing(place: Hierarchy) -> delegation.Verdict:
    """Say for `creche doctor` where groups go in the v2 hierarchy, and whether they can have controllers there."""

    def processes(directory: str) -> int:
        return len(text_file.read(f"{directory}/cgroup.procs").split())

    # The kernel's real root has no such file (cgroup-v2.rst, "Core Interface Files").
    whole = not os.path.exists(f"{place.mount}/cgroup.events")
    return delegation.judge(place.mount, place.root, place.own, delegated, processes, whole=whole)


def delegated(directory: str) -> str | None:
    """Return what systemd wrote on a cgroup's directory when it delegated it: "1", or None."""
    for name in delegation.ATTRIBUTES:
        try:
            return os.getxattr(directory, name).decode()
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.ENOENT, errno.EPERM, errno.EACCES):
                raise
    return None


def _memberships(cgroup: str) -> Iterable[tuple[frozenset[str], str]]:
    for line in cgroup.splitlines():
        number, names, own = line.split(":", 2)
        yield frozenset() if number == "0" else frozenset(names.split(",")), own


def _named(names: frozenset[str]) -> bool:
    return any(name.startswith("name=") for name in names)


def _mount(line: str) -> _Mount:
    left, _, right = line.partition(" - ")
    number, parent, _, root, point, options = left.split(" ")[:6]
    kind, _, super_options = right.split(" ", 2)
    return _Mount(
        int(number),
        int(parent),
        _unescape(root),
        _unescape(point),
        frozenset(options.split(",")),
        kind,
        frozenset(super_options.split(",")),
    )


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _hidden(mount: _Mount, mounts: list[_Mount], by_number: dict[int, _Mount]) -> bool:
    """Whether another mount covers this one, so that its path leads elsewhere."""
    seen: set[int] = set()
    below: _Mount | None = mount
    while below is not None and below.number not in seen:
        seen.add(below.number)
        for other in mounts:
            if other.number in seen:
                continue
            on_top = other.parent == below.number and other.point == below.point
            above = other.parent == below.parent and below.point.startswith(other.point.rstrip("/") + "/")
            if on_top or above:
                return True
        below = by_number.get(below.parent)
    return False
