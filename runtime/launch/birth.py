"""A container's birth: the middle process that joins its namespaces and the pid 1 that becomes its program.

Runs in children of the launcher between clone and exec: nothing can be imported (the import system has been emptied,
whose paths would lead into a hostile root after pivot_root), nothing is printed, the only ways out are execve and
os._exit. Order and flags follow the ladder in runtime.launch.messages. One more process in a container that runs
already (`enter`) goes the same way, but that it joins what pid 1 has.
"""

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import sys
import termios
from typing import Any, NamedTuple, NoReturn

from runtime import syscalls
from runtime.launch import init
from runtime.launch.failures import CANNOT_START, INTERNAL, StartFailure, failure, failure_from
from runtime.launch.helper import loopback_up
from runtime.launch.program import (
    Program,
    become,
    enter_directory,
    environment_of,
    execution_of,
    find_program,
    not_executed,
)
from runtime.namespaces import KINDS, Entered, flags
from runtime.syscalls import Execution
from runtime.world import Operation, World

__all__ = [
    "CANNOT_START",
    "CREATED",
    "HOOKS",
    "IGNORED",
    "Birth",
    "Child",
    "Ends",
    "Entry",
    "Program",
    "StartFailure",
    "can_run_at_once",
    "deliver",
    "deliver_running",
    "enter",
    "failure",
    "failure_from",
    "leave_imports",
]

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
"""What the launcher ignores, the last two because Python does, and no container may inherit."""

# On the report pipe; every other line is a failure in JSON.
CREATED = b"created\n"
HOOKS = b"hooks\n"  # runtime.hooks: the hooks of the runtime's side are to run now, and `h` on the go pipe ends them


class Birth(NamedTuple):
    """Everything the children of one run need; descriptors are the caller's.

    A user namespace is always a joined one: its id maps can only be written from outside (runtime.launch.helper).
    """

    enter: tuple[Operation, ...]
    program: Program
    world: World
    namespaces: Entered
    cgroup: int | None
    tasks: tuple[int, ...]


class Entry(NamedTuple):
    """Everything that one more process in a running container needs; descriptors are the caller's."""

    enter: tuple[Operation, ...]
    program: Program
    world: World
    pidfd: int  # of the container's pid 1
    namespaces: frozenset[str]  # the kinds to join, all of them pid 1's
    cgroup: int | None
    tasks: tuple[int, ...]


class Child(NamedTuple):
    """A process that was cloned and is on its way through `enter`."""

    pid: int
    pidfd: int
    go: int  # one byte here lets it exec
    report: int  # reads JSON lines; its end means that the program runs (or that the process is dead)


class Ends(NamedTuple):
    """Both ends of the two pipes or FIFOs between a child and whoever lets it go.

    A FIFO whose other side may be closed meanwhile is opened for reading and writing: a child would wait for ever
    on the one, and die of a report that nobody reads on the other.
    """

    go_read: int
    report_write: int
    go: int
    report: int


def leave_imports() -> None:
    """Make sure that nothing is imported from here on: children of this process stand in hostile root filesystems."""
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


def deliver(birth: Birth, ends: Ends | None = None) -> Child:
    """Clone the middle and through it pid 1; raise StartFailure where that fails.

    Without `ends` the child gets pipes of its own. `go_read` and `report_write` are closed here in any case; where it
    fails the other two stay the caller's if the caller gave them. The caller must have exactly one thread: with two,
    a child inherits locks that nobody in it will ever release.
    """
    return _clone(birth, ends)


def can_run_at_once(birth: Birth) -> bool:
    """Return whether `deliver_running` can make it: one process to the end, that waits for nobody before its exec.

    Who shares memory may not move its clocks, may not become an init of ours, and loads its filter last: a filter that
    kills would kill it on its parent's memory.
    """
    kinds = [type(step).__name__ for step in birth.enter]
    return (
        syscalls.CAN_SHARE_UNTIL_EXEC
        and not birth.program.own_init
        and not any(kind.endswith("Hooks") for kind in kinds)
        and not any(kind == "time" for kind, _ in birth.namespaces.joined)
        and ("Seccomp" not in kinds or kinds[-1] == "Seccomp")
    )


