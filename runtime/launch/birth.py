"""A container's birth: the middle process that joins its namespaces and the pid 1 that becomes its program.

Runs in children of the launcher between clone and exec: nothing can be imported (the launcher has emptied the import
system, whose paths would lead into a hostile root after pivot_root), nothing is printed, the only ways out are execve
and os._exit. Order and flags follow the ladder in runtime.launch.messages.
"""

import contextlib
import errno
import json
import os
import resource
import signal
import stat
from typing import Any, NamedTuple, NoReturn

from runtime import syscalls
from runtime.launch import init
from runtime.world import Operation, World

RUN_NAMESPACES = (
    syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWCGROUP
)
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
"""What the launcher ignores, the last two because Python does, and no container may inherit."""

CREATED = b"created\n"  # on the report pipe; every other line is a failure in JSON
OPEN_FILES = 1024
"""The soft limit of open files that a container starts with; the launcher's own is higher (systemd's default, 1024)."""

INTERNAL = 70  # EX_SOFTWARE: a defect of creche itself
CANNOT_START, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127  # as `docker run` has them


class StartFailure(Exception):
    """A step of a birth failed: which one, with which errno, about which path, and what to do."""

    def __init__(
        self, operation: str, number: int | None, message: str, path: str | None, advice: str | None, code: int
    ) -> None:
        super().__init__(f"{operation}: {message}")
        self.fields: dict[str, Any] = {
            "operation": operation,
            "errno": number,
            "message": message,
            "path": path,
            "advice": advice,
            "exit_code": code,
        }


class Program(NamedTuple):
    """What pid 1 becomes."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    init: int | None  # a descriptor of a static init; None with `own_init` false: the program itself is pid 1
    own_init: bool


class Birth(NamedTuple):
    """Everything the children of one run need; descriptors are the launcher's."""

    enter: tuple[Operation, ...]
    program: Program
    world: World
    userns: int | None
    netns: int
    cgroup: int | None
    tasks: tuple[int, ...]


class Child(NamedTuple):
    """A pid 1 that was cloned and is on its way through `enter`."""

    pid: int
    pidfd: int
    go: int  # one byte here lets it exec
    report: int  # reads JSON lines; its end means that the program runs (or that the process is dead)


def deliver(birth: Birth) -> Child:
    """Clone the middle and through it pid 1; raise StartFailure where that fails.

    The caller must have exactly one thread: with two, a child inherits locks that nobody in it will ever release.
    """
    if len(os.listdir("/proc/self/task")) != 1:
        raise StartFailure("clone", None, "the launcher has more than one thread", None, None, CANNOT_START)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    try:
        report_read, report_write = os.pipe2(os.O_CLOEXEC)
    except OSError:
        os.close(go_read)
        os.close(go_write)
        raise
    os.set_blocking(report_read, False)
    middle = _Middle(birth, go_read, report_write)
    try:
        syscalls.clone_shared(middle.run)
    except OSError as error:
        middle.failure = StartFailure(
            "clone", error.errno, error.strerror or "", None, _clone_advice(error.errno), CANNOT_START
        )
    _stay_closed()  # the middle's setns changed what it shares with this process
    os.close(go_read)
    os.close(report_write)
    if middle.failure is None and not middle.pid:  # it was killed; pid 0 below would mean the launcher's own group
        middle.failure = StartFailure("clone", None, "the process between was killed", None, None, CANNOT_START)
    if middle.failure is None:
        try:
            # Nobody but this process can reap pid 1, and it has not: the pid is nobody else's.
            return Child(middle.pid, syscalls.pidfd_open(middle.pid), go_write, report_read)
        except OSError as error:
            os.kill(middle.pid, signal.SIGKILL)
            os.waitpid(middle.pid, 0)
            middle.failure = StartFailure("open the pidfd", error.errno, error.strerror or "", None, None, CANNOT_START)
    os.close(go_write)
    os.close(report_read)
    raise middle.failure


def failure_from(said: bytes) -> StartFailure:
    """Return the failure that a child reported before it died; silence is a failure too."""
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and "operation" in fields:
                return StartFailure(*(fields[key] for key in _FAILURE_FIELDS))  # pyright: ignore[reportUnknownArgumentType]
    advice = "a limits.memory that is too small for the start itself does this; a dozen megabytes are enough"
    return StartFailure("start", None, "the process died before its program ran", None, advice, CANNOT_START)


