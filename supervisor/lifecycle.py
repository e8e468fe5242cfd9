"""The state table of a container: everything that affects a container's state lives here.

One table, state and event to state. An event that the table does not have raises `IllegalEvent` and changes
nothing. The diagram in docs/ARCHITECTURE.md is generated from it.
"""

from typing import Literal

State = Literal[
    "pending",
    "starting",
    "running",
    "paused",
    "backing-off",
    "stopping",
    "stopped",
    "completed",
    "exhausted",
    "failed",
]
Trigger = Literal[
    "begin", "start", "adopt", "back-off", "complete", "fail", "exhaust", "stop", "end", "ask", "pause", "resume"
]

STATES: tuple[State, ...] = (
    "pending",
    "starting",
    "running",
    "paused",
    "backing-off",
    "stopping",
    "stopped",
    "completed",
    "exhausted",
    "failed",
)
TRIGGERS: dict[Trigger, str] = {
    "begin": "its dependencies are there, or its back-off is over",
    "start": "pid 1 executes",
    "adopt": "its run outlived a supervisor",
    "back-off": "it died and will be restarted",
    "complete": "it succeeded for good",
    "fail": "it failed and is not restarted",
    "exhaust": "it was restarted too often",
    "stop": "it is to stop",
    "end": "nothing of it runs any more",
    "ask": "it is to start",
    "pause": "it is to freeze",
    "resume": "it is to thaw",
}
RESTING: frozenset[State] = frozenset({"stopped", "completed", "exhausted", "failed"})
"""States that only a request leaves."""

_DEATHS: dict[Trigger, State] = {
    "back-off": "backing-off",
    "complete": "completed",
    "fail": "failed",
    "exhaust": "exhausted",
}
TABLE: dict[State, dict[Trigger, State]] = {
    "pending": {"begin": "starting", "adopt": "running", "stop": "stopping", **_DEATHS},
    "starting": {"start": "running", "stop": "stopping", **_DEATHS},
    "running": {"pause": "paused", "stop": "stopping", **_DEATHS},
    "paused": {"resume": "running", "stop": "stopping", **_DEATHS},
    "backing-off": {"begin": "starting", "adopt": "running", "stop": "stopping", **_DEATHS},
    "stopping": {"end": "stopped", "ask": "pending"},
    "stopped": {"ask": "pending"},
    "completed": {"ask": "pending"},
    "exhausted": {"ask": "pending"},
    "failed": {"ask": "pending"},
}


class IllegalEvent(Exception):
    """An event that the state does not allow: a bug in the caller. Nothing was changed."""


class Lifecycle:
    """One container's state. Only `on` changes it."""

    def __init__(self, state: State = "pending") -> None:
        self._state: State = state

    @property
    def state(self) -> State:
        return self._state

    def on(self, trigger: Trigger) -> State:
        """Take the event and return the new state; raise IllegalEvent, changing nothing, where the table has none."""
        try:
            self._state = TABLE[self._state][trigger]
        except KeyError:
            allowed = ", ".join(TABLE[self._state])
            raise IllegalEvent(f"{trigger!r} in state {self._state}: allowed here are {allowed}") from None
        return self._state

    def __repr__(self) -> str:
        return f"<lifecycle {self._state}>"


def mermaid() -> str:
    """Return the table as a Mermaid state diagram, one line per pair of states, for the documentation."""
    aliases = [f'    state "{state}" as {_id(state)}' for state in STATES if _id(state) != state]
    lines = ["stateDiagram-v2", *aliases, "    [*] --> pending"]
    for state in STATES:
        targets: dict[State, list[str]] = {}
        for trigger, target in TABLE[state].items():
            targets.setdefault(target, []).append(trigger)
        lines += [f"    {_id(state)} --> {_id(target)}: {', '.join(names)}" for target, names in targets.items()]
    return "\n".join(lines) + "\n"


def _id(state: State) -> str:
    return state.replace("-", "_")
