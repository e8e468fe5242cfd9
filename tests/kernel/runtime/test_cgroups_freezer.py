"""What is frozen stands still, goes on where it stopped, and can be killed and removed all the same. Needs root."""

import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups import freezer
from runtime.cgroups.group import Group, Leaf, remove_tree
from runtime.cgroups.hierarchy import CgroupError, Layout
from tests.kernel.runtime.confined import APP, born, ended, eventually, family, removed, sleeper

Make = Callable[[Mapping[str, Any]], Group]


class Counter:
    """A process that counts in memory that the test sees."""

    def __init__(self, leaf: Leaf) -> None:
        self._memory = mmap.mmap(-1, 8)

        def count() -> int:
            number = 0
            while True:
                number += 1
                self._memory[:8] = struct.pack("Q", number)

        self.pid = born(leaf, count)
        assert eventually(lambda: self.value() > 0)

    def value(self) -> int:
        return struct.unpack("Q", self._memory[:8])[0]

    def goes_on(self) -> bool:
        before = self.value()
        return eventually(lambda: self.value() > before + 100_000)

    def stands_still_beside(self, other: "Counter") -> bool:
        """Whether it does not move while another one counts far."""
        before = self.value()
        return other.goes_on() and self.value() == before

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        ended(self.pid)
        self._memory.close()


@pytest.fixture
def counters(group: Make) -> Iterator[tuple[Group, Counter, Counter]]:
    """Two containers that count; the group is the first one's."""
    first, second = group({}), group({})
    one, other = Counter(first.leaf(1)), Counter(second.leaf(1))
    yield first, one, other
    if first.frozen():
        first.thaw()
    one.end()
    other.end()


def test_a_frozen_container_stands_still(counters: tuple[Group, Counter, Counter]) -> None:
    group, counter, other = counters
    group.freeze()
    assert counter.stands_still_beside(other)


def test_without_freezing_it_would_be_seen_to_count(counters: tuple[Group, Counter, Counter]) -> None:
    _, counter, other = counters
    assert eventually(lambda: not counter.stands_still_beside(other))


def test_a_thawed_container_goes_on(counters: tuple[Group, Counter, Counter]) -> None:
    group, counter, _ = counters
    group.freeze()
    group.thaw()
    assert counter.goes_on()


def test_frozen_says_what_is(counters: tuple[Group, Counter, Counter]) -> None:
    group, _, _ = counters
    said = [group.frozen()]
    group.freeze()
    said.append(group.frozen())
    group.thaw()
    said.append(group.frozen())
    assert said == [False, True, False]


def test_a_leaf_is_frozen_with_its_group(counters: tuple[Group, Counter, Counter]) -> None:
    group, _, _ = counters
    group.freeze()
    assert group.known_leaf(1).frozen()


def test_thawing_below_what_is_frozen_is_told(counters: tuple[Group, Counter, Counter]) -> None:
    group, _, _ = counters
    group.freeze()
    with pytest.raises(CgroupError, match="a cgroup above it is frozen"):
        group.known_leaf(1).thaw(0.05)


def test_who_forks_meanwhile_is_frozen_too(group: Make) -> None:
    def breed() -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            if os.fork() == 0:
                os._exit(0)

    web = group({"pids": {"limit": 30}})
    leaf = web.leaf(1)
    pid = born(leaf, breed)
    assert eventually(leaf.populated)
    web.freeze()
    still = web.frozen()
    leaf.kill()
    ended(pid)
    assert removed(leaf)
    assert still


def test_an_empty_group_freezes_and_thaws(group: Make) -> None:
    web = group({})
    web.freeze()
    web.thaw()
    assert not web.frozen()


def test_a_frozen_run_is_killed_and_removed(group: Make) -> None:
    web = group({})
    leaf = web.leaf(1)
    pid = born(leaf, family)
    assert eventually(lambda: len(leaf.members()) == 4)
    leaf.freeze()
    leaf.kill()
    assert ended(pid) == -signal.SIGKILL
    assert removed(leaf)


def test_what_a_container_froze_itself_is_removed(group: Make, layout: Layout) -> None:
    """A nested cgroup that the container's own processes made and froze."""
    web = group({})
    leaf = web.leaf(1)
    place = freezer.place_of(leaf.places)
    assert place is not None
    inner = Path(place.directory(leaf.path), "inner")
    inner.mkdir()
    pid = born(leaf, sleeper)
    assert eventually(lambda: pid in leaf.members())
    (inner / "cgroup.procs").write_text(str(pid))
    below = leaf._replace(places=(place,), path=f"{leaf.path}/inner")
    below.freeze()
    # As for a dead creche's processes, somebody else reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        remove_tree(layout, APP)
        assert eventually(lambda: not Path(f"/proc/{pid}").exists())  # it leaves its cgroup before it is reaped
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert not inner.exists()


def test_a_killed_run_thaws_its_group(counters: tuple[Group, Counter, Counter]) -> None:
    group, _, _ = counters
    group.freeze()
    group.known_leaf(1).kill()
    assert eventually(lambda: not group.frozen())
