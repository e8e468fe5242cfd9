"""`exec`: one more process in a running container, confined as its main process is."""

import argparse
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from runtime import capabilities, namespaces, seccomp, syscalls
from runtime.cgroups.group import Entry as Way
from runtime.cgroups.group import Leaf
from runtime.launch import birth
from runtime.launch.messages import memory_file
from runtime.oci import placing
from runtime.oci.bundle import read_object
from runtime.oci.creation import CONSOLE, WALL, How, check_preserved, execute, hear, program_of, write_pid
from runtime.oci.log import Log, OciError
from runtime.oci.starting import until_end
from runtime.oci.state import Directory, Record, birth_of, status
from runtime.plan import Place, plan_exec
from runtime.world import World

_FILES = {"network": "net", "mount": "mnt"}
"""The names below /proc/PID/ns where OCI has others."""


def process_of(config: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the process that `exec`'s options ask for: the container's own with what is changed. Raises OciError."""
    if options.process is not None:
        return read_object(options.process)
    arguments: list[str] = options.command_line
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    if not arguments:
        raise OciError("process args cannot be empty: name the program that exec is to run")
    process: dict[str, Any] = json.loads(json.dumps(config["process"]))
    process["args"] = arguments
    process["terminal"] = options.tty
    if not options.tty:
        process.pop("consoleSize", None)
    process["env"] = [*(process.get("env") or []), *options.env]
    if options.cwd is not None:
        process["cwd"] = options.cwd
    if options.user is not None:
        uid, colon, gid = options.user.partition(":")
        if not uid.isdecimal() or (colon and not gid.isdecimal()):
            raise OciError(f"--user: {options.user!r} is not UID[:GID] in numbers")
        process["user"] = {"uid": int(uid), "gid": int(gid) if colon else 0}
    if options.additional_gids:
        user = process.setdefault("user", {"uid": 0, "gid": 0})
        user["additionalGids"] = [*(user.get("additionalGids") or []), *options.additional_gids]
    if options.no_new_privs:
        process["noNewPrivileges"] = True
    if options.process_label is not None:
        process["selinuxLabel"] = options.process_label
    if options.apparmor is not None:
        process["apparmorProfile"] = options.apparmor
    if options.cap:
        try:
            names = [capabilities.name(each) for each in options.cap]
        except ValueError as error:
            raise OciError(f"--cap: {error}") from error
        sets: dict[str, list[str]] = process.setdefault("capabilities", {})
        for key in ("bounding", "effective", "permitted", "ambient"):
            sets[key] = sorted({*(sets.get(key) or []), *names})
    return process


def begin(
    directory: Directory, process: dict[str, Any], how: How, options: argparse.Namespace, log: Log
) -> birth.Child:
    """Start the process in a container whose directory is locked; raise OciError or StartFailure where it cannot."""
    check_preserved(how.preserved)
    record = directory.record()
    _check(status(directory, record), options.ignore_paused)
    config = directory.config()
    linux: dict[str, Any] = config.get("linux") or {}
    profile: dict[str, Any] | None = linux.get("seccomp")
    filter_code = seccomp.cached(profile, directory.root / ".seccomp") if profile else None
    place = Place((), False, "", init=False, last_capability=capabilities.last(), root=record.rootfs, state="")
    steps = plan_exec(process, linux, place)
    for warning in steps.warnings:
        log.warning(warning)
    with contextlib.ExitStack() as closing:
        pidfd = syscalls.pidfd_open(record.pid)
        closing.callback(os.close, pidfd)
        found = birth_of(record.pid)
        if found is None or found[0] != record.born:
            raise OciError("cannot exec in a stopped container")
        joined = foreign(record.pid)
        user = None
        if "user" in joined:
            user = os.open(f"/proc/{record.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            closing.callback(os.close, user)
        world = World(user, 1, 2, 0)
        closing.callback(world.close)
        if filter_code is not None:
            world.keep("seccomp", memory_file("seccomp", filter_code))
        if how.console is not None:
            world.keep(CONSOLE, os.dup(how.console))
        for operation in steps.prepare:
            execute(operation, world)
        way = _way(record, options.cgroup)
        closing.callback(way.close)
        program = program_of(steps.program, how.preserved)
        log.debug(f"enter {', '.join(sorted(joined))} of process {record.pid}")
        birth.leave_imports()
        child = birth.enter(birth.Entry(steps.enter, program, world, pidfd, joined, way.unified, way.tasks))
        closing.callback(os.close, child.go)
        closing.callback(os.close, child.report)
        hear(child, _no_hooks)
        if how.pid_file is not None:
            write_pid(how.pid_file, child.pid)
        os.write(child.go, b"1")
        said = until_end(child.report)
        if said:
            os.waitpid(child.pid, WALL)
            raise birth.failure_from(said)
    return child


def _no_hooks() -> None:
    raise OciError("one more process has no hooks")


def _check(found: str, ignore_paused: bool) -> None:
    if found == "paused" and not ignore_paused:
        raise OciError("cannot exec in a paused container (use --ignore-paused to override)")
    if found in ("stopped", "creating"):
        raise OciError(f"cannot exec in a {found} container")


def foreign(pid: int) -> frozenset[str]:
    """Return the kinds of namespaces that a process does not share with this one."""
    kinds: set[str] = set()
    for kind in namespaces.KINDS:
        name = _FILES.get(kind, kind)
        try:
            theirs, ours = os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
        except FileNotFoundError:
            if Path(f"/proc/{pid}/ns").is_dir():
                continue  # a kind that this kernel was built without
            raise
        if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
            kinds.add(kind)
    return frozenset(kinds)


def _way(record: Record, below: list[str]) -> Way:
    """Open the way into the container's cgroup, or below it where --cgroup says so: [controllers:]path."""
    leaf = placing.leaf_of(record)
    paths = dict.fromkeys((place.mount for place in leaf.places), record.cgroup)
    for each in below:
        names, colon, path = each.rpartition(":")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise OciError(f"--cgroup: {each!r} leads out of the container's cgroup")
        wanted = set(names.split(",")) if colon else None
        chosen = [place for place in leaf.places if wanted is None or wanted <= place.controllers]
        if not chosen:
            raise OciError(f"--cgroup: the container has no cgroup for {names}")
        for place in chosen:
            paths[place.mount] = "/".join((record.cgroup, *parts))
    unified: int | None = None
    tasks: list[int] = []
    for place in leaf.places:
        way = Leaf((place,), paths[place.mount]).open()
        unified = unified if way.unified is None else way.unified
        tasks += way.tasks
    return Way(unified, tuple(tasks))
