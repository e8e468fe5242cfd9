"""`start`, and the hooks whose failure is only a warning: what follows once a container has been made."""

import json
import os
import select
from typing import Any

from runtime import hooks
from runtime.launch.failures import failure_from
from runtime.oci.log import Log, OciError
from runtime.oci.state import Directory, Record, document, status


def start(directory: Directory, record: Record, log: Log) -> None:
    """Let a created container execute its program; raise OciError where it cannot."""
    found = status(directory, record)
    if found != "created":
        why = {
            "running": "cannot start an already running container",
            "stopped": "cannot start a container that has stopped",
        }
        raise OciError(why.get(found, f"cannot start a container in the {found} state"))
    report = os.open(directory.file("report"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        go = os.open(directory.file("go"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(go, b"1")
        finally:
            os.close(go)
        said = until_end(report)
    finally:
        os.close(report)
    if said:
        raise failure_from(said)
    log.debug(f"{record.id} executes its program")
    run_hooks(directory.config(), "poststart", record, "running", log)


def until_end(report: int) -> bytes:
    """Return all that is said until every process has closed the other end: the exec, or a death, does."""
    said = b""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    while True:
        poll.poll()
        try:
            more = os.read(report, 65536)
        except BlockingIOError:
            continue
        if not more:
            return said
        said += more


def run_hooks(config: dict[str, Any], stage: str, record: Record, status: str, log: Log) -> None:
    """Run hooks whose failure is only a warning (runtime.md, "Lifecycle")."""
    try:
        hooks.run(stage, hooks.read(config)[stage], json.dumps(document(record, status)).encode())
    except OSError as error:
        log.warning(str(error))


def poststop(config: dict[str, Any], record: Record, log: Log) -> None:
    """Run the hooks of a container that is no more."""
    run_hooks(config, "poststop", record, "stopped", log)
