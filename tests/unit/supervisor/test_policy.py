"""What follows a death: the truth table, and what holds for every policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.app_file.spec import Restart
from supervisor.policy import Again, Death, Ended, History, decide

SUCCESS = Death(0, "exit", 1.0)
FAILURE = Death(1, "exit", 1.0)
KILLED = Death(137, "signal", 1.0)
OOM = Death(137, "oom", 1.0)
OOM_ZERO = Death(0, "oom", 1.0)
NOT_FOUND = Death(127, "start-error", 0.0)
UNSEEN = Death(None, "exit", 1.0)
ASKED = Death(143, "request", 1.0)


def answer(policy, death, history=History(), now=100.0, spread=0.0, **keys):
    decision = decide(Restart(policy=policy, **keys), death, history, now, spread)
    return "restart" if isinstance(decision, Again) else decision.state


@pytest.mark.parametrize(
    ("policy", "success", "failure"),
    [
        ("always", "restart", "restart"),
        ("unless-stopped", "restart", "restart"),
        ("on-failure", "completed", "restart"),
        ("never", "completed", "failed"),
    ],
)
def test_truth_table(policy, success, failure):
    """{always, unless-stopped, on-failure, never} × every kind of death."""
    assert answer(policy, SUCCESS) == success
    for death in (FAILURE, KILLED, OOM, OOM_ZERO, NOT_FOUND, UNSEEN):
        assert answer(policy, death) == failure, death
    assert answer(policy, ASKED) == "stopped"


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure", "never"])
def test_fatal_codes_are_never_retried(policy):
    assert answer(policy, FAILURE, fatal_codes=[1]) == "failed"
    assert answer(policy, SUCCESS, fatal_codes=[0]) == "failed"
    assert answer(policy, NOT_FOUND, fatal_codes=[127]) == "failed"


def test_success_codes_count_for_exits_and_signals_but_not_for_a_failed_start():
    assert answer("on-failure", Death(7, "exit", 1.0), success_codes=[7]) == "completed"
    assert answer("on-failure", SUCCESS, success_codes=[7]) == "restart"
    assert answer("on-failure", Death(143, "signal", 1.0), success_codes=[143]) == "completed"
    assert answer("on-failure", NOT_FOUND, success_codes=[127]) == "restart"


def gaps(death, count, **keys):
    history, found = History(), []
    for now in range(count):
        decision = decide(Restart(**keys), death, history, float(now), 0.0)
        assert isinstance(decision, Again)
        history = decision.history
        found.append(round(decision.delay, 6))
    return found


def test_gaps_grow_to_the_cap():
    assert gaps(FAILURE, 11)[:4] == [0.1, 0.2, 0.4, 0.8]
    assert gaps(FAILURE, 11)[-2:] == [30.0, 30.0]
    assert gaps(FAILURE, 3, delay=0) == [0, 0, 0]
    assert gaps(FAILURE, 3, factor=1) == [0.1, 0.1, 0.1]


def test_a_run_that_lasted_reset_after_starts_over():
    assert gaps(Death(1, "exit", 10.0), 3) == [0.1, 0.1, 0.1]
    assert gaps(Death(1, "exit", 9.99), 3) == [0.1, 0.2, 0.4]


def test_more_than_max_restarts_within_exhausts():
    """As OTP's intensity: that many restarts are allowed, the next death is one too many, old ones do not count."""
    recent = History(3, (50.0, 70.0, 80.0))
    assert answer("always", FAILURE, recent, now=100.0, max_restarts=3) == "exhausted"
    assert answer("always", FAILURE, recent, now=110.0, max_restarts=3) == "exhausted"
    assert answer("always", FAILURE, recent, now=110.1, max_restarts=3) == "restart"
    assert answer("always", FAILURE, recent, now=100.0, max_restarts=4) == "restart"
    assert answer("always", FAILURE, max_restarts=0) == "exhausted"
    assert answer("never", FAILURE, recent, max_restarts=0) == "failed"


def test_every_end_says_why():
    decision = decide(Restart(policy="always", max_restarts=1), FAILURE, History(1, (99.0,)), 100.0, 0.0)
    assert decision == Ended("exhausted", "1 restarts in 60 s, allowed are 1")


deaths = st.builds(
    Death,
    st.none() | st.integers(0, 255),
    st.sampled_from(["exit", "signal", "oom", "start-error", "probe", "request"]),
    st.floats(0, 1e6),
)
policies = st.builds(
    Restart,
    policy=st.sampled_from(["always", "on-failure", "unless-stopped", "never"]),
    delay=st.floats(0, 1e3),
    factor=st.floats(1, 1e3),
    max_delay=st.floats(0, 1e4),
    jitter=st.floats(0, 1),
    reset_after=st.floats(0, 100),
    max_restarts=st.none() | st.integers(0, 5),
    within=st.floats(0.1, 100),
    fatal_codes=st.lists(st.integers(0, 255), max_size=2, unique=True),
)
histories = st.builds(
    History, st.integers(0, 10_000), st.lists(st.floats(0, 1e6), max_size=40).map(lambda times: tuple(sorted(times)))
)


@given(policies, deaths, histories, st.floats(0, 0.999))
def test_no_policy_breaks_these(policy, death, history, spread):
    """Delays keep to the cap and its jitter; memory is bounded; `never` never restarts, `always` ends for a reason."""
    now = 1e6
    decision = decide(policy, death, history, now, spread)
    if isinstance(decision, Again):
        assert 0 <= decision.delay <= policy.max_delay
        assert decision.delay >= (1 - policy.jitter) * min(policy.delay, policy.max_delay) * 0.999
        assert decision.history.streak in (1, history.streak + 1)
        assert decision.history.restarts[-1] == now
        assert len(decision.history.restarts) <= max(32, policy.max_restarts or 0)
        assert policy.policy != "never"
        assert death.reason != "request"
    else:
        assert decision.why
        if policy.policy in ("always", "unless-stopped"):
            assert decision.state in ("failed", "stopped", "exhausted")
            assert decision.state != "failed" or death.code in policy.fatal_codes


@given(st.integers(1, 5), st.lists(st.floats(0, 20), min_size=1, max_size=60))
def test_intensity_is_never_exceeded(allowed, gaps_between):
    """No window of `within` seconds ever holds more than `max_restarts` restarts."""
    policy = Restart(policy="always", max_restarts=allowed, within=10.0)
    history, now, restarts = History(), 0.0, []
    for gap in gaps_between:
        now += gap
        decision = decide(policy, FAILURE, history, now, 0.0)
        if isinstance(decision, Ended):
            assert sum(at >= now - 10.0 for at in restarts) >= allowed
            break
        history = decision.history
        restarts.append(now)
        assert sum(at >= now - 10.0 for at in restarts) <= allowed
