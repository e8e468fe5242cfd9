"""The supervisor's process: an app, its control socket beside it, signals, and in the foreground its logs."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import trio

from runtime.logs import Reader, merge
from supervisor.app import App
from supervisor.app_file.problems import AppFileError
from supervisor.commands.command import Failure, Places, Wrong
from supervisor.commands.streams import POLL_SECONDS, Printer, pieces
from supervisor.control.client import socket_path
from supervisor.control.server import serve
from supervisor.failures import AppError, AppFailed
from supervisor.machine import StartError

_EXPECTED = (AppError, AppFailed, StartError, OSError)
_STORIES = ("died", "restarting", "exhausted", "failed", "adopted", "actor-failed", "journal-failed")


def run(app: App, places: Places, *, attached: bool, started: Callable[[], None]) -> None:
    """Run an app in this process until it ends; raises `Failure` or `Wrong` for what may go wrong.

    `started` is called once, when its control socket answers. `attached`: print logs, and end on SIGHUP.
    """
    _run(attend, app, places, attached, started)


def _run(main: Callable[..., Awaitable[None]], *args: Any) -> None:
    try:
        trio.run(main, *args)
    except BaseExceptionGroup as group:
        raise _told(list(_leaves(group)), group) from group
    except Exception as error:
        raise _told([error], error) from error


def take_down(name: str, places: Places, timeout: float | None, volumes: bool) -> None:
    """Open an app from its journal and take it down in this process; raises as `run`."""

    async def leave() -> None:
        async with App.reopen(name, root=places.root, run=places.run) as app:
            await app.down(timeout, volumes)

    _run(leave)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield error


def _told(errors: list[BaseException], whole: BaseException) -> BaseException:
    """The failure that tells these errors, or the whole itself where one of them is a bug."""
    if all(isinstance(error, AppFileError) for error in errors):
        return Wrong("\n".join(map(str, errors)))
    if all(isinstance(error, _EXPECTED) for error in errors):
        return Failure("\n".join(map(str, errors)))
    return whole


async def attend(app: App, places: Places, attached: bool, started: Callable[[], None]) -> None:
    """Enter the app, serve it, heed signals; returns when it was taken down, by a signal or through the socket."""
    entered = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, ExitStack() as stack:
        names = list(app.spec.containers)
        logs = places.state(app.name) / "logs"
        # Opened before anything runs: all that is written from now on is printed, nothing of what was before.
        readers = {name: stack.enter_context(Reader(logs / name, tail=0)) for name in names if attached}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_heed, app, signals, entered, nursery.cancel_scope, attached)
            async with app:
                entered.set()
                async with trio.open_nursery() as served:
                    await served.start(serve, app, socket_path(places.run, app.name))
                    if attached:
                        served.start_soon(_print_logs, readers, Printer(names, colour=sys.stdout.isatty()))
                        served.start_soon(_print_stories, app)
                    started()
                    await app.ended()
                    served.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


async def _heed(
    app: App, signals: AsyncIterator[int], entered: trio.Event, scope: trio.CancelScope, attached: bool
) -> None:
    """First signal: stop gracefully; second: kill. Before the app is entered the first one ends it."""
    async with trio.open_nursery() as nursery:
        leaving = False
        async for number in signals:
            if number == signal.SIGHUP and not attached:
                _say("SIGHUP: reloading is not yet supported; `creche down` and `creche up` do it")
            elif not entered.is_set():
                scope.cancel()
                return
            elif not leaving:
                leaving = True
                _say(f"{app.name}: stopping" + ("; once more kills" if number == signal.SIGINT else ""))
                nursery.start_soon(app.down)
            else:
                _say(f"{app.name}: killing")
                nursery.start_soon(app.down, 0.0)


async def _print_logs(readers: dict[str, Reader], printer: Printer) -> None:
    """Print until cancelled, from worker threads: a terminal that stands still must not hold up the supervisor."""
    try:
        while True:
            await trio.to_thread.run_sync(_print_some, readers, printer, abandon_on_cancel=True)
            await trio.sleep(POLL_SECONDS)
    except BrokenPipeError:
        _say("nobody reads the logs any more; `creche logs` shows them")


def _print_some(readers: dict[str, Reader], printer: Printer) -> None:
    for piece in pieces(printer, merge({name: reader.lines() for name, reader in readers.items()})):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


async def _print_stories(app: App) -> None:
    async for event in app.events():
        if event.event in _STORIES:
            await trio.to_thread.run_sync(_say, event.detail or event.event, abandon_on_cancel=True)


def _say(text: str) -> None:
    """A line on stderr, whole, even when the other end is gone."""
    try:
        os.write(2, f"creche: {text}\n".encode(errors="backslashreplace"))
    except BrokenPipeError:
        return  # the terminal is closed; the app goes on


def report(descriptor: int, *, ok: bool, code: int = 0, message: str = "") -> None:
    """Tell the waiting `up -d` how the start went, once; the descriptor is closed."""
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(json.dumps({"ok": ok, "code": code, "message": message, "pid": os.getpid()}).encode() + b"\n")
