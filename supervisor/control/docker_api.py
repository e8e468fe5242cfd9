"""The Docker Engine API's words for one app (API 1.41: the shapes of docs.docker.com/engine/api/v1.41).

`DOCKER_HOST=unix://<run>/<app>/control.sock docker ps` and the like work against it. A
container's id is derived from the app's seed and its name, so that it is stable over supervisors.
"""

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import trio

from net.addresses import seed
from supervisor.app import App
from supervisor.control.creche_api import plain, stream_events, version
from supervisor.control.docker_exec import ExecApi
from supervisor.control.docker_usage import UsageApi
from supervisor.control.exchange import Refused, Reply, Request, Route, Send, Stream, line
from supervisor.control.log_frames import Choice, frames
from supervisor.control.signals import signal_number
from supervisor.events import Event
from supervisor.moments import unix

API_VERSION = "1.41"
MIN_API_VERSION = "1.24"

STATES: Mapping[str, str] = {
    "pending": "created",
    "starting": "created",
    "running": "running",
    "paused": "paused",
    "backing-off": "restarting",
    "stopping": "running",
    "stopped": "exited",
    "completed": "exited",
    "failed": "exited",
    "exhausted": "exited",
}
ACTIONS: Mapping[str, str] = {
    "created": "create",
    "started": "start",
    "adopted": "start",
    "died": "die",
    "oom": "oom",
    "stopped": "stop",
    "paused": "pause",
    "unpaused": "unpause",
    "ready": "health_status: healthy",
    "unready": "health_status: unhealthy",
}
_LIVE = ("running", "paused", "stopping")
_ZERO_TIME = "0001-01-01T00:00:00Z"


def routes(app: App) -> tuple[Route, ...]:
    """The routes of this API over one app."""
    api = DockerApi(app)
    one = "/containers/(?P<id>.+)"
    return (
        *ExecApi(app, api.status, api.identify).routes(),
        *UsageApi(app, api.status, api.identify).routes(),
        ("GET", "/_ping", api.ping),
        ("GET", "/version", api.version),
        ("GET", "/info", api.info),
        ("GET", "/events", api.events),
        ("GET", "/containers/json", api.list),
        ("GET", f"{one}/json", api.inspect),
        ("GET", f"{one}/logs", api.logs),
        ("POST", f"{one}/start", api.start),
        ("POST", f"{one}/stop", api.stop),
        ("POST", f"{one}/restart", api.restart),
        ("POST", f"{one}/kill", api.kill),
        ("POST", f"{one}/pause", api.pause),
        ("POST", f"{one}/unpause", api.unpause),
        ("POST", f"{one}/wait", api.wait),
    )


