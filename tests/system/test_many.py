"""Two hundred containers, and every way to part from them: nothing is left, whoever died how."""

import os
import signal
from pathlib import Path
from statistics import median

import pytest

from tests.system.driver import Creche, until

COUNT = 200
BOUNDS = {"ps": 0.3, "down": 3.0}
"""Seconds on a machine that does nothing else."""


def sleeps(count: int) -> str:
    head = '[defaults]\nrootfs = "/"\ncommand = ["sleep", "infinity"]\nlimits = { memory = "32M" }\n'
    return head + "".join(f"[containers.s{number:03}]\n" for number in range(count))


def all_running(creche: Creche, count: int) -> dict[str, int]:
    """Wait until every container runs; their pids."""

    def look() -> dict[str, int] | None:
        seen = creche.ps()
        good = len(seen) == count and all(each["state"] == "running" and each["ready"] for each in seen.values())
        return {name: each["pid"] for name, each in seen.items()} if good else None

    return until(look, 60, f"{count} running containers")


def gone(pids: dict[str, int]) -> bool:
    """Whether all are dead; orphans stay zombies until the machine's pid 1 looks after them."""
    return all(state(pid) in ("Z", "X", None) for pid in pids.values())


def state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_two_hundred_run_and_down_leaves_nothing(creche: Creche) -> None:
    creche.up("many", sleeps(COUNT), timeout=100)
    pids = all_running(creche, COUNT)
    assert len(set(pids.values())) == COUNT
    creche("down")
    assert gone(pids)
    creche.nothing_left()


def test_two_hundred_outlive_a_killed_supervisor_and_are_adopted(creche: Creche) -> None:
    path = creche.up("many", sleeps(COUNT), timeout=100)
    pids = all_running(creche, COUNT)
    creche.sigkill(creche.supervisor("many"))
    creche("up", "-d", "--wait", path, timeout=60)
    assert all_running(creche, COUNT) == pids
    assert {each["restarts"] for each in creche.ps().values()} == {0}
    creche("down")
    assert gone(pids)
    creche.nothing_left()


@pytest.mark.long
def test_two_hundred_keep_the_time_bounds(creche: Creche) -> None:
    creche.up("many", sleeps(COUNT), timeout=100)
    all_running(creche, COUNT)
    assert median(creche("ps").seconds for _ in range(7)) < BOUNDS["ps"]
    assert median(creche("ps", "--json").seconds for _ in range(7)) < BOUNDS["ps"]
    assert creche("down").seconds < BOUNDS["down"]
    creche.nothing_left()


FEW = 20


def test_ctrl_c_of_the_foreground_leaves_nothing(creche: Creche) -> None:
    path = creche.file("front", sleeps(FEW))
    with creche.following("up", path) as child:
        until(lambda: creche("ps", code=None).code == 0)
        pids = all_running(creche, FEW)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0
    assert gone(pids)
    creche.nothing_left()


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGHUP))
def test_a_signal_to_the_foreground_leaves_nothing(creche: Creche, number: signal.Signals) -> None:
    path = creche.file("front", sleeps(3))
    with creche.following("up", path) as child:
        until(lambda: creche("ps", code=None).code == 0)
        pids = all_running(creche, 3)
        child.send_signal(number)
        child.wait(20)
    assert gone(pids)
    creche.nothing_left()


def test_ctrl_c_while_containers_start_leaves_nothing(creche: Creche) -> None:
    path = creche.file("front", sleeps(FEW))
    with creche.following("up", path) as child:
        until(lambda: [each for each in creche.processes() if each.name == "creche-launcher"])
        child.send_signal(signal.SIGINT)
        child.wait(20)
    creche.nothing_left()


