"""The bus: it tells events to any number of readers and waits for none of them.

It keeps a bounded history; a reader is a place in it, and one that fell too far behind gets a marked gap instead of
what is gone.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable
from itertools import islice

import trio

from supervisor.events import Event

HISTORY = 10_000


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
