"""What an app remembers on disk, so that the next supervisor adopts instead of starting anew.

    <directory>/app.json             whose app this is and what its file said
    <directory>/state/<name>.json    one record per container
    <directory>/events.jsonl         one event per line; at 4 MiB it becomes events.1.jsonl

Records are replaced by rename, so a killed supervisor leaves the old one or the new one. Nothing is synced: what the
journal describes does not outlive a power cut either. Deadlines are boottime seconds beside the boot's id.
"""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import attrs

from supervisor.events import Event
from supervisor.failures import JournalError
from supervisor.lifecycle import STATES, State
from supervisor.policy import History, Reason

VERSION = 1
EVENTS_LIMIT = 4 << 20
PAST = 2_000
"""Events that the next supervisor remembers."""


@attrs.frozen
class Record:
    """All that is known of one container; also what `ps` shows. Boottime seconds but for the two `_at` of the wall."""

    name: str
    spec: str
    """A hash of the container's part of the app file."""
    boot: str
    state: State = "pending"
    desired: Literal["running", "stopped"] = "running"
    run: int = 0
    """The number of the latest run. `pid` None: it may not have been created yet."""
    pid: int | None = None
    cgroup: str | None = None
    userns: str | None = None
    address: str | None = None
    ready: bool = False
    begun: bool = False
    """It executed at least once since it was last asked to start."""
    restarts: int = 0
    streak: int = 0
    deaths: tuple[float, ...] = ()
    """When recent restarts were decided."""
    started: float | None = None
    next_start_at: float | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    oom_killed: bool = False
    last_reason: Reason | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def history(self) -> History:
        return History(self.streak, self.deaths)


@attrs.frozen
class Owner:
    """Whose app it is: its name, the file it came from (None: code), and its normalised spec."""

    name: str
    file: str | None
    spec: dict[str, Any]


class Journal:
    """The files of one app. Every method blocks on the disk and raises OSError as it comes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._state = directory / "state"
        self._events = directory / "events.jsonl"

    def write(self, records: Iterable[Record], events: Iterable[Event] = ()) -> None:
        """Replace the records and append the events: all of the events or none."""
        for record in records:
            _replace(self._state / f"{record.name}.json", {"version": VERSION, **attrs.asdict(record)})
        lines = "".join(json.dumps(event.to_json()) + "\n" for event in events).encode()
        if lines:
            self._append(lines)

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._events, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, lines) != len(lines):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._events))
        finally:
            os.close(descriptor)
        if size + len(lines) >= EVENTS_LIMIT:
            self._events.replace(self._events.with_name("events.1.jsonl"))

    def records(self) -> dict[str, Record]:
        """Return all records by container. Raises JournalError for a torn or foreign one."""
        files = sorted(self._state.glob("*.json")) if self._state.is_dir() else []
        return {file.stem: self._record(file) for file in files}

    def forget(self, name: str) -> None:
        """Remove a container's record, if there is one."""
        (self._state / f"{name}.json").unlink(missing_ok=True)

    def own(self, owner: Owner) -> None:
        """Write app.json."""
        _replace(self.directory / "app.json", {"version": VERSION, **attrs.asdict(owner)})

    def owner(self) -> Owner | None:
        """Return what app.json says, None when there is none. Raises JournalError."""
        file = self.directory / "app.json"
        if not file.exists():
            return None
        data = self._read(file)
        if set(data) != {"name", "file", "spec"} or not isinstance(data["spec"], dict):
            raise self._foreign(file, f"it has the keys {', '.join(sorted(data))}")
        return Owner(**data)

    def past(self) -> list[Event]:
        """Return the latest events on disk, oldest first.

        A last line without its end is what a supervisor killed in mid-write leaves: it is cut off. Raises JournalError
        for any other line that is no event.
        """
        lines: list[str] = []
        for file in (self._events, self._events.with_name("events.1.jsonl")):
            if file.exists() and len(lines) < PAST:
                text = file.read_text(encoding="utf-8", errors="replace")
                if not text.endswith("\n"):
                    text = text[: text.rfind("\n") + 1]
                    os.truncate(file, len(text.encode()))
                lines = [*text.splitlines(), *lines]
        try:
            return [Event.from_json(json.loads(line)) for line in lines[-PAST:]]
        except ValueError as error:
            raise self._foreign(self._events, str(error)) from error

    def _record(self, file: Path) -> Record:
        data = self._read(file)
        fields = {field.name for field in attrs.fields(Record)}
        if set(data) != fields or data["name"] != file.stem or data["state"] not in STATES:
            raise self._foreign(file, f"it is no record of {file.stem}")
        data["deaths"] = tuple(data["deaths"])
        return Record(**data)

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._foreign(file, f"it is not JSON ({error})") from error
        if not isinstance(data, dict) or data.pop("version", None) != VERSION:  # pyright: ignore[reportUnknownMemberType]
            raise self._foreign(file, f"it is not of version {VERSION}")
        return data  # pyright: ignore[reportUnknownVariableType]

    def _foreign(self, file: Path, why: str) -> JournalError:
        return JournalError(
            f"{file} cannot be read: {why}; it was torn or written by another version. Remove that file, or the app "
            f"with the version that wrote it: creche down {self.directory.name}"
        )


def _replace(file: Path, data: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = file.with_name(f".{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(data, stream)
    fresh.replace(file)
