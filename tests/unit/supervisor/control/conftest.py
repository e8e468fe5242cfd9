"""The fake app, and a server over it that a test talks to from the same event loop."""

import contextlib
import runpy
from pathlib import Path

import pytest
import trio
import trio.testing

_FAKE = runpy.run_path(str(Path(__file__).with_name("fake_app.py")))


@pytest.fixture
def app(tmp_path):
    return _FAKE["FakeApp"](tmp_path / "root", tmp_path / "run")


@pytest.fixture
def served(app, tmp_path):
    """Run an async test body `body(connect)` beside a server, on a virtual clock that jumps when all sleep."""
    from supervisor.control.server import serve

    path = tmp_path / "run" / "shop" / "control.sock"

    @contextlib.asynccontextmanager
    async def serving():
        async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as streams:
            await nursery.start(app.serve_execs)
            await nursery.start(serve, app, path)

            async def connect():
                return await streams.enter_async_context(await trio.open_unix_socket(str(path)))

            yield connect
            nursery.cancel_scope.cancel()

    def go(body):
        async def main():
            async with serving() as connect:
                await body(connect)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))

    go.path = path
    return go