def deliver_running(birth: Birth) -> Child:
    """Clone the middle and through it pid 1, and return when it executes its program; raise StartFailure.

    pid 1 stays on this process's memory until then, and this process stands still: neither copies a page. The child's
    `go` and `report` are -1.
    """
    _check_alone()
    middle = _Middle(birth, None)
    kept = dict(birth.world.descriptors)  # what the child opens is open in the child alone
    try:
        ended = syscalls.clone_shared(middle.run)
    except OSError as error:
        raise _not_cloned(error) from error
    finally:
        _stay_closed()
        birth.world.descriptors = kept
    pid = middle.told.pid
    if pid and not ended:  # pid 1 goes on on this very memory: two on one heap
        os.write(2, b"creche: the process between was killed on this process's memory while pid 1 is on it: ending\n")
        os._exit(INTERNAL)
    if not pid:
        raise middle.failure or _killed("the process between was killed")
    if middle.failure is not None or not middle.whole:
        os.waitid(os.P_PID, pid, os.WEXITED | _WALL)
        raise middle.failure or failure_from(b"")
    return _child(pid, -1, -1)


def enter(entry: Entry, ends: Ends | None = None) -> Child:
    """Clone one more process into a running container, through a middle as `deliver` does, and as this raises."""
    if "time" in entry.namespaces:
        with contextlib.suppress(OSError):  # an older kernel: then pid 1 itself, where it may be looked into
            entry.world.keep("time", fcntl.ioctl(entry.pidfd, _PIDFD_GET_TIME_NAMESPACE))
    return _clone(entry, ends)


_PIDFD_GET_TIME_NAMESPACE = 0xFF07  # linux/pidfd.h, 6.11


def _clone(subject: Birth | Entry, given: Ends | None) -> Child:
    ends = _pipes() if given is None else given
    middle = _Middle(subject, ends)
    try:
        _check_alone()
        try:
            syscalls.clone_shared(middle.run)
        except OSError as error:
            raise _not_cloned(error) from error
        finally:
            _stay_closed()  # the middle's setns changed what it shares with this process
        if not middle.told.pid:  # pid 0 below would mean the launcher's own group
            raise middle.failure or _killed("the process between was killed")
        return _child(middle.told.pid, ends.go, ends.report)
    except BaseException:
        if given is None:
            os.close(ends.go)
            os.close(ends.report)
        raise
    finally:
        os.close(ends.go_read)
        os.close(ends.report_write)


_WALL = 0x40000000  # __WALL in wait(2): pid 1 signals nobody at its end


def _check_alone() -> None:
    if len(os.listdir("/proc/self/task")) != 1:
        raise StartFailure("clone", None, "the launcher has more than one thread", None, None, CANNOT_START)


def _not_cloned(error: OSError) -> StartFailure:
    advice = _clone_advice(error.errno)
    return StartFailure("clone", error.errno, error.strerror or "", None, advice, CANNOT_START)


def _killed(message: str) -> StartFailure:
    return StartFailure("clone", None, message, None, None, CANNOT_START)


def _child(pid: int, go: int, report: int) -> Child:
    """Nobody but this process can reap the child, and it has not: the pid is nobody else's."""
    try:
        return Child(pid, syscalls.pidfd_open(pid), go, report)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, _WALL)
        raise StartFailure("open the pidfd", error.errno, error.strerror or "", None, None, CANNOT_START) from error


def _pipes() -> Ends:
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    try:
        report_read, report_write = os.pipe2(os.O_CLOEXEC)
    except OSError:
        os.close(go_read)
        os.close(go_write)
        raise
    os.set_blocking(report_read, False)
    return Ends(go_read, report_write, go_write, report_read)


