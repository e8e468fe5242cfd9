"""The seam between the tree and the kernel: a narrow protocol, and the data that crosses it.

The tree decides, the machine does. Its real form is `supervisor.kernel.KernelMachine`; tests bring a scripted
one, so that the whole tree runs on a virtual clock. A container's name is its key everywhere. The order of
calls for one container:

    settle   once per life, again by whoever adopts it; idempotent
    create   run n: pid 1 exists and waits before exec
    start    it execs; `run` does both in one, and faster
    wait     level-triggered, may be cancelled and asked again; then create of run n + 1 may come at once
    discard  at the very end, when nothing of it runs

Between start and the end of a run: exec, freeze, thaw, update, usage and processes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

if TYPE_CHECKING:
    from runtime.cgroups.stats import Stats
    from supervisor.app_file.spec import Container


@attrs.frozen
class Exit:
    """One run's end, as Docker shows it. `code` and `signal` both None: it is dead, but its status was lost."""

    code: int | None
    """0..255; 128 + n for signal n."""
    signal: int | None
    """The signal that ended it (an init's 128 + n counts), else None."""
    oom: bool = False
    """Something of this run was killed by the OOM killer."""
    last_lines: tuple[str, ...] = ()
    """The end of its output, for the story of its death."""
    at: float | None = None
    """When it was heard of, in boottime seconds: what a restart's delay counts from. None: when it is asked for."""


@attrs.frozen
class Birth:
    """A created run: its pid 1 on the host, its cgroup leaf, and `mapped` or `host` for its user namespace."""

    pid: int
    cgroup: str
    userns: str


@attrs.frozen
class Home:
    """What a container has for life."""

    address: str | None


@attrs.frozen
class Survivor:
    """A run that outlived a supervisor and still lives. `started` is False for one that waits before exec."""

    run: int
    pid: int
    cgroup: str
    userns: str
    started: bool
    frozen: bool = False
    """Its processes are stopped by the freezer; the kernel says so."""


@attrs.frozen
class Process:
    """One more process for a running container; what is None is the container's own."""

    arguments: tuple[str, ...]
    env: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """On top of the container's."""
    user: str | None = None
    """As the app file's `user`."""
    directory: str | None = None
    terminal: bool = False
    stdin: bool = False
    """Its standard input is the caller's to write; else it is /dev/null (with a terminal, the terminal)."""
    size: tuple[int, int] | None = None
    """The terminal's rows and columns."""


class Session(Protocol):
    """A process that `exec` started, and its streams. Whoever got it reads all its output and then closes it.

    `pid` is the process's on the host. Nothing is kept here: who does not read makes the process wait, who does not
    write lets it wait.
    """

    pid: int
    streams: tuple[int, ...]
    """1 and 2, its standard output and error; 1 alone with a terminal."""

    async def receive(self, stream: int) -> bytes:
        """Return the next bytes of one stream; none when it is closed, or empty and the process dead."""
        ...

    async def send(self, data: bytes) -> None:
        """Write to its standard input; raise trio.BrokenResourceError when nobody reads it any more."""
        ...

    def end_input(self) -> None:
        """Close its standard input; a terminal has no such end and stays as it is."""
        ...

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal another size; nothing happens without one."""
        ...

    async def signal(self, signum: int) -> None:
        """Signal the process; nothing happens when it is dead."""
        ...

    async def wait(self) -> Exit:
        """Return how it ended; `Exit(None, None)` when the launcher died first."""
        ...

    def close(self) -> None:
        """Let go of its streams; a process that still lives loses them."""
        ...


@attrs.frozen
class Traffic:
    """What went through a container's network interface, seen from inside: bytes, packets, errors, dropped."""

    received: tuple[int, int, int, int]
    sent: tuple[int, int, int, int]


@attrs.frozen
class Usage:
    """What a running container has used up to one moment."""

    at: float
    """Wall-clock seconds."""
    cgroup: "Stats"
    traffic: Traffic | None
    """None for a container without an interface of its own."""
    host_cpu: int
    """Nanoseconds that all processors of the host have spent, idle or not; a share of it is a container's load."""
    processors: int
    host_memory: int
    """Bytes: the limit of a container that has none."""


