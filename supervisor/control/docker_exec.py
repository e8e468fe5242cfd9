"""Docker's words for exec: an instance is created, started once over a connection that becomes its streams, looked at.

Shapes: docs.docker.com/engine/api/v1.41 "Exec". Without a terminal the output goes in frames (see `log_frames`). As
with dockerd, a start that fails is told on the stream itself, as standard error, and the exit code is 126 or 127.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import trio

from supervisor.actor import NotRunning
from supervisor.app import App
from supervisor.control.exchange import Hijack, Refused, Reply, Request, Route, Wire
from supervisor.execs import Exec
from supervisor.machine import Process, Session, StartError

_CREATE = frozenset(
    {"AttachStdin", "AttachStdout", "AttachStderr", "Cmd", "ConsoleSize", "Detach", "DetachKeys", "Env", "Privileged",
     "Tty", "User", "WorkingDir"}
)  # fmt: skip


class ExecApi:
    """The handlers; `find` gives a container's status for an id or a name, `identify` a name's id."""

    def __init__(self, app: App, find: Callable[[str], Any], identify: Callable[[str], str]) -> None:
        self._app = app
        self._find = find
        self._identify = identify

    def routes(self) -> tuple[Route, ...]:
        one = "/exec/(?P<exec>[^/]+)"
        return (
            ("POST", "/containers/(?P<id>.+)/exec", self.create),
            ("POST", f"{one}/start", self.start),
            ("POST", f"{one}/resize", self.resize),
            ("GET", f"{one}/json", self.show),
        )

    async def create(self, request: Request, match: re.Match[str]) -> Reply:
        """Docker's ExecConfig; 409 when the container does not run or is paused."""
        asked = request.document()
        container = self._app.runs(self._find(match["id"]).name, "exec runs nothing in it")
        process, outputs = process_asked(asked)
        return Reply(201, {"Id": self._app.execs.create(container, process, outputs).id})

    async def start(self, request: Request, match: re.Match[str]) -> Reply | Hijack:
        """`Detach`: 200 once it runs. Else the connection becomes its streams."""
        one = self._app.execs.find(match["exec"])
        asked = request.document()
        size = _size(asked.get("ConsoleSize"))
        if one.started:
            raise Refused(409, f"exec {one.id[:12]} was started already: create another one")
        self._app.runs(one.container, "exec runs nothing in it")
        if size is not None and one.process.terminal:
            self._app.execs.resize(one, *size)
        if not asked.get("Detach"):
            return Hijack(partial(self._converse, one))
        try:
            await self._app.execs.start(one)
        except StartError as error:
            raise Refused(400, _sentence(error)) from error
        self._app.execs.leave(one)
        return Reply(200)

    async def resize(self, request: Request, match: re.Match[str]) -> Reply:
        """`h` and `w`, in characters; before the start, too."""
        rows, columns = (request.number(key) for key in ("h", "w"))
        size = _size([rows, columns])
        if size is None:
            raise Refused(400, "resize: h and w must be whole numbers from 1 to 65535")
        self._app.execs.resize(self._app.execs.find(match["exec"]), *size)
        return Reply(200)

    async def show(self, _request: Request, match: re.Match[str]) -> Reply:
        one = self._app.execs.find(match["exec"])
        stdout, stderr = one.attached
        return Reply(
            body={
                "ID": one.id,
                "Running": one.running,
                "ExitCode": None if one.end is None else 255 if one.end.code is None else one.end.code,
                "ProcessConfig": {
                    "tty": one.process.terminal,
                    "entrypoint": one.process.arguments[0],
                    "arguments": list(one.process.arguments[1:]),
                    "privileged": False,
                    "user": one.process.user or "",
                },
                "OpenStdin": one.process.stdin,
                "OpenStdout": stdout,
                "OpenStderr": stderr,
                "CanRemove": False,
                "ContainerID": self._identify(one.container),
                "DetachKeys": "",
                "Pid": one.pid,
            }
        )

    async def _converse(self, one: Exec, wire: Wire) -> None:
        talk = Talk(one, wire)
        try:
            session = await self._app.execs.start(one)
        except (StartError, NotRunning) as error:
            await talk.fail(_sentence(error))
            return
        try:
            await talk.run(session)
        finally:
            self._app.execs.leave(one)


