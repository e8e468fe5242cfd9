"""OCI hooks: programs of the administrator's that run at a container's turning points, told its state on stdin.

runtime-spec, config.md, "POSIX-platform Hooks". prestart and createRuntime run beside the runtime while pid 1 waits
before its pivot_root (`RuntimeHooks`), createContainer and startContainer in pid 1 itself (`ContainerHooks`: nothing
is imported here at call time), poststart and poststop beside the runtime again (`run`).
"""

import contextlib
import errno
import json
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from runtime import syscalls
from runtime.world import World

STAGES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
HOOKS = b"hooks\n"  # pid 1 on its report: the runtime's hooks are due
RAN = b"h"  # the answer on go: they have run
_KEPT = 2000  # bytes of a hook's last words that an error quotes


class Hook(NamedTuple):
    """One program: an absolute path, its whole argv (empty: the path alone), NAME=value texts, seconds or None."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: float | None = None


class HookError(OSError):
    """A hook did not do its work; the text names it and says how it ended."""

    def __str__(self) -> str:
        return str(self.strerror)


def read(config: Mapping[str, Any]) -> dict[str, tuple[Hook, ...]]:
    """Return a config's `hooks` by stage; raise ValueError naming the field (config.md, "POSIX-platform Hooks")."""
    found: dict[str, tuple[Hook, ...]] = {}
    hooks: Mapping[str, Any] = config.get("hooks") or {}
    for stage in STAGES:
        listed: list[Any] = hooks.get(stage) or []
        if not isinstance(listed, list):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"hooks.{stage} must be a list")
        found[stage] = tuple(_hook(f"hooks.{stage}[{number}]", each) for number, each in enumerate(listed))
    return found


def _hook(where: str, entry: Any) -> Hook:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object")
    fields: dict[str, Any] = entry  # pyright: ignore[reportUnknownVariableType]
    path = fields.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f"{where}.path: {path!r} is no absolute path")
    texts: dict[str, tuple[str, ...]] = {}
    for key in ("args", "env"):
        value: Any = fields.get(key) or []
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):  # pyright: ignore[reportUnknownVariableType]
            raise ValueError(f"{where}.{key} must be a list of strings")
        texts[key] = tuple(value)  # pyright: ignore[reportUnknownArgumentType]
    for text in texts["env"]:
        if "=" not in text[1:]:
            raise ValueError(f"{where}.env: {text!r} is not NAME=value")
    timeout = fields.get("timeout")
    if timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0):
        raise ValueError(f"{where}.timeout: {timeout!r} is no number of seconds above 0")
    return Hook(path, texts["args"], texts["env"], timeout)


def run(stage: str, hooks: Iterable[tuple[Any, ...]], state: bytes) -> None:
    """Run `hooks` one after the other with the container's state (JSON) on stdin; raise HookError at the first to fail.

    A hook that takes longer than its timeout is killed with its session. Each has exactly its own environment.
    """
    for number, fields in enumerate(hooks):
        hook = Hook(*fields)
        what = f"the {stage} hook #{number} ({hook.path})"
        _run(what, hook, state)


def _run(what: str, hook: Hook, state: bytes) -> None:
    """Spawn and wait; output is read all the time, of which the end is kept."""
    words = os.memfd_create("state", os.MFD_CLOEXEC)
    ours, theirs = -1, -1
    pidfd = -1
    try:
        written = 0
        while written < len(state):
            written += os.write(words, state[written:])
        os.lseek(words, 0, os.SEEK_SET)
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        pid = syscalls.clone3(syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
        if pid == 0:
            _become(hook, words, theirs)
        pidfd = syscalls.pidfd_open(pid)
        os.close(theirs)
        theirs = -1
        deadline = None if hook.timeout is None else time.monotonic() + hook.timeout
        said = b""
        late = False
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(ours, select.POLLIN)
        while True:
            patience = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = dict(poll.poll(patience))
            if ours in ready:
                more = _some(ours)
                said = (said + more)[-_KEPT:]
                if not more:
                    poll.unregister(ours)
            if pidfd in ready:
                break
            if deadline is not None and time.monotonic() >= deadline:
                late = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):  # it may be between its clone and setsid
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                deadline = None
        _, status = os.waitpid(pid, 0)
        while more := _some(ours):
            said = (said + more)[-_KEPT:]
    finally:
        for descriptor in (words, ours, theirs, pidfd):
            if descriptor >= 0:
                os.close(descriptor)
    code = os.waitstatus_to_exitcode(status)
    quoted = said.decode(errors="replace").strip()
    tail = f": {quoted}" if quoted else ""
    if late:
        how = f"took longer than its timeout of {hook.timeout} s and was killed"
        raise HookError(errno.ETIMEDOUT, f"{what} {how}{tail}", hook.path)
    if code:
        how = f"exit status {code}" if code > 0 else f"signal {-code}"
        raise HookError(errno.ECHILD, f"{what} failed with {how}{tail}", hook.path)


def _some(descriptor: int) -> bytes:
    """Return what a non-blocking pipe holds now; nothing at its end and while it is empty."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def _become(hook: Hook, words: int, output: int) -> NoReturn:
    """Be the hook, in a session of its own."""
    try:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and ignored survives exec
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(words, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)
        environment = dict(text.split("=", 1) for text in hook.env)
        os.execve(hook.path, list(hook.args) or [hook.path], environment)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(2, f"cannot be executed: {error.strerror}".encode())
    except BaseException:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
        os._exit(70)
    os._exit(127)


class RuntimeHooks(NamedTuple):
    """The place in pid 1's way where prestart and createRuntime hooks run beside the runtime, in its namespaces."""

    def describe(self) -> str:
        return "wait for the prestart and createRuntime hooks"

    def execute(self, world: World) -> None:
        os.write(world.report, HOOKS)
        if os.read(world.go, 1) != RAN:
            raise OSError(errno.ECANCELED, "a hook failed, or the runtime is gone")


class ContainerHooks(NamedTuple):
    """Hooks that pid 1 itself runs: createContainer before pivot_root, startContainer right before exec."""

    stage: str
    hooks: tuple[tuple[Any, ...], ...]
    state: str  # the container's state as JSON; pid and status are filled in here

    def describe(self) -> str:
        return f"run the {self.stage} hooks {', '.join(hook[0] for hook in self.hooks)}"

    def execute(self, world: World) -> None:
        state = json.loads(self.state)
        state["status"] = "created" if self.stage == "startContainer" else "creating"
        state["pid"] = os.getpid()  # as the container's pid namespace counts, which is where the hook runs
        run(self.stage, self.hooks, json.dumps(state).encode())
