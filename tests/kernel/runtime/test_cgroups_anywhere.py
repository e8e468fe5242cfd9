"""Groups of OCI bundles: anywhere, holding their processes themselves, removing nothing of others. Needs root."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroups.group import Group, remove_tree, step_aside
from runtime.cgroups.hierarchy import CgroupError, Layout, based, delegated, find, standing
from tests.kernel.runtime.confined import APP, MIB, born, ended, eventually, family, hog, sleeper

TOP = f"elsewhere-{os.getpid()}"


@pytest.fixture
def top(layout: Layout) -> Iterator[str]:
    """A name at the root of every hierarchy; fails a test that leaves it."""
    yield TOP
    left = [place.mount for place in find().places if Path(place.mount, TOP).exists()]
    for mount in left:
        for directory, _, _ in os.walk(f"{mount}/{TOP}", topdown=False):
            Path(directory).rmdir()
    assert not left, "the test left cgroups behind"


def test_its_process_is_in_the_group_itself(layout: Layout, top: str) -> None:
    group = Group.at(layout, f"/{top}/web", {"pids": {"limit": 9}}, anywhere=True)
    group.create({"pids": {"limit": 9}})
    leaf = group.itself()
    pid = born(leaf, sleeper)
    assert eventually(lambda: Path(f"/proc/{pid}/cgroup").read_text().count(f"/{top}/web\n") == len(group.places))
    leaf.kill()
    ended(pid)
    assert eventually(group.remove)


def test_it_is_in_every_v1_hierarchy(layout: Layout, top: str) -> None:
    group = Group.at(layout, f"/{top}/web", {}, anywhere=True)
    assert {place.mount for place in group.places} == {place.mount for place in layout.places}


def test_limits_hold_and_kills_are_counted(layout: Layout, top: str) -> None:
    oci = {"memory": {"limit": 48 * MIB, "swap": 48 * MIB}, "cpu": {"cpus": "0"}}
    group = Group.at(layout, f"/{top}/deep/er/web", oci, anywhere=True)
    assert group.create(oci) == []
    leaf = group.itself()
    code = ended(born(leaf, hog))
    kills = leaf.oom_kills()
    assert eventually(leaf.remove)
    assert (code, kills) == (-signal.SIGKILL, 1)


def test_what_others_made_stays(layout: Layout, top: str) -> None:
    """Both a parent, and a directory at the very path."""
    place = layout.controllers["pids"]
    theirs = Path(place.mount, top)
    theirs.mkdir()
    (theirs / "web").mkdir()
    try:
        group = Group.at(layout, f"/{top}/web", {}, anywhere=True)
        group.create({})
        pid = born(group.itself(), family)
        assert eventually(lambda: len(group.members()) == 4)
        group.itself().kill()
        ended(pid)
        assert eventually(group.remove)
        stayed = (theirs / "web").exists()
        again = born(group._replace(places=(place,)).itself(), lambda: 4)
        code = ended(again)
    finally:
        (theirs / "web").rmdir()
        theirs.rmdir()
    assert (stayed, code) == (True, 4)


def test_a_cgroup_that_somebody_lives_in_is_refused(layout: Layout, top: str) -> None:
    first = Group.at(layout, f"/{top}/web", {}, anywhere=True)
    first.create({})
    pid = born(first.itself(), sleeper)
    assert eventually(first.itself().populated)
    with pytest.raises(CgroupError, match=rf"holds processes already: \[{pid}\]"):
        first.create({})
    first.itself().kill()
    ended(pid)
    assert eventually(first.remove)


@pytest.mark.parametrize("path", ["/", "", "/..", "/a/../b", "/a//b", "/a/", ".", "/a/\nb"])
def test_the_root_and_crooked_paths_are_refused(layout: Layout, path: str) -> None:
    with pytest.raises(ValueError, match="no cgroup of ours"):
        Group.at(layout, path, {}, anywhere=True)


def test_a_group_with_leaves_holds_nothing_itself(layout: Layout) -> None:
    with pytest.raises(ValueError, match="anywhere=True"):
        Group.at(layout, f"{APP}/web", {}).itself()


def test_the_delegated_subtree_is_the_base(layout: Layout) -> None:
    """As in a unit with Delegate=yes: creche makes room, its groups go below, with controllers where v2 has them."""
    place = layout.v2
    if place is None:
        assert step_aside(layout) is None  # v1 has no rule about inner processes: nothing to do
        return
    unit = Group.at(layout, f"{APP}/unit", {}, anywhere=True)
    unit.create({})
    here = place.directory(unit.path)
    os.setxattr(here, "user.delegate", b"1")

    def inside() -> int:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].partition("::")[2]
        mine = layout._replace(v2=based(place._replace(own=own), delegated))
        assert mine.v2 is not None
        assert mine.v2.directory() == here
        step_aside(mine)
        limits = {"pids": {"limit": 5}}
        group = Group.at(mine, "creche/app/web", limits)
        group.create(limits)
        leaf = group.leaf(1)
        assert leaf.path == "creche/app/web/run-1"
        assert Path(here, leaf.path).is_dir()
        if "pids" in mine.v2.controllers:
            assert Path(here, "creche/app/web/pids.max").read_text() == "5\n"
        code = ended(born(leaf, lambda: 6))
        remove_tree(mine, "creche/app")
        return code

    code = ended(born(unit.itself(), inside))
    left = sorted(entry.name for entry in os.scandir(here) if entry.is_dir())
    remove_tree(layout, APP)
    assert (code, left) == (6, ["creche-self"])


def test_where_groups_go_is_said(layout: Layout) -> None:
    """This machine's own standing, by the kernel's files; without the unified tree nothing is delegated."""
    if layout.v2 is None:
        assert all(not place.base for place in layout.places)
    else:
        assert "containers go" in standing(layout.v2).words
