"""Docker's words for what a container uses and may use: stats, top, update.

Shapes: docs.docker.com/engine/api/v1.41 "Container", operations ContainerStats, ContainerTop and ContainerUpdate.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import trio

from supervisor.actor import NotRunning
from supervisor.app import App
from supervisor.control.exchange import Refused, Reply, Request, Route, Send, Stream, line
from supervisor.machine import Member, OperationFailed, Traffic, Usage
from supervisor.moments import rfc3339

INTERVAL = 1.0
"""Seconds between two samples of a stream, as Docker has them."""
_NEVER = "0001-01-01T00:00:00Z"


class UsageApi:
    """The handlers; `find` gives a container's status for an id or a name, `identify` a name's id."""

    def __init__(self, app: App, find: Callable[[str], Any], identify: Callable[[str], str]) -> None:
        self._app = app
        self._find = find
        self._identify = identify

    def routes(self) -> tuple[Route, ...]:
        one = "/containers/(?P<id>.+)"
        return (
            ("GET", f"{one}/stats", self.stats),
            ("GET", f"{one}/top", self.top),
            ("POST", f"{one}/update", self.update),
        )

    async def stats(self, request: Request, match: re.Match[str]) -> Reply | Stream:
        """`stream` (default true): an object a second until the container ends. Else one, with the second before it in
        `precpu_stats`; with `one-shot` at once and without."""
        name = self._find(match["id"]).name
        if not request.flag("stream") and "stream" in request.query:
            before = None if request.flag("one-shot") else await self._sample(name)
            if before is not None:
                await trio.sleep(INTERVAL)
            return Reply(body=self._shaped(name, await self._sample(name), before))

        async def produce(send: Send) -> None:
            before: Usage | None = None
            while True:
                now = await self._sample(name)
                await send(line(self._shaped(name, now, before)))
                if now is None and self._find(name).state in ("completed", "failed", "exhausted", "stopped"):
                    return
                before = now
                await trio.sleep(INTERVAL)

        return Stream(produce, "application/json")

    async def _sample(self, name: str) -> Usage | None:
        """What it uses, None when it does not run: Docker has an object without figures then."""
        try:
            return await self._app.usage(name)
        except (NotRunning, OperationFailed):
            if self._find(name).state in ("running", "paused", "stopping"):
                raise
            return None

    def _shaped(self, name: str, now: Usage | None, before: Usage | None) -> dict[str, Any]:
        about = {"name": f"/{name}", "id": self._identify(name)}
        return about | (nothing() if now is None else shaped(now, before))

    async def top(self, request: Request, match: re.Match[str]) -> Reply:
        """`ps_args`: `-ef` (default), `aux`, or `-o` with some of the columns that are known."""
        columns = chosen_columns(request.one("ps_args") or "-ef")
        found = await self._app.processes(self._find(match["id"]).name)
        now = time.time()
        rows = [[COLUMNS[column](each, now) for column in columns] for each in found]
        return Reply(body={"Titles": [TITLES.get(column, column.upper()) for column in columns], "Processes": rows})

    async def update(self, request: Request, match: re.Match[str]) -> Reply:
        """Limits that differ from zero; they hold until the container is made anew from its app file."""
        resources = resources_asked(request.document())
        if not resources:
            return Reply(body={"Warnings": []})
        return Reply(body={"Warnings": await self._app.update(self._find(match["id"]).name, resources)})


def shaped(now: Usage, before: Usage | None) -> dict[str, Any]:
    """One sample as Docker has it, with the one before it as `precpu_stats`."""
    used = now.cgroup
    memory: dict[str, Any] = {
        "usage": used.memory.usage,
        "stats": dict(used.memory.fields),
        "limit": now.host_memory if used.memory.limit is None else min(used.memory.limit, now.host_memory),
    }
    if used.memory.max_usage:
        memory["max_usage"] = used.memory.max_usage
    if used.memory.failures:
        memory["failcnt"] = used.memory.failures
    pids: dict[str, Any] = {"current": used.pids.current}
    if used.pids.limit is not None:
        pids["limit"] = used.pids.limit
    figures = {
        "read": rfc3339(now.at),
        "preread": _NEVER if before is None else rfc3339(before.at),
        "pids_stats": pids,
        "blkio_stats": _block(now),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(now),
        "precpu_stats": _no_cpu() if before is None else _cpu(before),
        "memory_stats": memory,
    }
    if now.traffic is not None:
        figures["networks"] = {"eth0": _network(now.traffic)}
    return figures


def nothing() -> dict[str, Any]:
    """The sample of a container that does not run."""
    return {
        "read": _NEVER,
        "preread": _NEVER,
        "pids_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": None, "io_serviced_recursive": None},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _no_cpu(),
        "precpu_stats": _no_cpu(),
        "memory_stats": {},
    }


def _no_cpu() -> dict[str, Any]:
    return {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


def _cpu(sample: Usage) -> dict[str, Any]:
    cpu = sample.cgroup.cpu
    usage: dict[str, Any] = {
        "total_usage": cpu.usage,
        "usage_in_kernelmode": cpu.system,
        "usage_in_usermode": cpu.user,
    }
    if cpu.per_cpu:
        usage["percpu_usage"] = list(cpu.per_cpu)
    return {
        "cpu_usage": usage,
        "system_cpu_usage": sample.host_cpu,
        "online_cpus": sample.processors,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled,
        },
    }


def _block(sample: Usage) -> dict[str, Any]:
    entries = sample.cgroup.io.entries

    def listed(read: str, write: str) -> list[dict[str, Any]]:
        return [
            {"major": entry.major, "minor": entry.minor, "op": word, "value": getattr(entry, field)}
            for entry in entries
            for word, field in (("read", read), ("write", write))
        ]

    return {
        "io_service_bytes_recursive": listed("read_bytes", "write_bytes"),
        "io_serviced_recursive": listed("reads", "writes"),
    }


def _network(seen: Traffic) -> dict[str, int]:
    words = ("bytes", "packets", "errors", "dropped")
    received = {f"rx_{word}": value for word, value in zip(words, seen.received, strict=True)}
    return received | {f"tx_{word}": value for word, value in zip(words, seen.sent, strict=True)}


# top: ps(1)'s columns


def _user(each: Member, _now: float) -> str:
    return "root" if each.uid == 0 else str(each.uid)


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def _terminal(each: Member, _now: float) -> str:
    """A pseudoterminal by its number (major 136 to 143, admin-guide/devices.txt), `?` without one."""
    major, minor = each.terminal >> 8 & 0xFFF, each.terminal & 0xFF | each.terminal >> 12 & 0xFFF00
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else "?"


def _load(each: Member, now: float) -> float:
    return 100 * each.cpu / max(now - each.started, 0.01)


def _born(each: Member, now: float) -> str:
    return time.strftime("%H:%M" if now - each.started < 86_400 else "%b%d", time.localtime(each.started))


COLUMNS: Mapping[str, Callable[[Member, float], str]] = {
    "uid": _user,
    "user": _user,
    "pid": lambda each, _now: str(each.pid),
    "nspid": lambda each, _now: str(each.inner),
    "ppid": lambda each, _now: str(each.parent),
    "c": lambda each, now: str(min(99, int(_load(each, now)))),
    "pcpu": lambda each, now: f"{_load(each, now):.1f}",
    "rss": lambda each, _now: str(each.memory // 1024),
    "stat": lambda each, _now: each.state,
    "stime": _born,
    "start": _born,
    "tty": _terminal,
    "time": lambda each, _now: _span(each.cpu),
    "etimes": lambda each, now: str(max(0, int(now - each.started))),
    "comm": lambda each, _now: each.name,
    "cmd": lambda each, _now: each.command,
    "args": lambda each, _now: each.command,
    "command": lambda each, _now: each.command,
}
"""ps's names of columns → a process's cell. `pid` is the host's, as with Docker; `nspid` the container's."""
TITLES = {"pcpu": "%CPU", "etimes": "ELAPSED", "args": "COMMAND", "comm": "COMMAND"}
_FULL = ("uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_AUX = ("user", "pid", "pcpu", "rss", "tty", "stat", "start", "time", "command")


def chosen_columns(arguments: str) -> Sequence[str]:
    """The columns that ps's arguments ask for; raises `Refused` (400) for those that are not known."""
    words = arguments.split()
    if words in (["-ef"], ["-f"], ["ef"]):
        return _FULL
    if words in (["aux"], ["-aux"], ["u"]):
        return _AUX
    if len(words) >= 2 and re.fullmatch("-?[eA]?o", words[0]):
        columns = [column for word in words[1:] for column in word.split(",") if column and word not in ("-o", "o")]
        columns = [
            {"%cpu": "pcpu", "tname": "tty", "start_time": "stime", "s": "stat"}.get(each, each) for each in columns
        ]
        unknown = [column for column in columns if column not in COLUMNS]
        if columns and not unknown:
            return columns
        raise Refused(400, f"top: no column {', '.join(unknown)[:100]!r}; known are {', '.join(COLUMNS)}")
    raise Refused(400, f"top: ps_args {arguments[:60]!r} are not supported; use -ef, aux or -o with columns")


