"""`/creche/stats` and `/creche/top`: what the commands of these names print, for several containers at once."""

import re
from collections.abc import Sequence
from typing import Any

import trio

from supervisor.actor import NotRunning
from supervisor.app import App
from supervisor.control.exchange import Reply, Request, Route, Send, Stream, line
from supervisor.machine import Member, OperationFailed, Usage
from supervisor.moments import rfc3339

WINDOW = 0.5
"""Seconds between the two samples that the first figures are made of."""
INTERVAL = 1.0
"""Seconds between two rounds of figures."""
_ALIVE = ("running", "paused", "stopping")


def routes(app: App) -> tuple[Route, ...]:
    """The routes over one app."""
    api = CrecheUsage(app)
    return (("GET", "/creche/stats", api.stats), ("GET", "/creche/top", api.top))


class CrecheUsage:
    """The handlers; each one's shape is in its docstring."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def stats(self, request: Request, _match: re.Match[str]) -> Stream:
        """A line a second, with `stream=0` one: `{"time", "containers": [figures]}` for `name`s, or all that run."""
        names = [self._known(name) for name in request.every("name")]
        once = not request.flag("stream")
        for name in names:
            self._app.runs(name, "it uses nothing", paused=True)

        async def produce(send: Send) -> None:
            before = await self._samples(names)
            await trio.sleep(WINDOW)
            while True:
                now = await self._samples(names)
                shown = [figures(self._app.name, name, now[name], before.get(name)) for name in now]
                await send(line({"time": rfc3339(self._app.wall()), "containers": shown}))
                if once:
                    return
                before = now
                await trio.sleep(INTERVAL)

        return Stream(produce)

    async def top(self, request: Request, _match: re.Match[str]) -> Reply:
        """The processes of `name`s, or of all that run: a list of what `process` gives."""
        names = [self._known(name) for name in request.every("name")]
        found: list[dict[str, Any]] = []
        for name in names or self._alive():
            try:
                members = await self._app.processes(name)
            except (NotRunning, OperationFailed):
                if names:
                    raise
                continue
            found += [process(self._app.name, name, each) for each in members]
        return Reply(body=found)

    async def _samples(self, names: Sequence[str]) -> dict[str, Usage]:
        """What each uses, without those that do not run at this moment."""
        found: dict[str, Usage] = {}
        for name in names or self._alive():
            try:
                found[name] = await self._app.usage(name)
            except (NotRunning, OperationFailed):
                if self._state(name) in _ALIVE:
                    raise
        return found

    def _alive(self) -> list[str]:
        return [status.name for status in self._app.statuses() if status.state in _ALIVE]

    def _state(self, name: str) -> str:
        return next(status.state for status in self._app.statuses() if status.name == name)

    def _known(self, name: str) -> str:
        from supervisor.control.creche_api import known

        return known(self._app, name)


def figures(app: str, name: str, now: Usage, before: Usage | None) -> dict[str, Any]:
    """One container's figures: bytes, and per cent of one processor since the sample before (null without one).

    As Docker's, `memory` leaves out what of the page cache the kernel would give up first.
    """
    memory = now.cgroup.memory
    cold = memory.fields.get("total_inactive_file", memory.fields.get("inactive_file", 0))
    used = memory.usage - cold if cold < memory.usage else memory.usage
    limit = now.host_memory if memory.limit is None else min(memory.limit, now.host_memory)
    entries = now.cgroup.io.entries
    return {
        "app": app,
        "name": name,
        "time": rfc3339(now.at),
        "cpu_percent": None if before is None else load(now, before),
        "memory": used,
        "memory_limit": limit,
        "memory_percent": round(100 * used / limit, 2) if limit else 0.0,
        "pids": now.cgroup.pids.current,
        "pids_limit": now.cgroup.pids.limit,
        "block_read": sum(entry.read_bytes for entry in entries),
        "block_written": sum(entry.write_bytes for entry in entries),
        "network_received": None if now.traffic is None else now.traffic.received[0],
        "network_sent": None if now.traffic is None else now.traffic.sent[0],
        "throttled_seconds": now.cgroup.cpu.throttled / 1e9,
        "oom_kills": memory.oom_kills,
    }


def load(now: Usage, before: Usage) -> float:
    """Per cent of one processor; 0 when a fresh cgroup counts from the beginning."""
    spent, passed = now.cgroup.cpu.usage - before.cgroup.cpu.usage, now.at - before.at
    return round(max(0.0, spent / 1e7 / passed), 2) if passed > 0 else 0.0


def process(app: str, name: str, member: Member) -> dict[str, Any]:
    """One process: `pid` on the host, `inner_pid` and `uid` in the container."""
    return {
        "app": app,
        "container": name,
        "pid": member.pid,
        "inner_pid": member.inner,
        "parent": member.parent,
        "uid": member.uid,
        "state": member.state,
        "cpu_seconds": round(member.cpu, 2),
        "memory": member.memory,
        "started_at": rfc3339(member.started),
        "command": member.command,
    }
