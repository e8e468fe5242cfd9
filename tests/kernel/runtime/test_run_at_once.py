"""Runs that execute at once, their pid 1 on the launcher's memory until then. Needs root and cgroups."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.group import remove_tree
from runtime.cgroups.hierarchy import find
from runtime.launch import client
from tests.kernel.runtime.launching import BASE, OWN_INIT_BOOT, Launching, Refused, eventually, open_files, status_of

INITS = ("static init", "own init", "no init")


@pytest.fixture(params=INITS)
def launching(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A launcher that has not complained when the test is over, and whether runs have an init."""
    if request.param == "own init":
        monkeypatch.setattr(client, "_BOOT", OWN_INIT_BOOT)
    with Launching(tmp_path) as launcher:
        yield launcher, request.param != "no init"
        launcher.ask("end")
        assert launcher.ended() == 0
        remove_tree(find(), launcher.cgroup)
        assert launcher.log() == ""


def test_one_request_and_it_runs(launching: tuple[Launching, bool]) -> None:
    launcher, init = launching
    launcher.hold()
    answer = launcher.run_at_once(1, "/bin/sh", "-c", "echo out; echo err >&2; exit 3", init=init)
    assert answer["cgroup"].endswith("/web/run-1")
    assert launcher.exited("web", 1) == (3, None, False)
    assert (launcher.output(), launcher.output(suffix="err")) == (b"out\n", b"err\n")


def test_it_is_confined_as_one_that_waited(launching: tuple[Launching, bool]) -> None:
    launcher, init = launching
    launcher.hold("waited")
    launcher.hold("at-once")
    pids = [
        launcher.run(1, "/bin/sleep", "1000", name="waited", init=init),
        launcher.run_at_once(1, "/bin/sleep", "1000", name="at-once", init=init)["pid"],
    ]
    fields = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    waited, at_once = ({field: status_of(pid)[field] for field in fields} for pid in pids)
    assert waited == at_once
    assert at_once["Seccomp"] == "2"
    waited_map, at_once_map = (Path(f"/proc/{pid}/uid_map").read_text().split() for pid in pids)
    assert waited_map == at_once_map == ["0", str(BASE), "65536"]
    for kind in ("pid", "mnt", "uts", "ipc", "cgroup", "net", "user"):
        assert len({os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (*pids, launcher.pid)}) == 3, kind
    limits = [Path(f"/proc/{pid}/limits").read_text() for pid in pids]
    assert limits[0] == limits[1]
    assert eventually(lambda: set(open_files(pids[0])) == set(open_files(pids[1])))  # an init opens some of its own


@pytest.mark.parametrize(
    ("command", "code"), [("/nowhere", 127), ("/etc/passwd", 126), ("no-such-program", 127)], ids=str
)
def test_what_cannot_run_says_why(launching: tuple[Launching, bool], command: str, code: int) -> None:
    launcher, init = launching
    launcher.hold()
    with pytest.raises(Refused) as refused:
        launcher.run_at_once(1, command, init=init)
    assert refused.value.fields["exit_code"] == code
    launcher.run_at_once(2, "/bin/true", init=init)
    assert launcher.exited("web", 2)[0] == 0


def test_a_program_of_another_kind_is_told_by_its_errno(tmp_path: Path) -> None:
    """The exec itself fails, after everything else: the one word that comes from outside the interpreter."""
    with Launching(tmp_path) as launcher:
        launcher.hold()

        def lay(config: dict[str, Any]) -> None:
            odd = tmp_path / "odd"
            odd.write_bytes(b"neither ELF nor a script")
            odd.chmod(0o755)
            mount = {"destination": "/odd", "type": "bind", "source": str(odd), "options": ["bind"]}
            config["mounts"].append(mount)

        with pytest.raises(Refused) as refused:
            launcher.run_at_once(1, "/odd", init=False, change=lay)
        assert (refused.value.fields["exit_code"], refused.value.fields["errno"]) == (126, 8)
        assert "no program of this machine's kind" in refused.value.fields["message"]


def test_a_failing_step_is_named_and_the_launcher_goes_on(launching: tuple[Launching, bool]) -> None:
    launcher, init = launching
    launcher.hold()

    def bad(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = "/no/such/directory"

    before = len(open_files(launcher.pid))
    for number in range(1, 6):
        with pytest.raises(Refused, match="/no/such/directory"):
            launcher.run_at_once(number, "/bin/true", init=init, change=bad)
    launcher.ask("release", ports=[])
    assert len(open_files(launcher.pid)) == before
    launcher.run_at_once(9, "/bin/true", init=init)
    assert launcher.exited("web", 9)[0] == 0


class Killer(threading.Thread):
    """Kills whatever appears in the unified cgroup of one run after another, as soon as it sees it."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.directory = directory
        self.killed = 0
        self.run_number = 0
        self.over = False

    def run(self) -> None:
        while not self.over:
            with contextlib.suppress(OSError):
                for pid in Path(f"{self.directory}/run-{self.run_number}/cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                    self.killed += 1


def test_a_pid_1_that_is_killed_on_the_way_leaves_the_launcher_whole(tmp_path: Path) -> None:
    layout = find()
    assert layout.v2 is not None
    with Launching(tmp_path) as launcher:
        launcher.hold()
        killer = Killer(f"{layout.v2.mount}/{launcher.cgroup}/web")
        killer.start()
        refused = 0
        try:
            for number in range(1, 101):
                killer.run_number = number
                try:
                    launcher.run_at_once(number, "/bin/sleep", "1000", init=False)
                except Refused:
                    refused += 1
                else:
                    assert launcher.exited("web", number)[1] == signal.SIGKILL
        finally:
            killer.over = True
            killer.join()
        assert killer.killed >= 100
        assert refused, "no kill ever came before the exec: this test has shown nothing"
        launcher.run_at_once(200, "/bin/true", init=False)
        assert launcher.exited("web", 200)[0] == 0
        launcher.ask("end")
        assert launcher.ended() == 0
        assert launcher.log() == ""
