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
from runtime.cgroups.group import Group, Leaf
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
    group, leaf = group_of(record), leaf_of(record)
    with contextlib.ExitStack() as closing:
        pidfd = syscalls.pidfd_open(record.pid)
        closing.callback(os.close, pidfd)
        if not lives(record.pid, record.born):
            raise OciError("container with id exited before its events could be read")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        told = _watch(leaf, closing)
        if told is not None:
            poll.register(told, select.POLLIN)
        killed = leaf.oom_kills()
        due = time.monotonic() + interval
        while True:
            ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
            if told is not None and told in ready:
                os.read(told, 4096)
            now = _oom_kills(leaf)
            if now is None:
                return
            if now > killed:
                _print("oom", record.id, None)
            killed = now
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


def _oom_kills(leaf: Leaf) -> int | None:
    try:
        return leaf.oom_kills()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return None
        raise


def _watch(leaf: Leaf, closing: contextlib.ExitStack) -> int | None:
    """Return a descriptor that becomes readable when the cgroup runs out of memory; None without that controller."""
    for place in leaf.places:
        if "memory" not in place.controllers:
            continue
        directory = place.directory(leaf.path)
        if place.version == 2:
            told = syscalls.inotify_init()
            closing.callback(os.close, told)
            syscalls.inotify_add_watch(told, f"{directory}/memory.events", syscalls.IN_MODIFY)
            return told
        told = os.eventfd(0, os.EFD_CLOEXEC)  # cgroup-v1/memory.rst, "OOM Control"
        closing.callback(os.close, told)
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        closing.callback(os.close, control)
        register = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(register, f"{told} {control}".encode())
        finally:
            os.close(register)
        return told
    return None


def _print(kind: str, identifier: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": identifier}
    if data is not None:
        event["data"] = data
    sys.stdout.write(f"{json.dumps(event)}\n")
    sys.stdout.flush()
