"""What a cgroup has used: values read from the kernel's counters of either version. Pure; each part may be absent."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from runtime.cgroups.v2 import fields

Read = Callable[[str], str | None]
"""Returns a file's text in one hierarchy's directory of the group, or None where there is none."""

_NO_LIMIT = 1 << 62
"""v1 says "no limit" by the largest number of whole pages; nothing that large is a limit."""


class Average(NamedTuple):
    """Share of the time in percent over the last 10, 60 and 300 seconds, and µs altogether (accounting/psi.rst)."""

    avg10: float
    avg60: float
    avg300: float
    total: int


class Pressure(NamedTuple):
    """How long `some` process and all (`full`) had to wait for a resource."""

    some: Average
    full: Average | None


class Cpu(NamedTuple):
    """Time in ns: used, by programs and by the kernel for them; periods with a quota, and how long it held them."""

    usage: int = 0
    user: int = 0
    system: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    per_cpu: tuple[int, ...] = ()
    pressure: Pressure | None = None


class Memory(NamedTuple):
    """Bytes; swap is swap alone on both versions. `failures` counts how often the limit was met."""

    usage: int = 0
    limit: int | None = None
    max_usage: int = 0
    swap_usage: int = 0
    swap_limit: int | None = None
    cache: int = 0
    anon: int = 0
    kernel: int = 0
    oom_kills: int = 0
    failures: int = 0
    fields: Mapping[str, int] = {}
    pressure: Pressure | None = None


class Pids(NamedTuple):
    """Processes and threads."""

    current: int = 0
    limit: int | None = None


class IoEntry(NamedTuple):
    """Bytes and operations on one device."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Io(NamedTuple):
    """All devices that were used, by number."""

    entries: tuple[IoEntry, ...] = ()
    pressure: Pressure | None = None


class HugePages(NamedTuple):
    """Bytes in pages of one `size`, such as 2MB."""

    size: str
    usage: int = 0
    max_usage: int = 0
    failures: int = 0


class Rdma(NamedTuple):
    """Handles and objects of one RDMA device; no limit is None."""

    device: str
    handles: int = 0
    objects: int = 0
    handles_limit: int | None = None
    objects_limit: int | None = None


class Stats(NamedTuple):
    """One look at a cgroup; what nobody counts here is named in `absent` (cpu, memory, pids, io) and is all zeros."""

    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    pids: Pids = Pids()
    io: Io = Io()
    hugetlb: tuple[HugePages, ...] = ()
    rdma: tuple[Rdma, ...] = ()
    absent: frozenset[str] = frozenset()


def collect(v1: Mapping[str, Read], v2: Read | None, huge_page_sizes: tuple[str, ...] = ()) -> Stats:
    """Read everything from v1's hierarchies, by controller, and from the unified one.

    The unified tree of a hybrid layout counts CPU time and pressure without having any controller.
    """
    cpu = _cpu(v1, v2)
    memory = memory_v1(v1["memory"]) if "memory" in v1 else memory_v2(v2) if v2 is not None else None
    tasks = _pids(v1.get("pids") or v2)
    entries = io_v1(v1["blkio"]) if "blkio" in v1 else io_v2(v2("io.stat")) if v2 is not None else None
    # Where io is a v1 controller, v2 has no such file; a file without a line means that nothing was read or written.
    io = None if entries is None else Io(entries)
    if v2 is not None:
        cpu = cpu and cpu._replace(pressure=pressure(v2("cpu.pressure")))
        memory = memory and memory._replace(pressure=pressure(v2("memory.pressure")))
        io = io and io._replace(pressure=pressure(v2("io.pressure")))
    parts = {"cpu": cpu, "memory": memory, "pids": tasks, "io": io}
    return Stats(
        cpu or Cpu(),
        memory or Memory(),
        tasks or Pids(),
        io or Io(),
        hugetlb(v1.get("hugetlb"), v2, huge_page_sizes),
        rdma(v1.get("rdma") or v2),
        frozenset(name for name, value in parts.items() if value is None),
    )