@attrs.frozen
class Member:
    """One process of a container."""

    pid: int
    """On the host."""
    inner: int
    """In the container."""
    parent: int
    """Its parent's pid on the host."""
    uid: int
    """In the container; 65534 for an id that the container does not have."""
    state: str
    """The letter of proc(5)."""
    cpu: float
    """Seconds of processor time."""
    started: float
    """Wall-clock seconds."""
    memory: int
    """Resident bytes."""
    terminal: int
    """The device number of its terminal, 0 without one."""
    name: str
    command: str
    """Its command line, or its name in brackets when it has none."""


class OperationFailed(Exception):
    """What was asked of a running container could not be done; `str()` is one clear sentence."""


class StartError(Exception):
    """A container could not be made or started. `str()` is one clear sentence without the advice.

    `exit_code` is what the container's own exit status shows: 127 not found, 126 not executable, 125 anything else.
    """

    def __init__(
        self,
        container: str,
        operation: str,
        message: str,
        *,
        errno: int | None = None,
        path: str | None = None,
        advice: str | None = None,
        exit_code: int = 125,
    ) -> None:
        super().__init__(message)
        self.container = container
        self.operation = operation
        self.message = message
        self.errno = errno
        self.path = path
        self.advice = advice
        self.exit_code = exit_code


class Machine(Protocol):
    """Everything the tree asks of the kernel. Any call may be cancelled; `kill` cleans up after a cancelled create."""

    def boottime(self) -> float:
        """Seconds of CLOCK_BOOTTIME: the clock of deadlines that are kept on disk."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, for people."""
        ...

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find the app's living launcher or start one; report started; run until cancelled."""
        ...

    async def notice(self) -> tuple[str | None, str]:
        """Wait for the next thing that is less than was asked for: the container it is about, and a sentence."""
        ...

    async def establish(self, containers: Sequence["Container"]) -> None:
        """Make what the whole app needs before any container; asked again, with all of them, when one is added.

        Idempotent. Raises StartError.
        """
        ...

    async def survivors(self) -> Mapping[str, Survivor]:
        """Return the runs that live, by container; `wait` tells the end of those that died meanwhile."""
        ...

    async def settle(self, container: "Container") -> Home:
        """Make, or find again, what the container has for life. Raises StartError."""
        ...

    def plan_of(self, name: str) -> list[str]:
        """Return what making a run does, a line a step. Raises KeyError before the container is settled."""
        ...

    async def create(self, name: str, run: int) -> Birth:
        """Make run `run`: its pid 1 waits before exec. Raises StartError, and then nothing of that run is left."""
        ...

    async def start(self, name: str, run: int) -> None:
        """Let it exec. Raises StartError, also when the created run died meanwhile; then that run needs no kill."""
        ...

    async def run(self, name: str, run: int) -> Birth:
        """Make run `run` and let it exec at once. Raises StartError, and then nothing of that run is left."""
        ...

    async def signal(self, name: str, signum: int) -> None:
        """Signal pid 1 of the current run; nothing happens when it is dead."""
        ...

    async def kill(self, name: str) -> None:
        """SIGKILL everything in the current run's cgroup, started or not; nothing happens when there is nothing."""
        ...

    async def wait(self, name: str, run: int) -> Exit:
        """Return how run `run` ended: at once when it is dead already, `Exit(None, None)` for one that nobody knows."""
        ...

    async def exec(self, name: str, process: Process) -> Session:
        """Start one more process in the current run, confined as its first. Raises StartError."""
        ...

    async def freeze(self, name: str) -> None:
        """Stop all processes of the current run where they are. Raises OperationFailed, and then they run."""
        ...

    async def thaw(self, name: str) -> None:
        """Let them go on; nothing happens when they run. Raises OperationFailed."""
        ...

    async def update(self, name: str, resources: Mapping[str, Any]) -> list[str]:
        """Change limits (OCI's `linux.resources`) now; return what this kernel cannot do. Raises OperationFailed."""
        ...

    async def usage(self, name: str) -> Usage:
        """Return what the container has used. Raises OperationFailed."""
        ...

    async def processes(self, name: str) -> list[Member]:
        """Return the processes of the current run, by pid. Raises OperationFailed."""
        ...

    async def discard(self, name: str) -> None:
        """Remove for good: writable layer, log, address, namespaces, cgroup, published ports.

        Nothing happens for an unknown name.
        """
        ...

    async def publish(self, name: str, ready: bool) -> None:
        """Let ports and names follow the container's readiness."""
        ...

    async def dismantle(self) -> None:
        """Remove what the whole app had, when every container is discarded."""
        ...
