"""Cgroup v1's files: limits as writes, counters as parsers. Pure."""

from typing import NamedTuple

from runtime.cgroups.resources import Device, Resources


class Write(NamedTuple):
    """One value for one controller's file; `optional` is the warning to give where the file does not exist."""

    controller: str
    file: str
    value: str
    optional: str | None = None


NO_SWAP_LIMIT = (
    "swap is not limited: this kernel does not account it (boot with swapaccount=1); memory is limited as asked"
)


def writes(resources: Resources, *, fresh: bool = True) -> list[Write]:
    """Return the writes, in order, that set `resources` on a container's directory (cgroup-v1/*.rst).

    `fresh` says that the directory was just made; an older one first has its swap limit lifted, because the kernel
    refuses a memory limit above it.
    """
    found: list[Write] = []

    def put(controller: str, file: str, value: int | str | None, optional: str | None = None) -> None:
        if value is not None:
            found.append(Write(controller, file, str(value), optional))

    limits_swap = resources.memory_and_swap is not None
    if not fresh and (limits_swap or resources.memory is not None):
        put("memory", "memory.memsw.limit_in_bytes", -1, NO_SWAP_LIMIT if limits_swap else "")
    put("memory", "memory.limit_in_bytes", resources.memory)
    put("memory", "memory.memsw.limit_in_bytes", resources.memory_and_swap, NO_SWAP_LIMIT)
    put("memory", "memory.soft_limit_in_bytes", resources.reservation)
    put("cpu", "cpu.shares", resources.shares)
    put("cpu", "cpu.cfs_period_us", resources.period)
    put("cpu", "cpu.cfs_quota_us", None if resources.quota is None else max(resources.quota, -1))
    put("cpu", "cpu.cfs_burst_us", resources.burst)
    put("cpuset", "cpuset.cpus", resources.cpus)
    put("cpuset", "cpuset.mems", resources.mems)
    put("pids", "pids.max", "max" if resources.pids is not None and resources.pids < 0 else resources.pids)
    return found


def device_writes(devices: tuple[Device, ...]) -> list[Write]:
    """Return the writes that deny all devices and then apply `devices` (cgroup-v1/devices.rst)."""
    rules = [
        Write("devices", "devices.allow" if allow else "devices.deny", f"{place} {access}")
        for place, access, allow in devices
    ]
    return [Write("devices", "devices.deny", "a"), *rules]


def oom_kills(oom_control: str) -> int:
    """Return how many processes of this cgroup itself the OOM killer took, from `memory.oom_control`."""
    return int(dict(line.split(" ", 1) for line in oom_control.splitlines()).get("oom_kill", "0"))