def _clone_advice(number: int | None) -> str | None:
    if number == errno.EAGAIN:
        return "the pids limit or the machine's process limit is reached"
    return None


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
    """The process between: it enters the leaf and the namespaces that last, and clones the child as the launcher's.

    It shares the launcher's memory while the launcher stands still, so what it finds out it simply stores here, and
    nothing that the launcher goes on with may be changed. The child's pid is told by the kernel: a middle that is
    killed once it has cloned leaves no child that nobody knows.
    """

    def __init__(self, subject: Birth | Entry, ends: Ends | None) -> None:
        self.subject = subject
        self.ends = ends  # None: the child executes at once, on this memory
        self.told = syscalls.Told()
        self.whole = False  # whether that child came to its exec
        self.path = ""
        self.failure: StartFailure | None = None

    def run(self) -> None:
        subject = self.subject
        step = "enter the cgroup"
        try:
            for tasks in subject.tasks:  # the thread moves itself: `cgroup.procs` would wait for an RCU grace period
                os.write(tasks, b"0")
            for each in subject.enter:  # what only the host's root may do, and the child inherits
                if hasattr(each, "early"):
                    _early(each)
            step = "join the namespaces"
            new = _join(subject.namespaces) if isinstance(subject, Birth) else _join_through(subject)
            step = "clone pid 1" if isinstance(subject, Birth) else "clone the process"
            clone = syscalls.CLONE_PARENT | syscalls.CLONE_CLEAR_SIGHAND | new
            if self.ends is None:
                _, self.whole = syscalls.clone_and_exec(
                    clone, self.enter, self.fail, cgroup=subject.cgroup, told=self.told
                )
            elif syscalls.clone3(clone, cgroup=subject.cgroup, told=self.told) == 0:
                _first(subject, self.ends.go_read, self.ends.report_write)
        except OSError as error:
            advice = _clone_advice(error.errno)
            if isinstance(subject, Entry) and error.errno in (errno.ENOMEM, errno.ESRCH):
                advice = "the container has ended, or ends at this moment"
            path = error.filename if isinstance(error.filename, str) and error.filename.startswith("/") else None
            self.failure = StartFailure(step, error.errno, error.strerror or "", path, advice, CANNOT_START)
        except StartFailure as error:
            self.failure = error
        except BaseException as error:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
            self.failure = StartFailure(step, None, repr(error), None, None, INTERNAL)

    def enter(self) -> Execution | int:
        """In pid 1, on shared memory: everything but the exec."""
        subject = self.subject
        world, program = subject.world, subject.program
        try:
            _begin(subject)
            filters = [step for step in subject.enter if type(step).__name__ == "Seccomp"]
            for step in subject.enter:
                if type(step).__name__ in _LAST and step not in filters:
                    _execute(step, world)
            _stay_closed()
            enter_directory(program.directory)
            self.path = find_program(program)
            execution = execution_of(program, self.path, world)
            for step in filters:
                _execute(step, world)
            return execution
        except StartFailure as error:
            self.failure = error
        except BaseException as error:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
            self.failure = StartFailure("start", None, repr(error), None, None, INTERNAL)
        return self.failure.fields["exit_code"]

    def fail(self, number: int) -> int:
        """In pid 1, on shared memory: execve failed."""
        self.failure = not_executed(self.subject.program, self.path, OSError(number, os.strerror(number)))
        return self.failure.fields["exit_code"]


def _join(namespaces: Entered) -> int:
    """Join what lasts; return the clone flags of what is new.

    The user namespace nearly last: from it only what it owns can be joined, from the launcher's all others can, too.
    """
    user = mount = None
    for kind, descriptor in namespaces.joined:
        if kind == "user":
            user = descriptor
        elif kind == "mount":
            mount = descriptor
        elif kind != "time":  # of a process that shares its memory nobody moves the clocks: the child does it
            syscalls.setns(descriptor, KINDS[kind])
    if user is not None:
        syscalls.setns(user, syscalls.CLONE_NEWUSER)
    new = namespaces.new
    if "time" in new:
        _new_clocks(namespaces.time_offsets)
        new -= {"time"}
    if mount is not None:  # what is named by a path above would be looked for in there
        syscalls.setns(mount, syscalls.CLONE_NEWNS)
    return flags(new)


