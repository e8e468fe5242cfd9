"""Cgroup v2's files: limits as writes, counters as parsers. Pure (cgroup-v2.rst)."""

import math
from collections.abc import Callable

from runtime.cgroups.resources import Resources
from runtime.cgroups.v1 import NO_DEVICE, NO_HUGE_PAGES, OUT_OF_QUOTA, Now, Write, nothing, rdma

NO_SWAP_LIMIT = "swap is not limited: this kernel has no memory.swap.max; memory is limited as asked"
DEFAULT_PERIOD = 100_000
"""Microseconds; the kernel's own default."""
_THROTTLES = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}
_NO_WEIGHT = "weights need the bfq scheduler or CONFIG_BLK_CGROUP_IOCOST"


def writes(resources: Resources, now: Now = nothing, has: Callable[[str], bool] = bool) -> list[Write]:
    """Return the writes, in order, that set `resources` on a container's directory.

    What is set `now` completes files of several values, of which an update may name one. `has` tells whether the
    directory has a file: a block device's weight belongs to bfq or to iocost.
    """
    found: list[Write] = []

    def put(
        controller: str, file: str, value: int | str | None, optional: str | None = None, advice: str | None = None
    ) -> None:
        if value is not None:
            found.append(Write(controller, file, str(value), optional, advice))

    put("memory", "memory.max", _or_max(resources.memory))
    swap = _swap(resources, now)
    put("memory", "memory.swap.max", _or_max(swap), NO_SWAP_LIMIT if swap is not None and swap >= 0 else "")
    put("memory", "memory.low", _or_max(resources.reservation))
    if resources.idle == 0:
        put("cpu", "cpu.idle", 0)
    put("cpu", "cpu.weight", None if resources.shares is None else weight_of(resources.shares))
    if resources.idle:
        put("cpu", "cpu.idle", resources.idle)
    if resources.burst is not None and now("cpu.max.burst") not in (None, "0\n"):
        put("cpu", "cpu.max.burst", 0, "")  # a quota can only fall below it while there is none
    if resources.quota is not None or resources.period is not None:
        before = (now("cpu.max") or f"max {DEFAULT_PERIOD}").split()
        quota = before[0] if resources.quota is None else _or_max(resources.quota)
        put("cpu", "cpu.max", f"{quota} {resources.period or before[1]}", advice=OUT_OF_QUOTA)
    put("cpu", "cpu.max.burst", resources.burst, advice=OUT_OF_QUOTA)
    put("cpuset", "cpuset.cpus", resources.cpus)
    put("cpuset", "cpuset.mems", resources.mems)
    put("pids", "pids.max", _or_max(resources.pids))
    bfq = has("io.bfq.weight")
    weight_file, weight = ("io.bfq.weight", int) if bfq else ("io.weight", io_weight_of)
    put(
        "io", weight_file, None if resources.weight is None else f"default {weight(resources.weight)}", None, _NO_WEIGHT
    )
    for place, each in resources.weights:
        put("io", weight_file, f"{place} {weight(each)}", advice=_NO_WEIGHT)
    for kind, place, rate in resources.throttles:
        put("io", "io.max", f"{place} {_THROTTLES[kind]}={rate or 'max'}", advice=NO_DEVICE)
    for size, limit in resources.huge_pages:
        put("hugetlb", f"hugetlb.{size}.max", limit, advice=NO_HUGE_PAGES)
        put("hugetlb", f"hugetlb.{size}.rsvd.max", limit, "")
    found += rdma(resources)
    for file, value in resources.unified:
        for line in value.splitlines() or [""]:  # the files of several devices take one a write
            put(file.partition(".")[0], file, line)
    return found


def unsupported(resources: Resources, controllers: frozenset[str]) -> tuple[str, str] | None:
    """Return the first limit of the v2 `controllers` that v2 cannot keep, and why."""
    memory, cpu, io = ("memory" in controllers, "cpu" in controllers, "io" in controllers)
    for found, limit, reason in (
        (memory and resources.swappiness is not None, "memory.swappiness", "cgroup v2 has vm.swappiness alone"),
        (memory and resources.no_oom_killer, "memory.disableOOMKiller", "cgroup v2 has no such switch"),
        (cpu and resources.realtime_runtime is not None, "cpu.realtimeRuntime", "cgroup v2 limits no real-time tasks"),
        (cpu and resources.realtime_period is not None, "cpu.realtimePeriod", "cgroup v2 limits no real-time tasks"),
        (io and resources.leaf_weight is not None, "blockIO.leafWeight", "cgroup v2 has no leaf weights"),
    ):
        if found:
            return limit, reason
    return None


def weight_of(shares: int) -> int:
    """Return the cpu.weight (1..10000) of v1's cpu.shares (2..262144): the curve through 2→1, 1024→100, 262144→10000.

    runc and crun use it since 2025; the straight line before gave a container of default shares 39 of 100.
    """
    exponent = math.log2(min(max(shares, 2), 262_144))
    return round(10 ** ((exponent**2 + 125 * exponent) / 612 - 7 / 34))


def shares_of(weight: int) -> int:
    """Return the cpu.shares whose `weight_of` is `weight`: what an app file's weight is in OCI's words."""
    exponent = (math.sqrt(125**2 + 4 * 612 * (math.log10(min(max(weight, 1), 10_000)) + 7 / 34)) - 125) / 2
    return round(2**exponent)


def io_weight_of(weight: int) -> int:
    """Return the io.weight (1..10000) of v1's blkio weight (10..1000), on a straight line as runc and crun do."""
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def oom_kills(memory_events: str) -> int:
    """Return how many processes of this cgroup and those below it the OOM killer took, from `memory.events`."""
    return fields(memory_events).get("oom_kill", 0)


def populated(cgroup_events: str) -> bool:
    """Return whether a process lives in this cgroup or below it, from `cgroup.events`."""
    return fields(cgroup_events).get("populated", 0) == 1


def frozen(cgroup_events: str) -> bool:
    """Return whether all processes of this cgroup and below stand still, from `cgroup.events`."""
    return fields(cgroup_events).get("frozen", 0) == 1


def fields(text: str) -> dict[str, int]:
    """Read a flat keyed file; what is no number is left out."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name and value.strip().isdecimal():
            found[name] = int(value)
    return found


def _swap(resources: Resources, now: Now) -> int | None:
    """Return v2's limit of swap alone: OCI's is memory and swap together."""
    total, memory = resources.memory_and_swap, resources.memory
    if total is None or total < 0:
        # As on v1, memory without any limit cannot be kept with a limit of both together.
        return -1 if total is not None or (memory == -1 and now("memory.swap.max") not in (None, "max\n")) else None
    if memory is None:
        text = (now("memory.max") or "max").strip()
        memory = 0 if text == "max" else int(text)
    return max(total - max(memory, 0), 0)


def _or_max(value: int | None) -> int | str | None:
    return "max" if value is not None and value < 0 else value