def test_containers_outlive_a_killed_foreground_and_are_adopted(creche: Creche) -> None:
    path = creche.file("front", sleeps(FEW))
    with creche.following("up", path) as child:
        until(lambda: creche("ps", code=None).code == 0)
        pids = all_running(creche, FEW)
        child.kill()
        child.wait(10)
    assert {name: each["pid"] for name, each in creche.ps("front").items()} == pids
    creche("up", "-d", "--wait", path)
    assert all_running(creche, FEW) == pids
    creche("down")
    creche.nothing_left()


def test_down_alone_ends_what_outlived_its_supervisor(creche: Creche) -> None:
    creche.up("orphans", sleeps(FEW))
    pids = all_running(creche, FEW)
    creche.sigkill(creche.supervisor("orphans"))
    creche("down")
    assert gone(pids)
    creche.nothing_left()


def everybody(creche: Creche, app: str) -> tuple[int, int, int]:
    return creche.supervisor(app), creche.launcher(app), creche.logger(app)


def test_up_starts_afresh_when_supervisor_launcher_and_logger_were_killed(creche: Creche) -> None:
    path = creche.up("fallen", sleeps(FEW))
    pids = all_running(creche, FEW)
    creche.sigkill(*everybody(creche, "fallen"))
    creche("up", "-d", "--wait", path)
    assert not set(all_running(creche, FEW).values()) & set(pids.values())
    assert gone(pids)
    creche("down")
    creche.nothing_left()


def test_down_cleans_up_when_supervisor_launcher_and_logger_were_killed(creche: Creche) -> None:
    creche.up("fallen", sleeps(FEW))
    pids = all_running(creche, FEW)
    creche.sigkill(*everybody(creche, "fallen"))
    creche("down")
    assert gone(pids)
    creche.nothing_left()


def test_a_killed_launcher_is_replaced_and_its_containers_come_back(creche: Creche) -> None:
    creche.up("bereft", sleeps(3))
    before = all_running(creche, 3)
    addresses = {name: each["ip"] for name, each in creche.ps().items()}
    creche.sigkill(creche.launcher("bereft"))
    until(lambda: all(each["restarts"] >= 1 for each in creche.ps().values()), 20, "a restart of each")
    after = all_running(creche, 3)
    assert not set(before.values()) & set(after.values())
    assert {name: each["ip"] for name, each in creche.ps().items()} == addresses
    creche("down")
    creche.nothing_left()


def test_a_killed_logger_is_replaced_and_nothing_else_changes(creche: Creche) -> None:
    talk = '[containers.talker]\nrootfs = "/"\ncommand = ["sh", "-c", "while echo said; do sleep 0.1; done"]\n'
    creche.up("talk", talk)
    before = creche.status("talker")["pid"]
    logger = creche.logger("talk")
    creche.sigkill(logger)
    said = creche.logs("talker").count(b"said\n")
    until(lambda: creche.logs("talker").count(b"said\n") > said + 3, what="lines after the logger's death")
    assert creche.status("talker")["pid"] == before
    assert creche.logger("talk") != logger


def test_exits_while_no_supervisor_ran_are_handled_by_the_next(creche: Creche) -> None:
    path = creche.up("absent", '[containers.one]\nrootfs = "/"\ncommand = ["sleep", "infinity"]\nrestart = "always"\n')
    pid = creche.status("one")["pid"]
    creche.sigkill(creche.supervisor("absent"))
    creche.sigkill(pid)
    creche("up", "-d", "--wait", path)
    status = creche.wait_for("one", lambda seen: seen["state"] == "running" and seen["restarts"] == 1)
    assert status["pid"] != pid
    died = creche.events(name="one", event="died")
    assert [each["reason"] for each in died] == ["signal"]


def test_ps_without_a_supervisor_shows_what_lives(creche: Creche) -> None:
    creche.up("orphans", sleeps(2))
    pids = all_running(creche, 2)
    creche.sigkill(creche.supervisor("orphans"))
    assert {name: each["pid"] for name, each in creche.ps("orphans").items()} == pids
    os.kill(pids["s000"], signal.SIGKILL)
    until(lambda: creche.ps("orphans")["s000"]["pid"] is None, what="a dead container shown as such")
