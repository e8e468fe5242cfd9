"""Very many at once: ends that are all told, orphans that are all reaped. Needs root."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from runtime.launch import client
from tests.faults.launcher.weight import MOST, resident
from tests.kernel.runtime.launching import OWN_INIT_BOOT, Launching, alive, eventually, open_files

SLEEP = ("/bin/sleep", "1000")
PER_CONTAINER = 4 << 10  # bytes that a launcher may take for each container it holds
LONG = [pytest.mark.long, pytest.mark.timeout(600)]
INITS = ("static init", "own init")


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=LONG)])
def test_execs_that_all_end_at_once(tmp_path: Path, count: int) -> None:
    """The kernel kills them with pid 1; each end is told once."""
    with Launching(tmp_path) as launcher:
        launcher.hold(resources={"pids": {"limit": count + 10}})
        launcher.run(1, *SLEEP)
        before = open_files(launcher.pid).keys()
        for number in range(count):
            launcher.exec(str(number), *SLEEP)
        launcher.ask("kill", name="web")
        assert launcher.exited("web", 1)[1] == signal.SIGKILL
        launcher.greet()
        for number in range(count):
            assert launcher.exec_exited(str(number)) == (None, signal.SIGKILL)
        assert Counter(event["event"] for event in launcher.events) == {"exec-exited": count, "exited": 1}
        assert eventually(lambda: len(open_files(launcher.pid)) < len(before))
        assert resident(launcher.pid) <= MOST + count * PER_CONTAINER


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=LONG)])
def test_containers_that_all_end_at_once(tmp_path: Path, count: int) -> None:
    with Launching(tmp_path) as launcher:
        launcher.channel.settimeout(120)
        names = [str(number) for number in range(count)]
        pids: list[int] = []
        for name in names:
            launcher.hold(name)
            pids.append(launcher.run(1, *SLEEP, name=name, init=False))
        os.kill(launcher.pid, signal.SIGSTOP)  # so that it finds all of them dead in the same moment
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        os.kill(launcher.pid, signal.SIGCONT)
        for name in names:
            assert launcher.exited(name, 1) == (None, signal.SIGKILL, False)
        launcher.greet()
        assert Counter(event["event"] for event in launcher.events) == {"exited": count}
        assert resident(launcher.pid) <= MOST + count * PER_CONTAINER
        assert eventually(lambda: not launcher.leaves(), 60)
        launcher.ask("end")
        assert launcher.ended() == 0
        assert not launcher.cgroups()


ORPHANS = "i=0; while [ $i -lt {} ]; do ( : & ) || exit 9; i=$((i+1)); done; echo done; exec sleep 1000"


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=LONG)])
def test_orphans_are_all_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str, count: int) -> None:
    """With room for a hundred processes, zombies counted: only who reaps them as fast as they come has room for all."""
    if init == "own init":
        monkeypatch.setattr(client, "_BOOT", OWN_INIT_BOOT)
    with Launching(tmp_path) as launcher:
        assert (launcher.hello["init"] is None) == (init == "own init")
        launcher.hold()
        pid = launcher.run(1, "/bin/sh", "-c", ORPHANS.format(count))
        assert eventually(lambda: not alive(pid) or launcher.output() == b"done\n", 300)
        assert alive(pid), launcher.output(suffix="err")
        children = Path(f"/proc/{pid}/task/{pid}/children")
        assert eventually(lambda: len(children.read_text().split()) == 1)


def test_a_pid_1_that_reaps_nothing_is_noticed(tmp_path: Path) -> None:
    """A negative control: the same crowd below a program that looks at none of them."""
    script = "import os, signal\nif os.fork() == 0: os.execv('/bin/sh', ['sh', '-c', {!r}])\nsignal.pause()"
    with Launching(tmp_path) as launcher:
        launcher.hold()
        launcher.run(1, "/usr/bin/python3", "-c", script.format(ORPHANS.format(500)), init=False)
        assert eventually(lambda: b"fork" in launcher.output(suffix="err"))
        assert launcher.output() == b""
