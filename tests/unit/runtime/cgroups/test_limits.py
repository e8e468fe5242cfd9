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
    ({"memory": {"swappiness": 10}}, {"memory.swappiness": "10"}, {}),
    ({"memory": {"disableOOMKiller": True}}, {"memory.oom_control": "1"}, {}),
    ({"memory": {"limit": 0, "swap": 0, "reservation": 0}, "cpu": {"shares": 0}, "blockIO": {"weight": 0}}, {}, {}),
    ({"memory": {"limit": None}, "cpu": None, "pids": {"limit": None}, "devices": None, "unified": None}, {}, {}),
    ({"cpu": {"idle": 1}}, {"cpu.idle": "1"}, {"cpu.idle": "1"}),
    (
        {"cpu": {"quota": 50_000, "burst": 20_000}},
        {"cpu.cfs_quota_us": "50000", "cpu.cfs_burst_us": "20000"},
        {"cpu.max": "50000 100000", "cpu.max.burst": "20000"},
    ),
    (
        {"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 950_000}},
        {"cpu.rt_period_us": "1000000", "cpu.rt_runtime_us": "950000"},
        {},
    ),
    (
        {"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 100}]}},
        {"blkio.bfq.weight": "500", "blkio.bfq.weight_device": "8:0 100"},
        {"io.bfq.weight": "8:0 100"},
    ),
    (
        {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]}},
        {"blkio.throttle.read_bps_device": "8:0 600"},
        {"io.max": "8:0 rbps=600"},
    ),
    (
        {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}},
        {"blkio.throttle.write_iops_device": "8:0 0"},
        {"io.max": "8:0 wiops=max"},
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]},
        {"hugetlb.2MB.limit_in_bytes": "4194304", "hugetlb.2MB.rsvd.limit_in_bytes": "4194304"},
        {"hugetlb.2MB.max": "4194304", "hugetlb.2MB.rsvd.max": "4194304"},
    ),
    (
        {"network": {"classID": 1_048_577, "priorities": [{"name": "eth0", "priority": 500}]}},
        {"net_cls.classid": "1048577", "net_prio.ifpriomap": "eth0 500"},
        {},
    ),
    (
        {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}, "rxe3": {"hcaObjects": 1}}},
        {"rdma.max": "rxe3 hca_object=1"},
        {"rdma.max": "rxe3 hca_object=1"},
    ),
    (
        {"unified": {"memory.oom.group": "1", "memory.high": "9"}},
        {},
        {"memory.oom.group": "1", "memory.high": "9"},
    ),
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


def order(writes: list[v1.Write]) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in writes]


