"""The supervisor's process: an app, its control socket beside it, signals, and in the foreground its logs."""

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import trio

from runtime.logs import Reader, merge
from supervisor.app import App
from supervisor.app_file.problems import AppFileError
from supervisor.commands.command import Failure, Places, Wrong
from supervisor.commands.streams import Printer, allow_many_files, pause, pieces
from supervisor.control.client import socket_path
from supervisor.control.server import serve
from supervisor.failures import AppError, AppFailed
from supervisor.machine import StartError

_EXPECTED = (AppError, AppFailed, StartError, OSError)
FAREWELL_SECONDS = 2.0  # for a terminal to take the last lines
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
        output = stack.enter_context(Output(app, places)) if attached else None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_heed, app, signals, entered, nursery.cancel_scope, attached)
            async with app:
                entered.set()
                async with trio.open_nursery() as served:
                    await served.start(serve, app, socket_path(places.run, app.name))
                    if output is not None:
                        served.start_soon(output.follow)
                        served.start_soon(_print_stories, app)
                    started()
                    await app.ended()
                    if output is not None:
                        await output.finish()
                    served.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


async def _heed(
    app: App,
    signals: AsyncIterator[int],
    entered: trio.Event,
    scope: trio.CancelScope,
    attached: bool,
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


class Output:
    """The containers' output on stdout, from worker threads: a terminal that stands still holds up no supervisor."""

    def __init__(self, app: App, places: Places) -> None:
        self._directory = places.state(app.name) / "logs"
        self._names = list(app.spec.containers)
        self._printer = Printer(self._names, colour=sys.stdout.isatty())
        self._lock = trio.Lock()
        self._stack = ExitStack()
        self._over = False

    def __enter__(self) -> "Output":
        """Open the logs before anything runs: all that is written from now on is printed, nothing of before."""
        allow_many_files()
        self._readers = {
            name: self._stack.enter_context(Reader(self._directory / name, tail=0)) for name in self._names
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def follow(self) -> None:
        """Print until cancelled, or until nobody reads any more."""
        wait = 0.0
        while not self._over:
            await trio.sleep(wait)
            wait = await self._show(final=False)

    async def finish(self) -> None:
        """Print what came since the last look: the files are gone with the app, but the readers hold them open."""
        with trio.move_on_after(FAREWELL_SECONDS):
            await self._show(final=True)

    async def _show(self, *, final: bool) -> float:
        async with self._lock:
            if self._over:
                return 0.0
            try:
                return await trio.to_thread.run_sync(self._write, final, abandon_on_cancel=True)
            except BrokenPipeError:
                self._over = True
                os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
                _say("nobody reads the logs any more; `creche logs` shows them")
                return 0.0

    def _write(self, final: bool) -> float:
        began = time.monotonic()
        looks = {name: reader.finish() if final else reader.lines() for name, reader in self._readers.items()}
        for piece in pieces(self._printer, merge(looks)):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return pause(time.monotonic() - began)


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
