"""The real machine: what the tree decides, done through the launcher, the network and the disk.

A container's life here: `settle` writes its own files, has the launcher make its namespaces, and links them; `create`
hands the launcher the plan; `wait` is woken by the launcher's word. A launcher that dies takes nothing with it that
cannot be made again: its containers are killed, told as dead, and made anew by another launcher.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal, TypeVar, cast

import attrs
import trio

from net.addresses import AddressesExhausted, SubnetTaken, SubnetUnfit
from runtime import capabilities, seccomp
from runtime.cgroups.group import Group, Leaf, remove_tree, step_aside
from runtime.cgroups.hierarchy import CgroupError, Layout, find
from runtime.launch import client, messages
from runtime.launch.messages import Message, Packet
from runtime.logs import last_lines
from runtime.plan import Place, Plan, plan, plan_exec
from supervisor import claims
from supervisor.app_file.spec import AppSpec, Container
from supervisor.connection import Connection, LauncherGone, Refused
from supervisor.container_config import HOST_ROOT, Surroundings, config_of, own_files, process_of, resources_of
from supervisor.machine import Birth, Exit, Home, Member, OperationFailed, Process, StartError, Survivor, Usage
from supervisor.session import Ends, KernelSession, exit_of
from supervisor.threads import in_thread
from supervisor.usage import host_cpu, host_memory, members, traffic
from supervisor.wiring import Wiring, port_key

T = TypeVar("T")

_LAST_LINES = 10
_PATIENCE = 10.0  # seconds
_LARGEST_PROFILE = 1 << 20  # bytes
_LAUNCHER_TRIES = 4
"""Launchers in a row that die before they answer; then the machine, not chance, is to blame."""


@attrs.define
class _Run:
    """What is known of a container's current run."""

    number: int
    pid: int = 0
    cgroup: str = ""
    userns: str = "host"
    phase: str = "created"  # created, running, exited
    raw: Message | None = None
    ended: float | None = None
    over: trio.Event = attrs.field(factory=trio.Event)


@attrs.define
class _Home:
    """What this supervisor made or found for a container."""

    container: Container
    base: int | None
    config: dict[str, Any]
    place: Place
    plan: Plan
    packed: int
    """A memfd with the plan as the launcher takes it."""
    filter: int | None
    """A memfd with the seccomp program; shared, not this home's to close."""
    launcher: int
    """The pid of the launcher that holds it."""


