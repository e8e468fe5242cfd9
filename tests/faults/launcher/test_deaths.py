"""Each process of a start dies at a bad moment: what is told is true, and nothing is left. Needs root."""

import contextlib
import os
import random
import resource
import select
import signal
import time
from pathlib import Path

import pytest

from runtime.cgroups.group import remove_tree
from runtime.cgroups.hierarchy import find
from runtime.launch import client
from tests.faults.launcher.weight import MOST, resident, worse
from tests.kernel.runtime.launching import Launching, Refused, alive, eventually, open_files

SLEEP = ("/bin/sleep", "1000")

DYING_MIDDLE = """
import os
from runtime import syscalls
clone, left = syscalls.clone3, [{times}]
def dying(flags, **how):
    doomed = bool(flags & syscalls.CLONE_PARENT) and left[0] > 0
    if doomed:
        left[0] -= 1
    if doomed and {before}:
        os.kill(os.getpid(), 9)
    pid = clone(flags, **how)
    if pid and doomed:
        os.kill(os.getpid(), 9)
    return pid
syscalls.clone3 = dying
"""
DYING_HELPER = """
import os
from runtime.launch import helper
serve, left = helper._serve, [2]
def dying(*arguments):
    os.kill(os.getpid(), 9)
helper._serve = dying
"""


def start_worse(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(client, "_BOOT", worse(f"exec({source!r})"))


# The launcher


def test_a_launcher_that_dies_at_any_moment_of_a_start(tmp_path: Path) -> None:
    """Whoever comes next removes the cgroups; what waited for its word has ended by itself."""
    chance = random.Random(1)
    for number in range(15):
        directory = tmp_path / str(number)
        directory.mkdir()
        with Launching(directory) as launcher:
            launcher.hold()
            launcher.run(0, "/bin/true")
            launcher.exited("web", 0)
            launcher.send_create(1, *SLEEP)
            time.sleep(chance.uniform(0, 0.012))
            logger = launcher.logger()
            os.kill(launcher.pid, signal.SIGKILL)
            assert launcher.ended() == -signal.SIGKILL
            assert eventually(lambda logger=logger: not alive(logger))
            remove_tree(find(), launcher.cgroup)
            assert not launcher.cgroups()


def test_a_launcher_that_dies_leaves_runs_and_execs_to_their_cgroup(tmp_path: Path) -> None:
    with Launching(tmp_path) as launcher:
        launcher.hold()
        pids = [launcher.run(1, *SLEEP), launcher.exec("a", *SLEEP)]
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.ended()
        assert all(map(alive, pids))
        remove_tree(find(), launcher.cgroup)
        assert eventually(lambda: not any(map(alive, pids)))


def test_a_lasting_launcher_is_nobodys_child(tmp_path: Path) -> None:
    """A program that goes on without the app waits for no launcher."""
    with Launching(tmp_path, embedded=False, lasting=True) as launcher:
        launcher.hold()
        parent = int(Path(f"/proc/{launcher.pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent != os.getpid()
        launcher.ask("end")
        assert eventually(lambda: not Path(f"/proc/{launcher.pid}").exists()), "its parent reaped it"
        launcher.pid = 0
        launcher.channel.close()


# The middle


@pytest.mark.parametrize("init", [True, False])
def test_middles_that_die_once_they_have_cloned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: bool) -> None:
    """The kernel has told whom they cloned: the run goes on as if nothing had been."""
    start_worse(monkeypatch, DYING_MIDDLE.format(times=20, before=False))
    with Launching(tmp_path) as launcher:
        launcher.hold()
        for run in range(25):
            launcher.run(run, "/bin/true", init=init)
            assert launcher.exited("web", run)[0] == 0
        assert list(launcher.children().values()) == ["creche-logger"]
        assert launcher.log() == ""


def test_middles_that_die_before_they_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_worse(monkeypatch, DYING_MIDDLE.format(times=20, before=True))
    with Launching(tmp_path) as launcher:
        launcher.hold()
        before = open_files(launcher.pid).keys()
        for run in range(20):
            with pytest.raises(Refused, match="the process between was killed"):
                launcher.create(run, *SLEEP)
        assert eventually(lambda: open_files(launcher.pid).keys() == before)
        launcher.run(20, "/bin/true")
        assert launcher.exited("web", 20)[0] == 0
        assert list(launcher.children().values()) == ["creche-logger"]
        assert resident(launcher.pid) <= MOST


@pytest.mark.parametrize("before", [True, False])
def test_middles_of_an_exec_that_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    start_worse(monkeypatch, DYING_MIDDLE.format(times=1000, before=before))
    with Launching(tmp_path) as launcher:
        launcher.hold()
        if before:
            with pytest.raises(Refused, match="the process between was killed"):
                launcher.create(1, *SLEEP)
            return
        launcher.run(1, *SLEEP)
        for number in range(10):
            launcher.exec(str(number), "/bin/true")
            assert launcher.exec_exited(str(number)) == (0, None)


# The helper


def test_a_helper_that_dies_is_a_hold_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_worse(monkeypatch, DYING_HELPER)
    with Launching(tmp_path) as launcher:
        before = open_files(launcher.pid).keys()
        for _ in range(5):
            with pytest.raises(Refused):
                launcher.hold()
        assert eventually(lambda: open_files(launcher.pid).keys() == before)
        assert list(launcher.children().values()) == ["creche-logger"]


# Pid 1


def test_a_pid_1_that_is_killed_while_it_waits(tmp_path: Path) -> None:
    with Launching(tmp_path) as launcher:
        launcher.hold()
        for run in range(10):
            os.kill(launcher.create(run, *SLEEP)["pid"], signal.SIGKILL)
            assert launcher.exited("web", run) == (None, signal.SIGKILL, False)
            with pytest.raises(Refused, match="exited, not created"):
                launcher.ask("start", name="web", run=run)
        assert eventually(lambda: not launcher.leaves())


def test_a_pid_1_that_is_killed_on_its_way(tmp_path: Path) -> None:
    """From outside, as the OOM killer does it; whatever step it was at, the next one lives."""
    chance = random.Random(2)
    with Launching(tmp_path) as launcher:
        launcher.hold()
        launcher.run(0, *SLEEP)
        launcher.ask("kill", name="web")
        launcher.exited("web", 0)
        killed = 0
        for run in range(1, 60):
            asked = launcher.send_create(run, *SLEEP)
            for pid in on_the_way(launcher):
                time.sleep(chance.uniform(0, 0.004))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            try:
                launcher.answer(asked)
            except Refused as error:
                assert "died before its program ran" in str(error) or "was killed" in str(error)
            else:
                launcher.ask("kill", name="web")
            if launcher.greet()["held"]["web"]["run"] == run:
                launcher.exited("web", run)
        assert killed > 5
        launcher.run(100, "/bin/true")
        assert launcher.exited("web", 100)[0] == 0
        assert list(launcher.children().values()) == ["creche-logger"]
        assert resident(launcher.pid) <= MOST


def on_the_way(launcher: Launching) -> list[int]:
    """Those of its children that execute nothing of their own yet, as soon as there is one, or an answer."""
    answered = select.poll()
    answered.register(launcher.channel, select.POLLIN)
    while not answered.poll(0):
        found = [pid for pid, name in launcher.children().items() if name == "creche-launcher"]
        if found:
            return found
    return []


# The logger


def test_a_logger_that_cannot_be_followed_now_is_followed_later(tmp_path: Path) -> None:
    """There is no descriptor for it; the pipes hold what is written meanwhile."""
    with Launching(tmp_path) as launcher:
        launcher.hold()
        launcher.run(1, "/bin/sh", "-c", "sleep 0.3; echo kept; sleep 1000")
        former = resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, (1, former[1]))
        os.kill(launcher.logger(), signal.SIGKILL)
        assert eventually(lambda: "no logger can be started now" in launcher.log())
        assert "creche-logger" not in launcher.children().values()
        assert launcher.greet()["held"]["web"]["run"] == 1
        resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, former)
        assert eventually(lambda: "creche-logger" in launcher.children().values())
        assert eventually(lambda: launcher.output() == b"kept\n")


