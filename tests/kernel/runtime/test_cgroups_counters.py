"""What the kernel counts of a container, and how a kill is heard of and laid to the right limit. Needs root."""

import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.budget import Budget
from runtime.cgroups.group import Group, remove_tree
from runtime.cgroups.hierarchy import CgroupError, Layout
from tests.kernel.runtime.confined import APP, MIB, Asked, born, burn, ended, eventually, hog, removed, sleeper

Make = Callable[[Mapping[str, Any]], Group]
SMALL = {"memory": {"limit": 48 * MIB, "swap": 48 * MIB}}
LARGE = {"memory": {"limit": 160 * MIB, "swap": 160 * MIB}}


def test_cpu_time_grows(group: Make, layout: Layout) -> None:
    web = group({"cpu": {"quota": 1_000_000, "period": 1_000_000}})
    if layout.mode == "v1":  # cpuacct is a controller of its own there
        web = web._replace(places=(*web.places, layout.controllers["cpuacct"]))
        web.create({})
    with Asked(web.leaf(1), lambda: burn(0.1) and 1) as process:
        before = web.stats().cpu.usage
        process()
        after = web.stats().cpu.usage
    assert after - before > 20_000_000


def test_memory_and_pids_are_told(group: Make) -> None:
    held: list[bytearray] = []

    def hold() -> int:
        held.append(bytearray(b"x") * (20 * MIB))
        return 1

    web = group(SMALL | {"pids": {"limit": 30}})
    with Asked(web.leaf(1), hold):
        found = web.stats()
    assert found.memory.usage > 20 * MIB
    assert found.memory.anon > 20 * MIB
    assert found.memory.limit == 48 * MIB
    assert found.pids == (1, 30)
    assert not found.absent & {"memory", "pids"}


def test_throttling_is_counted(group: Make) -> None:
    web = group({"cpu": {"quota": 10_000, "period": 100_000}})
    leaf = web.leaf(1)
    ended(born(leaf, lambda: burn(0.5) and 0))
    cpu = web.stats().cpu
    assert removed(leaf)
    assert cpu.throttled_periods > 0
    assert cpu.throttled > 0


def test_kills_are_told_of_the_whole_group(group: Make) -> None:
    web = group(SMALL)
    leaf = web.leaf(1)
    ended(born(leaf, hog))
    found = web.stats().memory
    assert removed(leaf)
    assert found.oom_kills == 1
    assert found.max_usage > 40 * MIB


def test_what_is_not_counted_is_absent(group: Make, layout: Layout) -> None:
    """Every layout counts memory and tasks; on v1 without the unified tree, CPU time needs its hierarchy."""
    absent = group({}).stats().absent
    assert ("cpu" in absent) == (layout.v2 is None)


def test_io_is_counted(group: Make, layout: Layout, tmp_path: Path) -> None:
    def write() -> int:
        with (tmp_path / "file").open("wb", 0) as file:
            file.write(b"x" * MIB)
            os.fsync(file.fileno())
        return 1

    web = group({})
    controller = "io" if "io" in layout.controllers else "blkio"
    if web.layout.controllers[controller].version == 1:
        web = web._replace(places=(*web.places, layout.controllers["blkio"]))
        web.create({})
    else:
        web.update({"blockIO": {"throttleReadBpsDevice": [_disk(tmp_path)]}})
    with Asked(web.leaf(1), write) as process:
        process()
        # Written by fsync in the process's own name, so that both versions count it here.
        assert eventually(lambda: sum(entry.writes for entry in web.stats().io.entries) > 0)


def _disk(directory: Path) -> dict[str, int]:
    number = directory.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    whole = block.parent if (block / "partition").exists() else block
    major, minor = (whole / "dev").read_text().split(":")
    return {"major": int(major), "minor": int(minor), "rate": 1 << 40}


def test_a_kill_is_heard_of(group: Make) -> None:
    leaf = group(SMALL).leaf(1)
    watch = leaf.oom_watch()
    try:
        quiet = select.select([watch], [], [], 0)[0]
        pid = born(leaf, hog)
        heard = select.select([watch], [], [], 10)[0]
        ended(pid)
        confirmed = eventually(lambda: watch.kills() == 1)
    finally:
        watch.close()
    assert removed(leaf)
    assert (quiet, heard, confirmed) == ([], [watch], True)


def test_an_end_without_oom_is_no_kill(group: Make) -> None:
    """v1 wakes also when the cgroup is removed; only the counter is believed."""
    leaf = group(SMALL).leaf(1)
    watch = leaf.oom_watch()
    try:
        assert ended(born(leaf, lambda: 0)) == 0
        assert removed(leaf)
        assert (watch.kills(), watch.own()) == (0, 0)
    finally:
        watch.close()


