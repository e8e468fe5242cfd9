"""What one container may use: OCI's `linux.resources`, checked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

Device = tuple[str, str, bool]
"""A device rule as v1 writes it, such as `c 1:3`; its access, such as `rwm`; and whether it allows."""

DEFAULT_DEVICES: tuple[Device, ...] = (
    # Making a node is no access, so mknod is allowed for every device, as Docker does.
    ("c *:*", "m", True),
    ("b *:*", "m", True),
    ("c 1:3", "rwm", True),  # null
    ("c 1:5", "rwm", True),  # zero
    ("c 1:7", "rwm", True),  # full
    ("c 1:8", "rwm", True),  # random
    ("c 1:9", "rwm", True),  # urandom
    ("c 5:0", "rwm", True),  # tty
    ("c 5:2", "rwm", True),  # ptmx
    ("c 136:*", "rwm", True),  # pts
)
"""The default devices of the OCI runtime spec (config-linux.md, "Default Devices"); everything else is denied."""

_KEYS = {
    "memory": {"limit", "reservation", "swap"},
    "cpu": {"shares", "quota", "burst", "period", "cpus", "mems"},
    "pids": {"limit"},
}


class Resources(NamedTuple):
    """Limits in the spec's units: bytes, microseconds, counts; -1 means no limit and None not asked for."""

    memory: int | None = None
    reservation: int | None = None
    memory_and_swap: int | None = None
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    pids: int | None = None
    devices: tuple[Device, ...] = DEFAULT_DEVICES
    unified: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, oci: Mapping[str, Any]) -> "Resources":
        """Read OCI's `linux.resources` (runtime-spec, config-linux.md, "Control groups").

        Raises ValueError for values out of range and for whatever would have no effect here.
        """
        _refuse("resources", oci, {*_KEYS, "devices", "unified"})
        for table, keys in _KEYS.items():
            _refuse(f"resources.{table}", _table(oci, table), keys)
        memory, cpu, pids = _table(oci, "memory"), _table(oci, "cpu"), _table(oci, "pids")
        limit, total = memory.get("limit"), memory.get("swap")
        if total is not None and total != -1 and (limit is None or not 0 <= limit <= total):
            raise ValueError(
                f"resources.memory.swap is memory and swap together: {total} with a limit of {limit} makes no sense"
            )
        if pids.get("limit") == 0:
            raise ValueError("resources.pids.limit: 0 would let nothing run; -1 means no limit")
        return cls(
            memory=limit,
            reservation=memory.get("reservation"),
            memory_and_swap=total,
            shares=cpu.get("shares") or None,
            quota=cpu.get("quota") or None,
            burst=cpu.get("burst"),
            period=cpu.get("period") or None,
            cpus=cpu.get("cpus") or None,
            mems=cpu.get("mems") or None,
            pids=pids.get("limit"),
            devices=_devices(oci["devices"]) if oci.get("devices") is not None else DEFAULT_DEVICES,
            unified=_unified(_table(oci, "unified")),
        )

    @property
    def asked(self) -> dict[str, str]:
        """The controllers that the limits need, each with the first such limit's name."""
        wanted: dict[str, str] = {}
        for controller, name, value in (
            ("memory", "memory.limit", self.memory),
            ("memory", "memory.reservation", self.reservation),
            ("memory", "memory.swap", self.memory_and_swap),
            ("cpu", "cpu.shares", self.shares),
            ("cpu", "cpu.quota", self.quota),
            ("cpu", "cpu.burst", self.burst),
            ("cpu", "cpu.period", self.period),
            ("cpuset", "cpu.cpus", self.cpus),
            ("cpuset", "cpu.mems", self.mems),
            ("pids", "pids.limit", self.pids),
            *((file.partition(".")[0], f"unified.{file}", value) for file, value in self.unified),
        ):
            if value is not None:
                wanted.setdefault(controller, name)
        return wanted


def _table(oci: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return oci.get(key) or {}


def _refuse(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    for key, value in table.items():
        if key not in known and value not in (None, False, [], {}):
            raise ValueError(f"{where}.{key} is not yet supported (found {value!r})")


def _devices(rules: list[Mapping[str, Any]]) -> tuple[Device, ...]:
    """Turn OCI's list into rules after "deny everything", which a list must start with to mean that here."""
    if not rules or rules[0].get("allow") or rules[0].get("type") not in (None, "", "a"):
        raise ValueError("resources.devices must start with the rule that denies all: {'allow': false}")
    found: list[Device] = []
    for rule in rules[1:]:
        kind, access = rule.get("type") or "a", rule.get("access") or "rwm"
        if kind not in ("a", "b", "c") or not access or set(access) - set("rwm"):
            raise ValueError(f"resources.devices: {dict(rule)!r} has no valid type (a, b, c) or access (r, w, m)")
        numbers = [rule.get(part, -1) for part in ("major", "minor")]
        place = ":".join("*" if number in (None, -1) else str(int(number)) for number in numbers)
        kinds = ("b", "c") if kind == "a" else (kind,)
        found += [(f"{each} {place}", access, bool(rule.get("allow"))) for each in kinds]
    return tuple(found)


def _unified(table: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    for file in table:
        if "/" in file or not file.partition(".")[2] or file.startswith("cgroup."):
            raise ValueError(f"resources.unified.{file} is not a controller's file")
    return tuple(sorted(table.items()))
