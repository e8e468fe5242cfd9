"""The child between clone and exec: it makes its root or stands in one, becomes the user, waits for the word.

Nothing can be imported here (runtime.launch.birth), nothing is printed, the only ways out are execve and os._exit.
"""

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import termios
from typing import Any, NoReturn

from runtime import syscalls
from runtime.launch import init
from runtime.launch.failures import CANNOT_START, INTERNAL, StartFailure, failure
from runtime.launch.helper import loopback_up
from runtime.launch.program import become, enter_directory, environment_of, find_program
from runtime.launch.subject import CREATED, IGNORED, Birth, Entry, Subject
from runtime.namespaces import Entered
from runtime.world import Operation, World


def stay_closed() -> None:
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


def _close_others(subject: Subject, *pipes: int) -> None:
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


def begin(subject: Subject, *pipes: int) -> None:
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
        stay_closed()  # others are in this pid namespace already, and may be the same user
        _arrive(subject)
    else:
        _settle(subject.namespaces)
    os.umask(0)
    for step in subject.enter:
        if not _is_last(step):
            execute(step, world)
    _standard_streams(world, program.keep)
    if program.keyring:
        with contextlib.suppress(OSError):  # no keyrings in this kernel, or none left: then there is nothing to share
            syscalls.join_session_keyring()
    os.umask(program.umask)
    if world.terminal and not program.own_init:
        _control(world)


def live(subject: Subject, go: int, report: int) -> NoReturn:
    """Be the child: make the root or stand in it, become the user, wait for the word, exec."""
    world, program = subject.world, subject.program
    world.go, world.report = go, report
    code = INTERNAL
    try:
        begin(subject, go, report)
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
            if type(step).__name__ in LAST:
                execute(step, world)
        stay_closed()
        enter_directory(program.directory)
        path = find_program(program)
        arguments = list(program.arguments)
        environment = environment_of(program, world)
        _say(report, CREATED)
        if os.read(go, 1) != b"1":
            os._exit(CANNOT_START)  # the launcher is gone, or has thought better of it
        for step in subject.enter:
            if _is_start_hook(step):
                execute(step, world)
        become(program, path, arguments, environment)
    except StartFailure as error:
        code = error.fields["exit_code"]
        _report(report, error.fields)
    except BaseException as error:  # noqa: BLE001 -- the last frame of a clone: there is no caller to raise to
        _report(report, StartFailure("start", None, repr(error), None, None, INTERNAL).fields)
    os._exit(code)


# These make the process less than root: own-init clones its program between the others and these, each applying them.
LAST = frozenset({"NoNewPrivileges", "Credentials", "Seccomp"})


def _is_last(step: Operation) -> bool:
    return type(step).__name__ in LAST or _is_start_hook(step)


def _is_start_hook(step: Operation) -> bool:
    """Return whether it is a runtime.hooks.ContainerHooks of the stage that follows the word to go."""
    return type(step).__name__ == "ContainerHooks" and getattr(step, "stage", "") == "startContainer"


def execute(operation: Operation, world: World) -> None:
    """Do a step; raise StartFailure in its words."""
    try:
        operation.execute(world)
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
        stay_closed()  # as for an entry
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
        if type(step).__name__ in LAST:
            execute(step, world)
    stay_closed()
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
