"""The middle: it shares its parent's memory, joins what a child is born into and clones that child as its parent's."""

import errno
import os
from typing import Any

from runtime import syscalls
from runtime.launch import child
from runtime.launch.failures import CANNOT_START, INTERNAL, StartFailure, failure
from runtime.launch.program import enter_directory, execution_of, find_program, not_executed
from runtime.launch.subject import Birth, Ends, Entry, Subject
from runtime.namespaces import KINDS, Entered, flags
from runtime.syscalls import Execution


def clone_advice(number: int | None) -> str | None:
    """Return what to do where a clone failed with this errno."""
    if number == errno.EAGAIN:
        return "the pids limit or the machine's process limit is reached"
    return None


class Middle:
    """The process between: it enters the leaf and the namespaces that last, and clones the child as the launcher's.

    It shares the launcher's memory while the launcher stands still, so what it finds out it simply stores here, and
    nothing that the launcher goes on with may be changed. The child's pid is told by the kernel: a middle that is
    killed once it has cloned leaves no child that nobody knows.
    """

    def __init__(self, subject: Subject, ends: Ends | None) -> None:
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
                child.live(subject, self.ends.go_read, self.ends.report_write)
        except OSError as error:
            advice = clone_advice(error.errno)
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
            child.begin(subject)
            last = [step for step in subject.enter if type(step).__name__ in child.LAST]
            filters = [step for step in last if type(step).__name__ == "Seccomp"]
            for step in last:
                if type(step).__name__ != "Seccomp":
                    child.execute(step, world)
            child.stay_closed()
            enter_directory(program.directory)
            self.path = find_program(program)
            execution = execution_of(program, self.path, world)
            for step in filters:
                child.execute(step, world)
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


def _early(operation: Any) -> None:
    try:
        operation.early()
    except OSError as error:
        raise failure(operation, error) from error
