"""A scripted machine: the tree's seam to the kernel on a virtual clock, without a kernel.

What a container's runs do is a script: one `Life` per run, the last one for all later ones. The machine outlives the
supervisors that use it, as a launcher does, and `left()` names everything that is still there.
"""

import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio
import trio.testing

from supervisor.app import App
from supervisor.app_file.spec import AppSpec, Container
from supervisor.machine import Birth, Exit, Home, Member, OperationFailed, Process, StartError, Survivor, Usage
from supervisor.status import Status

T = TypeVar("T")


@attrs.frozen
class Life:
    """What one run does: it ends by itself after `lasts` seconds, or when a signal that it does not ignore comes."""

    lasts: float = float("inf")
    code: int = 0
    signal: int | None = None
    oom: bool = False
    ignores: tuple[int, ...] = ()
    dies_after: float = 0.0
    """Seconds from a stop signal to the end."""
    create_error: StartError | None = None
    start_error: StartError | None = None
    last_lines: tuple[str, ...] = ()


FOREVER = Life()


@attrs.define(eq=False)
class Run:
    number: int
    pid: int
    life: Life
    started: float | None = None
    ends_at: float = float("inf")
    end: Exit | None = None
    changed: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen
class Doing:
    """What a process does that `exec` starts: it says this, echoes its input, and ends with a code after a while."""

    says: tuple[tuple[int, bytes], ...] = ()
    echoes: bool = False
    """It ends when its input ends."""
    lasts: float = 0.0
    code: int = 0


class ScriptedSession:
    """A session over memory channels; what it was told is in `told`."""

    def __init__(self, doing: Doing, process: Process, pid: int) -> None:
        self.pid = pid
        self.streams: tuple[int, ...] = (1,) if process.terminal else (1, 2)
        self.doing = doing
        self.told: list[Any] = []
        self.taken = b""
        self.closed = False
        self.end: Exit | None = None
        self._over = trio.Event()
        self._pieces = {stream: trio.open_memory_channel[bytes](1) for stream in self.streams}

    async def live(self) -> None:
        for stream, data in self.doing.says:
            await self._pieces[stream][0].send(data)
        if not self.doing.echoes:
            await trio.sleep(self.doing.lasts)
            self.finish(Exit(self.doing.code, None))

    def finish(self, end: Exit) -> None:
        if self.end is None:
            self.end = end
            self._over.set()
            for sending, _ in self._pieces.values():
                sending.close()

    async def receive(self, stream: int) -> bytes:
        try:
            return await self._pieces[stream][1].receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return b""

    async def send(self, data: bytes) -> None:
        if self.end is not None:
            raise trio.BrokenResourceError
        self.taken += data
        if self.doing.echoes:
            await self._pieces[1][0].send(data)

    def end_input(self) -> None:
        self.told.append("end")
        if self.doing.echoes:
            self.finish(Exit(self.doing.code, None))

    def resize(self, rows: int, columns: int) -> None:
        self.told.append((rows, columns))

    async def signal(self, signum: int) -> None:
        self.finish(Exit(128 + signum, signum))

    async def wait(self) -> Exit:
        await self._over.wait()
        assert self.end is not None
        return self.end

    def close(self) -> None:
        self.closed = True
        for _, receiving in self._pieces.values():
            receiving.close()


