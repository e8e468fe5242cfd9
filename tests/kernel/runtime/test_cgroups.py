"""Limits bite, leaves are fresh, killing kills and nothing stays: on this kernel's own layout. Needs root."""

import os
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.group import Group, remove_tree
from runtime.cgroups.hierarchy import CgroupError, Layout, find
from runtime.syscalls import pidfd_open
from tests.kernel.runtime.confined import APP, MIB, born, burn, ended, eventually, family, hog, removed, sleeper


def ours(layout: Layout) -> list[str]:
    return [place.mount for place in layout.places if Path(place.mount, APP).exists()]


def too_many() -> int:
    """Return how many children could be made beside this process."""
    for made in range(100):
        try:
            if os.fork() == 0:
                signal.pause()
        except BlockingIOError:
            return made
    return 100


def test_a_process_is_in_its_leaf_everywhere(group: Callable[[Mapping[str, Any]], Group]) -> None:
    web = group({"cpu": {"quota": 50_000}, "pids": {"limit": 10}})
    leaf = web.leaf(1)
    pid = born(leaf, sleeper)
    deadline = time.monotonic() + 5
    while (text := Path(f"/proc/{pid}/cgroup").read_text()).count(leaf.path) < len(leaf.places):
        assert time.monotonic() < deadline, text
        time.sleep(0.001)
    assert leaf.members() == web.members() == [pid]
    leaf.kill()
    ended(pid)
    assert removed(leaf)


def test_the_21st_process_is_refused(group: Callable[[Mapping[str, Any]], Group]) -> None:
    leaf = group({"pids": {"limit": 20}}).leaf(1)
    made = ended(born(leaf, too_many))
    leaf.kill()
    assert removed(leaf)
    assert made == 19


def test_memory_over_the_limit_is_killed_and_counted(group: Callable[[Mapping[str, Any]], Group]) -> None:
    leaf = group({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}).leaf(1)
    assert ended(born(leaf, hog)) == -signal.SIGKILL
    assert leaf.oom_kills() == 1
    assert removed(leaf)