def _new_clocks(offsets: tuple[tuple[str, int, int], ...]) -> None:
    """Let the next child begin a time namespace whose clocks differ by `offsets` (time_namespaces(7))."""
    syscalls.unshare(syscalls.CLONE_NEWTIME)
    if not offsets:
        return
    path = "/proc/self/timens_offsets"
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, "".join("{} {} {}\n".format(*offset) for offset in offsets).encode())
    except OSError as error:
        raise OSError(error.errno, f"the clocks cannot be moved by {offsets}: {error.strerror}", path) from error
    finally:
        os.close(descriptor)


def _join_through(entry: Entry) -> int:
    """Join what the container's pid 1 has, the user namespace last (as in `_join`); nothing is new."""
    others = flags(entry.namespaces - {"user", "time"})
    if others:
        syscalls.setns(entry.pidfd, others)
    if "user" in entry.namespaces:
        syscalls.setns(entry.pidfd, syscalls.CLONE_NEWUSER)
    return 0


def _close_others(subject: Birth | Entry, *pipes: int) -> None:
    """Close every descriptor that is not this process's.

    A copy of another run's pipe would keep its end from being seen; what must not reach the program is closed by exec.
    """
    world, program = subject.world, subject.program
    kept = {*pipes, *subject.tasks, *world.descriptors.values(), world.stdout, world.stderr}
    if isinstance(subject, Birth):
        kept.update(descriptor for _, descriptor in subject.namespaces.joined)
    else:
        kept.add(subject.pidfd)
    kept.update(number for number in (world.stdin, program.init) if number is not None)
    passed = 2 + program.keep
    previous = passed
    for number in sorted(kept):
        if number > previous + 1:
            syscalls.close_range(previous + 1, number - 1)
        previous = max(previous, number)
    syscalls.close_range(previous + 1)
    if program.keep and (taken := [number for number in pipes if 2 < number <= passed]):
        message = f"{program.keep} descriptors from 3 on are to be kept, and {taken} are not the caller's"
        raise StartFailure("keep descriptors", None, message, None, "open them before the runtime starts", CANNOT_START)


def _begin(subject: Birth | Entry, *pipes: int) -> None:
    """Do what a child does while it is root in its namespaces: all of its root, its streams, its session."""
    world, program = subject.world, subject.program
    _default_signals()
    _close_others(subject, *pipes)
    os.setsid()
    if program.soft_files is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(program.soft_files, hard), hard))
    _become_root()
    if isinstance(subject, Entry):
        _stay_closed()  # others are in this pid namespace already, and may be the same user
        _arrive(subject)
    else:
        _settle(subject.namespaces)
    os.umask(0)
    for step in subject.enter:
        if not _is_last(step):
            _execute(step, world)
    _standard_streams(world, program.keep)
    with contextlib.suppress(OSError):  # no keyrings in this kernel, or none left: then there is nothing to share
        syscalls.join_session_keyring()
    os.umask(program.umask)
    if world.terminal and not program.own_init:
        _control(world)


def _first(subject: Birth | Entry, go: int, report: int) -> NoReturn:
    """Be the child: make the root or stand in it, become the user, wait for the word, exec."""
    world, program = subject.world, subject.program
    world.go, world.report = go, report
    code = INTERNAL
    try:
        _begin(subject, go, report)
        if program.own_init:
            # From here on a signal waits for `serve`; pid 1 would not get it, and its program would never hear of it.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            child = syscalls.clone3(0, exit_signal=signal.SIGCHLD)
            if child:
                _be_init(subject.enter, world, child)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
            if world.terminal:
                _control(world)
        for step in subject.enter:
            if type(step).__name__ in _LAST:
                _execute(step, world)
        _stay_closed()
        enter_directory(program.directory)
        path = find_program(program)
        arguments = list(program.arguments)
        environment = environment_of(program, world)
        _say(report, CREATED)
        if os.read(go, 1) != b"1":
            os._exit(CANNOT_START)  # the launcher is gone, or has thought better of it
        for step in subject.enter:
            if _is_start_hook(step):
                _execute(step, world)
        become(program, path, arguments, environment)
    except StartFailure as error:
        code = error.fields["exit_code"]
        _report(report, error.fields)
    except BaseException as error:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
        _report(report, StartFailure("start", None, repr(error), None, None, INTERNAL).fields)
    os._exit(code)


