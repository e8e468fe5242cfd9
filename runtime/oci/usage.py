"""What a container uses, as `events` prints it: runc's JSON, one object a line."""

import contextlib
import errno
import json
import os
import select
import sys
import time
from typing import Any

from runtime import syscalls
from runtime.cgroups.group import Group
from runtime.cgroups.stats import Stats
from runtime.oci.log import OciError
from runtime.oci.placing import group_of, leaf_of
from runtime.oci.state import Record, lives

_UNLIMITED = (1 << 64) - 1


def document(stats: Stats) -> dict[str, Any]:
    """Return statistics in the form of `runc events --stats`: bytes, nanoseconds, counts."""
    cpu, memory, pids = stats.cpu, stats.memory, stats.pids
    limit = _UNLIMITED if memory.limit is None else memory.limit
    swap = _UNLIMITED if memory.swap_limit is None else memory.swap_limit
    return {
        "cpu": {
            "usage": {"total": cpu.usage, "percpu": list(cpu.per_cpu), "kernel": cpu.system, "user": cpu.user},
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": {
                "limit": limit,
                "usage": memory.usage,
                "max": memory.max_usage or 0,
                "failcnt": memory.failures or 0,
            },
            "swap": {"limit": swap, "usage": memory.swap_usage, "max": 0, "failcnt": 0},
            "kernel": {"limit": 0, "usage": memory.kernel, "max": 0, "failcnt": 0},
            "raw": dict(memory.fields),
        },
        "pids": {"current": pids.current, "limit": pids.limit or 0},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": each.major, "minor": each.minor, "op": kind, "value": value}
                for each in stats.io.entries
                for kind, value in (("Read", each.read_bytes), ("Write", each.write_bytes))
            ],
            "ioServicedRecursive": [
                {"major": each.major, "minor": each.minor, "op": kind, "value": value}
                for each in stats.io.entries
                for kind, value in (("Read", each.reads), ("Write", each.writes))
            ],
        },
        "hugetlb": {
            each.size: {"usage": each.usage, "max": each.max_usage, "failcnt": each.failures} for each in stats.hugetlb
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }


def once(record: Record) -> None:
    """Print the statistics of now."""
    _print("stats", record.id, document(group_of(record).stats()))


def follow(record: Record, interval: float) -> None:
    """Print statistics every `interval` seconds and each killing for want of memory, until the container ends."""
    group = group_of(record)
    with contextlib.ExitStack() as closing:
        pidfd = syscalls.pidfd_open(record.pid)
        closing.callback(os.close, pidfd)
        if not lives(record.pid, record.born):
            raise OciError("container not running")
        watch = leaf_of(record).oom_watch()
        closing.callback(watch.close)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(watch.fileno(), select.POLLIN)
        told = 0
        due = time.monotonic() + interval
        while True:
            ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
            killed = watch.kills()
            if killed > told:
                _print("oom", record.id, None)
            told = killed
            if pidfd in ready:
                return
            if time.monotonic() >= due:
                _print_stats(record, group)
                due += interval


def _print_stats(record: Record, group: Group) -> None:
    try:
        _print("stats", record.id, document(group.stats()))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # it ends at this moment
            raise


def _print(kind: str, identifier: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": identifier}
    if data is not None:
        event["data"] = data
    sys.stdout.write(f"{json.dumps(event)}\n")
    sys.stdout.flush()