class Scripted:
    """The fake machine. `calls` is everything that was asked: (time, verb, name, more)."""

    def __init__(self, lives: Mapping[str, Sequence[Life]] | None = None, *, takes: float = 0.0) -> None:
        self.lives = dict(lives or {})
        self.takes = takes
        self.runs: dict[str, dict[int, Run]] = defaultdict(dict)
        self.homes: dict[str, Container] = {}
        self.published: set[str] = set()
        self.frozen: set[str] = set()
        self.programs: dict[str, Doing | StartError] = {}
        self.sessions: list[ScriptedSession] = []
        self._nursery: trio.Nursery | None = None
        self.established = False
        self.serving = False
        self.broken: dict[str, Exception] = {}
        self.calls: list[tuple[float, str, str, Any]] = []
        self.notices_in, self.notices_out = trio.open_memory_channel[tuple[str | None, str]](100)
        self._births: dict[str, int] = defaultdict(int)
        self._pids = 1000
        self._addresses: dict[str, str] = {}

    def boottime(self) -> float:
        return 5000.0 + trio.current_time()

    def wall(self) -> float:
        return 1_700_000_000.0 + trio.current_time()

    def left(self) -> list[str]:
        """Name everything that still exists."""
        alive = [f"run {name} {run.number}" for name in self.runs for run in self._alive(name)]
        homes = [f"home {name}" for name in self.homes]
        return [*alive, *homes, *(f"port {name}" for name in self.published), *(["app"] if self.established else [])]

    def alive(self) -> dict[str, int]:
        """Return the pids of started, living runs."""
        return {name: run.pid for name in self.runs for run in self._alive(name) if run.started is not None}

    def times(self, verb: str, name: str) -> list[float]:
        return [at for at, what, who, _ in self.calls if (what, who) == (verb, name)]

    def crash(self, name: str, signum: int = signal.SIGKILL) -> None:
        """End a container's current run from outside."""
        for run in self._alive(name):
            self._end(run, Exit(128 + signum, signum))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._do("serve", "")
        self.serving = True
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.serving = False

    async def notice(self) -> tuple[str | None, str]:
        return await self.notices_out.receive()

    def plan_of(self, name: str) -> list[str]:
        return [f"make {name}"]

    async def establish(self, containers: Sequence[Container]) -> None:
        await self._do("establish", "", len(containers))
        self.established = True

    async def survivors(self) -> dict[str, Survivor]:
        await self._do("survivors", "")
        return {
            name: Survivor(
                run.number, run.pid, f"{name}/run-{run.number}", "mapped", run.started is not None, name in self.frozen
            )
            for name in self.runs
            for run in self._alive(name)
        }

    async def settle(self, container: Container) -> Home:
        await self._do("settle", container.name)
        self.homes[container.name] = container
        return Home(self._addresses.setdefault(container.name, f"10.0.0.{len(self._addresses) + 1}"))

    async def create(self, name: str, run: int) -> Birth:
        assert name in self.homes, f"{name} was never settled"
        assert not self._alive(name), f"{name} lives already"
        assert run not in self.runs[name], f"run {run} of {name} exists already"
        script = self.lives.get(name, [FOREVER])
        life = script[min(self._births[name], len(script) - 1)]
        self._births[name] += 1
        if life.create_error is not None:
            await self._do("create", name, run)
            self.runs[name][run] = Run(run, 0, life, end=Exit(None, None))
            raise life.create_error
        self._pids += 1
        self.runs[name][run] = Run(run, self._pids, life)
        await self._do("create", name, run)
        return Birth(self.runs[name][run].pid, f"{name}/run-{run}", "mapped")

    async def run(self, name: str, run: int) -> Birth:
        birth = await self.create(name, run)
        await self.start(name, run)
        return birth

    async def start(self, name: str, run: int) -> None:
        await self._do("start", name, run)
        born = self.runs[name][run]
        if born.end is not None:
            raise StartError(name, "start", "its first process is gone")
        if born.life.start_error is not None:
            self._end(born, Exit(born.life.start_error.exit_code, None))
            raise born.life.start_error
        born.started = trio.current_time()
        born.ends_at = born.started + born.life.lasts
        self._wake(born)

    async def signal(self, name: str, signum: int) -> None:
        await self._do("signal", name, signum)
        for run in self._alive(name):
            if run.started is not None and signum not in run.life.ignores and name not in self.frozen:
                run.life = attrs.evolve(run.life, signal=signum, code=128 + signum)
                run.ends_at = min(run.ends_at, trio.current_time() + run.life.dies_after)
                self._wake(run)

    async def kill(self, name: str) -> None:
        await self._do("kill", name)
        self.crash(name)

    async def wait(self, name: str, run: int) -> Exit:
        await self._do("wait", name, run)
        known = self.runs[name].get(run)
        if known is None:
            return Exit(None, None)
        while known.end is None:
            changed = known.changed
            with trio.move_on_at(known.ends_at):
                await changed.wait()
            if known.end is None and trio.current_time() >= known.ends_at:
                life = known.life
                code = life.code if life.signal is None else 128 + life.signal
                self._end(known, Exit(code, life.signal, life.oom, life.last_lines))
        return known.end

    async def exec(self, name: str, process: Process) -> ScriptedSession:
        await self._do("exec", name, process)
        assert name not in self.frozen, f"{name} is frozen"
        doing = self.programs.get(process.arguments[0], Doing())
        if isinstance(doing, StartError):
            raise doing
        self._pids += 1
        session = ScriptedSession(doing, process, self._pids)
        self.sessions.append(session)
        assert self._nursery is not None
        self._nursery.start_soon(session.live)
        return session

    async def freeze(self, name: str) -> None:
        await self._do("freeze", name)
        self.frozen.add(name)

    async def thaw(self, name: str) -> None:
        await self._do("thaw", name)
        self.frozen.discard(name)

    async def update(self, name: str, resources: Mapping[str, Any]) -> list[str]:
        await self._do("update", name, resources)
        return []

    async def usage(self, name: str) -> Usage:
        await self._do("usage", name)
        raise OperationFailed("the scripted machine measures nothing")

    async def processes(self, name: str) -> list[Member]:
        await self._do("processes", name)
        return [Member(run.pid, 1, 0, 0, "S", 0.0, 0.0, 0, 0, name, name) for run in self._alive(name)]

    async def discard(self, name: str) -> None:
        await self._do("discard", name)
        assert not self._alive(name), f"{name} is discarded alive"
        self.homes.pop(name, None)
        self.runs.pop(name, None)
        self.published.discard(name)

    async def publish(self, name: str, ready: bool) -> None:
        await self._do("publish", name, ready)
        (self.published.add if ready else self.published.discard)(name)

    async def dismantle(self) -> None:
        await self._do("dismantle", "")
        assert not self.homes, f"dismantled with {list(self.homes)}"
        self.established = False

    @contextmanager
    def fails(self, verb: str, error: Exception) -> Iterator[None]:
        self.broken[verb] = error
        try:
            yield
        finally:
            del self.broken[verb]

    async def _do(self, verb: str, name: str, more: Any = None) -> None:
        self.calls.append((trio.current_time(), verb, name, more))
        if verb in self.broken:
            raise self.broken[verb]
        await trio.sleep(self.takes if verb != "wait" else 0)

    def _now(self) -> float:
        """The time; between two supervisors, when it last was told."""
        return trio.current_time() if trio.lowlevel.in_trio_run() else self.calls[-1][0]

    def _alive(self, name: str) -> list[Run]:
        """The run that lives; one whose time is over, but for whom nobody waited, ends here."""
        for run in self.runs[name].values():
            if run.end is None and self._now() >= run.ends_at:
                code = run.life.code if run.life.signal is None else 128 + run.life.signal
                self._end(run, Exit(code, run.life.signal, run.life.oom, run.life.last_lines))
        return [run for run in self.runs[name].values() if run.end is None]

    def _end(self, run: Run, end: Exit) -> None:
        run.end = end
        for name, runs in self.runs.items():
            if run in runs.values():
                self.frozen.discard(name)
        self._wake(run)

    def _wake(self, run: Run) -> None:
        run.changed.set()
        run.changed = trio.Event()