SLOW_LOGGER = """
import time
from runtime.launch import connection, logger
connection.OWED_DESCRIPTORS = 12
serve = logger.main
def slow(channel):
    time.sleep(1)
    return serve(channel)
logger.main = slow
"""


def test_a_logger_that_begins_slowly_is_told_of_every_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has not taken waits, six descriptors for each: no bound that a client has may cut this line."""
    count = 320  # more than a socket holds
    start_worse(monkeypatch, SLOW_LOGGER)
    with Launching(tmp_path) as launcher:
        names = [str(number) for number in range(count)]
        for name in names:
            launcher.hold(name)
        first = launcher.logger()
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: first not in launcher.children())
        launcher.run(1, "/bin/echo", "heard", name=names[-1])
        launcher.exited(names[-1], 1)
        assert launcher.output(names[-1]) == b"heard\n"
        assert [name for name in launcher.children().values() if name == "creche-logger"] == ["creche-logger"]


# What cannot be removed


STUCK = """
from runtime.launch import launcher
remove, stuck = launcher.remove_tree, [True]
def refusing(layout, path, *how):
    if stuck and path.endswith("/stuck"):
        stuck.clear()
        raise launcher.CgroupError(16, "processes [7] did not die", path, "they hang in the kernel")
    remove(layout, path, *how)
launcher.remove_tree = refusing
from runtime.cgroups.hierarchy import CgroupError
launcher.CgroupError = CgroupError
"""


def test_a_cgroup_that_cannot_be_removed_is_told_and_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_worse(monkeypatch, STUCK)
    with Launching(tmp_path) as launcher:
        launcher.hold("stuck")
        launcher.hold("other")
        pid = launcher.run(1, *SLEEP, name="other")
        with pytest.raises(Refused, match="did not die") as caught:
            launcher.ask("forget", name="stuck")
        assert caught.value.fields["advice"] == "they hang in the kernel"
        assert alive(pid)
        assert list(launcher.greet()["held"]) == ["other"]
