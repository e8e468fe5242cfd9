"""One app: opened, looked at, changed and left; the public face of the supervisor.

    async with App.open("shop.toml") as app:
        await app.ready()

Entering takes the app's lock, adopts what outlived an earlier supervisor and starts the rest. Leaving the block stops
everything in reverse order and leaves nothing behind but volumes, unless the app is detached.
"""

import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import attrs
import trio

from supervisor.actor import Actor, NotRunning, Request
from supervisor.adoption import carried_over, spec_id
from supervisor.app_file.spec import AppSpec, Container, Stop, container_form
from supervisor.board import Board
from supervisor.bus import Bus
from supervisor.events import Event
from supervisor.execs import Execs
from supervisor.failures import AppFailed, Closing, ContainerFailed, Foreign, NoApp, NotAllowed, UnknownContainer
from supervisor.journal import Journal, Owner, Record
from supervisor.lifecycle import RESTING
from supervisor.lock import held
from supervisor.machine import Machine, Member, OperationFailed, Process, Session, Survivor, Usage
from supervisor.scribe import Note, Offload, Scribe
from supervisor.status import Status, status_of
from supervisor.stories import signal_number
from supervisor.threads import on_disk
from supervisor.tree import Branch, Tree

HURRY = 2.0
"""Seconds for a graceful stop when the block is left by cancellation."""


