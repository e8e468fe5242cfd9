"""The namespaces of one container: what a config asks for, and what one pid 1 is born into."""

import errno
import fcntl
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from runtime import syscalls

KINDS: dict[str, int] = {
    "user": syscalls.CLONE_NEWUSER,
    "network": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "mount": syscalls.CLONE_NEWNS,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}
"""OCI's names (config-linux.md, "Namespaces") and the kernel's flags."""

_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_IDS = (1 << 32) - 1  # the last number is nobody's (user_namespaces(7))
_EXTENTS = 340  # lines of an id map, user_namespaces(7)
_SECONDS = (1 << 63) // 1_000_000_000  # what the kernel counts in 64 bits of nanoseconds
_CLOCKS = ("monotonic", "boottime")  # time_namespaces(7)

Mapping3 = tuple[int, int, int]


class Wanted(NamedTuple):
    """What `linux` of a config asks for."""

    new: frozenset[str]
    paths: tuple[tuple[str, str], ...]  # (kind, path), the user namespace first
    uid_mappings: tuple[Mapping3, ...]  # containerID, hostID, size
    gid_mappings: tuple[Mapping3, ...]
    time_offsets: tuple[tuple[str, int, int], ...]  # clock, seconds, nanoseconds


class Entered(NamedTuple):
    """What one pid 1 is born into; of a kind that is in neither it has the runtime's own."""

    joined: tuple[tuple[str, int], ...]  # (kind, descriptor); `time` is joined by pid 1 itself, all others before
    new: frozenset[str]
    time_offsets: tuple[tuple[str, int, int], ...] = ()

    def kinds(self) -> frozenset[str]:
        """Return the kinds that are not the runtime's own: what one more process has to join."""
        return self.new | {kind for kind, _ in self.joined}


def read(linux: Mapping[str, Any]) -> Wanted:
    """Return the namespaces of `linux` (config-linux.md); raise ValueError naming the field that makes no sense."""
    new: set[str] = set()
    paths: list[tuple[str, str]] = []
    for number, namespace in enumerate(_list(linux, "namespaces")):
        where = f"linux.namespaces[{number}]"
        kind, path = _member(namespace, "type"), _member(namespace, "path")
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{where}.type: {kind!r} is none of {', '.join(KINDS)}")
        if kind in new or any(kind == each for each, _ in paths):
            raise ValueError(f"{where}.type: a second {kind} namespace; a process has one of each")
        if not path:
            new.add(kind)
        elif isinstance(path, str) and path.startswith("/"):
            paths.append((kind, path))
        else:
            raise ValueError(f"{where}.path: {path!r} is not an absolute path")
    asked = new | {kind for kind, _ in paths}
    if "mount" not in asked:
        raise ValueError("linux.namespaces: without a mount namespace the container's mounts would be the host's")
    maps = [_mappings(linux, field) for field in ("uidMappings", "gidMappings")]
    for field, mapped in zip(("uidMappings", "gidMappings"), maps, strict=True):
        if mapped and "user" not in asked:
            raise ValueError(f"linux.{field}: there is no user namespace whose ids could be mapped")
        if not mapped and "user" in new:
            raise ValueError(f"linux.{field}: a new user namespace needs a mapping, at least of id 0")
    offsets = _offsets(linux.get("timeOffsets"))
    if offsets and "time" not in new:
        raise ValueError("linux.timeOffsets: only a new time namespace can be given offsets")
    paths.sort(key=lambda path: path[0] != "user")
    return Wanted(frozenset(new), tuple(paths), maps[0], maps[1], offsets)


def _list(linux: Mapping[str, Any], field: str) -> list[object]:
    found: object = linux.get(field) or []
    if not isinstance(found, list):
        raise ValueError(f"linux.{field}: {found!r} is not a list")
    return cast("list[object]", found)


def _member(table: object, key: str) -> object:
    """Return a member of a JSON object; None where it is none or has none."""
    return cast("dict[str, object]", table).get(key) if isinstance(table, dict) else None


def _whole(value: object, least: int, most: int) -> int | None:
    """Return a JSON number that is a whole one between the two, else None."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    return None


def _mappings(linux: Mapping[str, Any], field: str) -> tuple[Mapping3, ...]:
    found: list[Mapping3] = []
    for number, mapping in enumerate(_list(linux, field)):
        where = f"linux.{field}[{number}]"
        values: list[int] = []
        for key in ("containerID", "hostID", "size"):
            value = _whole(_member(mapping, key), 0, _IDS)
            if value is None:
                raise ValueError(f"{where}.{key}: {_member(mapping, key)!r} is not an id or a number of ids")
            values.append(value)
        inside, outside, size = values
        if not size or max(inside, outside) + size > _IDS:
            raise ValueError(f"{where}.size: {size} ids from {inside} on as {outside} are not within 32 bits")
        found.append((inside, outside, size))
    if len(found) > _EXTENTS:
        raise ValueError(f"linux.{field}: {len(found)} mappings; the kernel takes {_EXTENTS}")
    return tuple(found)


def _offsets(asked: object) -> tuple[tuple[str, int, int], ...]:
    if not asked:
        return ()
    if not isinstance(asked, dict):
        raise ValueError(f"linux.timeOffsets: {asked!r} is not an object")
    found: list[tuple[str, int, int]] = []
    for clock, offset in cast("dict[str, object]", asked).items():
        where = f"linux.timeOffsets.{clock}"
        if clock not in _CLOCKS:
            raise ValueError(f"{where}: only {' and '.join(_CLOCKS)} can be moved (time_namespaces(7))")
        seconds = _whole(_member(offset, "secs") or 0, -_SECONDS, _SECONDS)
        nanoseconds = _whole(_member(offset, "nanosecs") or 0, 0, 999_999_999)
        if not isinstance(offset, dict) or seconds is None or nanoseconds is None:
            raise ValueError(f"{where}: secs and nanosecs (below 1000000000) are whole numbers, not {offset!r}")
        found.append((clock, seconds, nanoseconds))
    return tuple(found)


def open_path(kind: str, path: str) -> int:
    """Return a descriptor of the namespace at `path`; raise OSError where it is none of this `kind` (ioctl_ns(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        if found != KINDS[kind]:
            there = next((name for name, flag in KINDS.items() if flag == found), hex(found))
            raise OSError(errno.EINVAL, f"this is a {there} namespace and not a {kind} namespace", path)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.ENOTTY:
            raise OSError(errno.EINVAL, "this is no namespace", path) from error
        raise
    return descriptor


def flags(kinds: frozenset[str]) -> int:
    """Return the flags of `kinds` as one number (clone(2), setns(2))."""
    total = 0
    for kind in kinds:
        total |= KINDS[kind]
    return total
