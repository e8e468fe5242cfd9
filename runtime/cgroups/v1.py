"""Cgroup v1's files: limits as writes, counters as parsers. Pure (cgroup-v1/*.rst)."""

from collections.abc import Callable
from typing import NamedTuple

from runtime.cgroups.resources import Resources
from runtime.cgroups.rules import Device, exceptions, listed

Now = Callable[[str], str | None]
"""Returns the text that a file has now; None where it has none or the directory is fresh."""


class Write(NamedTuple):
    """One value for one controller's file; `optional` is the warning to give where the file does not exist.

    An empty `optional` gives none. `advice` is for the error where the kernel refuses the value.
    """

    controller: str
    file: str
    value: str
    optional: str | None = None
    advice: str | None = None


NO_SWAP_LIMIT = (
    "swap is not limited: this kernel does not account it (boot with swapaccount=1); memory is limited as asked"
)
_MEMORY, _SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_BUSY = "a limit below what is used needs reclaimable memory; see memory.usage_in_bytes, and memory.swap of the config"
_REALTIME = "real-time limits need a share of the parent's cpu.rt_runtime_us, of every parent"


def nothing(file: str) -> str | None:
    """Be the files of a fresh directory, whose values nobody has set."""
    return None


def writes(resources: Resources, now: Now = nothing, has: Callable[[str], bool] = bool) -> list[Write]:
    """Return the writes, in order, that set `resources` on a container's directory.

    The order depends on what is set `now`: the kernel keeps the limit of memory and swap at or above the one of memory,
    and a quota's share of its period below the parent's. `has` tells whether the directory has a file.
    """
    found: list[Write] = []

    def put(
        controller: str, file: str, value: int | str | None, optional: str | None = None, advice: str | None = None
    ) -> None:
        if value is not None:
            found.append(Write(controller, file, str(value), optional, advice))

    found += _memory(resources, now)
    put("memory", "memory.soft_limit_in_bytes", resources.reservation)
    put("memory", "memory.swappiness", resources.swappiness)
    put("memory", "memory.oom_control", None if resources.no_oom_killer is None else int(resources.no_oom_killer))
    if resources.idle == 0:
        put("cpu", "cpu.idle", 0)
    put("cpu", "cpu.shares", resources.shares)
    if resources.idle:
        put("cpu", "cpu.idle", resources.idle)
    found += _bandwidth(resources, now)
    put("cpu", "cpu.rt_period_us", resources.realtime_period, advice=_REALTIME)
    put("cpu", "cpu.rt_runtime_us", resources.realtime_runtime, advice=_REALTIME)
    put("cpuset", "cpuset.cpus", resources.cpus)
    put("cpuset", "cpuset.mems", resources.mems)
    put("pids", "pids.max", "max" if resources.pids is not None and resources.pids < 0 else resources.pids)
    bfq = "blkio.bfq.weight" if has("blkio.bfq.weight") or not has("blkio.weight") else "blkio.weight"
    put("blkio", bfq, resources.weight, advice="weights need the bfq scheduler (CONFIG_BFQ_GROUP_IOSCHED)")
    for place, weight in resources.weights:
        put("blkio", f"{bfq}_device", f"{place} {weight}", advice="the device must use the bfq scheduler")
    for kind, place, rate in resources.throttles:
        put("blkio", f"blkio.throttle.{kind}_device", f"{place} {rate}", advice=NO_DEVICE)
    for size, limit in resources.huge_pages:
        put("hugetlb", f"hugetlb.{size}.limit_in_bytes", limit, advice=NO_HUGE_PAGES)
        put("hugetlb", f"hugetlb.{size}.rsvd.limit_in_bytes", limit, "")
    put("net_cls", "net_cls.classid", resources.class_id)
    for name, priority in resources.priorities:
        put("net_prio", "net_prio.ifpriomap", f"{name} {priority}", advice="is there a network interface of this name?")
    found += rdma(resources)
    return found


FLAT = ("blkio.throttle.", "net_cls.", "net_prio.", "memory.swappiness")
"""Beginnings of files that hold for one cgroup alone: what is set above it counts at most when it is made."""
THROTTLES = tuple(f"blkio.throttle.{kind}_device" for kind in ("read_bps", "write_bps", "read_iops", "write_iops"))
"""Files that do not even count then: v1 throttles each cgroup as if it lay directly below the root."""
NO_DEVICE = "is there a whole disk (no partition) with these numbers? See lsblk"
NO_HUGE_PAGES = "this kernel has the page sizes that /sys/kernel/mm/hugepages lists"


