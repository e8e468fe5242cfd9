"""The commands that change and follow a running app."""

import json
import signal

import pytest

from tests.system.driver import Creche, until

PAIR = """
[defaults]
rootfs = "/"
restart = "always"
[containers.db]
command = ["sleep", "infinity"]
[containers.web]
command = ["sleep", "infinity"]
links = ["db"]
"""


@pytest.fixture
def pair(creche: Creche) -> Creche:
    creche.up("pair", PAIR)
    return creche


def test_stop_and_start(pair: Creche) -> None:
    before = pair.ps()
    pair("stop", "web")
    stopped = pair.status("web")
    assert (stopped["state"], stopped["pid"], stopped["last_reason"]) == ("stopped", None, "request")
    assert pair.status("db")["pid"] == before["db"]["pid"]
    pair("start", "web")
    after = pair.status("web")
    assert (after["state"], after["ip"], after["restarts"]) == ("running", before["web"]["ip"], 0)


def test_restart_gives_a_new_process_and_the_same_address(pair: Creche) -> None:
    before = pair.ps()
    pair("restart", "web", "db")
    after = pair.ps()
    for name in ("web", "db"):
        assert after[name]["pid"] != before[name]["pid"]
        assert after[name]["ip"] == before[name]["ip"]
        assert after[name]["state"] == "running"


def test_kill_is_followed_by_the_restart_policy(pair: Creche) -> None:
    before = pair.status("web")["pid"]
    pair("kill", "-s", "USR1", "pair/web")
    after = pair.wait_for("web", lambda status: status["restarts"] == 1 and status["state"] == "running")
    assert after["pid"] != before
    died = pair.events(name="web", event="died")
    assert [each["reason"] for each in died] == ["signal"]


def test_a_signal_reaches_the_program_through_the_init(creche: Creche) -> None:
    script = "trap 'echo heard' USR1; echo ready; while :; do sleep 0.1; done"
    creche.up(
        "ears", f'[containers.e]\nrootfs = "/"\ncommand = ["sh", "-c", "{script}"]\nstop = {{ timeout = "1s" }}\n'
    )
    until(lambda: b"ready" in creche.logs("e"))
    creche("kill", "-s", "SIGUSR1", "e")
    until(lambda: b"heard" in creche.logs("e"))


def test_stop_is_graceful_and_then_kills(creche: Creche) -> None:
    polite = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    text = "".join(
        f'[containers.{name}]\nrootfs = "/"\ncommand = ["sh", "-c", "{script}"]\nstop = {{ timeout = "{timeout}" }}\n'
        for name, script, timeout in (("polite", polite, "10s"), ("deaf", deaf, "500ms"))
    )
    creche.up("manners", text)
    until(lambda: creche.logs().count(b"ready") == 2)
    assert creche("stop", "polite").seconds < 5
    assert b"bye" in creche.logs("polite")
    assert 0.5 <= creche("stop", "deaf").seconds < 5
    stopped = creche.ps()
    assert (stopped["polite"]["exit_code"], stopped["polite"]["exit_signal"]) == (0, None)
    assert stopped["deaf"]["exit_signal"] == signal.SIGKILL


def test_a_stop_signal_of_its_own(creche: Creche) -> None:
    script = "trap 'exit 7' INT; echo ready; while :; do sleep 0.1; done"
    text = f'[containers.e]\nrootfs = "/"\ncommand = ["sh", "-c", "{script}"]\nstop = {{ signal = "SIGINT" }}\n'
    creche.up("own", text)
    until(lambda: b"ready" in creche.logs("e"))
    creche("stop", "e")
    assert creche.status("e")["exit_code"] == 7


def test_what_a_program_left_behind_goes_with_it(creche: Creche) -> None:
    script = "setsid sleep 1000 & echo $! ; exec sleep 1000"
    for init in ("true", "false"):
        name = f"stray-{init}"
        text = f'[containers.{name}]\nrootfs = "/"\ncommand = ["sh", "-c", "{script}"]\ninit = {init}\n'
        creche.up(name, text + 'stop = { timeout = "300ms" }\n')
    creche("stop", "stray-true/stray-true")
    creche("stop", "stray-false/stray-false")
    assert [each for each in creche.processes() if "sleep 1000" in each.command] == []