def identity(seed: str, name: str) -> str:
    """A container's id: 64 hex digits."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()


class DockerApi:
    """The handlers, named as Docker names the operations."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._seed = seed(os.path.realpath(app.run_directory), app.name)

    async def ping(self, _request: Request, _match: re.Match[str]) -> Reply:
        headers = {"Api-Version": API_VERSION, "OSType": "linux", "Docker-Experimental": "false"}
        return Reply(body=b"OK", content_type="text/plain; charset=utf-8", headers=headers)

    async def version(self, _request: Request, _match: re.Match[str]) -> Reply:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        return Reply(
            body={
                "Platform": {"Name": "creche"},
                "Version": version(),
                "ApiVersion": API_VERSION,
                "MinAPIVersion": MIN_API_VERSION,
                "Os": "linux",
                "Arch": machine,
                "KernelVersion": platform.release(),
                "Components": [{"Name": "creche", "Version": version(), "Details": {"App": self._app.name}}],
            }
        )

    async def info(self, _request: Request, _match: re.Match[str]) -> Reply:
        states = [STATES[status.state] for status in self._app.statuses()]
        return Reply(
            body={
                "ID": identity(self._seed, ""),
                "Name": platform.node(),
                "Containers": len(states),
                "ContainersRunning": states.count("running"),
                "ContainersPaused": states.count("paused"),
                "ContainersStopped": len(states) - states.count("running") - states.count("paused"),
                "Images": 0,
                "Driver": "overlay",
                "OSType": "linux",
                "OperatingSystem": "creche",
                "Architecture": platform.machine(),
                "KernelVersion": platform.release(),
                "NCPU": os.cpu_count() or 1,
                "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                "ServerVersion": version(),
                "Labels": [],
                "Warnings": [],
            }
        )

    async def list(self, request: Request, _match: re.Match[str]) -> Reply:
        """`all`, `limit` and the filters id, name, status, label."""
        wanted = filters(request.one("filters"), ("id", "name", "status", "label"))
        every = request.flag("all") or "status" in wanted
        found = [self._summary(status) for status in self._app.statuses() if every or status.state in _LIVE]
        found = [entry for entry in found if _matches(entry, wanted)]
        limit = int(request.number("limit") or 0)
        return Reply(body=found[:limit] if limit else found)

    async def inspect(self, _request: Request, match: re.Match[str]) -> Reply:
        return Reply(body=self._details(self.status(match["id"])))

    async def start(self, _request: Request, match: re.Match[str]) -> Reply:
        status = self.status(match["id"])
        if status.state in (*_LIVE, "starting"):
            raise Refused(304, "already started")
        await self._app.start_again([status.name])
        return Reply(204)

    async def stop(self, request: Request, match: re.Match[str]) -> Reply:
        status = self.status(match["id"])
        if STATES[status.state] == "exited":
            raise Refused(304, "already stopped")
        await self._app.stop([status.name], request.number("t"))
        return Reply(204)

    async def restart(self, request: Request, match: re.Match[str]) -> Reply:
        await self._app.restart([self.status(match["id"]).name], request.number("t"))
        return Reply(204)

    async def kill(self, request: Request, match: re.Match[str]) -> Reply:
        status = self.status(match["id"])
        try:
            signum = signal_number(request.one("signal") or "KILL")
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if status.state not in _LIVE:
            raise Refused(409, f"cannot kill {status.name}: it is not running, it is {status.state}")
        await self._app.kill([status.name], signum)
        return Reply(204)

    async def pause(self, _request: Request, match: re.Match[str]) -> Reply:
        """409 when it does not run, or is paused already."""
        await self._app.pause([self.status(match["id"]).name])
        return Reply(204)

    async def unpause(self, _request: Request, match: re.Match[str]) -> Reply:
        """409 when it is not paused."""
        await self._app.unpause([self.status(match["id"]).name])
        return Reply(204)

    async def wait(self, request: Request, match: re.Match[str]) -> Stream:
        """`condition` not-running (default) or next-exit; one object when it has come true."""
        name = self.status(match["id"]).name
        condition = request.one("condition") or "not-running"
        if condition not in ("not-running", "next-exit"):
            raise Refused(400, f"condition {condition[:40]!r} is not yet supported; use not-running or next-exit")

        async def produce(send: Send) -> None:
            history = self._app.history()
            if condition == "next-exit" or STATES[self.status(name).state] != "exited":
                async for event in self._app.events(history[-1].seq if history else 0):
                    died = event.container == name and event.event == "died"
                    if died if condition == "next-exit" else STATES[self.status(name).state] == "exited":
                        break
            await send(line({"StatusCode": self.status(name).exit_code or 0, "Error": None}))

        return Stream(produce, "application/json")

    async def logs(self, request: Request, match: re.Match[str]) -> Stream:
        """`stdout`, `stderr`, `follow`, `since`, `until`, `timestamps`, `tail`: 8-byte header and a line each."""
        name = self.status(match["id"]).name
        streams = tuple(stream for stream in ("stdout", "stderr") if request.flag(stream))
        if not streams:
            raise Refused(400, "you must choose at least one stream: stdout=1 or stderr=1")
        tail = request.one("tail")
        if tail not in (None, "all") and not re.fullmatch("[0-9]{1,12}", tail):
            raise Refused(400, f"tail={tail[:40]!r} is neither a number nor all")
        choice = Choice(
            streams=streams,
            since=request.number("since"),
            until=request.number("until") or None,
            tail=None if tail in (None, "all") else int(tail),
            timestamps=request.flag("timestamps"),
            follow=request.flag("follow"),
        )
        directory = self._app.root / "apps" / self._app.name / "logs" / name

        async def produce(send: Send) -> None:
            await frames(directory, choice, send)

        return Stream(produce, "application/vnd.docker.multiplexed-stream")

    async def events(self, request: Request, _match: re.Match[str]) -> Stream:
        """`since` and `until` (unix seconds), filters container, event, type; goes on until `until`."""
        wanted = filters(request.one("filters"), ("container", "event", "type"))
        since = request.number("since")
        until = request.number("until")

        def form(event: Event) -> dict[str, Any] | None:
            shaped = self._event(event) if until is None or event.time <= until else None
            return shaped if shaped is not None and _event_matches(shaped, wanted) else None

        async def produce(send: Send) -> None:
            start = float("inf") if since is None else since
            patience = float("inf") if until is None else until - time.time()
            if patience <= 0:
                await stream_events(self._app, send, since=start, follow=False, form=form)
                return
            with trio.move_on_after(patience):
                await stream_events(self._app, send, since=start, follow=True, form=form)

        return Stream(produce, "application/json")

    def status(self, reference: str) -> Any:
        """The status of a container by id, id prefix, name, `/name` or `app/name`; raises `Refused` (404, 400)."""
        statuses = self._app.statuses()
        bare = reference.removeprefix("/").removeprefix(f"{self._app.name}/")
        for status in statuses:
            if status.name == bare:
                return status
        if re.fullmatch("[0-9a-f]{1,64}", bare):
            found = [status for status in statuses if identity(self._seed, status.name).startswith(bare)]
            if len(found) > 1:
                raise Refused(400, f"the id prefix {bare} is ambiguous: it fits {len(found)} containers")
            if found:
                return found[0]
        raise Refused(404, f"No such container: {reference[:200]}")

    def identify(self, name: str) -> str:
        """The id of the container of that name."""
        return identity(self._seed, name)

    def _summary(self, status: Any) -> dict[str, Any]:
        spec = self._spec(status)
        return {
            "Id": identity(self._seed, status.name),
            "Names": [f"/{status.name}"],
            "Image": status.image or "",
            "ImageID": "",
            "Command": " ".join(_command(spec)),
            "Created": int(_unix(status.started_at)),
            "Ports": [_port(port) for port in status.ports],
            "Labels": self._labels(status),
            "State": STATES[status.state],
            "Status": prose(status, time.time()),
            "HostConfig": {"NetworkMode": f"creche_{self._app.name}"},
            "NetworkSettings": {"Networks": self._networks(status)},
            "Mounts": [],
        }

    def _details(self, status: Any) -> dict[str, Any]:
        spec = self._spec(status)
        command = _command(spec)
        env: Mapping[str, str] = getattr(spec, "env", None) or {}
        bindings: dict[str, list[dict[str, str]]] = {}
        for port in map(_port, status.ports):
            key = f"{port['PrivatePort']}/{port['Type']}"
            bindings.setdefault(key, []).append({"HostIp": port["IP"], "HostPort": str(port["PublicPort"])})
        state = STATES[status.state]
        alive = state in ("running", "paused")  # Docker says nothing of the run before, `ps` does
        return {
            "Id": identity(self._seed, status.name),
            "Name": f"/{status.name}",
            "Created": status.started_at or _ZERO_TIME,
            "Path": command[0] if command else "",
            "Args": command[1:],
            "Image": status.image or "",
            "ExecIDs": self._app.execs.of(status.name) or None,
            "RestartCount": status.restarts,
            "Platform": "linux",
            "State": {
                "Status": state,
                "Running": alive,
                "Paused": state == "paused",
                "Restarting": state == "restarting",
                "OOMKilled": status.oom_killed and not alive,
                "Dead": False,
                "Pid": status.pid or 0,
                "ExitCode": 0 if alive else status.exit_code or 0,
                "Error": "",
                "StartedAt": status.started_at or _ZERO_TIME,
                "FinishedAt": status.finished_at or _ZERO_TIME,
            },
            "Config": {
                "Hostname": getattr(spec, "hostname", None) or status.name,
                "Image": status.image or "",
                "Cmd": command,
                "Env": [f"{key}={value}" for key, value in env.items()],
                "Labels": self._labels(status),
                "Tty": False,
                "OpenStdin": False,
            },
            "HostConfig": {"NetworkMode": f"creche_{self._app.name}", "PortBindings": bindings},
            "NetworkSettings": {
                "IPAddress": status.ip or "",
                "Ports": bindings,
                "Networks": self._networks(status),
            },
            "Mounts": [],
            "Creche": plain(status),
        }

    def _spec(self, status: Any) -> Any:
        return self._app.spec.containers.get(getattr(status, "service", None) or status.name)

    def _labels(self, status: Any) -> dict[str, str]:
        own: Mapping[str, str] = getattr(self._spec(status), "labels", None) or {}
        service = getattr(status, "service", None) or status.name
        return {"com.docker.compose.project": self._app.name, "com.docker.compose.service": service, **own}

    def _networks(self, status: Any) -> dict[str, Any]:
        if not status.ip:
            return {}
        return {f"creche_{self._app.name}": {"IPAddress": status.ip, "IPPrefixLen": 32, "Gateway": "169.254.1.1"}}

    def _event(self, event: Event) -> dict[str, Any] | None:
        action = ACTIONS.get(event.event)
        if action is None or event.container is None:
            return None
        container = identity(self._seed, event.container)
        attributes = {"name": event.container, "com.docker.compose.project": self._app.name, "detail": event.detail}
        nanoseconds = int(event.time * 1_000_000) * 1000
        return {
            "status": action,
            "id": container,
            "from": "",
            "Type": "container",
            "Action": action,
            "Actor": {"ID": container, "Attributes": attributes},
            "scope": "local",
            "time": int(event.time),
            "timeNano": nanoseconds,
        }