def test_oom_kills_are_one_runs(group: Callable[[Mapping[str, Any]], Group]) -> None:
    web = group({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    first = web.leaf(1)
    ended(born(first, hog))
    second = web.leaf(2)
    assert (first.oom_kills(), second.oom_kills()) == (1, 0)
    assert removed(first)
    assert removed(second)


def test_cpu_quota_is_set_on_the_container(group: Callable[[Mapping[str, Any]], Group]) -> None:
    web = group({"cpu": {"quota": 20_000, "period": 100_000}})
    place = next(each for each in web.places if "cpu" in each.controllers)
    file = "cpu.max" if place.version == 2 else "cpu.cfs_quota_us"
    assert Path(place.mount, web.path, file).read_text().split()[0] == "20000"


def test_cpu_quota_bites(group: Callable[[Mapping[str, Any]], Group]) -> None:
    leaf = group({"cpu": {"quota": 20_000, "period": 100_000}}).leaf(1)
    percent = ended(born(leaf, lambda: burn(0.6)))
    assert removed(leaf)
    assert percent < 45


def test_cpuset_holds(group: Callable[[Mapping[str, Any]], Group]) -> None:
    leaf = group({"cpu": {"cpus": "0"}}).leaf(1)
    assert ended(born(leaf, lambda: len(os.sched_getaffinity(0)))) == 1
    assert removed(leaf)


def test_devices_are_denied_but_for_the_default_ones(
    group: Callable[[Mapping[str, Any]], Group], tmp_path: Path
) -> None:
    """By v1's controller where it is, else by a program on the unified tree."""
    os.mknod(tmp_path / "kmsg_node", 0o600 | stat.S_IFCHR, os.makedev(1, 11))

    def look() -> int:
        os.close(os.open("/dev/null", os.O_RDWR))
        try:
            os.open(tmp_path / "kmsg_node", os.O_RDONLY)
        except PermissionError:
            return 7
        return 0

    leaf = group({}).leaf(1)
    code = ended(born(leaf, look))
    assert removed(leaf)
    assert code == 7


def test_kill_takes_all_that_is_left(group: Callable[[Mapping[str, Any]], Group]) -> None:
    leaf = group({}).leaf(1)
    pid = born(leaf, family)
    while len(leaf.members()) < 4:
        time.sleep(0.001)
    leaf.kill()
    assert ended(pid) == -signal.SIGKILL
    assert removed(leaf)


def test_the_next_leaf_takes_processes_after_a_kill(group: Callable[[Mapping[str, Any]], Group]) -> None:
    """A killed cgroup is poisoned for CLONE_INTO_CGROUP; its sibling is not."""
    web = group({})
    first = web.leaf(1)
    first.kill()
    assert removed(first)
    second = web.leaf(2)
    assert ended(born(second, lambda: 5)) == 5
    assert removed(second)


def test_populated_follows_the_processes(group: Callable[[Mapping[str, Any]], Group]) -> None:
    leaf = group({}).leaf(1)
    before = leaf.populated()
    pid = born(leaf, sleeper)
    during = eventually(leaf.populated)
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    after = leaf.populated()
    assert removed(leaf)
    assert (before, during, after) == (False, True, False)


def test_a_busy_leaf_stays(group: Callable[[Mapping[str, Any]], Group]) -> None:
    leaf = group({}).leaf(1)
    pid = born(leaf, sleeper)
    while not leaf.populated():
        time.sleep(0.001)
    refused = leaf.remove()
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    assert (refused, removed(leaf)) == (False, True)


def test_a_group_is_made_again_over_itself(group: Callable[[Mapping[str, Any]], Group]) -> None:
    web = group({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "pids": {"limit": 10}})
    leaf = web.leaf(1)
    pid = born(leaf, sleeper)
    assert eventually(leaf.populated)
    assert web.create({"memory": {"limit": 96 * MIB, "swap": 96 * MIB}, "pids": {"limit": 5}}) == []
    assert web.create({"memory": {"limit": 32 * MIB, "swap": 32 * MIB}, "pids": {"limit": 5}}) == []
    leaf.kill()
    ended(pid)
    assert removed(leaf)


def test_a_leaf_of_a_dead_creche_is_replaced(group: Callable[[Mapping[str, Any]], Group]) -> None:
    web = group({})
    web.leaf(7).kill()
    again = web.leaf(7)
    assert ended(born(again, lambda: 3)) == 3
    assert removed(again)


def test_remove_leaves_nothing(layout: Layout) -> None:
    web = Group.at(layout, f"{APP}/alone", {})
    web.create({})
    assert web.remove()
    assert not [place for place in web.places if Path(place.mount, web.path).exists()]
    remove_tree(layout, APP)


def test_remove_tree_ends_a_whole_app(layout: Layout) -> None:
    pids: list[int] = []
    for name in ("a", "b"):
        web = Group.at(layout, f"{APP}/{name}", {"pids": {"limit": 50}})
        web.create({"pids": {"limit": 50}})
        pids.append(born(web.leaf(1), family))
    # As for a dead creche's processes, somebody else reaps them.
    reaper = [pidfd_open(pid) for pid in pids]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        remove_tree(layout, APP)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in reaper:
            os.close(descriptor)
    assert ours(layout) == []


def test_removing_what_is_not_there_is_no_error(layout: Layout) -> None:
    remove_tree(layout, f"{APP}/never")


def test_other_apps_stay(layout: Layout) -> None:
    for name in ("a", "b"):
        Group.at(layout, f"{APP}/{name}", {}).create({})
    remove_tree(layout, f"{APP}/a")
    assert sorted({path.name for mount in ours(layout) for path in Path(mount, APP).iterdir() if path.is_dir()}) == [
        "b"
    ]
    remove_tree(layout, APP)


def test_apps_come_and_go_beside_each_other(layout: Layout) -> None:
    """Each removes the shared parents when they are empty, while the other makes its own below them."""
    oci = {"cpu": {"cpus": "0"}}

    def busy(name: str) -> int:
        for _ in range(60):
            web = Group.at(layout, f"{APP}/{name}/web", oci)
            web.create(oci)
            if not web.leaf(1).remove():
                return 1
            remove_tree(layout, f"{APP}/{name}")
        return 0

    pids: list[int] = []
    for name in ("a", "b", "c"):
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = busy(name)
            finally:
                os._exit(code)
        pids.append(pid)
    assert [ended(pid) for pid in pids] == [0, 0, 0]


def test_a_value_the_kernel_refuses_names_file_and_value(layout: Layout) -> None:
    oci = {"cpu": {"quota": 1, "period": 100_000}}
    web = Group.at(layout, f"{APP}/bad", oci)
    with pytest.raises(CgroupError, match=r"cannot write '1.*: Invalid argument: .*/cpu\."):
        web.create(oci)
    remove_tree(layout, APP)


def test_devices_are_denied_on_v2_by_a_program(tmp_path: Path) -> None:
    """A layout without the devices controller, as every pure v2 machine's; a machine with v1 alone has none."""
    layout = find()
    if layout.v2 is None:
        assert "devices" in layout.controllers
        return
    unified = layout._replace(v1=())
    nodes = {"kmsg": (1, 11), "zero": (1, 5), "pts": (136, 99999)}
    for name, numbers in nodes.items():
        os.mknod(tmp_path / name, 0o600 | stat.S_IFCHR, os.makedev(*numbers))

    def look() -> int:
        codes = 0
        for bit, (name, flags) in enumerate([("kmsg", os.O_RDONLY), ("zero", os.O_RDWR), ("zero", os.O_RDONLY)]):
            try:
                os.close(os.open(tmp_path / name, flags))
            except PermissionError:
                codes |= 1 << bit
        os.mknod(tmp_path / "made", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
        try:
            os.close(os.open(tmp_path / "made", os.O_RDONLY))
        except PermissionError:
            codes |= 8
        return codes

    web = Group.at(unified, f"{APP}/v2", {})
    warnings = [*web.create({}), *web.create({})]
    leaf = web.leaf(1)
    code = ended(born(leaf, look))
    assert removed(leaf)
    remove_tree(layout, APP)
    assert (warnings, code) == ([], 0b1001)
