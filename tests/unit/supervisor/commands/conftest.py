"""The command line under a root and a run directory of the test's own, and fake apps that are served beside it."""

import contextlib
import threading
from typing import NamedTuple

import pytest
import trio
from click.testing import CliRunner

from supervisor.commands.command import Places
from supervisor.commands.main import cli
from supervisor.control.server import serve
from tests.unit.supervisor.control.fake_app import FakeApp


class Result(NamedTuple):
    code: int
    out: str
    err: str
    raw: bytes


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("CRECHE_ROOT", "CRECHE_RUN"):
        monkeypatch.delenv(variable, raising=False)
    return Places(tmp_path / "root", tmp_path / "run")


@pytest.fixture
def creche(places):
    """Run `creche ARGUMENTS` in this process."""

    def go(*arguments):
        found = CliRunner().invoke(
            cli, ["--root", str(places.root), "--run", str(places.run), *arguments], prog_name="creche"
        )
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return Result(found.exit_code, found.stdout, found.stderr, found.stdout_bytes)

    return go


@pytest.fixture
def serving(places):
    """Serve a fake app from a thread until the test ends: `serving(names, name=…, file=…)` gives it."""
    with contextlib.ExitStack() as stack:

        def go(names=("db", "web"), **keys):
            return stack.enter_context(served(FakeApp(places.root, places.run, names, **keys), places))

        yield go


@contextlib.contextmanager
def served(app, places):
    ready = threading.Event()
    scopes = []

    async def main():
        with trio.CancelScope() as scope:
            scopes.append((trio.lowlevel.current_trio_token(), scope))
            async with trio.open_nursery() as nursery:
                await nursery.start(app.serve_execs)
                await nursery.start(serve, app, places.sockets(app.name) / "control.sock")
                ready.set()
                await app.ended()
                nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    try:
        yield app
    finally:
        token, scope = scopes[0]
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(scope.cancel)
        thread.join(10)
