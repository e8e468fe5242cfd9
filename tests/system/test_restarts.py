"""Back-off on the real clock: gaps that grow to the cap, and a run that lasted clears them."""

from itertools import pairwise

from supervisor.moments import unix
from tests.system.driver import Creche

EXITS = '[containers.crash]\nrootfs = "/"\ncommand = ["sh", "-c", "exit 1"]\n'
LATE = 0.5
"""Seconds that a start may be late on a busy machine before the gap is no gap of the policy any more."""


def gaps(creche: Creche, name: str) -> list[float]:
    """Seconds between each death and the start that followed it."""
    found: list[float] = []
    died: float | None = None
    for event in creche.events(name=name):
        if event["event"] == "died":
            died = unix(event["time"])
        elif event["event"] == "started" and died is not None:
            found.append(unix(event["time"]) - died)
    return found


def test_gaps_double_up_to_the_cap(creche: Creche) -> None:
    restart = 'restart = { policy = "on-failure", delay = "100ms", max_delay = "800ms", jitter = 0 }\n'
    creche.up("doubling", EXITS + restart, wait=False)
    creche.wait_for("crash", lambda status: status["restarts"] >= 6, timeout=20)
    seen = gaps(creche, "crash")[:5]
    expected = [0.1, 0.2, 0.4, 0.8, 0.8]
    assert all(policy <= gap < policy + LATE for policy, gap in zip(expected, seen, strict=True)), seen
    assert all(later > earlier for earlier, later in pairwise(seen[:4])), seen


def test_jitter_only_shortens(creche: Creche) -> None:
    creche.up("jitter", EXITS + 'restart = { delay = "200ms", factor = 1, jitter = 0.5 }\n', wait=False)
    creche.wait_for("crash", lambda status: status["restarts"] >= 4, timeout=20)
    assert all(0.1 <= gap < 0.2 + LATE for gap in gaps(creche, "crash")[:3])


def test_a_run_that_lasted_starts_over(creche: Creche) -> None:
    """It crashes at once three times, lasts longer than reset_after once, then crashes again."""
    script = "n=$(cat /data/n 2>/dev/null || echo 0); echo $((n+1)) > /data/n; [ $n = 3 ] && sleep 1.2; exit 1"
    text = f"""
[containers.crash]
rootfs = "/"
command = ["sh", "-c", '{script}']
volumes = ["kept:/data"]
restart = {{ delay = "100ms", jitter = 0, reset_after = "1s" }}
"""
    creche.up("lasting", text, wait=False)
    creche.wait_for("crash", lambda status: status["restarts"] >= 6, timeout=20)
    seen = gaps(creche, "crash")[:5]
    assert all(policy <= gap for policy, gap in zip([0.1, 0.2, 0.4, 0.1, 0.2], seen, strict=True)), seen
    assert seen[3] < seen[2], seen


def test_restarts_count_and_the_state_says_when(creche: Creche) -> None:
    creche.up("waits", EXITS + 'restart = { delay = "30s", jitter = 0 }\n', wait=False)
    status = creche.wait_for("crash", lambda seen: seen["state"] == "backing-off")
    assert (status["restarts"], status["exit_code"], status["last_reason"]) == (1, 1, "exit")
    assert 25 < unix(status["next_start_at"]) - unix(status["finished_at"]) <= 30.5


def test_a_stop_during_back_off_stops_at_once(creche: Creche) -> None:
    creche.up("patient", EXITS + 'restart = { delay = "30s", jitter = 0 }\n', wait=False)
    creche.wait_for("crash", lambda seen: seen["state"] == "backing-off")
    assert creche("stop", "crash").seconds < 5
    assert creche.status("crash")["state"] == "stopped"
    creche("down")
    creche.nothing_left()


def test_more_than_max_restarts_is_exhausted(creche: Creche) -> None:
    text = EXITS + 'restart = { delay = "10ms", max_restarts = 3, within = "1m" }\n'
    path = creche.up("tired", text, wait=False)
    status = creche.wait_for("crash", lambda seen: seen["state"] == "exhausted")
    assert status["restarts"] == 3
    assert creche.events(name="crash", event="exhausted")
    assert "crash" in creche("up", "-d", "--wait", path, code=1).err


def test_success_is_completed_and_not_restarted(creche: Creche) -> None:
    creche.up("once", '[containers.job]\nrootfs = "/"\ncommand = ["true"]\n')
    status = creche.wait_for("job", lambda seen: seen["state"] == "completed")
    assert (status["restarts"], status["exit_code"]) == (0, 0)


def test_fatal_codes_fail_for_good(creche: Creche) -> None:
    text = EXITS.replace("exit 1", "exit 78") + 'restart = { policy = "always", fatal_codes = [78] }\n'
    creche.up("fatal", text, wait=False)
    status = creche.wait_for("crash", lambda seen: seen["state"] == "failed")
    assert (status["restarts"], status["exit_code"]) == (0, 78)