def _cpu(v1: Mapping[str, Read], v2: Read | None) -> Cpu | None:
    found: Cpu | None = None
    if v2 is not None and (text := v2("cpu.stat")) is not None:
        found = cpu_v2(text)
    if "cpuacct" in v1:
        found = cpu_v1(v1["cpuacct"]) or found
    if "cpu" in v1 and (text := v1["cpu"]("cpu.stat")) is not None:
        values = fields(text)
        found = (found or Cpu())._replace(
            periods=values.get("nr_periods", 0),
            throttled_periods=values.get("nr_throttled", 0),
            throttled=values.get("throttled_time", 0),
        )
    return found


def cpu_v2(cpu_stat: str) -> Cpu:
    """Read `cpu.stat`, which is in µs."""
    values = fields(cpu_stat)
    usage, user, system = (values.get(f"{name}_usec", 0) * 1000 for name in ("usage", "user", "system"))
    periods, throttled = values.get("nr_periods", 0), values.get("nr_throttled", 0)
    return Cpu(usage, user, system, periods, throttled, values.get("throttled_usec", 0) * 1000)


def cpu_v1(read: Read) -> Cpu | None:
    """Read cpuacct's files: usage in ns, its parts in ns where the kernel tells them so, else in ticks of 10 ms."""
    usage = number(read("cpuacct.usage"))
    if usage is None:
        return None
    ticks = fields(read("cpuacct.stat") or "")
    user, system = (number(read(f"cpuacct.usage_{name}")) for name in ("user", "sys"))
    if user is None or system is None:
        user, system = (ticks.get(name, 0) * 10_000_000 for name in ("user", "system"))
    return Cpu(usage, user, system, per_cpu=_numbers(read("cpuacct.usage_percpu")))


def memory_v1(read: Read) -> Memory | None:
    """Read the v1 controller's files (cgroup-v1/memory.rst, 5)."""
    usage = number(read("memory.usage_in_bytes"))
    if usage is None:
        return None
    counted = fields(read("memory.stat") or "")
    limit = _limit(read("memory.limit_in_bytes"))
    both, both_limit = number(read("memory.memsw.usage_in_bytes")), _limit(read("memory.memsw.limit_in_bytes"))
    return Memory(
        usage=usage,
        limit=limit,
        max_usage=number(read("memory.max_usage_in_bytes")) or 0,
        swap_usage=counted.get("total_swap", max((both or usage) - usage, 0)),
        swap_limit=None if both_limit is None or limit is None else max(both_limit - limit, 0),
        cache=counted.get("total_cache", counted.get("cache", 0)),
        anon=counted.get("total_rss", counted.get("rss", 0)),
        kernel=number(read("memory.kmem.usage_in_bytes")) or 0,
        oom_kills=fields(read("memory.oom_control") or "").get("oom_kill", 0),
        # Where both limits are the same, it is the one of memory and swap that is met.
        failures=(number(read("memory.failcnt")) or 0) + (number(read("memory.memsw.failcnt")) or 0),
        fields=counted,
    )


def memory_v2(read: Read) -> Memory | None:
    """Read the v2 controller's files (cgroup-v2.rst, "Memory Interface Files")."""
    usage = number(read("memory.current"))
    if usage is None:
        return None
    counted, events = fields(read("memory.stat") or ""), fields(read("memory.events") or "")
    parts = sum(counted.get(name, 0) for name in ("slab", "kernel_stack", "pagetables", "sec_pagetables", "percpu"))
    return Memory(
        usage=usage,
        limit=_limit(read("memory.max")),
        max_usage=number(read("memory.peak")) or 0,
        swap_usage=number(read("memory.swap.current")) or 0,
        swap_limit=_limit(read("memory.swap.max")),
        cache=counted.get("file", 0),
        anon=counted.get("anon", 0),
        kernel=counted.get("kernel", parts),
        oom_kills=events.get("oom_kill", 0),
        failures=events.get("max", 0),
        fields=counted,
    )


def _pids(read: Read | None) -> Pids | None:
    current = None if read is None else number(read("pids.current"))
    return None if read is None or current is None else Pids(current, _limit(read("pids.max")))


def io_v2(io_stat: str | None) -> tuple[IoEntry, ...] | None:
    """Read `io.stat`: `8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 …`."""
    if io_stat is None:
        return None
    found: list[IoEntry] = []
    for line in io_stat.splitlines():
        words = line.split()
        place = _place(words[0]) if words else None
        if place is None:
            continue
        values = {name: int(value) for name, _, value in (word.partition("=") for word in words[1:]) if _is(value)}
        if values:
            found.append(IoEntry(*place, *(values.get(name, 0) for name in ("rbytes", "wbytes", "rios", "wios"))))
    return tuple(sorted(found))