def rdma(resources: Resources) -> list[Write]:
    """Return the writes to `rdma.max`, which both versions have (cgroup-v1/rdma.rst)."""
    found: list[Write] = []
    for device, handles, objects in resources.rdma:
        parts = [
            f"{name}={value}" for name, value in (("hca_handle", handles), ("hca_object", objects)) if value is not None
        ]
        if parts:
            found.append(
                Write("rdma", "rdma.max", " ".join((device, *parts)), advice="see the devices in rdma.current")
            )
    return found


def unsupported(resources: Resources) -> tuple[str, str] | None:
    """Return the first limit that v1 cannot keep on kernels since 5.15, and why."""
    if resources.leaf_weight is not None:
        return "blockIO.leafWeight", "no kernel since 5.0 has leaf weights"
    return None


def _memory(resources: Resources, now: Now) -> list[Write]:
    limit, total = resources.memory, resources.memory_and_swap
    memory = [] if limit is None else [Write("memory", _MEMORY, str(limit), advice=_BUSY)]
    if total is None:
        # Without limit of memory, none of both together can be kept; where none was asked for there may be none.
        return [*([Write("memory", _SWAP, "-1", "")] if limit == -1 else []), *memory]
    swap = [Write("memory", _SWAP, str(total), NO_SWAP_LIMIT if total >= 0 else "", advice=_BUSY)]
    before = _number(now(_SWAP))
    return [*swap, *memory] if before is not None and (total < 0 or total > before) else [*memory, *swap]


def _bandwidth(resources: Resources, now: Now) -> list[Write]:
    """Return quota, period and burst, by the way on which the share of the period is never above both ends'."""
    found: list[Write] = []
    quota = None if resources.quota is None else max(resources.quota, -1)
    if quota is not None:
        found.append(Write("cpu", "cpu.cfs_quota_us", str(quota), advice=OUT_OF_QUOTA))
    if resources.period is not None:
        period = Write("cpu", "cpu.cfs_period_us", str(resources.period), advice=OUT_OF_QUOTA)
        before = _number(now("cpu.cfs_period_us"))
        found = [*found, period] if before is not None and resources.period < before else [period, *found]
    if resources.burst is not None:
        # A burst may not be above the quota, so that a quota can only fall below it while there is none.
        lift = [Write("cpu", "cpu.cfs_burst_us", "0", "")] if now("cpu.cfs_burst_us") not in (None, "0\n") else []
        found = [*lift, *found, Write("cpu", "cpu.cfs_burst_us", str(resources.burst), advice=OUT_OF_QUOTA)]
    return found


OUT_OF_QUOTA = (
    "the kernel takes periods of 1,000 to 1,000,000 µs, quotas of at least 1,000 µs and within the parent's, "
    "bursts up to the quota"
)


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def device_writes(devices: tuple[Device, ...], devices_list: str = "a *:* rwm\n") -> list[Write]:
    """Return the writes that lead from what `devices.list` says to "deny all", then `devices`.

    Where all is denied now, only what differs is written, allowing first: no process loses a device meanwhile, and the
    kernel takes "all" only from a directory without children (cgroup-v1/devices.rst). Raises `rules.Uncoverable`.
    """
    wanted, current = exceptions(devices), listed(devices_list)
    advice = "the parent cgroup must allow it, and allowing all is refused for a cgroup with children"

    def put(allow: bool, place: str, access: str) -> Write:
        file = "devices.allow" if allow else "devices.deny"
        return Write("devices", file, f"{place} {access}".strip(), advice=advice)

    if wanted.allow or current.allow:
        whole = put(wanted.allow, "a", "")
        return [whole, *(put(not wanted.allow, place, access) for place, access in wanted.access.items())]
    found: list[Write] = []
    for place, access in wanted.access.items():
        if more := "".join(letter for letter in access if letter not in current.access.get(place, "")):
            found.append(put(True, place, more))
    for place, access in current.access.items():
        if less := "".join(letter for letter in access if letter not in wanted.access.get(place, "")):
            found.append(put(False, place, less))
    return found


def oom_kills(oom_control: str) -> int:
    """Return how many processes of this cgroup itself the OOM killer took, from `memory.oom_control`."""
    return int(dict(line.split(" ", 1) for line in oom_control.splitlines()).get("oom_kill", "0"))