@pytest.fixture
def budget(layout: Layout) -> Iterator[Callable[[Mapping[str, Any]], Budget]]:
    """Make a budget; it is removed with all its members."""

    def make(oci: Mapping[str, Any]) -> Budget:
        made = Budget.at(layout, f"{APP}/together", oci)
        made.create(oci)
        return made

    yield make
    remove_tree(layout, APP)


def member(budget: Budget, name: str, oci: Mapping[str, Any]) -> Group:
    made = Group.at(budget.group.layout, f"{budget.path}/{name}", oci)
    made.create(oci)
    return made


@pytest.mark.parametrize(("whole", "own", "blamed"), [(SMALL, LARGE, 1), (LARGE, SMALL, 0)])
def test_a_kill_is_laid_to_the_limit_that_called_it(
    budget: Callable[[Mapping[str, Any]], Budget], whole: dict[str, Any], own: dict[str, Any], blamed: int
) -> None:
    together = budget(whole)
    leaf = member(together, "web", own).leaf(1)
    watch = together.oom_watch()
    try:
        code = ended(born(leaf, hog))
        assert (code, leaf.oom_kills(), min(watch.own(), 1)) == (-signal.SIGKILL, 1, blamed)
    finally:
        watch.close()


def test_members_share_the_budget(budget: Callable[[Mapping[str, Any]], Budget]) -> None:
    def forks() -> int:
        try:
            if os.fork() == 0:
                signal.pause()
        except BlockingIOError:
            return 1
        return 0

    together = budget({"pids": {"limit": 6}})  # of which each has two from the beginning
    first, second = (member(together, name, {"pids": {"limit": 10}}).leaf(1) for name in ("a", "b"))
    with Asked(first, forks) as one, Asked(second, forks) as other:
        answers = [one(), other(), one(), other()]
        first.kill()
        second.kill()
    assert answers == [0, 0, 1, 1]


def test_a_budget_holds_members_in_hierarchies_of_its_own(budget: Callable[[Mapping[str, Any]], Budget]) -> None:
    """The member asks for no CPU set; the budget has one."""
    together = budget({"cpu": {"cpus": "0"}})
    leaf = member(together, "web", {}).leaf(1)
    assert ended(born(leaf, lambda: len(os.sched_getaffinity(0)))) == 1


def test_a_budget_changes_under_its_members(budget: Callable[[Mapping[str, Any]], Budget]) -> None:
    together = budget({})
    with Asked(member(together, "web", {}).leaf(1), lambda: len(os.sched_getaffinity(0))) as process:
        before = process()
        together.update({"cpu": {"cpus": "0"}})
        assert (before, process()) == (os.cpu_count(), 1)


def test_a_budget_stays_while_a_member_lives(budget: Callable[[Mapping[str, Any]], Budget]) -> None:
    together = budget({})
    leaf = member(together, "web", {}).leaf(1)
    pid = born(leaf, sleeper)
    assert eventually(leaf.populated)
    refused = together.remove()
    leaf.kill()
    ended(pid)
    assert (refused, eventually(together.remove)) == (False, True)


def test_all_die_together_where_the_kernel_can(layout: Layout, budget: Callable[[Mapping[str, Any]], Budget]) -> None:
    """memory.oom.group is v2's; elsewhere it is refused."""
    oci = SMALL | {"unified": {"memory.oom.group": "1"}}
    if layout.controllers["memory"].version == 1:
        with pytest.raises(CgroupError, match=r"unified\.memory\.oom\.group needs"):
            budget(oci)
        return
    together = budget(oci)
    leaf = member(together, "quiet", {}).leaf(1)
    quiet = born(leaf, sleeper)
    assert eventually(leaf.populated)
    ended(born(member(together, "greedy", {}).leaf(1), hog))
    assert ended(quiet) == -signal.SIGKILL


def test_throttles_of_a_budget(layout: Layout, tmp_path: Path) -> None:
    """v1 throttles each cgroup for itself, so that there they cannot be shared."""
    oci = {"blockIO": {"throttleReadBpsDevice": [_disk(tmp_path)]}}
    if "io" in layout.controllers:
        assert Budget.at(layout, f"{APP}/together", oci).path == f"{APP}/together"
    else:
        with pytest.raises(CgroupError, match="not supported for a budget on cgroup v1"):
            Budget.at(layout, f"{APP}/together", oci)
