"""Processes in cgroups, for tests of the real kernel: born into one, asked over pipes, ended; and a name of our own."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import TracebackType

from runtime.cgroups.group import Leaf
from runtime.cgroups.hierarchy import Layout, find
from runtime.syscalls import clone3

APP = f"creche/test-{os.getpid()}"
MIB = 1 << 20


def eventually(said: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether it comes true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not said():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def variants() -> dict[str, Layout]:
    """The machine's layout; where that is hybrid, also what is left of it without the unified tree."""
    found = find()
    return {found.mode: found, "v1": found._replace(v2=None)} if found.mode == "hybrid" else {found.mode: found}


def born(leaf: Leaf, work: Callable[[], int]) -> int:
    """Start `work` in a process of its own that was born in `leaf` and entered its v1 cgroups itself."""
    entry = leaf.open()
    try:
        pid = clone3(0, exit_signal=signal.SIGCHLD, cgroup=entry.unified)
        if pid == 0:
            code = 99
            with contextlib.suppress(BaseException):
                entry.enter()
                code = work()
            os._exit(code)
    finally:
        entry.close()
    return pid


def ended(pid: int) -> int:
    """Reap `pid` and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sleeper() -> int:
    """Do nothing."""
    signal.pause()
    return 0


def family() -> int:
    """Have three children that ignore SIGTERM, and wait."""
    for _ in range(3):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pause()
    signal.pause()
    return 0


def hog() -> int:
    """Use 200 MiB."""
    with contextlib.suppress(MemoryError):
        len(bytearray(b"x") * (200 * MIB))
    return 0


def removed(leaf: Leaf, seconds: float = 10) -> bool:
    """Whether the leaf can be removed within some seconds."""
    return eventually(leaf.remove, seconds)


class Asked:
    """A process in `leaf` that answers each question by one number below 256, until it is ended."""

    def __init__(self, leaf: Leaf, answer: Callable[[], int]) -> None:
        read_question, self._ask = os.pipe()
        self._answer, write_answer = os.pipe()

        def work() -> int:
            os.close(self._ask)
            while os.read(read_question, 1):
                os.write(write_answer, bytes([answer()]))
            return 0

        self.pid = born(leaf, work)
        os.close(read_question)
        os.close(write_answer)
        self()  # it is in all of its cgroups now

    def __call__(self) -> int:
        os.write(self._ask, b"?")
        return os.read(self._answer, 1)[0]

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._ask)
        os.close(self._answer)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        ended(self.pid)


def burn(seconds: float) -> int:
    """Use a processor for so long by the clock; return the percentage of it that was had."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return int(100 * time.process_time() / seconds)