async def inline(work: Callable[..., Any], *arguments: Any) -> Any:
    """Offload nothing: a virtual clock would jump while a thread works."""
    return work(*arguments)


def virtually(main: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run `main` on a clock that jumps to the next deadline whenever all tasks wait."""
    return trio.run(main, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))


def box(name: str, **keys: Any) -> Container:
    """A container whose gaps are exact: no jitter unless asked."""
    restart = keys.pop("restart", {})
    restart = {"policy": restart} if isinstance(restart, str) else restart
    return Container(name=name, rootfs="/", command="run", restart={"jitter": 0.0, **restart}, **keys)


class Place:
    """Where the apps of one test live: a directory and a machine that outlive their supervisors."""

    def __init__(self, path: Path, lives: Mapping[str, Sequence[Life]] | None = None, *, takes: float = 0.0) -> None:
        self.path = path
        self.machine = Scripted(lives, takes=takes)

    def app(self, *containers: Container, name: str = "shop", **keys: Any) -> App:
        spec = AppSpec(name=name, containers=containers, **keys.pop("spec", {}))
        keys = {"machine": self.machine, "offload": inline} | keys
        return App(spec, root=self.path / "root", run=self.path / "run", **keys)

    def reopen(self, name: str = "shop") -> App:
        return App.reopen(name, root=self.path / "root", run=self.path / "run", machine=self.machine, offload=inline)

    def files(self) -> list[str]:
        """Every file and directory that is left below the root and the run directory, but the shared parents."""
        found = (str(path.relative_to(self.path)) for path in self.path.rglob("*"))
        return [name for name in found if name not in ("root", "run", "root/apps")]


def events_of(app: App, name: str | None) -> list[str]:
    return [event.event for event in app.history() if event.container == name]


def state(app: App, name: str) -> str:
    return status(app, name).state


def status(app: App, name: str) -> Status:
    return next(status for status in app.statuses() if status.name == name)


async def until(test: Callable[[], bool], *, step: float = 0.01, limit: float = 1000.0) -> None:
    """Wait on the virtual clock until the test holds."""
    with trio.fail_after(limit):
        while not test():  # noqa: ASYNC110 - it is the test that looks, on a virtual clock
            await trio.sleep(step)