def filters(text: str | None, known: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Docker's filters: JSON of name → list, or name → {value: true}; raises `Refused` (400) for unknown ones."""
    try:
        raw: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the filters are not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise Refused(400, "the filters are not an object")
    chosen: dict[str, tuple[str, ...]] = {}
    for key, value in cast("dict[str, Any]", raw).items():
        if key not in known or not isinstance(value, dict | list):
            raise Refused(400, f"the filter {key!r} is not supported here; known are {', '.join(known)}")
        chosen[key] = tuple(map(str, cast("list[Any]", value)))
    return chosen


def _matches(entry: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]]) -> bool:
    labels = {f"{key}={value}" for key, value in entry["Labels"].items()} | set(entry["Labels"])
    tests: dict[str, Callable[[str], bool]] = {
        "id": lambda value: entry["Id"].startswith(value),
        "name": lambda value: value.removeprefix("/") in entry["Names"][0],
        "status": lambda value: value == entry["State"],
        "label": lambda value: value in labels,
    }
    return all(
        (all if key == "label" else any)(tests[key](value) for value in values) for key, values in wanted.items()
    )


def _event_matches(shaped: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]]) -> bool:
    name = shaped["Actor"]["Attributes"]["name"]
    seen = {"container": (shaped["id"], name), "event": (shaped["Action"],), "type": (shaped["Type"],)}
    return all(any(value in seen[key] for value in values) for key, values in wanted.items())