class KernelMachine:
    """supervisor.machine.Machine over Linux. Needs root.

    `embedded`: the end of this process ends the containers too; else they live on, held by the launcher.
    """

    def __init__(self, spec: AppSpec, *, root: Path, run: Path, embedded: bool) -> None:
        self._app = spec.name
        self._root = root
        self._directory = root / "apps" / spec.name
        self._sockets = run / spec.name
        self._run_root = run
        self._embedded = embedded
        self._wiring = Wiring(spec.name, run, self._directory / "network.json", spec.network.subnet)
        self._cgroup = f"creche/{spec.name}-{self._wiring.seed[:8]}"
        self._layout: Layout | None = None
        self._connection: Connection | None = None
        self._greeted = trio.Event()
        self._launcher = 0
        self._used = False  # whether the launcher holds anything
        self._ports: set[str] = set()
        self._linked: set[str] = set()
        self._homes: dict[str, _Home] = {}
        self._containers: dict[str, Container] = {}
        self._bases: dict[str, int] = {}
        self._runs: dict[str, _Run] = {}
        self._sessions: dict[str, KernelSession] = {}
        self._filters: dict[bytes, int] = {}
        self._last_capability = capabilities.last()
        self._dismantling = False
        self._notices_in, self._notices_out = trio.open_memory_channel[tuple[str | None, str]](float("inf"))

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    # The launcher

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find the app's living launcher or start one; report started; run until cancelled.

        When the launcher dies, start another: its containers are dead by then.
        """
        try:
            channel = await in_thread(client.connect, self._sockets)
            failures = 0
            while True:
                if channel is None:
                    await in_thread(self._clear)
                    await in_thread(lambda: step_aside(self._found_layout()))
                    channel = await in_thread(client.start, self._sockets, self._app, self._born)
                self._connection = Connection(channel)
                greeted = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, self._connection, nursery.cancel_scope)
                    with suppress(LauncherGone):
                        await self._greet(self._connection)
                        greeted = True
                        self._greeted.set()
                        task_status.started()
                        task_status = trio.TASK_STATUS_IGNORED
                    await trio.sleep_forever()
                if self._dismantling:
                    return await trio.sleep_forever()
                self._notice(None, "the launcher died: its containers are killed and follow their restart policies")
                self._connection.close()
                channel = None
                failures = 0 if greeted else failures + 1
                if failures > _LAUNCHER_TRIES:
                    raise StartError(self._app, "start the launcher", await in_thread(self._launcher_words))
                await trio.sleep(0.05 * failures)
        finally:
            if self._connection is not None:
                self._connection.close()
            for home in self._homes.values():
                os.close(home.packed)
            for descriptor in self._filters.values():
                os.close(descriptor)
            if self._embedded or not self._used:  # it ends with the connection
                with trio.CancelScope(shield=True):
                    await in_thread(self._reap)

    def _born(self, launcher: int) -> None:
        self._launcher = launcher

    async def _pump(self, connection: Connection, scope: trio.CancelScope) -> None:
        await connection.pump(self._hear)
        for session in self._sessions.values():
            session.finish(Exit(None, None))
        self._greeted = trio.Event()
        scope.cancel()

    def _launcher_words(self) -> str:
        log = self._sockets / client.LOG_NAME
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return f"the launcher ends at once: {said[-1] if said else 'it says nothing'} (all of it: {log})"

    async def _greet(self, connection: Connection) -> None:
        try:
            packet = await connection.ask("hello", version=messages.VERSION, control=True, embedded=self._embedded)
        except Refused as error:
            advice = "take the app down with the creche that started it, then start it again"
            raise StartError(self._app, "greet the launcher", error.fields["message"], advice=advice) from error
        self._launcher = packet.message["pid"]
        held: dict[str, Message] = packet.message["held"]
        self._used = bool(held)
        self._ports = set(packet.message["ports"])
        interfaces = await in_thread(self._wiring.connected)
        self._linked = {name for name in held if self._wiring.interface(name) in interfaces}
        for name, shown in held.items():
            if shown["run"] is not None and name not in self._runs:
                run = _Run(shown["run"], shown["pid"], shown["cgroup"], shown["userns"])
                run.phase = "created" if shown["phase"] in ("creating", "created") else "running"
                self._runs[name] = run
                if "exit" in shown:
                    self._over(run, shown["exit"])

    def _clear(self) -> None:
        """There is no launcher: whatever still runs of this app has nobody who could ever reap it. Kill it."""
        self._reap()
        remove_tree(self._found_layout(), self._cgroup)
        for run in self._runs.values():
            if run.phase != "exited":
                trio.from_thread.run_sync(partial(self._over, run, None))

    def _reap(self) -> None:
        """Wait for a launcher that ended, where it is this process's own child."""
        if self._launcher:
            with suppress(ChildProcessError):
                os.waitpid(self._launcher, 0)
            self._launcher = 0

    def _found_layout(self) -> Layout:
        if self._layout is None:
            self._layout = find()
        return self._layout

    def _hear(self, event: Message) -> None:
        if event.get("event") == "exited":
            run = self._runs.get(event["name"])
            if run is not None and run.number == event["run"]:
                self._over(run, event)
        elif event.get("event") == "exec-exited":
            session = self._sessions.get(event["exec"])
            if session is not None:
                session.finish(exit_of(event))
        elif event.get("event") == "logger" and "error" in event:
            name = event.get("name")
            self._notice(name, f"the log of {name} cannot be kept: {event['error']}")
        elif "trouble" in event:
            name = event["trouble"]
            self._notice(name, f"the log of {name} cannot be written for now: {event['message']}; it waits and retries")
        elif "recovered" in event:
            self._notice(event["recovered"], f"the log of {event['recovered']} is written again")

    def _notice(self, name: str | None, sentence: str) -> None:
        self._notices_in.send_nowait((name, sentence))

    async def notice(self) -> tuple[str | None, str]:
        """Wait for the next sentence about something that is less than was asked for."""
        return await self._notices_out.receive()

    def _over(self, run: _Run, raw: Message | None) -> None:
        run.phase, run.raw, run.ended = "exited", raw, self.boottime()
        run.over.set()

    async def _ask(self, name: str, operation: str, descriptors: tuple[int, ...] = (), **fields: Any) -> Packet:
        """Ask the launcher about a container; raise StartError in the product's words."""
        with trio.move_on_after(_PATIENCE):  # one that died is about to be followed by another
            await self._greeted.wait()
        assert self._connection is not None, "serve() runs before anything is asked"
        try:
            return await self._connection.ask(operation, descriptors, name=name, **fields)
        except Refused as error:
            raise _start_error(name, error.fields) from error
        except LauncherGone as error:
            advice = "it is started again; the container follows its restart policy"
            raise StartError(name, operation, str(error), advice=advice) from error

    # The app

    async def establish(self, containers: Sequence[Container]) -> None:
        """Ids, subnet, addresses, the table and every published port; raises StartError before anything runs."""
        self._containers.update({each.name: each for each in containers})
        mapped = [each.name for each in containers if each.security.userns != "host"]
        for container in containers:
            run = self._runs.get(container.name)
            if run is not None and run.phase == "running":
                self._wiring.published_before(container)
        try:
            self._bases.update(await in_thread(claims.claim, self._root, self._app, mapped))
            if await self._wiring.establish(containers):
                self._notice(
                    None, "IP forwarding of this host was off and is on now: containers are reached by routing"
                )
        except (SubnetTaken, SubnetUnfit, AddressesExhausted, claims.ClaimsExhausted, claims.DamagedLedger) as error:
            raise StartError(self._app, "prepare the app", str(error)) from error
        except OSError as error:
            raise _os_error(self._app, "prepare the app", error) from error
        for container in containers:
            await self._reserve(container)

    async def _reserve(self, container: Container) -> None:
        if all(port_key(port) in self._ports for port in container.ports):
            return
        missing = attrs.evolve(container, ports=[port for port in container.ports if port_key(port) not in self._ports])
        try:
            bound = await in_thread(self._wiring.reserve, missing)
        except OSError as error:
            raise _os_error(container.name, "reserve its ports", error) from error
        try:
            keys = [key for key, _ in bound]
            for start in range(0, len(bound), messages.DESCRIPTOR_LIMIT):
                part = bound[start : start + messages.DESCRIPTOR_LIMIT]
                packet = await self._ask(
                    container.name,
                    "reserve",
                    tuple(each.fileno() for _, each in part),
                    ports=[key for key, _ in part],
                )
                packet.close()
            self._ports.update(keys)
        finally:
            for _, each in bound:
                each.close()

    async def survivors(self) -> Mapping[str, Survivor]:
        """The runs that the launcher holds and that live."""
        alive = {name: run for name, run in self._runs.items() if run.phase != "exited"}
        frozen = await in_thread(self._frozen, {name: run.cgroup for name, run in alive.items()})
        return {
            name: Survivor(run.number, run.pid, run.cgroup, run.userns, run.phase == "running", name in frozen)
            for name, run in alive.items()
        }

    def _frozen(self, leaves: Mapping[str, str]) -> set[str]:
        """Return which of the containers, each with its leaf's path, are frozen."""
        layout = self._found_layout() if leaves else None
        frozen: set[str] = set()
        for name, path in leaves.items():
            assert layout is not None
            with suppress(CgroupError):  # it ended meanwhile, and is none that is frozen
                if Leaf(Group.at(layout, path, {}).places, path).frozen():
                    frozen.add(name)
        return frozen

    # One container

    async def settle(self, container: Container) -> Home:
        """Own files, volumes, namespaces, link; idempotent."""
        name = container.name
        self._containers[name] = container
        await self._reserve(container)
        try:
            await self._hold(container)
        except CgroupError as error:
            raise StartError(name, "set its limits", str(error), errno=error.errno, path=error.filename) from error
        except (ValueError, LookupError) as error:
            raise StartError(name, "plan the container", str(error)) from error
        except OSError as error:
            raise _os_error(name, "prepare the container", error) from error
        address = self._wiring.addresses.get(name)
        return Home(None if address is None else str(address))

    async def _hold(self, container: Container) -> None:
        name, security = container.name, container.security
        base = self._bases.get(name) if security.userns != "host" else None
        resources = resources_of(container)
        group = Group.at(await in_thread(self._found_layout), f"{self._cgroup}/{name}", resources)
        idmapped = await in_thread(self._make_directories, container)
        log = {"directory": str(self._log(name)), "max_size": container.logs.max_size}
        self._used = True
        packet = await self._ask(
            name,
            "hold",
            userns=None if base is None else [base, claims.SIZE],
            idmapped=idmapped,
            required=security.userns == "required",
            cgroup=group.path,
            resources=resources,
            log={**log, "max_files": container.logs.max_files},
        )
        netns, inner = packet.descriptors
        try:
            if name in self._wiring.addresses and name not in self._linked:
                connecting, inner = inner, -1
                await in_thread(self._wiring.connect, name, netns, connecting)
                self._linked.add(name)
        finally:
            os.close(netns)
            if inner >= 0:
                os.close(inner)
        for warning in packet.message["warnings"]:
            self._notice(name, f"{name}: {warning}")
        if not packet.message["mapped"]:
            base = None
        config = config_of(container, await in_thread(self._write_files, container, base, group.path))
        place = self._place(container, base, group)
        made = plan(config, place)
        filtered = await self._filter(config)
        self._drop_home(name)
        packed = messages.memory_file("creche-plan", _json(made.packed()))
        self._homes[name] = _Home(container, base, config, place, made, packed, filtered, self._launcher)

    def _make_directories(self, container: Container) -> list[str]:
        """Make the container's directories and volumes; return the host paths that its mounts idmap."""
        for private in (self._root / "apps", self._root / "volumes"):
            # What a container's root makes setuid belongs to the host's root in a volume: no other user may get there.
            private.mkdir(parents=True, exist_ok=True)
            private.chmod(0o700)
        home, volumes = self._directory / "containers" / container.name, self._root / "volumes" / self._app
        for directory in (home / "writable" / "upper", home / "writable" / "work", home / "etc", self._log(home.name)):
            directory.mkdir(parents=True, exist_ok=True)
        paths = [str(home), *([container.rootfs] if container.rootfs not in (None, HOST_ROOT) else [])]
        for mount in container.volumes:
            if mount.kind != "tmpfs":
                source = volumes / (mount.source or "")  # a bind's absolute path stays what it is
                if mount.kind == "volume":
                    source.mkdir(parents=True, exist_ok=True)
                paths.append(str(source))
        return paths

    def _write_files(self, container: Container, base: int | None, cgroup: str) -> Surroundings:
        """Write the container's own files; an edit keeps the inode, so that a mount of it follows."""
        own = self._directory / "containers" / container.name / "etc"
        resolver = self._wiring.resolver(container)
        if resolver.warning is not None and container.network != "none":
            trio.from_thread.run_sync(self._notice, container.name, f"{container.name}: {resolver.warning}")
        files = own_files(self._wiring.hosts_file(container), container.hostname or container.name, resolver.text)
        for file, text in files.items():
            data = text.encode()
            with (own / file).open("a+b") as opened:
                opened.seek(0)
                if opened.read(len(data) + 1) != data:  # its root may write there: it can be of any size by now
                    opened.truncate(0)
                    opened.write(data)
        rootfs = Path(container.rootfs or "/")
        return Surroundings(
            base=base,
            own_files=own,
            volumes=self._root / "volumes" / self._app,
            hidden=(self._root, self._run_root),
            needs_nsswitch=rootfs != Path(HOST_ROOT) and not os.path.lexists(rootfs / "etc/nsswitch.conf"),
            cgroup=cgroup,
            machine=os.uname().machine,
            oom_score=int(Path("/proc/self/oom_score_adj").read_text()),
            seccomp=_profile(container.security.seccomp),
        )

    def _place(self, container: Container, base: int | None, group: Group) -> Place:
        assert container.rootfs is not None, "a container that is started has a rootfs: the file was checked"
        hierarchies: list[tuple[str, str]] = []
        for place in group.places:
            shown = sorted(place.controllers)
            if place.version == 2:
                hierarchies.append(("unified" if self._found_layout().mode == "hybrid" else "", ""))
            elif not {"devices", "freezer"} & set(shown):
                hierarchies.append((Path(place.mount).name, ",".join(shown)))
        tmpfs = container.writable.kind == "tmpfs"
        return Place(
            layers=(container.rootfs,),
            idmapped=base is not None and container.rootfs != HOST_ROOT,
            writable=str(self._directory / "containers" / container.name / "writable"),
            memory=container.writable.size or 0 if tmpfs else 0,
            hierarchies=tuple(hierarchies),
            init=container.init,
            last_capability=self._last_capability,
        )

    async def _filter(self, config: dict[str, Any]) -> int | None:
        profile = config["linux"].get("seccomp")
        if profile is None:
            return None
        key = _json(profile)
        if key not in self._filters:
            code = await in_thread(seccomp.cached, profile, self._root / "cache")
            if key not in self._filters:
                self._filters[key] = messages.memory_file("creche-seccomp", code)
        return self._filters[key]

    def plan_of(self, name: str) -> list[str]:
        """Return the container's plan, one line an operation. Raises KeyError before it is settled."""
        return self._homes[name].plan.describe()

    async def create(self, name: str, run: int) -> Birth:
        """Have pid 1 of run `run` made."""
        return await self._make(name, run, "create")

    async def run(self, name: str, run: int) -> Birth:
        """Have pid 1 of run `run` made and executed."""
        birth = await self._make(name, run, "run")
        current = self._runs[name]
        if current.phase == "created":
            current.phase = "running"
        return birth

    async def _make(self, name: str, run: int, how: Literal["create", "run"]) -> Birth:
        home = self._homes[name]
        if home.launcher != self._launcher:
            await self.settle(self._containers[name])
            home = self._homes[name]
        descriptors = (home.packed,) if home.filter is None else (home.packed, home.filter)
        self._runs[name] = current = _Run(run, userns="host" if home.base is None else "mapped")
        try:
            packet = await self._ask(name, how, descriptors, run=run)
        except StartError:
            self._over(current, None)
            raise
        current.pid, current.cgroup = packet.message["pid"], packet.message["cgroup"]
        return Birth(current.pid, current.cgroup, current.userns)

    async def start(self, name: str, run: int) -> None:
        """Let it exec."""
        await self._ask(name, "start", run=run)
        current = self._runs[name]
        if current.phase == "created":
            current.phase = "running"

    async def signal(self, name: str, signum: int) -> None:
        """Signal pid 1; an init passes it on."""
        with suppress(StartError):  # no such run any more, or no launcher: it is dead, and `wait` tells
            await self._ask(name, "signal", signal=signum)

    async def kill(self, name: str) -> None:
        """SIGKILL pid 1, and with it everything in its pid namespace."""
        with suppress(StartError):
            await self._ask(name, "kill")

    async def wait(self, name: str, run: int) -> Exit:
        """Return how the run ended, when its last output is on disk."""
        current = self._runs.get(name)
        if current is None or current.number != run:
            return Exit(None, None)
        await current.over.wait()
        with suppress(StartError):
            (await self._ask(name, "flush")).close()
        lines = await in_thread(last_lines, str(self._log(name)), _LAST_LINES)
        raw = current.raw
        if raw is None:
            return Exit(None, None, False, tuple(lines), current.ended)
        code, signum = raw["code"], raw["signal"]
        if signum is not None:
            code = 128 + signum
        elif self._containers[name].init and code is not None and 128 < code <= 128 + 64:
            signum = code - 128  # an init shows its program's signal as a shell does
        return Exit(code, signum, raw["oom"] and (signum == 9), tuple(lines), current.ended)

    async def exec(self, name: str, process: Process) -> KernelSession:
        """Start one more process in the current run; its plan is made of the container's own config."""
        home = self._homes[name]
        identity = secrets.token_hex(16)
        try:
            made = plan_exec(process_of(home.config, process), home.config["linux"], home.place)
            ends = Ends(terminal=process.terminal, stdin=process.stdin, owner=home.base)
        except ValueError as error:
            raise StartError(name, "plan the process", str(error)) from error
        except OSError as error:
            raise _os_error(name, "make its streams", error) from error

        async def signal(signum: int) -> None:
            with suppress(StartError):
                (await self._ask(name, "exec-signal", exec=identity, signal=signum)).close()

        session = self._sessions[identity] = KernelSession(ends, process.terminal, signal)
        session.closed = partial(self._sessions.pop, identity, None)
        packed = messages.memory_file("creche-exec", _json({"enter": made.packed()["enter"], "program": made.program}))
        try:
            descriptors = (packed, *(() if home.filter is None else (home.filter,)), *ends.given)
            packet = await self._ask(
                name, "exec", descriptors, exec=identity, seccomp=home.filter is not None, terminal=process.terminal
            )
            packet.close()
            session.pid = packet.message["pid"]
            ends.hand_over()
            if process.terminal:
                ends.receive_master()
        except OSError as error:
            await signal(SIGKILL)
            session.close()
            raise _os_error(name, "take its terminal", error) from error
        except BaseException:
            session.close()
            raise
        finally:
            os.close(packed)
        return session

    async def freeze(self, name: str) -> None:
        """Freeze the run's leaf; one that does not come to rest in time is thawed again."""
        leaf = (await self._cgroups(name))[1]
        try:
            await _at_cgroup(leaf.freeze)
        except OperationFailed:
            await _at_cgroup(leaf.thaw)
            raise

    async def thaw(self, name: str) -> None:
        """Thaw the run's leaf."""
        await _at_cgroup((await self._cgroups(name))[1].thaw)

    async def update(self, name: str, resources: Mapping[str, Any]) -> list[str]:
        """Change limits of the container's cgroup while it runs."""
        group = (await self._cgroups(name))[0]
        return await _at_cgroup(partial(group.update, resources))

    async def usage(self, name: str) -> Usage:
        """Read the container's cgroup and the host's end of its link."""
        group = (await self._cgroups(name))[0]
        return await _at_cgroup(partial(self._usage, name, group))

    def _usage(self, name: str, group: Group) -> Usage:
        used = group.stats()
        linked = name in self._wiring.addresses
        return Usage(
            at=time.time(),
            cgroup=used,
            traffic=traffic(self._wiring.interface(name)) if linked else None,
            host_cpu=host_cpu(Path("/proc/stat").read_text()),
            processors=len(os.sched_getaffinity(0)),
            host_memory=host_memory(Path("/proc/meminfo").read_text()),
        )

    async def processes(self, name: str) -> list[Member]:
        """Read procfs for what is in the run's leaf."""
        leaf = (await self._cgroups(name))[1]
        return await _at_cgroup(lambda: members(leaf.members()))

    async def _cgroups(self, name: str) -> tuple[Group, Leaf]:
        """Return the container's group and the leaf of its current run."""
        run, container = self._runs.get(name), self._containers.get(name)
        if run is None or container is None or run.phase == "exited":
            raise OperationFailed(f"{name} does not run")
        layout = await in_thread(self._found_layout)
        group = Group.at(layout, f"{self._cgroup}/{name}", resources_of(container))
        return group, group.known_leaf(run.number)

    async def publish(self, name: str, ready: bool) -> None:
        """Open or close its published ports."""
        container = self._containers.get(name)
        if container is not None:
            await self._wiring.publish(container, ready)

    async def discard(self, name: str) -> None:
        """Nothing of the container stays but its volumes."""
        container = self._containers.get(name)
        with suppress(StartError):  # a launcher that is gone holds nothing; what it left, `dismantle` finds by cgroup
            if container is not None and container.ports:
                keys = [port_key(port) for port in container.ports]
                (await self._ask(name, "release", ports=keys)).close()
                self._ports.difference_update(keys)
            (await self._ask(name, "forget")).close()
        self._drop_home(name)
        self._linked.discard(name)
        self._runs.pop(name, None)
        await self._wiring.forget(name)
        await in_thread(self._remove, name)

    def _drop_home(self, name: str) -> None:
        home = self._homes.pop(name, None)
        if home is not None:
            os.close(home.packed)

    def _remove(self, name: str) -> None:
        for directory in (self._directory / "containers" / name, self._log(name)):
            if directory.exists():
                shutil.rmtree(directory)
        claims.release(self._root, self._app, name)
        self._bases.pop(name, None)

    async def dismantle(self) -> None:
        """End the launcher; remove links, table, cgroups and claims."""
        self._dismantling = True
        if self._connection is not None:
            with suppress(LauncherGone, Refused):
                (await self._connection.ask("end")).close()
        await in_thread(self._dismantle)

    def _dismantle(self) -> None:
        self._reap()
        remove_tree(self._found_layout(), self._cgroup)
        self._wiring.dismantle()
        claims.release(self._root, self._app)

    def _log(self, name: str) -> Path:
        return self._directory / "logs" / name


