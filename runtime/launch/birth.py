"""A container's birth: the middle process that joins its namespaces and the pid 1 that becomes its program.

Runs in children of the launcher between clone and exec: nothing can be imported (the import system has been emptied,
whose paths would lead into a hostile root after pivot_root), nothing is printed, the only ways out are execve and
os._exit. Order and flags follow the ladder in runtime.launch.messages. One more process in a container that runs
already (`enter`) goes the same way, but that it joins what pid 1 has.
"""

import contextlib
import fcntl
import os
import signal
import sys

from runtime import syscalls
from runtime.launch.child import stay_closed
from runtime.launch.failures import CANNOT_START, INTERNAL, StartFailure, failure, failure_from
from runtime.launch.middle import Middle, clone_advice
from runtime.launch.program import Program
from runtime.launch.subject import CREATED, HOOKS, IGNORED, Birth, Child, Ends, Entry, Subject

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
    middle = Middle(birth, None)
    kept = dict(birth.world.descriptors)  # what the child opens is open in the child alone
    try:
        ended = syscalls.clone_shared(middle.run)
    except OSError as error:
        raise _not_cloned(error) from error
    finally:
        stay_closed()
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


def _clone(subject: Subject, given: Ends | None) -> Child:
    ends = _pipes() if given is None else given
    middle = Middle(subject, ends)
    try:
        _check_alone()
        try:
            syscalls.clone_shared(middle.run)
        except OSError as error:
            raise _not_cloned(error) from error
        finally:
            stay_closed()  # the middle's setns changed what it shares with this process
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
    advice = clone_advice(error.errno)
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