class App:
    """An app as an async context manager, of a name, to be built in code, or of a spec as the reader gives it.

    `root` and `run` default to CRECHE_ROOT and CRECHE_RUN, then to /var/lib/creche and /run/creche. `detached`: leaving
    the block leaves the containers running. `survives`: leaving stops them, but when this process is killed they live
    on until the next `creche up` or `down`; without either they end with it. `offload` is how blocking work on the
    journal leaves the event loop.
    """

    def __init__(
        self,
        name: str | AppSpec,
        *,
        root: str | Path | None = None,
        run: str | Path | None = None,
        detached: bool = False,
        survives: bool = False,
        machine: Machine | None = None,
        offload: Offload | None = None,
    ) -> None:
        self.spec = AppSpec(name=name) if isinstance(name, str) else name
        self.root = Path(root or os.environ.get("CRECHE_ROOT") or "/var/lib/creche").resolve()
        self.run_directory = Path(run or os.environ.get("CRECHE_RUN") or "/run/creche").resolve()
        self.detached = detached
        self._survives = survives
        self._machine_given = machine
        self._offload: Offload = offload or on_disk
        self._journal = Journal(self.directory)
        self._board = Board()
        self._reopened = False
        self._closing = False
        self._serving = False
        self._ended = trio.Event()
        self._removal = trio.Lock()
        self._growth = trio.Lock()
        self._scope = trio.CancelScope()
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._session: AbstractAsyncContextManager[None] | None = None

    @classmethod
    def open(
        cls,
        file: str | Path,
        *,
        root: str | Path | None = None,
        run: str | Path | None = None,
        detached: bool = False,
        environ: Mapping[str, str] | None = None,
        machine: Machine | None = None,
        offload: Offload | None = None,
    ) -> "App":
        """Return the app of a file. Raises AppFileError with everything that is wrong in it, before anything runs."""
        from supervisor.app_file.read import read

        return cls(read(file, environ), root=root, run=run, detached=detached, machine=machine, offload=offload)

    @classmethod
    def reopen(
        cls,
        name: str,
        *,
        root: str | Path | None = None,
        run: str | Path | None = None,
        machine: Machine | None = None,
        offload: Offload | None = None,
    ) -> "App":
        """Return the app that the journal knows by that name, to look at what survived and take it `down`.

        Entering it adopts survivors and starts nothing. Raises NoApp, JournalError.
        """
        app = cls(name, root=root, run=run, machine=machine, offload=offload)
        owner = app._journal.owner()
        if owner is None:
            raise NoApp(f"there is no app {name} under {app.root}: {app.directory / 'app.json'} does not exist")
        app.spec = _spec_of(owner)
        app._reopened = app._survives = True
        return app

    # The block

    async def __aenter__(self) -> "App":
        session = self._in_session()
        await session.__aenter__()
        self._session = session
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._session is not None, "an App is left that was never entered"
        return await self._session.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _in_session(self) -> AsyncGenerator[None]:
        if self._machine_given is None and os.geteuid() != 0:
            raise NotAllowed("creche needs root for now: run it as root (rootless containers are not yet supported)")
        thrown: BaseException | None = None
        hurry: float | None = None
        ours, served, serving = True, False, trio.Event()
        self._scope = trio.CancelScope(shield=True)
        with held(self.directory, self.name):
            with trio.CancelScope(shield=True):  # short; what it makes on disk is taken away below
                await self._load()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._main, serving)
                    try:
                        await serving.wait()
                        await self._prepare()
                        ours = False
                        yield
                    except BaseException as error:
                        if _is_cancelled(error):
                            hurry = HURRY
                            raise
                        # Kept out of the nursery, so that the caller gets the error itself and not a group of one.
                        thrown = _lone(error) if ours else error
                    finally:
                        served = self._serving
                        with trio.CancelScope(shield=True):
                            await self._leave(hurry)
                        self._scope.cancel()
            except BaseExceptionGroup as group:
                raise _lone(group) from None
            finally:
                if not served and not self._records:  # nothing ever ran; by now nobody works in them
                    with trio.CancelScope(shield=True):
                        await self._offload(self._remove_files, False)
        if thrown is not None:
            raise thrown

    async def _load(self) -> None:
        owner = await self._offload(self._journal.owner)
        self._records: dict[str, Record] = await self._offload(self._journal.records)
        file = None if self.spec.file is None else str(self.spec.file)
        if owner is not None and self._records and not self._reopened and owner.file != file:
            raise Foreign(
                f"the app {self.name} belongs to {owner.file or 'a program'}, not to {file or 'this program'}: "
                f"give one of them another name, or take it down first: creche down {self.name}"
            )
        self._bus = Bus(self.name, await self._offload(self._journal.past))
        self._former = owner
        sockets = self.run_directory / self.name
        sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._machine_given is None:
            from supervisor.kernel import KernelMachine

            self._machine: Machine = KernelMachine(
                self.spec, root=self.root, run=self.run_directory, embedded=not (self.detached or self._survives)
            )
        else:
            self._machine = self._machine_given
        self._scribe = Scribe(self.name, self._journal, self._bus, self._machine.wall, self._offload)
        self._tree = Tree(self.spec)
        self.execs = Execs(self.exec)

    async def _main(self, serving: trio.Event) -> None:
        """The machine and the tree: shielded, so that a cancelled block can still stop its containers."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._machine.serve)
                nursery.start_soon(self._tell_notices)
                await nursery.start(self.execs.run)
                await nursery.start(self._tree.run)
                self._serving = True
                serving.set()
                await trio.sleep_forever()

    async def _tell_notices(self) -> None:
        while True:
            container, sentence = await self._machine.notice()
            await self._scribe.commit(container, None, Note("warning", sentence))

    async def _prepare(self) -> None:
        """Take over what is there, make what all need, start the rest."""
        survivors = await self._machine.survivors()
        if not self._reopened:
            gone = [name for name in {*self._records, *survivors} if name not in self.spec.containers]
            async with trio.open_nursery() as nursery:
                for name in gone:
                    nursery.start_soon(self._remove, name, survivors.get(name))
            await self._own()
            await self._machine.establish(tuple(self.spec.containers.values()))
        for container in self.spec.containers.values():
            survivor = survivors.get(container.name)
            if survivor is not None or not self._reopened:
                await self._add(container, survivor)

    async def _own(self) -> None:
        from supervisor.app_file.write import normalised

        file = None if self.spec.file is None else str(self.spec.file)
        await self._offload(self._journal.own, Owner(self.name, file, normalised(self.spec)))

    async def _add(self, container: Container, survivor: Survivor | None = None) -> None:
        identity = spec_id(container)
        record = self._records.get(container.name)
        changed = record is not None and record.spec != identity and not self._reopened
        if record is None:
            record = Record(container.name, identity, self._boot)
        elif survivor is None:
            if changed:
                await self._machine.discard(container.name)
            record = carried_over(record, container, identity, self._boot)
        record = attrs.evolve(record, ready=False)  # what the journal says of it must be seen first
        actor = Actor(container, record, spec=identity, machine=self._machine, board=self._board, scribe=self._scribe)
        if changed and survivor is not None:
            actor.post(Request("restart", reason="update"))
        self._tree.add(actor, survivor)

    async def _remove(self, name: str, survivor: Survivor | None) -> None:
        """Stop and discard a container that the app has no more."""

        if survivor is not None:
            known: Mapping[str, Container] = {} if self._former is None else _spec_of(self._former).containers
            stop = known[name].stop if name in known else Stop()
            if survivor.started:
                if survivor.frozen:
                    with suppress(OperationFailed):  # then it is killed when its time is over
                        await self._machine.thaw(name)
                await self._machine.signal(name, signal_number(stop.signal or "SIGTERM"))
                with trio.move_on_after(stop.timeout):
                    await self._machine.wait(name, survivor.run)
            await self._machine.kill(name)
            await self._machine.wait(name, survivor.run)
        await self._machine.discard(name)
        self._records.pop(name, None)
        await self._offload(self._journal.forget, name)
        story = f"{name} was stopped and removed: the app has no such container any more"
        await self._scribe.commit(name, None, Note("removed", story, "update"))

    async def _leave(self, hurry: float | None) -> None:
        if self._ended.is_set() or not self._serving:
            return
        if self.detached and self._tree.actors:
            self._tree.leave_running()
            return
        await self.down(hurry)

    # What there is

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def directory(self) -> Path:
        """Where the app's state, containers and logs live."""
        return self.root / "apps" / self.name

    def wall(self) -> float:
        """Return the time for people, unix seconds."""
        return self._machine.wall()

    def statuses(self) -> list[Status]:
        """Return every container's status, in the order of the app file."""
        boottime, wall = self._machine.boottime(), self._machine.wall()
        return [
            status_of(self.name, actor.container, actor.record, actor.unmet(), boottime, wall)
            for actor in self._tree.actors.values()
        ]

    def tree(self) -> Branch:
        """Return the root group with all below it."""
        return self._tree.branch({status.name: status for status in self.statuses()})

    def history(self) -> list[Event]:
        """Return the events that are remembered, oldest first; a bounded number, earlier supervisors' included."""
        return self._bus.history()

    def events(self, since: int | None = None) -> AsyncIterator[Event]:
        """Follow events for ever: those with a number above `since`, or only new ones."""
        return self._bus.follow(since)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return status, spec in the file's words, the last deaths, and the chain of causes of the latest event."""
        actor = self._actor(name)
        status = next(status for status in self.statuses() if status.name == name)
        events = self._bus.history()
        own = [event for event in events if event.container == name]
        by_number = {event.seq: event for event in events}
        causes: list[Event] = []
        event = own[-1] if own else None
        while event is not None:
            causes.append(event)
            event = by_number.get(event.cause) if event.cause is not None else None
        return {
            **attrs.asdict(status),
            "spec": container_form(name).show(actor.container),
            "deaths": [event.to_json() for event in own if event.event == "died"][-10:],
            "causes": [event.to_json() for event in causes],
        }

    def plan(self, name: str) -> list[str]:
        """Return the steps that make a run of the container, one line each, in their order.

        Raises UnknownContainer, and NotRunning before its first start was prepared.
        """
        try:
            return self._machine.plan_of(self._actor(name).name)
        except KeyError as error:
            raise NotRunning(f"{name} has no plan yet: its first start is not prepared") from error

    async def ready(self) -> None:
        """Wait until every container is ready, completed, or stopped because somebody asked for it.

        Raises AppFailed as soon as one is failed or exhausted.
        """
        await self._until_ready(None)

    async def wait(self, name: str) -> Status:
        """Wait until the container rests: stopped, completed, exhausted or failed; return its status then."""
        while self._actor(name).record.state not in RESTING:
            await self._board.change(name)
        return next(status for status in self.statuses() if status.name == name)

    async def ended(self) -> None:
        """Wait until the app is down: nothing of it is left but its volumes."""
        await self._ended.wait()

    # What may be asked

    async def start(self, container: Container) -> "Handle":
        """Add a container to the running app; return when it is ready or completed.

        Raises AppFileError when it breaks a rule or is not yet supported, AppFailed when it is failed or exhausted,
        StartError when the app cannot have what it needs.
        """
        from supervisor.app_file.read import complete

        async with self._growth:
            if self._closing:
                raise Closing(f"the app {self.name} ends: it takes no container {container.name}")
            if container.name in self.spec.containers:
                raise ValueError(f"the app {self.name} has a container {container.name} already")
            spec = attrs.evolve(self.spec, containers=[*self.spec.containers.values(), container])
            spec = await self._offload(complete, spec, Path.cwd())
            await self._machine.establish(tuple(spec.containers.values()))
            self.spec = spec
            await self._own()
            await self._add(spec.containers[container.name])
        await self._until_ready([container.name])
        return Handle(self, container.name)

    def handle(self, name: str) -> "Handle":
        """Return the handle of a container that is there. Raises UnknownContainer."""
        self._actor(name)
        return Handle(self, name)

    async def stop(self, names: Iterable[str], timeout: float | None = None) -> None:
        """Stop containers, dependents first; `timeout` seconds replace their own. They rest until asked to start."""
        await self._tree.stop([self._actor(name).name for name in names], each=timeout)

    async def start_again(self, names: Iterable[str]) -> None:
        """Start containers that rest, with a clear back-off; at once those that back off.

        Returns when each runs, failed, or waits for another.
        """
        await self._ask(names, lambda: Request("start"))

    async def restart(self, names: Iterable[str], timeout: float | None = None) -> None:
        """Stop and start containers; `timeout` seconds replace their stop timeouts."""
        await self._ask(names, lambda: Request("restart", timeout=timeout))

    async def kill(self, names: Iterable[str], signum: int) -> None:
        """Send a signal; what follows is for the restart policy. Raises NotRunning naming those that do not run."""
        await self._ask(names, lambda: Request("kill", signum=signum))

    async def pause(self, names: Iterable[str]) -> None:
        """Stop all processes of containers where they are. Raises NotRunning, also for those that are paused."""
        await self._ask(names, lambda: Request("pause"))

    async def unpause(self, names: Iterable[str]) -> None:
        """Let paused containers go on. Raises NotRunning for those that are not paused."""
        await self._ask(names, lambda: Request("unpause"))

    async def exec(self, name: str, process: Process) -> Session:
        """Start one more process in a running container, confined as its first.

        The caller reads its output and closes it. Raises NotRunning, StartError.
        """
        return await self._machine.exec(self.runs(name, "exec runs nothing in it"), process)

    async def update(self, name: str, resources: Mapping[str, Any]) -> list[str]:
        """Change the limits of a running container until it is made anew; return warnings.

        `resources` is OCI's `linux.resources`. Raises NotRunning, OperationFailed.
        """
        return await self._machine.update(self.runs(name, "there is nothing to update", paused=True), resources)

    async def usage(self, name: str) -> Usage:
        """Return what a running container has used. Raises NotRunning, OperationFailed."""
        return await self._machine.usage(self.runs(name, "it uses nothing", paused=True))

    async def processes(self, name: str) -> list[Member]:
        """Return the processes of a running container. Raises NotRunning, OperationFailed."""
        return await self._machine.processes(self.runs(name, "it has no processes", paused=True))

    def runs(self, name: str, otherwise: str, *, paused: bool = False) -> str:
        """Return the name of a container that runs, or is paused where that is enough.

        Raises UnknownContainer, and NotRunning with `otherwise` as the consequence.
        """
        state = self._actor(name).record.state
        if state == "paused" and not paused:
            raise NotRunning(f"{name} is paused: {otherwise}; unpause it first: creche unpause {self.name}/{name}")
        if state not in ("running", "stopping", "paused"):
            raise NotRunning(f"{name} is not running, it is {state}: {otherwise}")
        return name

    async def down(self, timeout: float | None = None, volumes: bool = False) -> None:
        """Stop everything in reverse order, within `timeout` seconds if given, and remove it; the app ends then.

        Volumes stay unless asked. A second call with less time hurries the first.
        """
        self._closing = True
        async with self._growth:  # a container that is being added is stopped with the others
            pass
        await self._tree.stop(list(self._tree.actors), overall=timeout, lasting=False)
        async with self._removal:
            if self._ended.is_set():
                return
            names = {*self.spec.containers, *self._records, *self._tree.actors}
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self._machine.discard, name)
            await self._machine.dismantle()
            await self._offload(self._remove_files, volumes)
            self._ended.set()

    def _remove_files(self, volumes: bool) -> None:
        doomed = [self.run_directory / self.name, self.directory]
        for directory in [*doomed, self.root / "volumes" / self.name] if volumes else doomed:
            if directory.exists():
                shutil.rmtree(directory)

    async def _ask(self, names: Iterable[str], request: Callable[[], Request]) -> None:
        actors = [self._actor(name) for name in names]
        if self._closing:
            raise Closing(f"the app {self.name} ends")
        refused: list[str] = []

        async def ask(actor: Actor) -> None:
            try:
                await actor.ask(request())
            except NotRunning as error:
                refused.append(str(error))

        async with trio.open_nursery() as nursery:
            for actor in actors:
                nursery.start_soon(ask, actor)
        if refused:
            raise NotRunning("; ".join(refused))

    async def _until_ready(self, names: Iterable[str] | None) -> None:
        while True:
            actors = [self._actor(name) for name in (self._tree.actors if names is None else names)]
            failed = [self._failure(actor) for actor in actors if actor.record.state in ("failed", "exhausted")]
            if failed:
                raise AppFailed(f"{self.name} is not ready: {'; '.join(map(str, failed))}", failed)
            if all(actor.record.ready or actor.record.state in ("completed", "stopped") for actor in actors):
                return
            await self._board.any_change()

    def _failure(self, actor: Actor) -> ContainerFailed:
        state = actor.record.state
        stories = [event.detail for event in self._bus.history() if event.container == actor.name]
        return ContainerFailed(actor.name, state, stories[-1] if stories else f"{actor.name} is {state}")

    def _actor(self, name: str) -> Actor:
        try:
            return self._tree.actors[name]
        except KeyError:
            known = ", ".join(self._tree.actors) or "none"
            raise UnknownContainer(f"the app {self.name} has no container {name}; it has: {known}") from None


