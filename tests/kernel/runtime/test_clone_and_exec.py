"""A child on its parent's memory until it executes: what it runs, how it fails, and that its parent stays whole."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import syscalls
from runtime.syscalls import Execution

SHELL = Execution("/bin/sh", ("sh", "-c", 'exit "$CODE"'), ("CODE=23",))

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86_64")


def ended(enter: Callable[[], Execution | int], failed: Callable[[int], int] = lambda number: number) -> int:
    """The child's exit code, minus the signal when one ended it."""
    pid, _ = syscalls.clone_and_exec(syscalls.CLONE_CLEAR_SIGHAND | syscalls.CLONE_NEWUTS, enter, failed)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0x40000000)[1])  # __WALL: no signal at its end


def test_the_program_gets_its_arguments_and_environment() -> None:
    assert ended(lambda: SHELL) == 23


def test_a_program_behind_a_descriptor_runs() -> None:
    shell = os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert ended(lambda: SHELL._replace(path="/nowhere", descriptor=shell)) == 23
    finally:
        os.close(shell)


def test_a_status_instead_of_a_program_ends_it() -> None:
    assert ended(lambda: 9) == 9


def test_an_execve_that_fails_is_told_with_its_errno() -> None:
    assert ended(lambda: Execution("/nowhere", ("x",), ())) == 2


def test_what_the_child_stores_is_there_for_the_parent() -> None:
    said: list[str] = []

    def enter() -> int:
        said.append("here")
        return 0x11

    ended(enter)
    assert said == ["here"]


def test_its_namespaces_directory_descriptors_and_signals_are_its_own() -> None:
    before = os.uname().nodename, os.getcwd(), signal.getsignal(signal.SIGUSR1), os.umask(0o022)
    os.umask(before[3])
    read, write = os.pipe()

    def enter() -> int:
        syscalls.sethostname("inside")
        os.chdir("/")
        os.umask(0)
        syscalls.close_range(read)
        return 1

    ended(enter)
    os.write(write, b"open")
    assert os.read(read, 4) == b"open"
    os.close(read)
    os.close(write)
    umask = os.umask(0o022)
    os.umask(umask)
    assert (os.uname().nodename, os.getcwd(), signal.getsignal(signal.SIGUSR1), umask) == before


def test_a_child_killed_in_the_middle_leaves_its_parent_able_to_go_on() -> None:
    """Many frames deep: the interpreter's own state must heal when the frames below never return."""

    def dive(depth: int) -> int:
        if depth:
            return dive(depth - 1)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    for _ in range(200):
        assert ended(lambda: dive(20)) == -signal.SIGKILL
    gc.collect()
    assert [ended(lambda: SHELL) for _ in range(5)] == [23] * 5


def killed_in_a_system_call() -> int:
    """Kill a child that waits in read(2), without the interpreter's lock."""
    read, write = os.pipe()
    child = 0

    def kill() -> None:
        """Another process: this one stands still."""
        while not (children := Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[1:]):
            pass
        while (
            "pipe_read"
            not in Path(f"/proc/{children[0]}/wchan").read_text() + Path(f"/proc/{children[0]}/stack").read_text()
        ):
            pass
        os.kill(int(children[0]), signal.SIGKILL)

    parent = os.getpid()
    killer = os.fork()
    if killer == 0:
        kill()
        os._exit(0)

    def enter() -> int:
        os.read(read, 1)
        return 1

    try:
        child = ended(enter)
    finally:
        os.waitpid(killer, 0)
        os.close(read)
        os.close(write)
    return child


def test_a_child_killed_in_a_system_call_gives_the_interpreters_lock_back() -> None:
    for _ in range(20):
        assert killed_in_a_system_call() == -signal.SIGKILL
    assert [ended(lambda: SHELL) for _ in range(5)] == [23] * 5


def test_nothing_grows() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(50):
        ended(lambda: SHELL)
    before = resident()
    for _ in range(300):
        ended(lambda: SHELL)
    assert resident() - before < 1 << 20
