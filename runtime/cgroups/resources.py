"""What one container may use: OCI's `linux.resources`, checked."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from runtime.cgroups.rules import DEFAULT_DEVICES, Device, device_rules

Throttle = tuple[Literal["read_bps", "write_bps", "read_iops", "write_iops"], str, int]
"""What is throttled, the device as `major:minor`, bytes or operations a second; 0 means no limit."""

_MAX = (1 << 63) - 1
_PAGE_SIZE = re.compile(r"[1-9][0-9]*[KMG]B")
_CORE = "cgroup."
_CORE_FILES = ("cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure")
"""Files of cgroup v2's core that limit something; the others move, kill or freeze processes."""
_NO_KERNEL_MEMORY = (
    "memory.kernel and memory.kernelTCP limit nothing: kernel memory is a part of memory.limit (cgroup-v1/memory.rst)"
)
_NO_FLAT_MEMORY = "memory.useHierarchy false has no effect: kernels since 5.11 always count hierarchically"


class Resources(NamedTuple):
    """Limits in the spec's units: bytes, microseconds, counts; -1 means no limit and None not asked for."""

    memory: int | None = None
    reservation: int | None = None
    memory_and_swap: int | None = None
    swappiness: int | None = None
    no_oom_killer: bool | None = None
    check_before_update: bool = False
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: int | None = None
    pids: int | None = None
    weight: int | None = None
    leaf_weight: int | None = None
    weights: tuple[tuple[str, int], ...] = ()
    throttles: tuple[Throttle, ...] = ()
    huge_pages: tuple[tuple[str, int], ...] = ()
    class_id: int | None = None
    priorities: tuple[tuple[str, int], ...] = ()
    rdma: tuple[tuple[str, int | None, int | None], ...] = ()
    devices: tuple[Device, ...] = DEFAULT_DEVICES
    devices_named: bool = False
    unified: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, oci: Mapping[str, Any], *, update: bool = False) -> "Resources":
        """Read OCI's `linux.resources` (runtime-spec, config-linux.md, "Control groups"); null is "not asked for".

        As in runc, 0 is "not asked for" in `memory`, `cpu` and `blockIO.weight`. An `update` names only what
        changes, so that it need not make sense on its own; there a pids limit of 0 is "not asked for", too.
        Raises ValueError naming the field for what is out of range or unknown.
        """
        root = _Table("resources", oci)
        memory = root.table("memory")
        limit, total = memory.limit("limit"), memory.limit("swap")
        if total not in (None, -1) and (total < limit if limit is not None else not update):
            raise ValueError(
                f"resources.memory.swap is memory and swap together: {total} with a limit of {limit} makes no sense"
            )
        swappiness = memory.number("swappiness", 0, 100)
        reservation, no_killer = memory.limit("reservation"), memory.flag("disableOOMKiller")
        kernel = [memory.number(name, -1) for name in ("kernel", "kernelTCP")]
        flat, check = memory.flag("useHierarchy") is False, memory.flag("checkBeforeUpdate")
        cpu = root.table("cpu")
        pids = root.table("pids")
        count = pids.number("limit", -1)
        if count == 0 and not update:
            raise ValueError("resources.pids.limit: 0 would let nothing run; -1 means no limit")
        block, network = root.table("blockIO"), root.table("network")
        rules = root.list("devices")
        found = cls(
            memory=limit,
            reservation=reservation,
            memory_and_swap=total,
            swappiness=swappiness,
            no_oom_killer=no_killer,
            check_before_update=bool(check),
            shares=cpu.number("shares", 0) or None,
            quota=cpu.number("quota", -_MAX) or None,
            burst=cpu.number("burst", 0),
            period=cpu.number("period", 0) or None,
            realtime_runtime=cpu.number("realtimeRuntime", -1),
            realtime_period=cpu.number("realtimePeriod", 0) or None,
            cpus=cpu.text("cpus") or None,
            mems=cpu.text("mems") or None,
            idle=cpu.number("idle", 0, 1),
            pids=count or None,
            weight=block.weight("weight"),
            leaf_weight=block.weight("leafWeight"),
            weights=_weights(block),
            throttles=_throttles(block),
            huge_pages=_huge_pages(root),
            class_id=network.number("classID", 0, 0xFFFFFFFF),
            priorities=tuple(
                (each.needed_text("name"), each.needed("priority", 0, 0xFFFFFFFF))
                for each in network.tables("priorities")
            ),
            rdma=_rdma(root.table("rdma")),
            devices=DEFAULT_DEVICES if rules is None else device_rules(rules),
            devices_named=rules is not None,
            unified=_unified(root.table("unified")),
            warnings=(
                *((_NO_KERNEL_MEMORY,) if any(value not in (None, 0) for value in kernel) else ()),
                *((_NO_FLAT_MEMORY,) if flat else ()),
            ),
        )
        for table in (root, memory, cpu, pids, block, network):
            table.done()
        return found

    @property
    def asked(self) -> dict[str, str]:
        """The controllers that the limits need (`io` stands for v1's blkio), each with the first such limit's name."""
        wanted: dict[str, str] = {}
        for controller, name, value in (
            ("memory", "memory.limit", self.memory),
            ("memory", "memory.reservation", self.reservation),
            ("memory", "memory.swap", self.memory_and_swap),
            ("memory", "memory.swappiness", self.swappiness),
            ("memory", "memory.disableOOMKiller", self.no_oom_killer),
            ("cpu", "cpu.shares", self.shares),
            ("cpu", "cpu.quota", self.quota),
            ("cpu", "cpu.burst", self.burst),
            ("cpu", "cpu.period", self.period),
            ("cpu", "cpu.realtimeRuntime", self.realtime_runtime),
            ("cpu", "cpu.realtimePeriod", self.realtime_period),
            ("cpu", "cpu.idle", self.idle),
            ("cpuset", "cpu.cpus", self.cpus),
            ("cpuset", "cpu.mems", self.mems),
            ("pids", "pids.limit", self.pids),
            ("io", "blockIO.weight", self.weight),
            ("io", "blockIO.leafWeight", self.leaf_weight),
            ("io", "blockIO.weightDevice", self.weights or None),
            ("io", "blockIO.throttle*Device", self.throttles or None),
            ("hugetlb", "hugepageLimits", self.huge_pages or None),
            ("net_cls", "network.classID", self.class_id),
            ("net_prio", "network.priorities", self.priorities or None),
            ("rdma", "rdma", self.rdma or None),
            *((file.partition(".")[0], f"unified.{file}", value) for file, value in self.unified if file[:7] != _CORE),
        ):
            if value is not None:
                wanted.setdefault(controller, name)
        return wanted