# update: Docker's HostConfig in OCI's words

_CPU = {"CpuShares": "shares", "CpuPeriod": "period", "CpuQuota": "quota", "CpusetCpus": "cpus", "CpusetMems": "mems"}
_MEMORY = {"Memory": "limit", "MemorySwap": "swap", "MemoryReservation": "reservation"}


def resources_asked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Docker's update as OCI's `linux.resources`: what is zero or empty stays as it is; raises `Refused` (400)."""
    cpu: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    resources: dict[str, Any] = {}
    for key, value in asked.items():
        if key == "RestartPolicy" and isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("Name")
        if not value:
            continue
        if key in ("CpusetCpus", "CpusetMems"):
            if not isinstance(value, str):
                raise Refused(400, f"update: {key} must be a text")
        elif key in {*_CPU, *_MEMORY, "NanoCpus", "PidsLimit", "BlkioWeight"} and type(value) is not int:
            raise Refused(400, f"update: {key} must be a whole number")
        if key in _CPU:
            cpu[_CPU[key]] = value
        elif key in _MEMORY:
            memory[_MEMORY[key]] = value
        elif key == "NanoCpus" and isinstance(value, int):
            cpu |= {"quota": value // 10_000, "period": 100_000}
        elif key == "PidsLimit":
            resources["pids"] = {"limit": value}
        elif key == "BlkioWeight":
            resources["blockIO"] = {"weight": value}
        else:
            raise Refused(400, f"update: {key[:60]} is not supported; change it in the app file")
    if cpu:
        resources["cpu"] = cpu
    if memory:
        resources["memory"] = memory
    return resources