_FAILURE_FIELDS = ("operation", "errno", "message", "path", "advice", "exit_code")


def _clone_advice(number: int | None) -> str | None:
    if number == errno.EAGAIN:
        return "the pids limit or the machine's process limit is reached"
    return None


def failure(operation: Operation, error: OSError) -> StartFailure:
    """Return an operation's OSError as a failure with its advice."""
    advice: dict[int, str] = getattr(operation, "ADVICE", {})
    path = error.filename if isinstance(error.filename, str) else None
    message = error.strerror or str(error)
    return StartFailure(operation.describe(), error.errno, message, path, advice.get(error.errno or 0), CANNOT_START)


def _stay_closed() -> None:
    """Keep this process from being looked into: new ids set what fs.suid_dumpable says, not 0 on every host."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _default_signals() -> None:
    """Give the program what it expects: ignored survives clone3 with CLONE_CLEAR_SIGHAND, and exec."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _report(descriptor: int, fields: dict[str, Any]) -> None:
    _say(descriptor, json.dumps(fields).encode() + b"\n")


def _say(descriptor: int, line: bytes) -> None:
    with contextlib.suppress(OSError):  # a launcher that is gone has nobody to tell
        os.write(descriptor, line)


class _Middle:
    """The process between: it enters the leaf and the namespaces that last, and clones pid 1 as the launcher's child.

    It shares the launcher's memory while the launcher stands still, so what it finds out it simply stores here, and
    nothing that the launcher goes on with may be changed.
    """

    def __init__(self, birth: Birth, go: int, report: int) -> None:
        self.birth = birth
        self.go = go
        self.report = report
        self.pid = 0
        self.failure: StartFailure | None = None

    def run(self) -> None:
        birth = self.birth
        step = "enter the cgroup"
        try:
            for tasks in birth.tasks:  # the thread moves itself: `cgroup.procs` would wait for an RCU grace period
                os.write(tasks, b"0")
            step = "join the namespaces"
            if birth.userns is not None:
                syscalls.setns(birth.userns, syscalls.CLONE_NEWUSER)
            syscalls.setns(birth.netns, syscalls.CLONE_NEWNET)
            step = "clone pid 1"
            flags = syscalls.CLONE_PARENT | syscalls.CLONE_CLEAR_SIGHAND | RUN_NAMESPACES
            pid = syscalls.clone3(flags, cgroup=birth.cgroup)
            if pid == 0:
                _first(birth, self.go, self.report)
            self.pid = pid
        except OSError as error:
            advice = _clone_advice(error.errno)
            self.failure = StartFailure(step, error.errno, error.strerror or "", None, advice, CANNOT_START)
        except BaseException as error:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
            self.failure = StartFailure(step, None, repr(error), None, None, INTERNAL)


def _close_others(birth: Birth, *pipes: int) -> None:
    """Close every descriptor that is not this run's.

    A copy of another run's pipe would keep its end from being seen; what must not reach the program is closed by exec.
    """
    kept = {0, 1, 2, *pipes, *birth.tasks, *birth.world.descriptors.values(), birth.netns}
    kept |= {birth.world.stdout, birth.world.stderr}
    kept |= {number for number in (birth.userns, birth.program.init) if number is not None}
    previous = -1
    for number in sorted(kept):
        if number > previous + 1:
            syscalls.close_range(previous + 1, number - 1)
        previous = number
    syscalls.close_range(previous + 1)


def _first(birth: Birth, go: int, report: int) -> NoReturn:
    """Be pid 1: make the root, become the user, wait for the word, exec."""
    world, program = birth.world, birth.program
    code = INTERNAL
    try:
        _default_signals()
        _close_others(birth, go, report)
        os.setsid()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.umask(0)
        last = [step for step in birth.enter if type(step).__name__ in _LAST]
        for step in birth.enter:
            if type(step).__name__ not in _LAST:
                _execute(step, world)
        _standard_streams(world)
        with contextlib.suppress(OSError):  # no keyrings in this kernel, or none left: then there is nothing to share
            syscalls.join_session_keyring()
        os.umask(0o022)
        if program.own_init:
            # From here on a signal waits for `serve`; pid 1 would not get it, and its program would never hear of it.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            child = syscalls.clone3(0, exit_signal=signal.SIGCHLD)
            if child:
                for step in last:
                    _execute(step, world)
                _stay_closed()
                syscalls.close_range(0)
                syscalls.set_name("creche-init")
                os._exit(init.serve(child))
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
        for step in last:
            _execute(step, world)
        _stay_closed()
        _directory(program.directory)
        path = find_program(program)
        arguments = list(program.arguments)
        environment = _environment(program, world)
        _say(report, CREATED)
        if os.read(go, 1) != b"1":
            os._exit(CANNOT_START)  # the launcher is gone, or has thought better of it
        _exec(program, path, arguments, environment)
    except StartFailure as error:
        code = error.fields["exit_code"]
        _report(report, error.fields)
    except BaseException as error:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
        _report(report, StartFailure("start", None, repr(error), None, None, INTERNAL).fields)
    os._exit(code)


