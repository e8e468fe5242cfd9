"""Counters are read from the kernel's real texts, of both versions; what is missing or damaged is absent, no error."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups import stats

V1 = {
    "memory": {
        "memory.usage_in_bytes": "45711360\n",
        "memory.limit_in_bytes": "50331648\n",
        "memory.max_usage_in_bytes": "50331648\n",
        "memory.failcnt": "17\n",
        "memory.memsw.usage_in_bytes": "46000000\n",
        "memory.memsw.limit_in_bytes": "67108864\n",
        "memory.memsw.failcnt": "3\n",
        "memory.kmem.usage_in_bytes": "114688\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.stat": "cache 4096\nrss 8192\nswap 0\nhierarchical_memory_limit 50331648\n"
        "total_cache 1351680\ntotal_rss 43761664\ntotal_swap 288640\n",
    },
    "cpuacct": {
        "cpuacct.usage": "1234567890\n",
        "cpuacct.usage_user": "1000000000\n",
        "cpuacct.usage_sys": "234567890\n",
        "cpuacct.usage_percpu": "1000000000 234567890 \n",
        "cpuacct.stat": "user 100\nsystem 23\n",
    },
    "cpu": {"cpu.stat": "nr_periods 60\nnr_throttled 41\nthrottled_time 4095743128\nnr_bursts 0\nburst_time 0\n"},
    "pids": {"pids.current": "4\n", "pids.max": "max\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": "254:0 Read 4096\n254:0 Write 1052672\n254:0 Sync 1052672\n"
        "254:0 Async 4096\n254:0 Discard 0\n254:0 Total 1056768\nTotal 1056768\n",
        "blkio.throttle.io_serviced_recursive": "254:0 Read 1\n254:0 Write 3\n254:0 Total 4\nTotal 4\n",
    },
    "hugetlb": {
        "hugetlb.2MB.usage_in_bytes": "4194304\n",
        "hugetlb.2MB.max_usage_in_bytes": "6291456\n",
        "hugetlb.2MB.failcnt": "1\n",
    },
    "rdma": {
        "rdma.current": "mlx4_0 hca_handle=1 hca_object=20\nocrdma1 hca_handle=0 hca_object=23\n",
        "rdma.max": "mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n",
    },
}
V2 = {
    "cpu.stat": "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\ncore_sched.force_idle_usec 0\n"
    "nr_periods 60\nnr_throttled 41\nthrottled_usec 4095743\nnr_bursts 0\nburst_usec 0\n",
    "cpu.pressure": "some avg10=1.53 avg60=0.40 avg300=0.08 total=234455\n"
    "full avg10=1.00 avg60=0.30 avg300=0.07 total=200000\n",
    "memory.current": "45711360\n",
    "memory.max": "50331648\n",
    "memory.peak": "50331648\n",
    "memory.swap.current": "288640\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 17\noom 2\noom_kill 2\noom_group_kill 0\n",
    "memory.stat": "anon 43761664\nfile 1351680\nkernel 114688\nkernel_stack 16384\npagetables 4096\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
    "pids.current": "4\n",
    "pids.max": "100\n",
    "io.stat": "8:0 rbytes=4096 wbytes=1052672 rios=1 wios=3 dbytes=0 dios=0\n253:1 \n",
    "io.pressure": "some avg10=0.10 avg60=0.00 avg300=0.00 total=70\n",
    "hugetlb.2MB.current": "4194304\n",
    "hugetlb.2MB.events": "max 1\n",
}


def reader(files: dict[str, str]) -> stats.Read:
    return files.get


def v1(**changes: dict[str, str]) -> stats.Stats:
    return stats.collect({name: reader(files) for name, files in {**V1, **changes}.items()}, None, ("2MB",))


def v2(**changes: str) -> stats.Stats:
    return stats.collect({}, reader({**V2, **changes}), ("2MB", "1GB"))


def test_v1_memory() -> None:
    found = v1().memory
    assert found._replace(fields={}) == stats.Memory(
        usage=45711360,
        limit=50331648,
        max_usage=50331648,
        swap_usage=288640,
        swap_limit=67108864 - 50331648,
        cache=1351680,
        anon=43761664,
        kernel=114688,
        oom_kills=2,
        failures=20,
    )


def test_v2_memory() -> None:
    found = v2().memory
    assert found._replace(fields={}, pressure=None) == stats.Memory(
        usage=45711360,
        limit=50331648,
        max_usage=50331648,
        swap_usage=288640,
        swap_limit=None,
        cache=1351680,
        anon=43761664,
        kernel=114688,
        oom_kills=2,
        failures=17,
    )


def test_every_field_of_memory_stat_is_there() -> None:
    assert v2().memory.fields["pagetables"] == 4096


def test_v1_no_limit_is_none() -> None:
    memory = V1["memory"] | {"memory.limit_in_bytes": "9223372036854771712\n"}
    assert v1(memory=memory).memory.limit is None


def test_v1_cpu() -> None:
    expected = stats.Cpu(1234567890, 1000000000, 234567890, 60, 41, 4095743128, (1000000000, 234567890))
    assert v1().cpu == expected


def test_v1_cpu_of_a_kernel_that_tells_ticks() -> None:
    files = {name: text for name, text in V1["cpuacct"].items() if name in ("cpuacct.usage", "cpuacct.stat")}
    found = v1(cpuacct=files).cpu
    assert (found.user, found.system) == (1_000_000_000, 230_000_000)


def test_v2_cpu_is_in_nanoseconds() -> None:
    found = v2().cpu
    assert found[:6] == (1234567000, 1000000000, 234567000, 60, 41, 4095743000)


def test_pressure() -> None:
    assert v2().cpu.pressure == stats.Pressure(
        stats.Average(1.53, 0.40, 0.08, 234455), stats.Average(1.0, 0.3, 0.07, 200000)
    )


def test_pressure_without_full() -> None:
    assert v2().io.pressure == stats.Pressure(stats.Average(0.1, 0.0, 0.0, 70), None)


@pytest.mark.parametrize("text", [None, "", "some\n", "some avg10=x avg60=0 avg300=0 total=0\n", "full avg10=0.00\n"])
def test_damaged_pressure_is_absent(text: str | None) -> None:
    assert stats.pressure(text) is None


def test_v1_pids_without_limit() -> None:
    assert v1().pids == stats.Pids(4, None)


def test_v2_pids() -> None:
    assert v2().pids == stats.Pids(4, 100)


def test_v1_io() -> None:
    assert v1().io.entries == (stats.IoEntry(254, 0, 4096, 1052672, 1, 3),)


def test_v1_io_by_bfq_where_nothing_else_counts() -> None:
    files = {name.replace("throttle", "bfq").replace("_recursive", ""): text for name, text in V1["blkio"].items()}
    assert v1(blkio=files).io.entries == (stats.IoEntry(254, 0, 4096, 1052672, 1, 3),)


def test_v2_io_leaves_out_a_device_without_values() -> None:
    assert v2().io.entries == (stats.IoEntry(8, 0, 4096, 1052672, 1, 3),)


def test_v1_huge_pages() -> None:
    assert v1().hugetlb == (stats.HugePages("2MB", 4194304, 6291456, 1),)


def test_v2_huge_pages_of_the_sizes_that_are_there() -> None:
    assert v2().hugetlb == (stats.HugePages("2MB", 4194304, 0, 1),)


def test_rdma() -> None:
    assert v1().rdma == (stats.Rdma("mlx4_0", 1, 20, 2, 2000), stats.Rdma("ocrdma1", 0, 23, 3, None))


def test_the_unified_tree_of_a_hybrid_layout_counts_cpu_time_and_pressure() -> None:
    unified = {name: V2[name] for name in ("cpu.stat", "memory.pressure")}
    found = stats.collect({"memory": reader(V1["memory"])}, reader(unified))
    assert (found.cpu.usage, found.memory.pressure is None, found.memory.oom_kills) == (1234567000, False, 2)


def test_what_is_not_there_is_absent() -> None:
    found = stats.collect({}, None)
    assert found == stats.Stats(absent=frozenset({"cpu", "memory", "pids", "io"}))


@pytest.mark.parametrize("whole", [v1, v2])
def test_a_whole_one_has_nothing_absent(whole: Callable[[], stats.Stats]) -> None:
    assert whole().absent == frozenset()


texts = st.one_of(
    st.none(),
    st.text(max_size=60),
    st.sampled_from(sorted({*V2.values(), *(text for files in V1.values() for text in files.values())})),
    st.sampled_from(sorted(V2.values())).flatmap(lambda text: st.integers(0, len(text)).map(lambda end: text[:end])),
)


@given(st.lists(texts, min_size=len(V2), max_size=len(V2)))
def test_no_text_of_v2_is_an_error(given_texts: list[str | None]) -> None:
    files = dict(zip(V2, given_texts, strict=True))
    assert isinstance(stats.collect({}, files.get, ("2MB",)), stats.Stats)


@given(st.data())
def test_no_text_of_v1_is_an_error(data: st.DataObject) -> None:
    readers: dict[str, stats.Read] = {
        controller: {name: data.draw(texts) for name in files}.get for controller, files in V1.items()
    }
    assert isinstance(stats.collect(readers, None, ("2MB",)), stats.Stats)
