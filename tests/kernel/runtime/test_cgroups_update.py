"""Limits changed under a running container hold at once, in whatever order they go up and down. Needs root."""

import errno
import mmap
import os
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.group import Group, remove_tree
from runtime.cgroups.hierarchy import CgroupError, Layout, MissingController
from tests.kernel.runtime.confined import APP, MIB, Asked, born, ended, removed

Make = Callable[[Mapping[str, Any]], Group]


def text(group: Group, controller: str, v1: str, v2: str) -> str:
    """What the group's file says of a limit, whichever version has the controller."""
    place = group.layout.controllers[controller]
    return Path(place.directory(group.path), v1 if place.version == 1 else v2).read_text().strip()


def memory(group: Group) -> tuple[int, int]:
    """The limit of memory, and of memory and swap together."""
    limit = int(text(group, "memory", "memory.limit_in_bytes", "memory.max"))
    both = int(text(group, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"))
    return limit, both if group.layout.controllers["memory"].version == 1 else limit + both


@pytest.mark.parametrize(
    ("first", "then"),
    [((64, 64), (128, 128)), ((128, 128), (64, 64)), ((64, 256), (128, 192)), ((128, 192), (64, 256))],
)
def test_memory_and_swap_go_up_and_down(group: Make, first: tuple[int, int], then: tuple[int, int]) -> None:
    web = group({"memory": {"limit": first[0] * MIB, "swap": first[1] * MIB}})
    assert web.update({"memory": {"limit": then[0] * MIB, "swap": then[1] * MIB}}) == []
    assert memory(web) == (then[0] * MIB, then[1] * MIB)


def test_memory_without_limit(group: Make) -> None:
    web = group({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    web.update({"memory": {"limit": -1}})
    said = text(web, "memory", "memory.limit_in_bytes", "memory.max")
    assert said == "max" or int(said) > 1 << 60


@pytest.mark.parametrize(
    ("first", "then"),
    [((50_000, 100_000), (5_000, 10_000)), ((5_000, 10_000), (50_000, 100_000)), ((90_000, 100_000), (10_000, 20_000))],
)
def test_quota_and_period_change_together(group: Make, first: tuple[int, int], then: tuple[int, int]) -> None:
    web = group({"cpu": {"quota": first[0], "period": first[1]}})
    web.update({"cpu": {"quota": then[0], "period": then[1]}})
    place = web.layout.controllers["cpu"]
    directory = Path(place.directory(web.path))
    files = ["cpu.max"] if place.version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    assert [int(number) for file in files for number in (directory / file).read_text().split()] == [*then]


def test_a_quota_alone_keeps_the_period(group: Make) -> None:
    web = group({"cpu": {"quota": 5_000, "period": 10_000}})
    web.update({"cpu": {"quota": 6_000}})
    assert text(web, "cpu", "cpu.cfs_period_us", "cpu.max").split()[-1] == "10000"


def test_a_quota_falls_below_its_burst(group: Make) -> None:
    web = group({"cpu": {"quota": 50_000, "burst": 40_000}})
    web.update({"cpu": {"quota": 20_000, "burst": 10_000}})
    assert text(web, "cpu", "cpu.cfs_burst_us", "cpu.max.burst") == "10000"


def test_shares_of_an_idle_group(group: Make) -> None:
    """The kernel refuses shares for a group that is idle, so that the order depends on the way."""
    web = group({"cpu": {"shares": 512, "idle": 1}})
    web.update({"cpu": {"shares": 1024, "idle": 0}})
    assert text(web, "cpu", "cpu.shares", "cpu.weight") in ("1024", "100")


def test_only_what_is_named_changes(group: Make) -> None:
    web = group({"pids": {"limit": 7}, "memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    web.update({"memory": {"limit": 96 * MIB, "swap": 96 * MIB}, "pids": {"limit": None}})
    assert text(web, "pids", "pids.max", "pids.max") == "7"


def test_pids_hold_a_running_process(group: Make) -> None:
    def fork() -> int:
        try:
            pid = os.fork()
        except BlockingIOError:
            return 1
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return 0

    web = group({"pids": {"limit": 10}})
    with Asked(web.leaf(1), fork) as process:
        answers = [process()]
        web.update({"pids": {"limit": 1}})
        answers.append(process())
        web.update({"pids": {"limit": -1}})
        answers.append(process())
    assert answers == [0, 1, 0]


def test_a_cpuset_holds_processes_that_had_none(group: Make) -> None:
    """On v1, they enter a hierarchy that they were not in."""
    web = group({})
    with Asked(web.leaf(1), lambda: len(os.sched_getaffinity(0))) as process:
        before = process()
        web.update({"cpu": {"cpus": "0"}})
        assert (before, process()) == (os.cpu_count(), 1)


def test_the_next_run_has_what_the_last_one_was_given(group: Make) -> None:
    web = group({})
    web.update({"cpu": {"cpus": "0"}})
    leaf = web.leaf(2)
    assert ended(born(leaf, lambda: len(os.sched_getaffinity(0)))) == 1
    assert removed(leaf)


def test_an_older_leaf_takes_what_an_update_added_along(group: Make) -> None:
    web = group({})
    leaf = web.leaf(1)
    web.update({"cpu": {"cpus": "0"}})
    assert leaf.remove()
    assert not [place for place in web.layout.places if Path(place.directory(leaf.path)).exists()]


def test_a_limit_below_what_is_used_can_be_refused(group: Make) -> None:
    def hold() -> int:
        held.append(mmap.mmap(-1, 48 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        for page in range(0, 48 * MIB, 4096):
            held[0][page] = 1
        return 0

    held: list[mmap.mmap] = []
    web = group({"memory": {"limit": 96 * MIB, "swap": 96 * MIB}})
    with Asked(web.leaf(1), lambda: hold() if not held else 5) as process:
        with pytest.raises(CgroupError) as caught:
            web.update({"memory": {"limit": 8 * MIB, "checkBeforeUpdate": True}})
        assert (caught.value.errno, process()) == (errno.EBUSY, 5)


def test_devices_are_given_and_taken_back(group: Make, tmp_path: Path) -> None:
    node = tmp_path / "kmsg"
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 11))

    def look() -> int:
        os.close(os.open("/dev/null", os.O_RDWR))
        try:
            os.close(os.open(node, os.O_RDONLY))
        except PermissionError:
            return 1
        return 0

    rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    web = group({})
    with Asked(web.leaf(1), look) as process:
        answers = [process()]
        for rules in ([{"allow": False}, rule], [{"allow": False}], [rule]):
            assert web.update({"devices": rules}) == []
            answers.append(process())
        web.update({"pids": {"limit": 100}})
        answers.append(process())
    assert answers == [1, 0, 1, 0, 0]


def test_all_devices_for_a_group_that_has_none_yet(group: Make, tmp_path: Path) -> None:
    node = tmp_path / "kmsg"
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(1, 11))

    def look() -> int:
        os.close(os.open(node, os.O_RDONLY))
        return 3

    leaf = group({"devices": [{"allow": True, "access": "rwm"}]}).leaf(1)
    code = ended(born(leaf, look))
    assert removed(leaf)
    assert code == 3


def disk_below(directory: Path) -> str | None:
    """The whole disk that holds a directory, as `major:minor`; None for memory and the like."""
    number = directory.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not block.exists():
        return None
    whole = block.resolve()
    return ((whole.parent if (whole / "partition").exists() else whole) / "dev").read_text().strip()


def direct_writes(file: Path, mebibytes: float) -> float:
    """Write past the page cache; return the seconds it took."""
    with mmap.mmap(-1, 1 << 16) as page:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
        begin = time.monotonic()
        for _ in range(int(mebibytes * 16)):
            os.write(descriptor, page)
        os.close(descriptor)
    return time.monotonic() - begin


def test_writes_are_slowed_down(group: Make, tmp_path: Path) -> None:
    """One and a half MiB with one a second; the same without limit takes no such time."""
    place = disk_below(tmp_path)
    assert place is not None, f"{tmp_path} is on no disk: choose another --basetemp"
    major, minor = (int(number) for number in place.split(":"))

    def write() -> int:
        return 1 + (direct_writes(tmp_path / "file", 1.5) > 0.8)

    web = group({})
    with Asked(web.leaf(1), write) as process:
        free = process()
        web.update({"blockIO": {"throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": MIB}]}})
        slow = process()
        web.update({"blockIO": {"throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": 0}]}})
        assert (free, slow, process()) == (1, 2, 1)


def test_what_the_version_has_not_is_refused(layout: Layout) -> None:
    """Each version lacks some: swappiness on v2, memory.high on v1."""
    if layout.controllers["memory"].version == 2:
        with pytest.raises(CgroupError, match=r"memory\.swappiness is not supported: cgroup v2 has"):
            Group.at(layout, "creche/a/b", {"memory": {"swappiness": 10}})
    else:
        with pytest.raises(MissingController, match=r"unified\.memory\.high needs"):
            Group.at(layout, "creche/a/b", {"unified": {"memory.high": "1"}})


def test_a_refused_update_leaves_what_runs(group: Make) -> None:
    """An update that cannot be kept changes nothing that runs."""
    web = group({})
    leaf = web.leaf(1)
    pid = born(leaf, lambda: signal.pause() or 0)
    with pytest.raises(CgroupError, match="cannot write '99999'"):
        web.update({"cpu": {"cpus": "99999"}})
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == -signal.SIGTERM
    assert removed(leaf)


def test_a_weight_of_block_io(layout: Layout, group: Make) -> None:
    """In bfq's file or iocost's; where the kernel has neither, the error says what is needed."""
    oci = {"blockIO": {"weight": 500}}
    web = Group.at(layout, f"{APP}/weighted", oci)
    place = layout.controllers["io" if "io" in layout.controllers else "blkio"]
    assert place in web.places
    try:
        web.create(oci)
    except CgroupError as error:
        assert "weights need the bfq scheduler" in str(error)
    else:
        files = [Path(place.directory(web.path), name) for name in ("blkio.bfq.weight", "io.bfq.weight", "io.weight")]
        said = next(file for file in files if file.exists()).read_text().splitlines()[0]
        assert said.split()[-1] in ("500", "4950")
    remove_tree(layout, APP)


@pytest.mark.parametrize(
    ("oci", "controller", "v1", "v2"),
    [
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}, "hugetlb", "2MB.limit_in_bytes", "2MB.max"),
        ({"network": {"classID": 1_048_577}}, "net_cls", "classid", "classid"),
        ({"network": {"priorities": [{"name": "lo", "priority": 5}]}}, "net_prio", "ifpriomap", "ifpriomap"),
    ],
)
def test_a_limit_of_a_rare_controller(layout: Layout, oci: dict[str, Any], controller: str, v1: str, v2: str) -> None:
    """It is set where the controller is, and else refused by its name."""
    if controller not in layout.controllers:
        with pytest.raises(MissingController, match=f"needs the cgroup controller '{controller}'"):
            Group.at(layout, f"{APP}/rare", oci)
        return
    web = Group.at(layout, f"{APP}/rare", oci)
    web.create(oci)
    value = text(web, controller, f"{controller}.{v1}", f"{controller}.{v2}")
    remove_tree(layout, APP)
    assert value.splitlines()[0].split()[-1] in (str(4 * MIB), "1048577", "5")