# These make the process less than root: own-init clones its program between the others and these, each applying them.
_LAST = frozenset({"NoNewPrivileges", "Credentials", "Seccomp"})


def _execute(operation: Operation, world: World) -> None:
    try:
        operation.execute(world)
    except OSError as error:
        raise failure(operation, error) from error


def _standard_streams(world: World) -> None:
    """Put /dev/null and the log pipes on 0, 1, 2 and mark everything else to be closed by exec (CVE-2024-21626)."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(world.stdout, 1)
    os.dup2(world.stderr, 2)
    syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)


def _directory(path: str) -> None:
    """Enter the working directory as the user, and make sure that it is inside the root (CVE-2024-21626)."""
    what = f"enter the working directory {path}"
    try:
        os.chdir(path)
        here = os.getcwd()
    except OSError as error:
        advice = "create it in the root filesystem, or correct workdir"
        raise StartFailure(what, error.errno, error.strerror or "", path, advice, CANNOT_START) from error
    if not here.startswith("/"):
        raise StartFailure(what, None, "it is outside the root", path, None, CANNOT_START)


def _environment(program: Program, world: World) -> dict[str, str]:
    environment = dict(program.environment)
    environment.setdefault("HOME", world.account.home)
    return environment


def find_program(program: Program) -> str:
    """Return the path of the program as execvp finds it; raise StartFailure with 127 or 126 as a shell would say it."""
    name = program.arguments[0]
    what = f"exec {name!r}"
    candidates: list[str]
    if "/" in name:
        candidates, where = [name], "in the root filesystem"
    else:
        search = program.environment.get("PATH", "")
        candidates = [f"{part or '.'}/{name}" for part in search.split(":")]
        where = f"in PATH ({search})"
    refused: str | None = None
    for path in candidates:
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = refused or f"{path}: {error.strerror}"
            continue
        if stat.S_ISREG(mode) and os.access(path, os.X_OK):
            _check_interpreter(what, path)
            return path
        refused = refused or f"{path} is {'not executable' if stat.S_ISREG(mode) else 'not a regular file'}"
    if refused is not None:
        advice = "make it executable for the container's user, or name another program"
        raise StartFailure(what, errno.EACCES, refused, name, advice, NOT_EXECUTABLE)
    advice = "check the command's spelling and that the root filesystem has it"
    raise StartFailure(what, errno.ENOENT, f"no such program {where}", name, advice, NOT_FOUND)


def _check_interpreter(what: str, path: str) -> None:
    """Say it here when a script's interpreter is missing: an init could only end with 127."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return  # executable and not readable is allowed
    try:
        head = os.read(descriptor, 256)
    finally:
        os.close(descriptor)
    if not head.startswith(b"#!"):
        return
    words = head[2:].split(b"\n", 1)[0].split()
    interpreter = os.fsdecode(words[0]) if words else ""
    if interpreter and not os.path.exists(interpreter):
        message = f"the interpreter {interpreter!r} of the script {path} does not exist"
        advice = "install the interpreter in the root filesystem, or correct the script's first line"
        raise StartFailure(what, errno.ENOENT, message, interpreter, advice, NOT_FOUND)


def _exec(program: Program, path: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        if program.init is not None:
            os.execve(program.init, ["init", "--", path, *arguments[1:]], environment)
        os.execve(path, arguments, environment)
    except OSError as error:
        what = f"exec {program.arguments[0]!r}"
        if error.errno == errno.ENOENT:
            message, code = f"the loader that {path} asks for does not exist", NOT_FOUND
        elif error.errno == errno.ENOEXEC:
            message, code = f"{path} is no program of this machine's kind and has no #! line", NOT_EXECUTABLE
        else:
            message, code = error.strerror or "", NOT_EXECUTABLE
        raise StartFailure(what, error.errno, message, path, None, code) from error
