"""What people and `creche ps --json` see of a container: pure, from its spec and its record."""

from typing import TYPE_CHECKING, Literal

import attrs

from supervisor.journal import Record
from supervisor.lifecycle import State
from supervisor.moments import rfc3339
from supervisor.policy import Reason

if TYPE_CHECKING:
    from supervisor.app_file.spec import Container, Port


@attrs.frozen
class Status:
    """The fields of `creche ps --json`, with cli.md's meanings; times are RFC 3339 in UTC."""

    app: str
    name: str
    service: str
    replica: int
    state: State
    ready: bool
    health: Literal["none", "starting", "healthy", "unhealthy"]
    pid: int | None
    ip: str | None
    ports: tuple[str, ...]
    image: str | None
    restarts: int
    exit_code: int | None
    """How the latest ended run ended, also while the next one runs; `exit_signal` and `oom_killed` likewise."""
    exit_signal: int | None
    oom_killed: bool
    started_at: str | None
    finished_at: str | None
    waiting_for: tuple[str, ...]
    next_start_at: str | None
    last_reason: Reason | None
    group: str | None
    cgroup: str | None
    rootfs: str | None
    userns: str
    """Before the first run what is asked for."""


def status_of(
    app: str, container: "Container", record: Record, waiting_for: tuple[str, ...], boottime: float, wall: float
) -> Status:
    """Return what is seen now; `boottime` and `wall` are the two clocks at one moment."""
    lives = record.state in ("starting", "running", "paused", "stopping", "backing-off")
    due = record.next_start_at if record.state == "backing-off" else None
    return Status(
        app=app,
        name=container.name,
        service=container.name,
        replica=1,
        state=record.state,
        ready=record.ready,
        health="none",
        pid=record.pid if lives else None,
        ip=record.address,
        ports=tuple(published(port) for port in container.ports),
        image=container.image,
        restarts=record.restarts,
        exit_code=record.exit_code,
        exit_signal=record.exit_signal,
        oom_killed=record.oom_killed,
        started_at=_moment(record.started_at),
        finished_at=_moment(record.finished_at),
        waiting_for=waiting_for,
        next_start_at=None if due is None else rfc3339(wall + due - boottime),
        last_reason=record.last_reason,
        group=container.group,
        cgroup=record.cgroup if lives else None,
        rootfs=container.rootfs,
        userns=record.userns or ("host" if container.security.userns == "host" else "mapped"),
    )


def published(port: "Port") -> str:
    """Return `ip:host:container/tcp`."""
    return f"{port.host_ip}:{port.host}:{port.container}/{port.protocol}"


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)