class Talk:
    """One client and one session: its input to the process, the process's output in frames, or raw with a terminal."""

    def __init__(self, one: Exec, wire: Wire) -> None:
        self._one = one
        self._wire = wire
        self._sending = trio.Lock()

    async def run(self, session: Session) -> None:
        """Return when the process is dead and its output is sent, or the client is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed, session, nursery.cancel_scope)
            async with trio.open_nursery() as outputs:
                for stream in session.streams:
                    outputs.start_soon(self._show, session, stream, nursery.cancel_scope)
            await self._one.wait()
            nursery.cancel_scope.cancel()

    async def fail(self, sentence: str) -> None:
        """Say on the stream why there is no process."""
        end = "\r\n" if self._one.process.terminal else "\n"
        with trio.move_on_after(5), _gone(None):
            await self._send(2, f"{sentence}{end}".encode())

    async def _feed(self, session: Session, scope: trio.CancelScope) -> None:
        open_input = self._one.process.stdin
        with _gone(scope):
            while data := await self._wire.receive():
                if open_input:
                    try:
                        await session.send(data)
                    except trio.BrokenResourceError:  # it reads no more; the client may, and what it says is dropped
                        open_input = False
            session.end_input()

    async def _show(self, session: Session, stream: int, scope: trio.CancelScope) -> None:
        with _gone(scope):
            while data := await session.receive(stream):
                if self._one.attached[stream - 1]:
                    await self._send(stream, data)

    async def _send(self, stream: int, data: bytes) -> None:
        head = b"" if self._one.process.terminal else bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big")
        async with self._sending:
            await self._wire.send(head + data)


class _gone:
    """A client that is gone ends the talk with it, not the app."""

    def __init__(self, scope: trio.CancelScope | None) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is None or not issubclass(kind, trio.BrokenResourceError | trio.ClosedResourceError):
            return False
        if self._scope is not None:
            self._scope.cancel()
        return True


def process_asked(asked: dict[str, Any]) -> tuple[Process, tuple[bool, bool]]:
    """Docker's ExecConfig as a process, and whether its output and errors are wanted; raises `Refused` (400)."""
    for key, value in asked.items():
        if value and key not in _CREATE:
            raise Refused(400, f"exec: {key[:60]!r} is not supported; known are {', '.join(sorted(_CREATE))}")
    if asked.get("Privileged"):
        raise Refused(400, "exec: Privileged is not supported: a process gets what its container's first one has")
    if asked.get("DetachKeys"):
        raise Refused(400, "exec: DetachKeys are not supported: a client that leaves hangs up")
    arguments = _texts(asked, "Cmd")
    if not arguments or not arguments[0]:
        raise Refused(400, "exec: no command specified (Cmd is empty)")
    env: dict[str, str] = {}
    for entry in _texts(asked, "Env"):
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise Refused(400, f"exec: Env has {entry[:60]!r}, which is not NAME=value")
        env[name] = value
    directory = _text(asked, "WorkingDir")
    if directory is not None and not directory.startswith("/"):
        raise Refused(400, f"exec: WorkingDir {directory[:60]!r} is not an absolute path")
    process = Process(
        arguments=arguments,
        env=env,
        user=_text(asked, "User"),
        directory=directory,
        terminal=bool(asked.get("Tty")),
        stdin=bool(asked.get("AttachStdin")),
        size=_size(asked.get("ConsoleSize")),
    )
    return process, (bool(asked.get("AttachStdout")), bool(asked.get("AttachStderr")))


def _texts(asked: dict[str, Any], key: str) -> tuple[str, ...]:
    value: Any = asked.get(key) or []
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(
        isinstance(each, str) and "\0" not in each for each in cast("list[Any]", value)
    ):
        raise Refused(400, f"exec: {key} must be a list of texts without NUL bytes")
    return tuple(cast("list[str]", value))


def _text(asked: dict[str, Any], key: str) -> str | None:
    value: Any = asked.get(key)
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise Refused(400, f"exec: {key} must be a text without NUL bytes")
    return value or None


def _size(value: Any) -> tuple[int, int] | None:
    """Rows and columns, None for Docker's "not known", which is zeros or nothing."""
    if not isinstance(value, list | tuple) or len(cast("list[Any]", value)) != 2:
        return None
    rows, columns = cast("list[Any]", value)
    if not all(isinstance(each, int | float) and 1 <= each <= 65_535 for each in (rows, columns)):
        return None
    return int(rows), int(columns)


def _sentence(error: Exception) -> str:
    advice = error.advice if isinstance(error, StartError) else None
    return f"{error} ({advice})" if advice else str(error)
