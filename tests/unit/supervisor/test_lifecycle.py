"""The state table: every state and event, the allowed and the illegal ones."""

from itertools import product
from pathlib import Path

import pytest

from supervisor.lifecycle import RESTING, STATES, TABLE, TRIGGERS, IllegalEvent, Lifecycle, mermaid

ARCHITECTURE = Path(__file__).parents[3] / "docs" / "ARCHITECTURE.md"


@pytest.mark.parametrize(("state", "trigger"), list(product(STATES, TRIGGERS)))
def test_every_pair_moves_or_changes_nothing(state, trigger):
    life = Lifecycle(state)
    if trigger in TABLE[state]:
        assert life.on(trigger) == life.state == TABLE[state][trigger]
    else:
        with pytest.raises(IllegalEvent, match=f"'{trigger}' in state {state}"):
            life.on(trigger)
        assert life.state == state


def test_every_state_is_reached_and_left():
    reached = {target for row in TABLE.values() for target in row.values()}
    assert reached == set(STATES)
    assert all(TABLE[state] for state in STATES)


def test_only_a_request_leaves_a_resting_state():
    assert all(set(TABLE[state]) == {"ask"} for state in RESTING)


def test_every_state_that_may_have_a_process_can_be_stopped():
    assert all("stop" in TABLE[state] for state in set(STATES) - RESTING - {"stopping"})


def test_diagram_has_every_arrow():
    drawn = mermaid()
    assert drawn.startswith('stateDiagram-v2\n    state "backing-off" as backing_off\n    [*] --> pending\n')
    assert "    running --> backing_off: back-off\n" in drawn
    assert drawn.count("-->") == 1 + sum(len(set(row.values())) for row in TABLE.values())


def test_documented_diagram_is_current():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    drawn = text.partition("<!-- lifecycle:begin -->")[2].partition("<!-- lifecycle:end -->")[0]
    assert drawn.strip() == f"```mermaid\n{mermaid()}```"
