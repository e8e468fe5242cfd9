"""One container: an actor that owns its runs, from waiting for its dependencies to the last clean-up.

The actor is one task that walks through steps; each step ends by naming the next. What it waits for is always a race
with its mail, so requests are served in every state, also between restart attempts. Cancelling it kills what it runs,
in bounded time, unless it was told to leave it running.

    pend ──► launch ──► start ──► running ──► (policy) ──► back off ──► start …
              settle     exec       wait                    create at once, start at the deadline
              create                  └──► stop ──► rest ──► pend …
"""

import random
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import attrs
import trio

from supervisor.app_file.spec import Restart
from supervisor.board import Board, Standing
from supervisor.graph import waits_of
from supervisor.journal import Record
from supervisor.lifecycle import RESTING, Lifecycle, Trigger
from supervisor.machine import Birth, Exit, Machine, OperationFailed, StartError, Survivor
from supervisor.policy import Again, Death, Ended, History, Reason, decide
from supervisor.scribe import Note, Scribe
from supervisor.stories import ending, seconds, signal_number, told

if TYPE_CHECKING:
    from supervisor.app_file.spec import Container

T = TypeVar("T")
Step: TypeAlias = Callable[[], Awaitable[Any]]

CLEANUP = 10.0
"""Seconds that a cancelled actor may take to leave nothing behind."""
AFTER_A_BUG = Restart(policy="always")
_GONE = "is not supervised any more"
_MOMENTARY = {"kill": "signal", "pause": "pause", "unpause": "unpause"}
"""Requests that are carried out, or refused, where they meet the container, and what refuses them has nothing to do."""
_ENDINGS: dict[str, Trigger] = {"completed": "complete", "failed": "fail", "exhausted": "exhaust", "stopped": "end"}


class NotRunning(Exception):
    """What was asked for needs a running container."""


@attrs.define(eq=False)
class Request:
    """What somebody asks of an actor. `done` is set when it is carried out, `refused` says why it was not."""

    kind: Literal["stop", "start", "restart", "kill", "pause", "unpause"]
    timeout: float | None = None
    signum: int = signal.SIGKILL
    reason: Reason = "request"
    lasting: bool = True
    """A stop that the next supervisor respects; False where only the supervisor ends."""
    done: trio.Event = attrs.field(factory=trio.Event)
    refused: str | None = None


