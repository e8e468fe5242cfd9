"""What is on disk of an app that no supervisor holds: its journal's records, checked against the living processes."""

from pathlib import Path

import attrs

from supervisor.commands.command import Failure
from supervisor.failures import JournalError
from supervisor.journal import Journal, Record
from supervisor.status import Status, status_of

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def statuses(directory: Path, app: str) -> list[Status] | None:
    """The statuses in app order as the journal has them, None when there is no journal; raises `Failure`.

    A container whose process is gone is shown as stopped: the next `up` finds out how it ended.
    """
    import time

    from supervisor.app_file.read import restore

    journal = Journal(directory)
    try:
        owner = journal.owner()
        records = journal.records()
    except JournalError as error:
        raise Failure(str(error)) from error
    if owner is None:
        return None
    spec = restore(owner.spec)
    boot = BOOT_ID.read_text().strip()
    boottime, wall = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    found: list[Status] = []
    for container in spec.containers.values():
        record = checked(records.get(container.name) or Record(container.name, "", boot), boot, Path("/proc"))
        found.append(status_of(app, container, record, (), boottime, wall))
    return found


def checked(record: Record, boot: str, proc: Path) -> Record:
    """The record as it is, or stopped where its process does not live (any more) in its cgroup."""
    if record.state in ("stopped", "completed", "failed", "exhausted", "pending"):
        return record
    if record.boot == boot and record.pid is not None and lives(record.pid, record.cgroup, proc):
        return record
    return attrs.evolve(record, state="stopped", pid=None, ready=False, next_start_at=None)


def lives(pid: int, cgroup: str | None, proc: Path) -> bool:
    """Whether that process lives and is in that cgroup: a number alone may be another process by now."""
    try:
        membership = (proc / str(pid) / "cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return cgroup is None or any(line.rstrip("/").endswith(cgroup.strip("/")) for line in membership.splitlines())
