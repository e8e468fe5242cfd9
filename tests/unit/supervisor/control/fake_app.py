"""A small app for the control socket's tests: states that a test sets, calls that it reads back."""

from pathlib import Path

import attrs
import trio

from supervisor.actor import NotRunning
from supervisor.app_file.spec import AppSpec, Container
from supervisor.bus import Bus
from supervisor.events import Event
from supervisor.execs import Execs
from supervisor.machine import Member, Usage
from supervisor.status import Status
from supervisor.tree import Branch
from tests.unit.supervisor.scripted import Doing, ScriptedSession


def status(name, **fields):
    """A running container's status."""
    base = dict(
        app="shop", name=name, service=name, replica=1, state="running", ready=True, health="none", pid=4242,
        ip="10.64.0.2", ports=("127.0.0.1:8080:80/tcp",), image=None, restarts=0, exit_code=None, exit_signal=None,
        oom_killed=False, started_at="2026-01-02T03:04:05.000000Z", finished_at=None, waiting_for=(),
        next_start_at=None, last_reason=None, group=None, cgroup="creche/shop-1/db/run-1", rootfs="/", userns="mapped",
    )  # fmt: skip
    return Status(**(base | fields))


class FakeApp:
    """What `App` shows to the control socket, without a container."""

    def __init__(self, root: Path, run: Path, names=("db", "web"), name="shop", file=None):
        self.name = name
        self.root, self.run = root, run
        self.spec = AppSpec(
            name=name,
            file=file,
            containers=[Container(name=each, rootfs="/", command=["sleep", "1"]) for each in names],
        )
        self.states = {each: status(each, app=name) for each in names}
        self.bus = Bus(name)
        self.calls: list[tuple] = []
        self.over = trio.Event()
        self.execs = Execs(self.exec)
        self.nursery: trio.Nursery | None = None
        self.programs: dict[str, Doing | Exception] = {}
        self.sessions: list[ScriptedSession] = []
        self.usages: list[Usage] = []
        self.readied: Exception | str | None = None

    @property
    def run_directory(self):
        return self.run

    def statuses(self):
        return list(self.states.values())

    def tree(self):
        return Branch(self.name, "one-for-one", tuple(self.states.values()))

    def history(self):
        return self.bus.history()

    def events(self, since=None):
        return self.bus.follow(since)

    def tell(self, container, event, detail="", time=1_800_000_000.0):
        self.bus.publish(Event(self.bus.reserve(), time, self.name, container, event, detail=detail))

    def change(self, name, **fields):
        self.states[name] = attrs.evolve(self.states[name], **fields)

    def inspect(self, name):
        return {"status": attrs.asdict(self.states[name]), "spec": {}, "deaths": []}

    def plan(self, name):
        return [f"make {name}", "pivot into the root"]

    async def stop(self, names, timeout=None):
        self.calls.append(("stop", list(names), timeout))

    async def start_again(self, names):
        self.calls.append(("start", list(names)))

    async def restart(self, names, timeout=None):
        self.calls.append(("restart", list(names), timeout))

    async def kill(self, names, signum):
        self.calls.append(("kill", list(names), signum))

    async def pause(self, names):
        self.calls.append(("pause", list(names)))

    async def unpause(self, names):
        self.calls.append(("unpause", list(names)))

    def runs(self, name, otherwise, *, paused=False):
        if self.states[name].state not in ("running", *(["paused"] if paused else [])):
            raise NotRunning(f"{name} is {self.states[name].state}: {otherwise}")
        return name

    async def exec(self, name, process):
        doing = self.programs.get(process.arguments[0], Doing())
        if isinstance(doing, Exception):
            raise doing
        self.calls.append(("exec", name, process))
        self.sessions.append(ScriptedSession(doing, process, 4300))
        self.nursery.start_soon(self.sessions[-1].live)
        return self.sessions[-1]

    async def serve_execs(self, *, task_status=trio.TASK_STATUS_IGNORED):
        async with trio.open_nursery() as self.nursery:
            await self.nursery.start(self.execs.run)
            task_status.started()
            await trio.sleep_forever()

    async def update(self, name, resources):
        self.calls.append(("update", self.runs(name, "no", paused=True), resources))
        return ["a warning"]

    async def usage(self, name):
        self.runs(name, "it uses nothing", paused=True)
        return self.usages.pop(0)

    async def processes(self, name):
        self.runs(name, "it has no processes", paused=True)
        return [Member(4242, 1, 4000, 0, "S", 61.5, self.wall() - 100, 2 << 20, 0x8803, "sleep", "sleep 1")]

    def wall(self):
        return 1_800_000_000.0

    async def down(self, timeout=None, volumes=False):
        self.calls.append(("down", timeout, volumes))
        self.over.set()
        await trio.lowlevel.checkpoint()

    async def ended(self):
        await self.over.wait()

    async def ready(self):
        if self.readied == "never":
            await trio.sleep_forever()
        if isinstance(self.readied, Exception):
            raise self.readied