def test_every_value_of_a_file_of_several_devices_is_a_write() -> None:
    rdma = {"a": {"hcaHandles": 3}, "b": {"hcaObjects": 1}}
    assert order(v2.writes(Resources.parse({"rdma": rdma}))) == [
        ("rdma.max", "a hca_handle=3"),
        ("rdma.max", "b hca_object=1"),
    ]
    assert order(v2.writes(Resources.parse({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2"}}))) == [
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:16 rbps=2"),
    ]


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (500, 4950), (1000, 10_000)])
def test_weight_of_a_kernel_without_bfq(weight: int, expected: int) -> None:
    found = v2.writes(Resources.parse({"blockIO": {"weight": weight}}), has=lambda file: file == "io.weight")
    assert order(found) == [("io.weight", f"default {expected}")]


def test_v2_weight_says_that_it_is_the_default() -> None:
    assert order(v2.writes(Resources.parse({"blockIO": {"weight": 500}}))) == [("io.bfq.weight", "default 500")]


@pytest.mark.parametrize(
    ("idle", "v1_order"),
    [(0, [("cpu.idle", "0"), ("cpu.shares", "512")]), (1, [("cpu.shares", "512"), ("cpu.idle", "1")])],
)
def test_shares_are_written_while_the_group_is_not_idle(idle: int, v1_order: list[tuple[str, str]]) -> None:
    limits = Resources.parse({"cpu": {"idle": idle, "shares": 512}})
    assert order(v1.writes(limits)) == v1_order
    assert [file for file, _ in order(v2.writes(limits))] == [file.replace("shares", "weight") for file, _ in v1_order]


@pytest.mark.parametrize(
    ("now", "period", "first"),
    [("100000\n", 10_000, "cpu.cfs_quota_us"), ("10000\n", 100_000, "cpu.cfs_period_us")],
)
def test_v1_a_quota_never_has_a_larger_share_meanwhile(now: str, period: int, first: str) -> None:
    limits = Resources.parse({"cpu": {"quota": 5_000, "period": period}})
    assert order(v1.writes(limits, {"cpu.cfs_period_us": now}.get))[0][0] == first


def test_a_quota_falls_while_there_is_no_burst() -> None:
    limits = Resources.parse({"cpu": {"quota": 5_000, "burst": 1_000}})
    assert [value for _, value in order(v1.writes(limits, {"cpu.cfs_burst_us": "9000\n"}.get))] == ["0", "5000", "1000"]
    assert [value for _, value in order(v2.writes(limits, {"cpu.max.burst": "9000\n"}.get))] == [
        "0",
        "5000 100000",
        "1000",
    ]


@pytest.mark.parametrize(("cpu", "expected"), [({"quota": 5_000}, "5000 20000"), ({"period": 50_000}, "8000 50000")])
def test_v2_keeps_the_half_that_is_not_named(cpu: dict[str, int], expected: str) -> None:
    assert order(v2.writes(Resources.parse({"cpu": cpu}), {"cpu.max": "8000 20000\n"}.get)) == [("cpu.max", expected)]


def test_v2_swap_alone_counts_from_the_memory_that_is_set() -> None:
    limits = Resources.parse({"memory": {"swap": 96}}, update=True)
    assert order(v2.writes(limits, {"memory.max": "64\n"}.get)) == [("memory.swap.max", "32")]


def test_memory_without_limit_has_none_with_swap() -> None:
    limits = Resources.parse({"memory": {"limit": -1}})
    assert order(v1.writes(limits)) == [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")]
    assert order(v2.writes(limits, {"memory.swap.max": "5\n"}.get)) == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
    ]


def test_an_update_need_not_make_sense_on_its_own() -> None:
    assert Resources.parse({"memory": {"swap": 5}, "pids": {"limit": 0}}, update=True).memory_and_swap == 5


@pytest.mark.parametrize(
    ("oci", "words"),
    [
        ({"memory": {"kernel": 5}}, "kernel memory is a part of memory.limit"),
        ({"memory": {"kernelTCP": 5}}, "kernel memory is a part of memory.limit"),
        ({"memory": {"useHierarchy": False}}, "always count hierarchically"),
    ],
)
def test_what_no_kernel_limits_any_more_is_a_warning(oci: dict[str, Any], words: str) -> None:
    assert [words in warning for warning in Resources.parse(oci).warnings] == [True]


def test_nothing_is_warned_of_what_holds() -> None:
    assert Resources.parse({"memory": {"useHierarchy": True, "kernel": 0, "limit": 5}}).warnings == ()


@pytest.mark.parametrize(
    ("oci", "limit"),
    [
        ({"memory": {"swappiness": 1}}, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller"),
        ({"cpu": {"realtimeRuntime": 1}}, "cpu.realtimeRuntime"),
        ({"cpu": {"realtimePeriod": 1}}, "cpu.realtimePeriod"),
        ({"blockIO": {"leafWeight": 10}}, "blockIO.leafWeight"),
    ],
)
def test_what_v2_has_not(oci: dict[str, Any], limit: str) -> None:
    refused = v2.unsupported(Resources.parse(oci), frozenset({"memory", "cpu", "io"}))
    assert refused is not None
    assert refused[0] == limit


def test_what_v1_has_not() -> None:
    refused = v1.unsupported(Resources.parse({"blockIO": {"leafWeight": 10}}))
    assert refused is not None
    assert refused[0] == "blockIO.leafWeight"


def test_the_oom_killer_may_be_asked_for_on_v2() -> None:
    limits = Resources.parse({"memory": {"disableOOMKiller": False}})
    assert v2.unsupported(limits, frozenset({"memory"})) is None