class Actor:
    """One container's task and its mailbox. `record` is what was last written and told."""

    def __init__(
        self,
        container: "Container",
        record: Record,
        *,
        spec: str,
        machine: Machine,
        board: Board,
        scribe: Scribe,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.container = container
        self.name = container.name
        self.record = record
        self._spec = spec
        self._machine = machine
        self._board = board
        self._scribe = scribe
        self._draw = draw
        self._life = Lifecycle(record.state)
        self._mail: deque[Request] = deque()
        self._owed: list[Request] = []
        self._wake: trio.CancelScope | None = None
        self._settled = False
        self._alive = False
        self._gone = False
        self._creates = True
        self._leave_running = False
        self._cause: int | None = None
        self._story = ""
        self._then: Literal["rest", "pend", "replace"] = "rest"
        self._post()

    # What others ask

    async def ask(self, request: Request) -> None:
        """Deliver a request and wait until it is carried out. Raises NotRunning when it was refused."""
        self.post(request)
        await request.done.wait()
        if request.refused is not None:
            raise NotRunning(request.refused)

    def post(self, request: Request) -> None:
        """Deliver a request without waiting."""
        if self._gone:
            return self._refuse(request, _GONE)
        self._mail.append(request)
        if self._wake is not None:
            self._wake.cancel()

    def leave_running(self) -> None:
        """From now on, cancelling the actor leaves the container to the next supervisor."""
        self._leave_running = True

    def unmet(self) -> tuple[str, ...]:
        """Return the names it still waits for, while it is pending."""
        if self._life.state != "pending":
            return ()
        needs = waits_of(self.container)
        return tuple(name for name, condition in needs.items() if not self._board.standing(name).meets(condition))

    # The task

    async def run(self, survivor: Survivor | None = None) -> None:
        """Keep the container as its spec, its policy and requests want it, until cancelled.

        `survivor` is its run that outlived a supervisor. An unexpected exception is told, and after a back-off the
        actor adopts what it left.
        """
        bugs = History()
        try:
            while True:
                since = trio.current_time()
                try:
                    if bugs.streak:
                        survivor = (await self._machine.survivors()).get(self.name)
                    step = await self._resume(survivor)
                    while True:
                        step = await step()
                except Exception as bug:  # noqa: BLE001 - the container must outlive every mistake here: it is told
                    ran = trio.current_time() - since
                    after = decide(AFTER_A_BUG, Death(None, "exit", ran), bugs, trio.current_time(), self._draw())
                    assert isinstance(after, Again)
                    bugs = after.history
                    await self._tell_bug(bug, after.delay)
                    await trio.sleep(after.delay)
        finally:
            self._gone = True
            for request in [*self._owed, *self._mail]:
                self._refuse(request, _GONE)
            if not self._leave_running:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP) as scope:
                    await self._abandon()
                if scope.cancelled_caught:
                    story = f"{self.name} is not dead {CLEANUP:g} s after it was killed; something of it may be left"
                    await self._scribe.commit(self.name, None, Note("actor-failed", story))

    async def _tell_bug(self, bug: Exception, delay: float) -> None:
        import traceback

        frames = traceback.extract_tb(bug.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        story = f"creche's own actor of {self.name} failed and goes on in {delay:.1f} s: {bug!r}{where}"
        await self._scribe.commit(self.name, None, Note("actor-failed", story))

    async def _abandon(self) -> None:
        if self._alive:
            await self._machine.kill(self.name)
            if self.record.pid is not None:
                await self._machine.wait(self.name, self.record.run)
            self._alive = False
            await self._machine.publish(self.name, False)
        if self._life.state not in RESTING:
            if self._life.state != "stopping":
                self._life.on("stop")
            self._life.on("end")
            note = Note("stopped", f"{self.name} was killed: its supervisor ends", "request", self._cause)
            await self._commit(note, pid=None, ready=False, finished_at=self._machine.wall(), last_reason="request")

    async def _resume(self, survivor: Survivor | None) -> Step:
        """Take over where the journal stopped; the kernel knows better than the journal."""
        record = self.record
        self._life = Lifecycle(record.state)
        if survivor is not None and not self._is_ours(survivor):
            await self._kill_stranger(survivor)
            survivor = None
        if survivor is not None:
            self._alive = True
            await self._settle()
            return await self._adopt(survivor)
        if record.state in RESTING:
            return self._rest
        if record.state == "pending":
            return self._pend
        if record.state == "backing-off":
            # A run that was created and is gone leaves its number behind.
            self.record = attrs.evolve(record, pid=None, run=record.run + (record.pid is not None))
            return self._back_off
        if record.pid is None:
            return self._launch
        await self._settle()
        if record.state == "stopping":
            self._then = "rest" if record.desired == "stopped" else "pend"
            return partial(self._halted, await self._machine.wait(self.name, record.run), False)
        return partial(self._died, await self._machine.wait(self.name, record.run))

    def _is_ours(self, survivor: Survivor) -> bool:
        state = self.record.state
        waits = state in ("starting", "backing-off", "stopping")
        return survivor.run == self.record.run and state not in (*RESTING, "pending") and (survivor.started or waits)

    async def _kill_stranger(self, survivor: Survivor) -> None:
        await self._machine.kill(self.name)
        await self._machine.wait(self.name, survivor.run)
        self.record = attrs.evolve(self.record, run=max(self.record.run, survivor.run))
        story = f"run {survivor.run} of {self.name} (pid {survivor.pid}) was killed: the journal does not know it"
        await self._scribe.commit(self.name, self.record, Note("died", story, "request"))

    async def _adopt(self, survivor: Survivor) -> Step:
        changes: dict[str, Any] = {"pid": survivor.pid, "cgroup": survivor.cgroup, "userns": survivor.userns}
        how = "is paused" if survivor.frozen else "goes on"
        note = Note("adopted", f"{self.name} was adopted: run {survivor.run} {how} as pid {survivor.pid}")
        state = self._life.state
        if survivor.frozen and (state == "stopping" or not survivor.started):
            await self._thaw_to_stop()
        if state == "stopping":
            self._then = "rest" if self.record.desired == "stopped" else "pend"
            await self._commit(note, **changes)
            return partial(self._stopping, None)
        if survivor.started:
            if state == "starting":
                self._life.on("start")
            elif state == "backing-off":
                self._life.on("adopt")
            if survivor.frozen != (self._life.state == "paused"):  # the kernel's word
                self._life.on("pause" if survivor.frozen else "resume")
            started = self._machine.boottime() if self.record.started is None else self.record.started
            await self._machine.publish(self.name, True)
            lasts = not any(
                map(_ends_run, self._mail)
            )  # or whoever waits for ready would not wait for what replaces it
            await self._commit(note, **changes, ready=lasts, begun=True, started=started)
            return self._running
        await self._commit(note, **changes)
        return self._back_off if state == "backing-off" else self._start

    # Steps

    async def _pend(self) -> Step:
        while True:
            while request := self._take():
                if request.kind == "stop":
                    return partial(self._stop_nothing, request)
                self._refuse_momentary(request)
            unmet = self.unmet()
            if not unmet:
                break
            self._answer()
            await self._race(partial(self._board.change, unmet[0]))
        self._life.on("begin")
        await self._commit(run=self.record.run + 1, pid=None)
        return self._launch

    async def _launch(self) -> Step:
        """Make the run that the record numbers and have it exec in one."""
        while request := self._take():
            if _ends_run(request):
                return partial(self._stop_nothing, request)
            self._refuse_momentary(request)
        number = self.record.run
        return await self._launched(number, await self._run(number))

    async def _run(self, number: int) -> Birth | StartError:
        try:
            await self._settle()
            self._alive = True
            birth = await self._machine.run(self.name, number)
        except StartError as problem:
            self._alive = self._creates = False
            return problem
        self._creates = True
        return birth

    async def _launched(self, number: int, made: Birth | StartError) -> Step:
        if isinstance(made, StartError):
            return partial(self._not_started, made)
        return await self._started(self._created_note(number, made), **_birth_of(made))

    def _created_note(self, number: int, birth: Birth) -> Note:
        story = f"{self.name} was created: run {number}, pid {birth.pid}, user namespace {birth.userns}"
        return Note("created", story, cause=self._cause)

    async def _create(self) -> StartError | None:
        """Make the run that the record numbers."""
        try:
            await self._settle()
            self._alive = True
            birth = await self._machine.create(self.name, self.record.run)
        except StartError as problem:
            self._alive = self._creates = False
            return problem
        self._creates = True
        await self._commit(self._created_note(self.record.run, birth), **_birth_of(birth))
        return None

    async def _start(self) -> Step:
        while request := self._take():
            if _ends_run(request):
                return partial(self._stop, request)
            self._refuse_momentary(request)
        try:
            await self._machine.start(self.name, self.record.run)
        except StartError as problem:
            self._alive = False
            return partial(self._not_started, problem)
        return await self._started()

    async def _started(self, *notes: Note, **changes: Any) -> Step:
        self._life.on("start")
        started, wall = self._machine.boottime(), self._machine.wall()
        await self._machine.publish(self.name, True)
        await self._commit(
            *notes,
            Note("started", f"{self.name} started", cause=None if notes else self._cause),
            Note("ready", f"{self.name} is ready: it has no readiness probe and runs"),
            **{"started": started, "started_at": wall, "next_start_at": None},
            **{"ready": True, "begun": True},
            **changes,
        )
        return self._running

    async def _running(self) -> Step:
        self._answer()
        while True:
            while request := self._take():
                match request.kind:
                    case "stop" | "restart":
                        return partial(self._stop, request)
                    case "kill":
                        if await self._thawed(request):
                            await self._machine.signal(self.name, request.signum)
                            self._story = ", as was asked"
                            request.done.set()
                    case "pause" | "unpause":
                        await self._freeze_or_thaw(request)
                    case "start":
                        self._answer()
            end = await self._race(lambda: self._machine.wait(self.name, self.record.run))
            if end is not None:
                return partial(self._died, end)

    async def _freeze_or_thaw(self, request: Request) -> None:
        state = self._life.state
        if request.kind == "unpause":
            if state != "paused":
                self._refuse(request, "is not paused")
            elif await self._thawed(request):
                request.done.set()
        elif state == "paused":
            self._refuse(request, "is already paused")
        else:
            try:
                await self._machine.freeze(self.name)
            except OperationFailed as problem:
                return self._refuse(request, f"cannot be paused: {problem}")
            self._life.on("pause")
            await self._commit(Note("paused", f"{self.name} was paused: its processes stand still", "request"))
            request.done.set()

    async def _thawed(self, request: Request) -> bool:
        """Return True when the run is not frozen, or not any more; False when it cannot be thawed: that is said."""
        if self._life.state != "paused":
            return True
        try:
            await self._machine.thaw(self.name)
        except OperationFailed as problem:
            self._refuse(request, f"cannot be unpaused: {problem}")
            return False
        self._life.on("resume")
        await self._commit(Note("unpaused", f"{self.name} was unpaused: its processes go on", request.reason))
        return True

    async def _died(self, end: Exit) -> Step:
        self._alive = False
        await self._machine.publish(self.name, False)
        reason: Reason = "oom" if end.oom else "signal" if end.signal is not None else "exit"
        since, now = self.record.started, self._ended(end)
        ran = 0.0 if since is None else max(0.0, now - since)
        story, self._story = told(end) + self._story, ""
        notes: list[Note] = []
        if end.oom:
            notes.append(Note("oom", f"{self.name} was out of memory and something in it was killed", "oom"))
        last_words = f'; its last line was "{end.last_lines[-1][:200]}"' if end.last_lines else ""
        notes.append(Note("died", f"{self.name} died: it {story}{last_words}", reason, at=self._wall_of(end)))
        return await self._follow_policy(Death(end.code, reason, ran), end, story, notes)

    async def _not_started(self, problem: StartError) -> Step:
        if self.record.pid is not None:
            await self._machine.publish(self.name, False)
        story = f"did not start: {problem}"
        advice = f" ({problem.advice})" if problem.advice else ""
        note = Note("died", f"{self.name} {story}{advice}", "start-error", self._cause)
        end = Exit(problem.exit_code, None)
        return await self._follow_policy(Death(end.code, "start-error", 0.0), end, story, [note])

    def _ended(self, end: Exit) -> float:
        """Return the boottime that a delay counts from: what was written down since has not delayed the next start."""
        return self._machine.boottime() if end.at is None else end.at

    def _wall_of(self, end: Exit) -> float:
        return self._machine.wall() - (self._machine.boottime() - self._ended(end))

    async def _follow_policy(self, death: Death, end: Exit, story: str, notes: list[Note]) -> Step:
        now = self._ended(end)
        changes: dict[str, Any] = {
            "exit_code": end.code, "exit_signal": end.signal, "oom_killed": end.oom, "last_reason": death.reason,
            "finished_at": self._wall_of(end), "ready": False, "pid": None, "started": None,
        }  # fmt: skip
        decision = decide(self.container.restart, death, self.record.history, now, self._draw())
        if isinstance(decision, Ended):
            self._life.on(_ENDINGS[decision.state])
            note = Note(decision.state, f"{self.name} {ending(decision, story)}", death.reason)
            await self._commit(*notes, note, **changes)
            return self._rest
        self._life.on("back-off")
        note = Note("restarting", f"{self.name} restarts in {seconds(decision.delay)} s: it {story}", death.reason)
        history = decision.history
        write = partial(
            self._commit,
            *notes,
            note,
            **changes,
            run=self.record.run + 1,
            restarts=self.record.restarts + 1,
            streak=history.streak,
            deaths=history.restarts,
            next_start_at=now + decision.delay,
        )
        if decision.delay or self._mail or not self._creates:
            await write()
            return self._back_off
        # Nothing to wait for: the next run is made while the end of this one is written down.
        number = self.record.run + 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            made = await self._run(number)
        self._answer()
        self._life.on("begin")
        return await self._launched(number, made)

    async def _back_off(self) -> Step:
        """Create at once, start at the deadline: the delay hides what creating costs.

        A creation that failed is not repeated before its delay is over.
        """
        self._answer()
        due = self.record.next_start_at or 0.0
        waits = due > self._machine.boottime()
        if waits and self.record.pid is None and self._creates and (problem := await self._create()):
            return partial(self._not_started, problem)
        while (left := due - self._machine.boottime()) > 0:
            request = self._take()
            if request is None:
                await self._race(partial(trio.sleep, left))
            elif _ends_run(request):
                return partial(self._stop if self.record.pid is not None else self._stop_nothing, request)
            elif not self._refuse_momentary(request):
                break
        self._life.on("begin")
        return self._start if self.record.pid is not None else self._launch

    async def _stop(self, request: Request) -> Step:
        """Stop the current run, created or running, and go where the request wants."""
        self._then = _target(request)
        started = self._life.state in ("running", "paused")
        if self._life.state == "paused":
            await self._thaw_to_stop()
        self._life.on("stop")
        await self._machine.publish(self.name, False)
        desired = "running" if request.kind == "restart" else "stopped" if request.lasting else self.record.desired
        timeout = self.container.stop.timeout if request.timeout is None else request.timeout
        why = {"update": "its part of the app file changed"}.get(request.reason, "as was asked")
        story = f"{self.name} is told to stop, {why}; in {timeout:g} s it is killed"
        await self._commit(Note("stopping", story, request.reason), ready=False, desired=desired)
        if not started:
            # A pid 1 that has not exec'd yet loses signals.
            await self._machine.kill(self.name)
        return partial(self._stopping, timeout)

    async def _thaw_to_stop(self) -> None:
        """Let a frozen run hear its stop signal; one that cannot be thawed is killed when its time is over."""
        try:
            await self._machine.thaw(self.name)
        except OperationFailed as problem:
            await self._scribe.commit(self.name, None, Note("warning", f"{self.name} cannot be unpaused: {problem}"))

    async def _stop_nothing(self, request: Request) -> Step:
        """Stop where no run exists."""
        self._life.on("stop")
        note = Note("stopped", f"{self.name} was stopped; nothing of it ran", request.reason)
        desired = "running" if request.kind == "restart" else "stopped" if request.lasting else self.record.desired
        return await self._arrive(_target(request), note, desired=desired, last_reason=request.reason)

    async def _stopping(self, timeout: float | None) -> Step:
        """Wait for the end: the stop signal, the deadline, then all that is left in the cgroup."""
        timeout = self.container.stop.timeout if timeout is None else timeout
        await self._machine.signal(self.name, signal_number(self.container.stop.signal or "SIGTERM"))
        deadline, killed = trio.current_time() + timeout, False
        while True:
            while request := self._take():
                match request.kind:
                    case "stop":
                        asked = self.container.stop.timeout if request.timeout is None else request.timeout
                        deadline = min(deadline, trio.current_time() + asked)
                        self._then = "rest"
                        if request.lasting:
                            await self._commit(desired="stopped")
                    case "start" | "restart":
                        self._then = _target(request)
                        await self._commit(desired="running")
                    case "kill":
                        await self._machine.signal(self.name, request.signum)
                        request.done.set()
                    case "pause" | "unpause":
                        self._refuse_momentary(request)
            if not killed and trio.current_time() >= deadline:
                await self._machine.kill(self.name)
                killed = True
            end: Exit | None = None
            with trio.move_on_at(float("inf") if killed else deadline):
                end = await self._race(lambda: self._machine.wait(self.name, self.record.run))
            if end is not None:
                return partial(self._halted, end, killed)

    async def _halted(self, end: Exit, killed: bool) -> Step:
        self._alive = False
        ran = self.record.started is not None
        late = "; it had to be killed after its time to stop" if killed else ""
        story = f"it {told(end)}{late}" if ran else "its next run had not executed yet"
        changes: dict[str, Any] = {"pid": None, "started": None, "last_reason": "request"}
        if ran:
            changes |= {"exit_code": end.code, "exit_signal": end.signal, "oom_killed": end.oom}
            changes |= {"finished_at": self._machine.wall()}
        then, self._then = self._then, "rest"
        return await self._arrive(
            then, Note("stopped", f"{self.name} stopped: {story}", "request", self._cause), **changes
        )

    async def _arrive(self, then: Literal["rest", "pend", "replace"], note: Note, **changes: Any) -> Step:
        """End the stop: come to rest or start over, in the second case with a new home where the spec changed."""
        if then == "replace":
            await self._machine.discard(self.name)
            self._settled = False
            changes["spec"] = self._spec
        self._life.on("end" if then == "rest" else "ask")
        await self._commit(note, **changes, ready=False, begun=False, next_start_at=None)
        return self._rest if then == "rest" else self._pend

    async def _rest(self) -> Step:
        self._answer()
        while True:
            while request := self._take():
                if request.kind == "stop":
                    if request.lasting and self.record.desired != "stopped":
                        await self._commit(desired="stopped")
                    self._answer()
                elif not self._refuse_momentary(request):
                    self._life.on("ask")
                    await self._commit(desired="running", begun=False, streak=0, deaths=(), next_start_at=None)
                    return self._pend
            await self._race(trio.sleep_forever)

    # Small parts

    async def _settle(self) -> None:
        if not self._settled:
            home = await self._machine.settle(self.container)
            self._settled = True
            self.record = attrs.evolve(self.record, address=home.address)

    async def _commit(self, *notes: Note, **changes: Any) -> None:
        """Write the record with the changes, tell the notes, then post the standing: in this order."""
        record = attrs.evolve(self.record, state=self._life.state, **changes)
        number = await self._scribe.commit(self.name, record, *notes)
        self.record = record
        self._cause = number if number is not None else self._cause
        self._post()

    def _post(self) -> None:
        self._board.post(self.name, Standing(self._life.state, self.record.ready, self.record.begun))

    def _take(self) -> Request | None:
        """Take the next request; what is not momentary is answered when the actor comes to rest or runs again."""
        if not self._mail:
            return None
        request = self._mail.popleft()
        if request.kind not in _MOMENTARY:
            self._owed.append(request)
        return request

    def _answer(self) -> None:
        for request in self._owed:
            request.done.set()
        self._owed.clear()

    def _refuse_momentary(self, request: Request) -> bool:
        verb = _MOMENTARY.get(request.kind)
        if verb is None:
            return False
        self._refuse(request, f"is {self._life.state}: there is nothing to {verb}")
        return True

    def _refuse(self, request: Request, why: str) -> None:
        request.refused = f"{self.name} {why}"
        request.done.set()

    async def _race(self, what: Callable[[], Awaitable[T]]) -> T | None:
        """Return what it gives, or None when mail comes first."""
        if self._mail:
            return None
        with trio.CancelScope() as self._wake:
            try:
                return await what()
            finally:
                self._wake = None
        return None


def _ends_run(request: Request) -> bool:
    """Whether a run that has not executed yet must go for this request."""
    return request.kind == "stop" or request.reason == "update"


def _target(request: Request) -> Literal["rest", "pend", "replace"]:
    return "rest" if request.kind == "stop" else "replace" if request.reason == "update" else "pend"


def _birth_of(birth: Birth) -> dict[str, Any]:
    """Return what a record keeps of a birth."""
    return {"pid": birth.pid, "cgroup": birth.cgroup, "userns": birth.userns}