def test_events_are_followed_as_they_happen(pair: Creche) -> None:
    with pair.following("events", "-f", "--json", "pair") as child:
        assert child.stdout is not None
        read = child.stdout.readline
        until(lambda: json.loads(read())["event"] == "ready")
        pair("stop", "web")
        seen = []
        while "stopped" not in seen:
            event = json.loads(read())
            if event["container"] == "web":
                seen.append(event["event"])
        assert seen[-3:] == ["stopping", "died", "stopped"] or seen[-2:] == ["stopping", "stopped"]


def test_followed_events_end_with_the_app(pair: Creche) -> None:
    with pair.following("events", "-f") as child:
        pair("down")
        assert child.wait(10) == 0


def test_order_of_start_and_stop_follows_links(pair: Creche) -> None:
    started = [each["container"] for each in pair.events(event="started")]
    assert started == ["db", "web"]
    with pair.following("events", "-f", "--json") as child:
        assert child.stdout is not None
        pair("down")
        assert child.wait(10) == 0
        told = [json.loads(line) for line in child.stdout.read().splitlines()]
    stopping = [each["container"] for each in told if each["event"] == "stopping"]
    assert stopping == ["web", "db"]


def test_after_completed_waits_for_success(creche: Creche) -> None:
    text = """
[defaults]
rootfs = "/"
[containers.job]
command = ["sh", "-c", "sleep 0.5; echo done"]
[containers.late]
command = ["sleep", "60"]
after = { job = "completed" }
"""
    creche.up("order", text, wait=False)
    waiting = creche.status("late")
    assert waiting["state"] in ("pending", "running", "starting")
    creche.wait_for("late", lambda status: status["state"] == "running")
    order = [(each["container"], each["event"]) for each in creche.events()]
    assert order.index(("job", "completed")) < order.index(("late", "started"))


def test_every_event_of_a_death_names_its_cause(pair: Creche) -> None:
    pair("kill", "web")
    pair.wait_for("web", lambda status: status["restarts"] == 1)
    by_number = {each["seq"]: each for each in pair.events()}
    (restarting,) = pair.events(name="web", event="restarting")
    assert by_number[restarting["cause"]]["event"] == "died"


def test_tree_and_inspect(pair: Creche) -> None:
    tree = json.loads(pair("tree", "--json").out)
    assert [each["name"] for each in tree["children"]] == ["db", "web"]
    shown = json.loads(pair("inspect", "web").out)
    text = json.dumps(shown)
    assert '"links"' in text
    assert str(pair.status("web")["pid"]) in text


def test_inspect_prints_the_plan(pair: Creche) -> None:
    told = pair("inspect", "--plan", "web", code=None)
    assert told.code == 0, told.err
    assert "pivot into the root" in told.out


def test_an_unknown_container_is_told_with_those_there_are(pair: Creche) -> None:
    for command in ("stop", "start", "restart", "kill", "inspect", "logs"):
        result = pair(command, "wbe", code=None)
        assert result.code in (1, 2)
        assert "web" in result.err and "Traceback" not in result.err


def test_up_with_names_starts_these_and_what_they_wait_for(creche: Creche) -> None:
    path = creche.file("some", PAIR + '[containers.other]\ncommand = ["sleep", "60"]\n')
    creche("up", "-d", "--wait", path, "web")
    assert set(creche.ps()) == {"db", "web"}


def test_dry_run_starts_nothing(creche: Creche) -> None:
    told = creche("up", "--dry-run", creche.file("dry", PAIR)).out
    assert told.index("db") < told.index("web")
    assert creche.apps() == set()


def test_doctor_and_version_answer(creche: Creche) -> None:
    assert creche("version").out.strip()
    assert "cgroup" in creche("doctor", code=None).out.lower()


def test_a_detached_app_outlives_its_terminal(pair: Creche) -> None:
    supervisor = next(each for each in pair.processes() if each.pid == pair.supervisor("pair"))
    assert supervisor.parent != 0
    with open(f"/proc/{supervisor.pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    session, terminal = fields[3], fields[4]
    assert (session, terminal) == (str(supervisor.pid), "0")