def _command(spec: Any) -> list[str]:
    return [*(getattr(spec, "entrypoint", None) or ()), *(getattr(spec, "command", None) or ())]


def _port(text: str) -> dict[str, Any]:
    """`ip:host:container/tcp` → Docker's object."""
    address, host, rest = text.rsplit(":", 2)
    container, _, kind = rest.partition("/")
    return {"IP": address, "PrivatePort": int(container), "PublicPort": int(host), "Type": kind or "tcp"}


def _unix(moment: str | None) -> float:
    return 0.0 if moment is None else unix(moment)


def prose(status: Any, now: float) -> str:
    """Docker's `Up 5 minutes`, `Exited (1) 3 seconds ago`."""
    up, since_end = (ago(max(0.0, now - _unix(moment))) for moment in (status.started_at, status.finished_at))
    match STATES[status.state]:
        case "running":
            return f"Up {up}"
        case "paused":
            return f"Up {up} (Paused)"
        case "restarting":
            return f"Restarting ({status.exit_code or 0}) {since_end} ago"
        case "created":
            return "Created"
        case _:
            return f"Exited ({status.exit_code or 0}) {since_end} ago" if status.finished_at else "Exited (0)"


def ago(seconds: float) -> str:
    """A span in the largest fitting unit: `3 seconds`, `5 minutes`, `2 hours`, `4 days`."""
    for size, word in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'' if count == 1 else 's'}"
    return "less than a second"