def _profile(choice: str) -> dict[str, Any] | None:
    """Return the seccomp profile that a path names, in OCI's form; None for a word.

    Raises OSError, and ValueError where it is none.
    """
    if choice in ("default", "unconfined"):
        return None
    import json

    with Path(choice).open("rb") as file:
        data = file.read(_LARGEST_PROFILE + 1)
    try:
        if len(data) > _LARGEST_PROFILE:
            raise ValueError(f"it is larger than {_LARGEST_PROFILE} bytes")
        found: Any = json.loads(data)
        if not isinstance(found, dict) or "defaultAction" not in found:
            raise ValueError("it is no JSON object with a defaultAction")
        if "archMap" in found:
            raise ValueError("Docker's own form (archMap, includes, excludes) is not supported: give it in OCI's form")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"security.seccomp: {choice} is no seccomp profile (config-linux.md): {error}") from error
    return cast("dict[str, Any]", found)


async def _at_cgroup(work: Callable[[], T]) -> T:
    """Do it in a worker thread; raise OperationFailed in the cgroup's words."""
    try:
        return await in_thread(work)
    except (OSError, ValueError) as error:
        raise OperationFailed(str(error)) from error


def _json(value: dict[str, Any]) -> bytes:
    import json

    return json.dumps(value).encode()


def _start_error(name: str, fields: Message) -> StartError:
    path = f" ({fields['path']})" if fields["path"] and fields["path"] not in fields["message"] else ""
    return StartError(
        name,
        fields["operation"],
        f"{fields['operation']}: {fields['message']}{path}",
        errno=fields["errno"],
        path=fields["path"],
        advice=fields["advice"],
        exit_code=fields["exit_code"],
    )


def _os_error(name: str, operation: str, error: OSError) -> StartError:
    path = str(error.filename) if error.filename is not None else None
    where = f" ({path})" if path else ""
    return StartError(name, operation, f"{error.strerror or error}{where}", errno=error.errno, path=path)