class _Table:
    """One table of the config, and which of its keys were read."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, not {value!r}")
        self.where = where
        self.values: Mapping[str, Any] = value  # pyright: ignore[reportUnknownMemberType]
        self.known: set[str] = set()

    def get(self, key: str) -> Any:
        self.known.add(key)
        return self.values.get(key)

    def done(self) -> None:
        for key, value in self.values.items():
            if key not in self.known and value not in (None, False, [], {}):
                raise ValueError(f"{self.where}.{key} is not supported: the runtime-spec has no such limit")

    def number(self, key: str, low: int, high: int = _MAX) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            ends = f"of at least {low}" if high == _MAX else f"between {low} and {high}"
            raise ValueError(f"{self.where}.{key} must be a whole number {ends}, not {value!r}")
        return value

    def needed(self, key: str, low: int, high: int = _MAX) -> int:
        value = self.number(key, low, high)
        if value is None:
            raise ValueError(f"{self.where}.{key} is missing")
        return value

    def limit(self, key: str) -> int | None:
        return self.number(key, -1) or None

    def weight(self, key: str) -> int | None:
        value = self.number(key, 0, 1000)
        if value is not None and 0 < value < 10:
            raise ValueError(f"{self.where}.{key} must be between 10 and 1000, not {value}")
        return value or None

    def flag(self, key: str) -> bool | None:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{self.where}.{key} must be true or false, not {value!r}")
        return value

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{self.where}.{key} must be a text, not {value!r}")
        return value

    def needed_text(self, key: str) -> str:
        value = self.text(key)
        if not value or set(value) & set(" \n"):
            raise ValueError(f"{self.where}.{key} must be a word, not {value!r}")
        return value

    def table(self, key: str) -> "_Table":
        value = self.get(key)
        return _Table(f"{self.where}.{key}", {} if value is None else value)

    def list(self, key: str) -> list[Any] | None:
        value = self.get(key)
        if value is not None and not isinstance(value, list):
            raise ValueError(f"{self.where}.{key} must be a list, not {value!r}")
        return value  # pyright: ignore[reportUnknownVariableType]

    def tables(self, key: str) -> "list[_Table]":
        return [_Table(f"{self.where}.{key}[{index}]", each) for index, each in enumerate(self.list(key) or ())]

    def place(self) -> str:
        return f"{self.needed('major', 0)}:{self.needed('minor', 0)}"


def _weights(block: _Table) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for each in block.tables("weightDevice"):
        if each.weight("leafWeight") is not None:
            raise ValueError(f"{each.where}.leafWeight is not supported: no kernel since 5.0 has leaf weights")
        if (weight := each.weight("weight")) is not None:
            found.append((each.place(), weight))
    return tuple(found)


def _throttles(block: _Table) -> tuple[Throttle, ...]:
    found: list[Throttle] = []
    kinds: tuple[tuple[str, Literal["read_bps", "write_bps", "read_iops", "write_iops"]], ...] = (
        ("throttleReadBpsDevice", "read_bps"),
        ("throttleWriteBpsDevice", "write_bps"),
        ("throttleReadIOPSDevice", "read_iops"),
        ("throttleWriteIOPSDevice", "write_iops"),
    )
    for key, kind in kinds:
        for each in block.tables(key):
            found.append((kind, each.place(), each.needed("rate", 0)))
    return tuple(found)


def _huge_pages(root: _Table) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for each in root.tables("hugepageLimits"):
        size = each.needed_text("pageSize")
        if not _PAGE_SIZE.fullmatch(size):
            raise ValueError(f"{each.where}.pageSize must be a size such as 2MB or 1GB, not {size!r}")
        found.append((size, each.needed("limit", 0, (1 << 64) - 1)))
    return tuple(found)


def _rdma(table: _Table) -> tuple[tuple[str, int | None, int | None], ...]:
    found: list[tuple[str, int | None, int | None]] = []
    for device in table.values:
        if not device or set(device) & set(" =\n"):
            raise ValueError(f"{table.where}: {device!r} is no name of an RDMA device")
        each = table.table(device)
        found.append((device, each.number("hcaHandles", 0), each.number("hcaObjects", 0)))
    return tuple(found)


def _unified(table: _Table) -> tuple[tuple[str, str], ...]:
    for file, value in table.values.items():
        core = file.startswith(_CORE) and file not in _CORE_FILES
        if "/" in file or "\0" in file or not file.partition(".")[2] or file.startswith(".") or core:
            raise ValueError(f"{table.where}.{file} is not a controller's file")
        if not isinstance(value, str):
            raise ValueError(f"{table.where}.{file} must be a text, not {value!r}")
    return tuple(sorted(table.values.items()))
