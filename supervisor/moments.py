"""Moments as people and programs write them: RFC 3339 in UTC, to and from seconds since the epoch."""

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """Return wall-clock seconds as `2026-01-31T12:00:00.123456Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def unix(moment: str) -> float:
    """Return the seconds since the epoch of an RFC 3339 moment, local time without an offset. Raises ValueError."""
    parsed = datetime.fromisoformat(moment)
    return (parsed if parsed.tzinfo else parsed.astimezone()).timestamp()
