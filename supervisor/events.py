"""What happened, why, and to whom: typed events with their causes, and the bus that tells them.

The bus never waits for a reader. It keeps a bounded history; a reader is a place in it, and one that fell too
far behind gets a marked gap instead of what is gone.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import Any

import attrs
import trio

from supervisor.policy import Reason

EVENTS = (
    "created", "started", "ready", "unready", "died", "restarting", "exhausted", "stopping", "stopped", "completed",
    "failed", "oom", "adopted", "removed", "actor-failed", "journal-failed", "gap",
)  # fmt: skip
"""cli.md's names, and: `removed` (discarded for good), `actor-failed` (a bug in creche; the container runs on),
`journal-failed` (the disk refuses the journal), `gap` (events that a slow reader missed)."""
HISTORY = 10_000


@attrs.frozen
class Event:
    """One state change. `cause` is the `seq` of the event it follows from; `detail` is the story in one clause."""

    seq: int
    time: float
    """Wall-clock seconds since the epoch."""
    app: str
    container: str | None
    event: str
    reason: Reason | None = None
    cause: int | None = None
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the event as `creche events --json` prints it, `time` as a number."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Event":
        """Read what `to_json` gave. Raises ValueError for anything else."""
        names = {field.name for field in attrs.fields(cls)}
        if set(data) != names or not isinstance(data["seq"], int) or not isinstance(data["event"], str):
            raise ValueError(f"not an event: {data!r}")
        return cls(**data)


class Bus:
    """A bounded history of events that any number of readers follow."""

    def __init__(self, app: str, past: Iterable[Event] = (), *, history: int = HISTORY) -> None:
        self._app = app
        self._kept: deque[Event] = deque(past, maxlen=history)
        self._seq = self._kept[-1].seq if self._kept else 0
        self._news = trio.Event()

    def reserve(self) -> int:
        """Return the next event's number; the caller publishes it, in the order of numbers."""
        self._seq += 1
        return self._seq

    def publish(self, event: Event) -> None:
        """Tell all readers; never waits."""
        self._kept.append(event)
        self._news.set()
        self._news = trio.Event()

    def history(self, since: int = 0) -> list[Event]:
        """Return the kept events with a number above `since`, oldest first."""
        if not self._kept or self._kept[-1].seq <= since:
            return []
        tail = list(islice(reversed(self._kept), self._kept[-1].seq - since))
        return [event for event in reversed(tail) if event.seq > since]

    def follow(self, since: int | None = None) -> "Reader":
        """Return a reader of the kept events after number `since` (None: only new ones), then new ones, for ever."""
        return Reader(self, self._seq if since is None else since)

    async def news(self) -> None:
        """Wait for the next event."""
        await self._news.wait()

    def gap(self, oldest: Event, missed: int) -> Event:
        """Return the event that stands for `missed` ones before `oldest`."""
        story = f"{missed} earlier events are no longer kept; this reader was too slow for them"
        return Event(oldest.seq - 1, oldest.time, self._app, None, "gap", detail=story)


class Reader(AsyncIterator[Event]):
    """A place in the bus's history. No generator: it may be dropped half-way without ceremony."""

    def __init__(self, bus: Bus, seen: int) -> None:
        self._bus = bus
        self._seen = seen
        self._batch: deque[Event] = deque()

    async def __anext__(self) -> Event:
        while not self._batch:
            found = self._bus.history(self._seen)
            if not found:
                await self._bus.news()
            elif self._seen and found[0].seq > self._seen + 1:
                self._batch.append(self._bus.gap(found[0], found[0].seq - self._seen - 1))
            self._batch.extend(found)
        event = self._batch.popleft()
        self._seen = event.seq
        return event
