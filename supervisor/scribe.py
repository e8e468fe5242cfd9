"""The scribe: writes what changed to the journal, and only then tells it.

Actors commit; whoever comes first writes for all that wait, in one thread call, in the order of the events' numbers.
A disk that refuses does not stop the app: the events are told, the records are owed until a later write succeeds,
and an event says so.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import trio

from supervisor.bus import Bus
from supervisor.events import Event, EventName
from supervisor.journal import Journal, Record
from supervisor.policy import Reason
from supervisor.threads import on_disk


class Offload(Protocol):
    """How blocking work leaves the event loop: in a thread, or by a plain call on a virtual clock."""

    async def __call__(self, sync_fn: Callable[..., Any], *args: Any) -> Any: ...


@attrs.frozen
class Note:
    """An event to be: the scribe numbers and dates it. Without a `cause` it follows from the note before it, if any."""

    event: EventName
    detail: str
    reason: Reason | None = None
    cause: int | None = None
    at: float | None = None
    """Seconds since the epoch, where that was before it is told."""


@attrs.define
class _Entry:
    record: Record | None
    events: Sequence[Event]
    done: bool = False


class Scribe:
    """One per app: every change goes through `commit`."""

    def __init__(
        self, app: str, journal: Journal, bus: Bus, wall: Callable[[], float], offload: Offload | None = None
    ) -> None:
        self._app = app
        self._journal = journal
        self._bus = bus
        self._wall = wall
        self._offload: Offload = offload or on_disk
        self._queue: list[_Entry] = []
        self._owed: dict[str, Record] = {}
        self._lock = trio.Lock()

    async def commit(self, container: str | None, record: Record | None, *notes: Note) -> int | None:
        """Write the record and the events, then publish the events; return the number of the last one.

        Once called it is carried out, cancelled or not.
        """
        events: list[Event] = []
        for note in notes:
            cause = note.cause if note.cause is not None or not events else events[-1].seq
            number = self._bus.reserve()
            events.append(
                Event(
                    number, note.at or self._wall(), self._app, container, note.event, note.reason, cause, note.detail
                )
            )
        entry = _Entry(record, events)
        self._queue.append(entry)
        with trio.CancelScope(shield=True):
            async with self._lock:
                if not entry.done:
                    await self._write()
        return events[-1].seq if events else None

    async def _write(self) -> None:
        batch, self._queue = self._queue, []
        records = self._owed | {entry.record.name: entry.record for entry in batch if entry.record is not None}
        events = [event for entry in batch for event in entry.events]
        was_owing, self._owed = bool(self._owed), {}
        failure: OSError | None = None
        try:
            await self._offload(self._journal.write, tuple(records.values()), events)
        except OSError as error:
            self._owed = records
            failure = None if was_owing else error
        for event in events:
            self._bus.publish(event)
        for entry in batch:
            entry.done = True
        if failure is not None:
            story = f"the journal cannot be written ({failure}); a supervisor that comes next adopts an old state"
            notice = Event(self._bus.reserve(), self._wall(), self._app, None, "journal-failed", detail=story)
            self._queue.append(_Entry(None, [notice]))
            await self._write()