# These make the process less than root: own-init clones its program between the others and these, each applying them.
_LAST = frozenset({"NoNewPrivileges", "Credentials", "Seccomp"})


def _is_last(step: Operation) -> bool:
    return type(step).__name__ in _LAST or _is_start_hook(step)


def _is_start_hook(step: Operation) -> bool:
    """Return whether it is a runtime.hooks.ContainerHooks of the stage that follows the word to go."""
    return type(step).__name__ == "ContainerHooks" and getattr(step, "stage", "") == "startContainer"


def _execute(operation: Operation, world: World) -> None:
    try:
        operation.execute(world)
    except OSError as error:
        raise failure(operation, error) from error


def _early(operation: Any) -> None:
    try:
        operation.early()
    except OSError as error:
        raise failure(operation, error) from error


def _become_root() -> None:
    """Be the user namespace's root; raise StartFailure where it maps none."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        advice = "map the user and the group 0 of the container"
        what = "become the container's root"
        raise StartFailure(what, error.errno, error.strerror or "", None, advice, CANNOT_START) from error


def _settle(namespaces: Entered) -> None:
    """Finish what only the child itself can: its clocks, and the loopback of a network that is new."""
    if "pid" not in namespaces.new:
        _stay_closed()  # as for an entry
    for kind, descriptor in namespaces.joined:
        if kind == "time":
            _join_clocks(descriptor)
    if "network" in namespaces.new:
        try:
            loopback_up()
        except OSError as error:
            what = "bring the loopback up"
            raise StartFailure(what, error.errno, error.strerror or "", "lo", None, CANNOT_START) from error


def _arrive(entry: Entry) -> None:
    """Stand in the container's root, which the middle has joined, and in its clocks."""
    if "time" in entry.namespaces:
        _join_clocks(entry.world.descriptors.get("time", entry.pidfd))
    entry.world.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _join_clocks(descriptor: int) -> None:
    try:
        syscalls.setns(descriptor, syscalls.CLONE_NEWTIME)
    except OSError as error:
        advice = "it must belong to the container's user namespace" if error.errno == errno.EPERM else None
        what = "join the time namespace"
        raise StartFailure(what, error.errno, error.strerror or "", None, advice, CANNOT_START) from error


def _be_init(steps: tuple[Operation, ...], world: World, child: int) -> NoReturn:
    """Be creche's own pid 1 for the program in `child`, as little privileged as that."""
    for step in steps:
        if type(step).__name__ in _LAST:
            _execute(step, world)
    _stay_closed()
    syscalls.close_range(0)
    syscalls.set_name("creche-init")
    os._exit(init.serve(child))


def _standard_streams(world: World, keep: int) -> None:
    """Put the streams on 0, 1, 2 and mark everything else to be closed by exec (CVE-2024-21626)."""
    stdin = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) if world.stdin is None else world.stdin
    for place, stream in enumerate((stdin, world.stdout, world.stderr)):
        if stream == place:
            os.set_inheritable(place, True)  # which dup2 would leave as it is
        else:
            os.dup2(stream, place)
    syscalls.close_range(3 + keep, flags=syscalls.CLOSE_RANGE_CLOEXEC)


def _control(world: World) -> None:
    """Make the terminal on the streams that of this session (TIOCSCTTY in ioctl_tty(2))."""
    try:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    except OSError as error:
        what = "take the terminal"
        raise StartFailure(what, error.errno, error.strerror or "", None, None, CANNOT_START) from error
