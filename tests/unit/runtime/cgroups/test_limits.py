"""OCI's limits become writes to files, the same limits in each version's own words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups import v1, v2
from runtime.cgroups.resources import Resources
from runtime.cgroups.rules import DEFAULT_DEVICES

MIB = 1 << 20


def files(writes: list[v1.Write]) -> dict[str, str]:
    return {write.file: write.value for write in writes}


TABLE: list[tuple[dict[str, Any], dict[str, str], dict[str, str]]] = [
    (
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory.limit_in_bytes": str(64 * MIB), "memory.memsw.limit_in_bytes": str(64 * MIB)},
        {"memory.max": str(64 * MIB), "memory.swap.max": "0"},
    ),
    (
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        {"memory.limit_in_bytes": str(64 * MIB), "memory.memsw.limit_in_bytes": str(96 * MIB)},
        {"memory.max": str(64 * MIB), "memory.swap.max": str(32 * MIB)},
    ),
    (
        {"memory": {"limit": -1, "swap": -1}},
        {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"},
        {"memory.max": "max", "memory.swap.max": "max"},
    ),
    (
        {"memory": {"reservation": MIB}},
        {"memory.soft_limit_in_bytes": str(MIB)},
        {"memory.low": str(MIB)},
    ),
    (
        {"cpu": {"quota": 150_000, "period": 100_000}},
        {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"},
        {"cpu.max": "150000 100000"},
    ),
    ({"cpu": {"quota": -1}}, {"cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 100000"}),
    ({"cpu": {"period": 50_000}}, {"cpu.cfs_period_us": "50000"}, {"cpu.max": "max 50000"}),
    ({"cpu": {"shares": 1024}}, {"cpu.shares": "1024"}, {"cpu.weight": "100"}),
    (
        {"cpu": {"cpus": "0-1", "mems": "0"}},
        {"cpuset.cpus": "0-1", "cpuset.mems": "0"},
        {"cpuset.cpus": "0-1", "cpuset.mems": "0"},
    ),
    ({"pids": {"limit": 20}}, {"pids.max": "20"}, {"pids.max": "20"}),
    ({"pids": {"limit": -1}}, {"pids.max": "max"}, {"pids.max": "max"}),
    ({}, {}, {}),
]


@pytest.mark.parametrize(("oci", "expected", "_"), TABLE)
def test_v1(oci: dict[str, Any], expected: dict[str, str], _: object) -> None:
    assert files(v1.writes(Resources.parse(oci))) == expected


@pytest.mark.parametrize(("oci", "_", "expected"), TABLE)
def test_v2(oci: dict[str, Any], _: object, expected: dict[str, str]) -> None:
    assert files(v2.writes(Resources.parse(oci))) == expected


def test_v1_sets_memory_before_memory_and_swap() -> None:
    """The kernel keeps the second at or above the first."""
    order = [write.file for write in v1.writes(Resources.parse({"memory": {"limit": 1, "swap": 1}}))]
    assert order == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]


@pytest.mark.parametrize(
    ("now", "limit", "total", "first"),
    [
        ("100\n", 150, 200, "memory.memsw.limit_in_bytes"),
        ("100\n", 150, -1, "memory.memsw.limit_in_bytes"),
        ("100\n", 40, 60, "memory.limit_in_bytes"),
        ("100\n", 50, 200, "memory.memsw.limit_in_bytes"),
        ("200\n", 100, 150, "memory.limit_in_bytes"),
    ],
)
def test_v1_never_has_less_memory_and_swap_than_memory(now: str, limit: int, total: int, first: str) -> None:
    oci = {"memory": {"limit": limit, "swap": total}}
    order = [write.file for write in v1.writes(Resources.parse(oci), {"memory.memsw.limit_in_bytes": now}.get)]
    assert (len(order), order[0]) == (2, first)


@pytest.mark.parametrize("writes", [v1.writes, v2.writes])
def test_a_kernel_without_swap_accounting_gives_a_warning(writes: Any) -> None:
    found = {write.file: write.optional for write in writes(Resources.parse({"memory": {"limit": 1, "swap": 1}}))}
    assert ["swap is not limited" in (text or "") for text in found.values()] == [False, True]


def test_v1_denies_all_devices_first() -> None:
    first, *rest = v1.device_writes(DEFAULT_DEVICES)
    assert (first.file, first.value) == ("devices.deny", "a")
    assert {write.file for write in rest} == {"devices.allow"}


def test_default_devices_may_be_used_and_no_disk() -> None:
    used = [place for place, access, _ in DEFAULT_DEVICES if access != "m"]
    assert used == ["c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:2", "c 136:*"]


def test_devices_of_a_config_follow_the_denial() -> None:
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rw"}]
    assert Resources.parse({"devices": rules}).devices == (
        ("a *:*", "rwm", False),
        ("c 10:200", "rw", True),
        *DEFAULT_DEVICES,
    )


def test_weight_meets_both_ends_and_the_default() -> None:
    assert [v2.weight_of(shares) for shares in (2, 1024, 262_144)] == [1, 100, 10_000]


@given(st.integers(1, 10_000))
def test_weight_survives_the_way_through_shares(weight: int) -> None:
    assert abs(v2.weight_of(v2.shares_of(weight)) - weight) <= max(1, weight // 100)


@given(st.integers(2, 262_143))
def test_weight_grows_with_shares(shares: int) -> None:
    assert 1 <= v2.weight_of(shares) <= v2.weight_of(shares + 1) <= 10_000


@pytest.mark.parametrize(
    ("oci", "words"),
    [
        ({"memory": {"limit": 10, "swap": 5}}, "memory and swap together"),
        ({"memory": {"swap": 5}}, "memory and swap together"),
        ({"memory": {"swapiness": 10}}, "resources.memory.swapiness is not supported"),
        ({"memory": {"swappiness": 101}}, "resources.memory.swappiness must be a whole number between 0 and 100"),
        ({"memory": {"limit": "1g"}}, "resources.memory.limit must be a whole number of at least -1"),
        ({"memory": []}, "resources.memory must be an object"),
        ({"blockIO": {"weight": 9}}, "resources.blockIO.weight must be between 10 and 1000"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "rate": 1}]}}, r"ReadBpsDevice\[0\].minor is missing"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}}, "leafWeight is not supported"),
        ({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}, r"hugepageLimits\[0\].pageSize must be a size"),
        ({"network": {"priorities": [{"name": "a b", "priority": 1}]}}, "name must be a word"),
        ({"rdma": {"mlx 5": {"hcaHandles": 1}}}, "no name of an RDMA device"),
        ({"cpu": {"idle": 2}}, "resources.cpu.idle must be a whole number between 0 and 1"),
        ({"cpu": {"cpus": 1}}, "resources.cpu.cpus must be a text"),
        ({"devices": [{"type": "c"}]}, r"devices\[0\].allow must be true or false"),
        ({"unified": {"memory.high": 5}}, "memory.high must be a text"),
        ({"pids": {"limit": 0}}, "let nothing run"),
        ({"devices": [{"allow": False}, {"allow": True, "type": "x"}]}, "no valid type"),
        ({"unified": {"../cgroup.procs": "1"}}, "no.*controller's file|not a controller's file"),
        ({"unified": {"cgroup.kill": "1"}}, "not a controller's file"),
    ],
)
def test_what_would_have_no_effect_is_refused(oci: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Resources.parse(oci)


def test_each_limit_names_its_controller() -> None:
    oci = {"memory": {"limit": 1}, "cpu": {"quota": 1, "cpus": "0"}, "pids": {"limit": 1}, "unified": {"io.max": "x"}}
    assert Resources.parse(oci).asked == {
        "memory": "memory.limit",
        "cpu": "cpu.quota",
        "cpuset": "cpu.cpus",
        "pids": "pids.limit",
        "io": "unified.io.max",
    }


def test_v1_oom_kills() -> None:
    assert v1.oom_kills("oom_kill_disable 0\nunder_oom 1\noom_kill 3\n") == 3


def test_v1_oom_kills_of_an_old_kernel() -> None:
    assert v1.oom_kills("oom_kill_disable 0\nunder_oom 1\n") == 0


def test_v2_oom_kills() -> None:
    assert v2.oom_kills("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n") == 1


@pytest.mark.parametrize(("text", "expected"), [("populated 1\nfrozen 0\n", True), ("populated 0\nfrozen 0\n", False)])
def test_v2_populated(text: str, expected: bool) -> None:
    assert v2.populated(text) is expected
