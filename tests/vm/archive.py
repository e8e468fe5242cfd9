"""A cpio archive as the kernel and busybox unpack it (the "newc" format, cpio(5)): pure, from entries to bytes."""

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

_TRAILER = "TRAILER!!!"
_LONGEST = 0xFFFFFFFF


class Entry(NamedTuple):
    """One file, directory or symbolic link (its target is the content) at an absolute path; root owns everything."""

    path: str
    mode: int
    content: bytes = b""
    mtime: int = 0  # seconds; kept, because Python's caches of compiled code compare it


def directory(path: str, permissions: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | permissions)


def file(path: str, content: bytes, permissions: int = 0o644, mtime: int = 0) -> Entry:
    return Entry(path, stat.S_IFREG | permissions, content, mtime)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def pack(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield an archive of `entries` with every directory that leads to them, each before what is in it.

    Of two entries with one path the last counts. Raises ValueError for a path that is not absolute and plain.
    """
    chosen = {entry.path: entry for entry in entries}
    for path in list(chosen):
        parts = path.split("/")
        if not path.startswith("/") or any(part in ("", ".", "..") for part in parts[1:]):
            raise ValueError(f"{path!r} is no absolute path without empty parts or dots")
        for depth in range(2, len(parts)):
            above = "/".join(parts[:depth])
            if not stat.S_ISDIR(chosen.setdefault(above, directory(above)).mode):
                raise ValueError(f"{path} lies below {above}, which is no directory")
    for number, path in enumerate(sorted(chosen), 1):
        yield from _member(chosen[path], path[1:], number)
    yield from _member(Entry("", 0), _TRAILER, 0)


def _member(entry: Entry, name: str, inode: int) -> Iterator[bytes]:
    if len(entry.content) > _LONGEST:
        raise ValueError(f"{entry.path} is too long for a cpio archive")
    raw = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, entry.mtime, len(entry.content), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    yield head + bytes(-len(head) % 4)
    if entry.content:
        yield entry.content + bytes(-len(entry.content) % 4)


def in_order(depends: Mapping[str, Sequence[str]], wanted: Iterable[str]) -> list[str]:
    """Return `wanted` and all that they depend on, each after what it needs; raise KeyError for a missing one."""
    ordered: dict[str, None] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"modules depend on each other in a circle: {' → '.join((*above, name))}")
        if name not in ordered:
            for needed in depends[name]:
                add(needed, (*above, name))
            ordered[name] = None

    for name in wanted:
        add(name, ())
    return list(ordered)
