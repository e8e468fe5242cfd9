"""The exec instances of one app: processes that somebody asked for beside a container's own, as Docker's API has them.

Created, started once, remembered for a while after their end. An instance belongs to the app, not to the client who
started it: one who hangs up leaves a process whose input is closed and whose output is read and dropped, so that it
never waits for a reader. Their number is bounded.
"""

import secrets
from collections.abc import Awaitable, Callable

import attrs
import trio

from supervisor.failures import AppError
from supervisor.machine import Exit, Process, Session, StartError

LIMIT = 256
"""Instances at one time, ended ones included."""
REMEMBERED = 300.0
"""Seconds for which an instance that ended, or that nobody started, can be asked about."""


class NoExec(AppError, LookupError):
    """There is no such exec instance, or none any more."""


class TooManyExecs(AppError):
    """All instances are in use."""


class ExecState(AppError):
    """An instance is not in the state that a request needs: it was started already, or has ended."""


@attrs.define(eq=False)
class Exec:
    """One instance. `end` is how it ended, None while it runs or waits to be started."""

    id: str
    container: str
    process: Process
    attached: tuple[bool, bool] = (True, True)
    """Whether its client wants its output, and its errors."""
    session: Session | None = None
    started: bool = False
    end: Exit | None = None
    pid: int = 0
    failure: Exception | None = None
    begun: trio.Event = attrs.field(factory=trio.Event)
    """It runs, or could not be started."""
    left: trio.Event = attrs.field(factory=trio.Event)
    """No client reads its output any more."""
    _since: float = attrs.field(factory=trio.current_time)
    _over: trio.Event = attrs.field(factory=trio.Event)

    @property
    def running(self) -> bool:
        return self.session is not None and self.end is None

    async def wait(self) -> Exit:
        """Return how it ended."""
        await self._over.wait()
        assert self.end is not None
        return self.end

    def finish(self, end: Exit) -> None:
        """Remember how it ended."""
        self.end = end
        self._since = trio.current_time()
        self.begun.set()
        self._over.set()

    def forgettable(self) -> bool:
        """Return whether its time is over."""
        idle = not self.started or self.end is not None
        return idle and trio.current_time() - self._since >= REMEMBERED


class Execs:
    """All instances of an app. `run` is the task that outlives their clients; `begin` starts a process."""

    def __init__(self, begin: Callable[[str, Process], Awaitable[Session]]) -> None:
        self._begin = begin
        self._all: dict[str, Exec] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after what is started until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def create(self, container: str, process: Process, attached: tuple[bool, bool] = (True, True)) -> Exec:
        """Return a new instance, not started. Raises TooManyExecs."""
        for one in [one for one in self._all.values() if one.forgettable()]:
            del self._all[one.id]
        if len(self._all) >= LIMIT:
            ended = next((one.id for one in self._all.values() if one.end is not None), None)
            if ended is None:
                raise TooManyExecs(f"{LIMIT} execs run or wait to be started: end some of them, then try again")
            del self._all[ended]
        made = Exec(secrets.token_hex(32), container, process, attached)
        self._all[made.id] = made
        return made

    def find(self, identity: str) -> Exec:
        """Return an instance by its id. Raises NoExec."""
        try:
            return self._all[identity]
        except KeyError:
            raise NoExec(f"No such exec instance: {identity[:64]}") from None

    def of(self, container: str) -> list[str]:
        """Return the ids of a container's running instances."""
        return [one.id for one in self._all.values() if one.container == container and one.running]

    async def start(self, one: Exec) -> Session:
        """Start an instance and return its session, which the caller gives back: `leave`.

        Raises ExecState when it was started before, StartError (its `exit_code` is the instance's then), NotRunning.
        """
        if one.started:
            raise ExecState(f"exec {one.id[:12]} was started already: create another one")
        assert self._nursery is not None, "run() looks after what is started"
        one.started = True
        self._nursery.start_soon(self._live, one)
        try:
            await one.begun.wait()
        except trio.Cancelled:
            self.leave(one)
            raise
        if one.session is None:
            assert one.failure is not None
            raise one.failure
        return one.session

    def leave(self, one: Exec) -> None:
        """Take an instance back from its client: its input ends, what it still writes is dropped."""
        if one.session is not None:
            one.session.end_input()
        one.left.set()

    def resize(self, one: Exec, rows: int, columns: int) -> None:
        """Set the size of an instance's terminal, now or when it starts. Raises ExecState when it has ended."""
        if one.end is not None:
            raise ExecState(f"exec {one.id[:12]} has ended: it has no terminal any more")
        if one.process.terminal is False:
            raise ExecState(f"exec {one.id[:12]} has no terminal: there is nothing to resize")
        if one.session is None:
            one.process = attrs.evolve(one.process, size=(rows, columns))
        else:
            one.session.resize(rows, columns)

    async def _live(self, one: Exec) -> None:
        """One instance from its start to its end, whoever asked for it."""
        try:
            session = await self._begin(one.container, one.process)
        except Exception as error:  # noqa: BLE001 - the failure of a start belongs to whoever asked for it
            one.failure = error
            one.finish(Exit(error.exit_code if isinstance(error, StartError) else 125, None))
            return
        one.session, one.pid = session, session.pid
        one.begun.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_await_end, one, session)
                await one.left.wait()
                session.end_input()
                for stream in session.streams:
                    nursery.start_soon(_drop, session, stream)
        finally:
            session.close()
            if one.end is None:
                one.finish(Exit(None, None))


async def _await_end(one: Exec, session: Session) -> None:
    one.finish(await session.wait())


async def _drop(session: Session, stream: int) -> None:
    while await session.receive(stream):
        pass
