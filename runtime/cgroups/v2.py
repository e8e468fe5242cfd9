"""Cgroup v2's files: limits as writes, counters as parsers. Pure (cgroup-v2.rst)."""

import math

from runtime.cgroups.resources import Resources
from runtime.cgroups.v1 import Write

NO_SWAP_LIMIT = "swap is not limited: this kernel has no memory.swap.max; memory is limited as asked"
DEFAULT_PERIOD = 100_000
"""Microseconds; the kernel's own default."""


def writes(resources: Resources) -> list[Write]:
    """Return the writes, in order, that set `resources` on a container's directory."""
    found: list[Write] = []

    def put(controller: str, file: str, value: int | str | None, optional: str | None = None) -> None:
        if value is not None:
            found.append(Write(controller, file, str(value), optional))

    put("memory", "memory.max", _or_max(resources.memory))
    swap = resources.memory_and_swap
    if swap is not None and swap >= 0:
        swap -= resources.memory or 0
    put("memory", "memory.swap.max", _or_max(swap), NO_SWAP_LIMIT)
    put("memory", "memory.low", _or_max(resources.reservation))
    put("cpu", "cpu.weight", None if resources.shares is None else weight_of(resources.shares))
    if resources.quota is not None or resources.period is not None:
        quota = "max" if resources.quota is None else _or_max(resources.quota)
        put("cpu", "cpu.max", f"{quota} {resources.period or DEFAULT_PERIOD}")
    put("cpu", "cpu.max.burst", resources.burst)
    put("cpuset", "cpuset.cpus", resources.cpus)
    put("cpuset", "cpuset.mems", resources.mems)
    put("pids", "pids.max", _or_max(resources.pids))
    for file, value in resources.unified:
        put(file.partition(".")[0], file, value)
    return found


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


def oom_kills(memory_events: str) -> int:
    """Return how many processes of this cgroup and those below it the OOM killer took, from `memory.events`."""
    return _fields(memory_events).get("oom_kill", 0)


def populated(cgroup_events: str) -> bool:
    """Return whether a process lives in this cgroup or below it, from `cgroup.events`."""
    return _fields(cgroup_events).get("populated", 0) == 1


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, _, value in (line.partition(" ") for line in text.splitlines())}


def _or_max(value: int | None) -> int | str | None:
    return "max" if value is not None and value < 0 else value
