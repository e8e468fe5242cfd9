"""`/creche/…` on the control socket: what Docker's API has no words for, and the lists that the commands print."""

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

import trio

from supervisor.app import App
from supervisor.app_file.write import normalised
from supervisor.control.exchange import Refused, Reply, Request, Route, Send, Stream, line
from supervisor.events import Event
from supervisor.failures import AppFailed


def routes(app: App) -> tuple[Route, ...]:
    """The routes of this API over one app."""
    api = CrecheApi(app)
    return (
        ("GET", "/creche/app", api.about),
        ("GET", "/creche/containers", api.containers),
        ("GET", "/creche/tree", api.tree),
        ("GET", "/creche/events", api.events),
        ("GET", "/creche/inspect/(?P<name>[^/]+)", api.inspect),
        ("GET", "/creche/plan/(?P<name>[^/]+)", api.plan),
        ("GET", "/creche/wait-ready", api.wait_ready),
        ("POST", "/creche/(?P<verb>stop|start|restart|kill|pause|unpause)", api.change),
        ("POST", "/creche/down", api.down),
    )


class CrecheApi:
    """The handlers; each one's shape is in its docstring."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def about(self, _request: Request, _match: re.Match[str]) -> Reply:
        """`{"name", "file" (path or null), "pid", "version", "spec" (normalised)}`: whose app this is."""
        file = self._app.spec.file
        return Reply(
            body={
                "name": self._app.name,
                "file": None if file is None else str(file),
                "pid": os.getpid(),
                "version": version(),
                "spec": normalised(self._app.spec),
            }
        )

    async def containers(self, _request: Request, _match: re.Match[str]) -> Reply:
        """The list that `creche ps --json` prints."""
        return Reply(body=[plain(status) for status in self._app.statuses()])

    async def tree(self, _request: Request, _match: re.Match[str]) -> Reply:
        """The root group: `{"name", "strategy", "children"}`; a container is an object of `ps --json`."""
        return Reply(body=plain(self._app.tree()))

    async def events(self, request: Request, _match: re.Match[str]) -> Stream:
        """One event per line; `since` (unix seconds; default: all), `follow` goes on until the app ends."""
        since = request.number("since")
        follow = request.flag("follow")

        async def produce(send: Send) -> None:
            await stream_events(self._app, send, since=since, follow=follow, form=Event.to_json)

        return Stream(produce)

    async def inspect(self, _request: Request, match: re.Match[str]) -> Reply:
        """All that is known of one container."""
        return Reply(body=plain(self._app.inspect(self._known(match["name"]))))

    async def plan(self, _request: Request, match: re.Match[str]) -> Reply:
        """The steps that make a run of one container, in words."""
        return Reply(body=self._app.plan(self._known(match["name"])))

    async def wait_ready(self, request: Request, _match: re.Match[str]) -> Stream:
        """One line, when it is known: `{"ready": bool, "timeout": bool, "message"}`; `timeout` in seconds."""
        timeout = request.number("timeout")

        async def produce(send: Send) -> None:
            await send(line(await readiness(self._app, timeout)))

        return Stream(produce)

    async def change(self, request: Request, match: re.Match[str]) -> Reply:
        """stop, start, restart, kill, pause or unpause the containers `name` (repeated).

        `timeout` is in seconds, `signal` a number. Nothing is touched when one name is unknown (404).
        """
        names = [self._known(name) for name in request.every("name")]
        if not names:
            raise Refused(400, f"{match['verb']}: which containers? name=… is missing")
        timeout = request.number("timeout")
        match match["verb"]:
            case "stop":
                await self._app.stop(names, timeout)
            case "start":
                await self._app.start_again(names)
            case "restart":
                await self._app.restart(names, timeout)
            case "pause":
                await self._app.pause(names)
            case "unpause":
                await self._app.unpause(names)
            case _:
                signum = request.number("signal")
                if signum is None or not 1 <= signum <= 64:
                    raise Refused(400, "kill: signal must be a number from 1 to 64")
                await self._app.kill(names, int(signum))
        return Reply(body=names)

    async def down(self, request: Request, _match: re.Match[str]) -> Reply:
        """Stop and remove everything; answers when that is done, then the supervisor ends."""
        timeout, volumes = request.number("timeout"), request.flag("volumes")
        # The end of the app cancels this server: what was asked for is finished and answered nevertheless.
        with trio.CancelScope(shield=True):
            await self._app.down(timeout, volumes)
        return Reply(body={"down": self._app.name}, last=True)

    def _known(self, name: str) -> str:
        return known(self._app, name)


def known(app: App, name: str) -> str:
    """The container's name without its app; raises `Refused` (404) with near misses for an unknown one."""
    from difflib import get_close_matches

    bare = name.removeprefix(f"{app.name}/")
    names = [status.name for status in app.statuses()]
    if bare in names:
        return bare
    near = get_close_matches(bare, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it has: {', '.join(sorted(names)[:50]) or 'none'}"
    raise Refused(404, f"app {app.name} has no container {name[:100]!r}{hint}")


async def readiness(app: App, timeout: float | None) -> dict[str, Any]:
    """Wait until all containers are ready, one failed for good, or `timeout` seconds passed; see `wait_ready`."""
    message = ""
    with trio.move_on_after(float("inf") if timeout is None else timeout) as scope:
        try:
            await app.ready()
        except AppFailed as failed:
            return {"ready": False, "timeout": False, "message": str(failed)}
    if scope.cancelled_caught:
        late = [f"{status.name} ({status.state})" for status in app.statuses() if not settled(status)]
        message = f"not ready after {timeout:g} s: {', '.join(late)}"
    return {"ready": not scope.cancelled_caught, "timeout": scope.cancelled_caught, "message": message}


def settled(status: Any) -> bool:
    """Ready, or a job that is completed."""
    return bool(status.ready) or status.state == "completed"


async def stream_events(
    app: App, send: Send, *, since: float | None, follow: bool, form: Callable[[Event], Any]
) -> None:
    """Send what was since the wall-clock time `since` (None: all that is remembered), then with `follow` what comes."""
    history = app.history()
    last = history[-1].seq if history else 0
    for event in history:
        if since is None or event.time >= since:
            await _send_one(send, form, event)
    if follow:
        async for event in app.events(last):
            await _send_one(send, form, event)


async def _send_one(send: Callable[[bytes], Awaitable[None]], form: Callable[[Event], Any], event: Event) -> None:
    shaped = form(event)
    if shaped is not None:
        await send(line(shaped))


def plain(value: Any) -> Any:
    """JSON's shape of statuses and branches: attrs classes by field, mappings, sequences and paths."""
    fields: tuple[Any, ...] | None = getattr(value, "__attrs_attrs__", None)
    if fields is not None:
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(item) for item in cast("Iterable[Any]", value)]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def version() -> str:
    """creche's version, as its distribution says."""
    from importlib.metadata import version as of

    return of("creche")