@attrs.frozen
class Handle:
    """One container of a running app."""

    app: App = attrs.field(repr=False)
    name: str

    @property
    def address(self) -> str | None:
        """Its IP address, for life."""
        return self.status().ip

    def status(self) -> Status:
        return next(status for status in self.app.statuses() if status.name == self.name)

    async def wait(self) -> Status:
        """Wait until it rests; return its status then."""
        return await self.app.wait(self.name)

    async def stop(self, timeout: float | None = None) -> None:
        await self.app.stop([self.name], timeout)

    async def start(self) -> None:
        await self.app.start_again([self.name])

    async def restart(self, timeout: float | None = None) -> None:
        await self.app.restart([self.name], timeout)

    async def kill(self, signum: int) -> None:
        await self.app.kill([self.name], signum)


def _spec_of(owner: Owner) -> AppSpec:
    from supervisor.app_file.read import restore

    return restore(owner.spec, None if owner.file is None else Path(owner.file))


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return any(_is_cancelled(one) for one in group.exceptions)
    return isinstance(error, trio.Cancelled)


def _lone(error: BaseException) -> BaseException:
    """Return the only error of nested groups that nurseries made; AppFailed and others' groups stay."""
    while type(error) in (ExceptionGroup, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        if len(group.exceptions) > 1:
            break
        error = next(iter(group.exceptions))
    return error
