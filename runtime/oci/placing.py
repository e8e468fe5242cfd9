"""Where a container's processes are counted and limited: its cgroup from `cgroupsPath`, and its end."""

import time
from collections.abc import Mapping
from typing import Any

from runtime.cgroups.group import Group, Leaf
from runtime.cgroups.hierarchy import Hierarchy, Layout, find
from runtime.oci.log import OciError
from runtime.oci.state import Record

DEFAULT = "creche-oci"
"""Without a cgroupsPath the group is this one's child, named for the container."""
_PATIENCE = 10.0  # seconds that killed processes may take to leave


def path_of(config: Mapping[str, Any], identifier: str) -> tuple[str, bool]:
    """Return the group's path without a leading slash, and whether it is below the caller's own cgroup.

    config-linux.md, "Cgroups Path": an absolute path is relative to the hierarchies' mounts, a relative one is the
    runtime's to interpret, and stands below the runtime's own cgroup, as runc has it. Raises OciError.
    """
    linux: Mapping[str, Any] = config.get("linux") or {}
    asked: Any = linux.get("cgroupsPath") or f"/{DEFAULT}/{identifier}"
    if not isinstance(asked, str):
        raise OciError(f"linux.cgroupsPath: {asked!r} is not a path")
    if ":" in asked:
        raise OciError(f"linux.cgroupsPath: {asked!r} is systemd's form (slice:prefix:name), which is not supported")
    parts = [part for part in asked.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise OciError(f"linux.cgroupsPath: {asked!r} must name a group below the root")
    return "/".join(parts), not asked.startswith("/")


def group_at(path: str, own: bool, resources: Mapping[str, Any]) -> Group:
    """Return the group at `path`, untouched; raise CgroupError or ValueError as Group.at does."""
    return Group.at(_based(find(), own), path, resources, anywhere=True)


def _based(layout: Layout, own: bool) -> Layout:
    """Return the layout with groups beginning at each mount, or at the calling process's own group in it."""
    return Layout(
        tuple(_begin(place, own) for place in layout.v1), None if layout.v2 is None else _begin(layout.v2, own)
    )


def _begin(place: Hierarchy, own: bool) -> Hierarchy:
    base = place.own if own else "/"
    if own and place.root != "/":  # the mount shows only what is below its root
        base = base.removeprefix(place.root)
    return place._replace(base=base.rstrip("/"))


def leaf_of(record: Record) -> Leaf:
    """Return the cgroup of a container that exists: the very directories that were made for it."""
    layout = find()
    bases = tuple(place.removesuffix(f"/{record.cgroup}") for place in record.places)
    found: list[Hierarchy] = []
    for hierarchy in layout.places:
        for base in bases:
            if base == hierarchy.mount or base.startswith(f"{hierarchy.mount}/"):
                found.append(hierarchy._replace(base=base.removeprefix(hierarchy.mount)))
    return Leaf(tuple(found), record.cgroup, shared=True)


def group_of(record: Record) -> Group:
    """Return the group of a container that exists."""
    leaf = leaf_of(record)
    v1 = tuple(place for place in leaf.places if place.version == 1)
    v2 = next((place for place in leaf.places if place.version == 2), None)
    return Group(Layout(v1, v2), record.cgroup, leaf.places, anywhere=True)


def dissolve(leaf: Leaf) -> None:
    """Kill all that is in the cgroup and remove it; raise OciError where something does not die."""
    deadline = time.monotonic() + _PATIENCE
    pause = 0.0005
    while not leaf.remove():
        leaf.kill()
        if leaf.remove():
            break
        if time.monotonic() > deadline:
            raise OciError(f"processes {leaf.members()} of the cgroup {leaf.path} did not die within {_PATIENCE:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
