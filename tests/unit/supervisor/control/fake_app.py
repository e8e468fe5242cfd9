"""A small app for the control socket's tests: states that a test sets, calls that it reads back."""

from pathlib import Path

import attrs
import trio

from supervisor.app_file.spec import AppSpec, Container
from supervisor.bus import Bus
from supervisor.events import Event
from supervisor.status import Status
from supervisor.tree import Branch


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
