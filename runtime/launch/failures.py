"""Why a start failed: a step with its errno, path and advice, as the launcher's answers and `inspect` carry it."""

import contextlib
import json
import os
from typing import Any

from runtime.world import Operation

INTERNAL = 70  # EX_SOFTWARE: a defect of creche itself
CANNOT_START, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127  # as `docker run` has them


class StartFailure(Exception):
    """A step of a birth failed: which one, with which errno, about which path, and what to do."""

    def __init__(
        self, operation: str, number: int | None, message: str, path: str | None, advice: str | None, code: int
    ) -> None:
        super().__init__(f"{operation}: {message}")
        self.fields: dict[str, Any] = {
            "operation": operation,
            "errno": number,
            "message": message,
            "path": path,
            "advice": advice,
            "exit_code": code,
        }


def failure_from(said: bytes) -> StartFailure:
    """Return the failure that a child reported before it died; silence is a failure too."""
    for line in said.splitlines():
        with contextlib.suppress(ValueError, KeyError):
            fields = json.loads(line.decode())
            if isinstance(fields, dict) and "operation" in fields:
                return StartFailure(*(fields[key] for key in _FAILURE_FIELDS))  # pyright: ignore[reportUnknownArgumentType]
    advice = "a limits.memory that is too small for the start itself does this; a dozen megabytes are enough"
    return StartFailure("start", None, "the process died before its program ran", None, advice, CANNOT_START)


_FAILURE_FIELDS = ("operation", "errno", "message", "path", "advice", "exit_code")


def failure(operation: Operation, error: OSError) -> StartFailure:
    """Return an operation's OSError as a failure with its advice."""
    advice: dict[int, str] = getattr(operation, "ADVICE", {})
    path = error.filename if isinstance(error.filename, str) else None
    message = error.strerror or str(error)
    return StartFailure(operation.describe(), error.errno, message, path, advice.get(error.errno or 0), CANNOT_START)


def complain(words: str) -> None:
    """Write a line to this process's log about what nobody asked for; a log on a full disk stays without it."""
    with contextlib.suppress(OSError):
        os.write(2, f"creche: {words}\n".encode())
