"""`update`: what changes of a running container's limits, from options or from a resources object."""

import argparse
import sys
from pathlib import Path
from typing import Any

from runtime.oci.bundle import parse_object, read_object
from runtime.oci.log import OciError

_OPTIONS = {
    "memory": ("memory", "limit"),
    "memory_reservation": ("memory", "reservation"),
    "memory_swap": ("memory", "swap"),
    "cpu_period": ("cpu", "period"),
    "cpu_quota": ("cpu", "quota"),
    "cpu_burst": ("cpu", "burst"),
    "cpu_share": ("cpu", "shares"),
    "cpuset_cpus": ("cpu", "cpus"),
    "cpuset_mems": ("cpu", "mems"),
    "pids_limit": ("pids", "limit"),
    "blkio_weight": ("blockIO", "weight"),
}
"""Each option's place in OCI's resources."""
_CHANGEABLE = {
    "memory": {"limit", "reservation", "swap"},
    "cpu": {"shares", "quota", "burst", "period", "cpus", "mems"},
    "pids": {"limit"},
    "blockIO": {
        "weight",
        "throttleReadBpsDevice",
        "throttleWriteBpsDevice",
        "throttleReadIOPSDevice",
        "throttleWriteIOPSDevice",
    },
}
"""What of a resources object is taken; the rest stays as it is, as with runc: dockerd sends all that it knows."""


def wanted(options: argparse.Namespace) -> dict[str, Any]:
    """Return the resources that are to change, in OCI's form; raise OciError where nothing is asked for."""
    if options.resources is not None:
        if options.resources == "-":
            asked = parse_object(sys.stdin.buffer.read(), "the resources on stdin")
        else:
            asked = read_object(str(Path(options.resources)))
        return _picked(asked)
    found: dict[str, Any] = {}
    for option, (table, key) in _OPTIONS.items():
        value = getattr(options, option)
        if value is not None:
            found.setdefault(table, {})[key] = value
    if not found:
        raise OciError("update: nothing to change; see creche-oci update --help")
    return found


def _picked(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what can change and is said: Docker's and runc's zeros mean that a value stays."""
    found: dict[str, Any] = {}
    for table, keys in _CHANGEABLE.items():
        values: Any = asked.get(table) or {}
        if not isinstance(values, dict):
            raise OciError(f"resources.{table} must be an object")
        said = {key: value for key, value in values.items() if key in keys and value not in (None, 0, "", [])}  # pyright: ignore[reportUnknownVariableType]
        if said:
            found[table] = said
    if isinstance(asked.get("unified"), dict) and asked["unified"]:
        found["unified"] = asked["unified"]
    return found


def merged(before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return the resources that hold afterwards."""
    found = dict(before)
    for table, values in change.items():
        found[table] = {**(before.get(table) or {}), **values}
    return found