def io_v1(read: Read) -> tuple[IoEntry, ...] | None:
    """Read the first counters that there are: of throttling, which counts for every scheduler, else bfq's own."""
    for family in ("throttle", "bfq"):
        for suffix in ("_recursive", ""):
            counted = read(f"blkio.{family}.io_service_bytes{suffix}")
            if counted is not None:
                return _io_v1(counted, read(f"blkio.{family}.io_serviced{suffix}") or "")
    return None


def _io_v1(service_bytes: str, serviced: str) -> tuple[IoEntry, ...]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for text, kind in ((service_bytes, "bytes"), (serviced, "times")):
        for line in text.splitlines():
            words = line.split()
            place = _place(words[0]) if len(words) == 3 else None
            if place is not None and words[1] in ("Read", "Write") and _is(words[2]):
                found.setdefault(place, {})[f"{words[1]} {kind}"] = int(words[2])
    names = ("Read bytes", "Write bytes", "Read times", "Write times")
    return tuple(IoEntry(*place, *(values.get(name, 0) for name in names)) for place, values in sorted(found.items()))


def hugetlb(v1: Read | None, v2: Read | None, sizes: tuple[str, ...]) -> tuple[HugePages, ...]:
    """Read the counters of each page size that is there."""
    found: list[HugePages] = []
    for size in sizes:
        if v1 is not None and (usage := number(v1(f"hugetlb.{size}.usage_in_bytes"))) is not None:
            most = number(v1(f"hugetlb.{size}.max_usage_in_bytes")) or 0
            found.append(HugePages(size, usage, most, number(v1(f"hugetlb.{size}.failcnt")) or 0))
        elif v2 is not None and (usage := number(v2(f"hugetlb.{size}.current"))) is not None:
            found.append(HugePages(size, usage, 0, fields(v2(f"hugetlb.{size}.events") or "").get("max", 0)))
    return tuple(found)


def rdma(read: Read | None) -> tuple[Rdma, ...]:
    """Read `rdma.current` and `rdma.max`: `mlx4_0 hca_handle=2 hca_object=2000`."""
    if read is None:
        return ()
    limits = {device: values for device, values in _keyed(read("rdma.max"))}
    return tuple(
        Rdma(
            device,
            values.get("hca_handle") or 0,
            values.get("hca_object") or 0,
            limits.get(device, {}).get("hca_handle"),
            limits.get(device, {}).get("hca_object"),
        )
        for device, values in _keyed(read("rdma.current"))
    )


def _keyed(text: str | None) -> list[tuple[str, dict[str, int | None]]]:
    found: list[tuple[str, dict[str, int | None]]] = []
    for words in (line.split() for line in (text or "").splitlines()):
        if words:
            pairs = (word.partition("=") for word in words[1:])
            found.append((words[0], {name: int(value) if _is(value) else None for name, _, value in pairs}))
    return found


def pressure(text: str | None) -> Pressure | None:
    """Read a pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full` likewise."""
    found: dict[str, Average] = {}
    for line in (text or "").splitlines():
        name, *pairs = line.split() or [""]
        try:
            values = dict(pair.split("=", 1) for pair in pairs)
            avg10, avg60, avg300 = (float(values[key]) for key in ("avg10", "avg60", "avg300"))
            found[name] = Average(avg10, avg60, avg300, int(values["total"]))
        except (ValueError, KeyError):
            continue
    return Pressure(found["some"], found.get("full")) if "some" in found else None


def number(text: str | None) -> int | None:
    """Read a file of one number; None for anything else."""
    stripped = (text or "").strip()
    return int(stripped) if _is(stripped) else None


def _numbers(text: str | None) -> tuple[int, ...]:
    words = (text or "").split()
    return tuple(int(word) for word in words) if all(_is(word) for word in words) else ()


def _limit(text: str | None) -> int | None:
    found = number(text)
    return None if found is None or found >= _NO_LIMIT else found


def _place(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(":")
    return (int(major), int(minor)) if _is(major) and _is(minor) else None


def _is(text: str) -> bool:
    return text.isascii() and text.isdecimal()
