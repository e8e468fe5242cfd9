"""What is done to a container that exists: signals, pause, limits, its end; and what is told of it."""

import argparse
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

from runtime import syscalls
from runtime.oci import limits, placing
from runtime.oci.log import Log, OciError
from runtime.oci.starting import poststop
from runtime.oci.state import Directory, Record, identifiers, lives, opened, status

_PATIENCE = 10.0  # seconds from SIGKILL to the end


def signal_number(text: str) -> int:
    """Return a signal's number from a number, a name with or without SIG, or RTMIN+n; raise OciError."""
    name = text.upper().removeprefix("SIG")
    if name.isdecimal():
        number = int(name)
    elif name.startswith("RTMIN+") and name[6:].isdecimal():
        number = signal.SIGRTMIN + int(name[6:])
    elif name.startswith("RTMAX-") and name[6:].isdecimal():
        number = signal.SIGRTMAX - int(name[6:])
    else:
        found = getattr(signal, f"SIG{name}", None)
        number = int(found) if isinstance(found, signal.Signals) else -1
    if not 0 <= number <= signal.SIGRTMAX:
        raise OciError(f"unknown signal {text!r}")
    return number


def kill(directory: Directory, number: int, everybody: bool) -> None:
    """Signal pid 1, or all that is in the container's cgroup; raise OciError where there is nobody."""
    record = directory.record()
    found = status(directory, record)
    if everybody:
        leaf = placing.leaf_of(record)
        members = leaf.members()
        if not members:
            raise OciError("container not running")
        if number == signal.SIGKILL:
            leaf.kill()
            return
        for pid in members:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return
    if found in ("stopped", "creating"):
        raise OciError("container not running")
    _signal(record, number)
    if number == signal.SIGKILL and found == "paused":
        placing.leaf_of(record).thaw()  # a frozen process of cgroup v1 does not even die


def _signal(record: Record, number: int) -> None:
    try:
        pidfd = syscalls.pidfd_open(record.pid)
    except ProcessLookupError as error:
        raise OciError("container not running") from error
    try:
        if not lives(record.pid, record.born):
            raise OciError("container not running")
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError as error:
            raise OciError("container not running") from error
    finally:
        os.close(pidfd)


def delete(root: Path, identifier: str, force: bool, log: Log) -> None:
    """Delete a stopped container, with `force` any, also one whose creation never ended; raise OciError."""
    directory = Directory(root, identifier)
    if not directory.path.is_dir():
        if force:
            return
        raise OciError(f"container does not exist: {identifier}")
    with directory:
        try:
            directory.lock()
            record = directory.record()
        except OciError:
            if force:  # its maker died before it wrote anything, or it is gone by now
                directory.remove()
                return
            raise
        found = status(directory, record)
        if found in ("running", "paused", "creating") and not force:
            raise OciError(f"cannot delete container {identifier} that is not stopped: {found}")
        destroy(directory, record, log)


def destroy(directory: Directory, record: Record, log: Log) -> None:
    """End what is left of a container, whatever its status, and forget it."""
    leaf = placing.leaf_of(record)
    _end(record)
    placing.dissolve(leaf)
    config: dict[str, Any] = {}
    if Path(directory.file("config.json")).exists():
        config = directory.config()
    poststop(config, record, log)
    directory.remove()


def _end(record: Record) -> None:
    """SIGKILL pid 1 and wait until it is dead; thawed where it is frozen."""
    if not lives(record.pid, record.born):
        return
    try:
        pidfd = syscalls.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if lives(record.pid, record.born):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            placing.leaf_of(record).thaw()
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(_PATIENCE * 1000):
                raise OciError(f"process {record.pid} did not die within {_PATIENCE:g} s of SIGKILL")
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def pause(directory: Directory) -> None:
    """Freeze a running or created container; raise OciError for any other."""
    record = directory.record()
    found = status(directory, record)
    if found not in ("running", "created"):
        raise OciError(f"cannot pause a container that is {found}")
    placing.leaf_of(record).freeze()


def resume(directory: Directory) -> None:
    """Thaw a paused container; raise OciError for any other."""
    record = directory.record()
    if status(directory, record) != "paused":
        raise OciError("cannot resume a container that is not paused")
    placing.leaf_of(record).thaw()


def update(directory: Directory, options: argparse.Namespace, log: Log) -> None:
    """Change the limits of a container and remember them; raise OciError where it is stopped."""
    change = limits.wanted(options)
    record = directory.record()
    if status(directory, record) in ("stopped", "creating"):
        raise OciError("container not running")
    config = directory.config()
    linux: dict[str, Any] = config.setdefault("linux", {})
    linux["resources"] = limits.merged(linux.get("resources") or {}, change)
    for warning in placing.group_of(record).update(change):
        log.warning(warning)
    directory.write("config.json", json.dumps(config))


def containers(root: Path) -> list[tuple[Record, str]]:
    """Return every container with its status; what is deleted meanwhile is left out."""
    found: list[tuple[Record, str]] = []
    for identifier in identifiers(root):
        directory = Directory(root, identifier)
        try:
            record = directory.record()
            found.append((record, status(directory, record)))
        except OciError:
            if directory.path.is_dir():
                raise
    return found


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as text in columns, three blanks between them, as runc prints them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def processes(root: Path, identifier: str, form: str, options: list[str]) -> None:
    """Print the pids of a container as JSON, or its lines of ps(1)."""
    with opened(root, identifier) as directory:
        pids = placing.leaf_of(directory.record()).members()
    if form == "json":
        print(json.dumps(pids))
        return
    import subprocess  # which nothing else here needs

    asked = options[1:] if options[:1] == ["--"] else options
    try:
        done = subprocess.run(["ps", *(asked or ["-ef"])], stdout=subprocess.PIPE, text=True, check=True)
    except FileNotFoundError as error:
        raise OciError("ps is not installed: install procps, or use --format json") from error
    except subprocess.CalledProcessError as error:
        raise OciError(f"ps failed with exit status {error.returncode}") from error
    lines = done.stdout.splitlines()
    heads = lines[0].split() if lines else []
    if "PID" not in heads:
        raise OciError("couldn't find PID field in ps output: ask for it in the options")
    column = heads.index("PID")
    wanted = {str(pid) for pid in pids}
    chosen = [line for line in lines[1:] if line.split()[column : column + 1] and line.split()[column] in wanted]
    sys.stdout.write("".join(f"{line}\n" for line in (lines[0], *chosen)))
