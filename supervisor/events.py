"""What happened, why, and to whom: events with their causes, and their JSON form. The bus tells them."""

from typing import Any, Literal, get_args

import attrs

from supervisor.moments import rfc3339, unix
from supervisor.policy import Reason

EventName = Literal[
    "created", "started", "ready", "unready", "died", "restarting", "exhausted", "stopping", "stopped", "completed",
    "failed", "paused", "unpaused", "oom", "adopted", "removed", "warning", "actor-failed", "journal-failed", "gap",
]  # fmt: skip
"""cli.md's names, and: `removed` (discarded for good), `warning` (something is less than
was asked for), `actor-failed` (a bug in creche; the container runs on),
`journal-failed` (the disk refuses the journal), `gap` (events that a slow reader missed)."""


@attrs.frozen
class Event:
    """One state change. `cause` is the `seq` of the event it follows from; `detail` is the story in one clause."""

    seq: int
    time: float
    """Wall-clock seconds since the epoch."""
    app: str
    container: str | None
    event: EventName
    reason: Reason | None = None
    cause: int | None = None
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the event as `creche events --json` prints it, `time` in RFC 3339."""
        return {**attrs.asdict(self), "time": rfc3339(self.time)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Event":
        """Read what `to_json` gave. Raises ValueError for anything else."""
        names = {field.name for field in attrs.fields(cls)}
        if set(data) != names or not isinstance(data["seq"], int) or data["event"] not in get_args(EventName):
            raise ValueError(f"not an event: {data!r}")
        fields: dict[str, Any] = {**data, "time": unix(data["time"])}
        return cls(**fields)
