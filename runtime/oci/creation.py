"""`create`: a bundle becomes a pid 1 that waits for its start.

creche-oci is itself the launcher of its one container (runtime.launch.birth): it prepares as the host's root, clones,
and waits on the report FIFO. Whatever fails leaves nothing: no process, cgroup, descriptor or directory.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from runtime import capabilities, hooks, namespaces, seccomp
from runtime.cgroups.group import Group, Leaf
from runtime.launch import birth, helper
from runtime.launch.messages import memory_file
from runtime.mounts import PIVOT_PLACE, AttachRoot, PivotRoot
from runtime.oci import placing
from runtime.oci.bundle import Bundle
from runtime.oci.log import Log, OciError, stamp
from runtime.oci.moved_root import MoveRoot
from runtime.oci.starting import poststop
from runtime.oci.state import Directory, Record, birth_of, document, replace
from runtime.plan import Place, plan
from runtime.world import Operation, World

WALL = 0x40000000  # __WALL in wait(2): what is cloned here signals nobody at its end
CONSOLE = "console"
"""The key under which the terminal's operation finds the socket for its master."""


class How(NamedTuple):
    """What the command line says about a start."""

    console: int | None = None  # a connected socket that is sent the terminal's master
    pid_file: str | None = None
    preserved: int = 0  # descriptors from 3 on that reach the program
    pivot: bool = True
    keyring: bool = True  # a session keyring of its own


class Made(NamedTuple):
    """A container that waits for its start; `child` is this process's own."""

    directory: Directory
    record: Record
    child: birth.Child


def create(root: Path, identifier: str, bundle: Bundle, how: How, log: Log) -> Made:
    """Make a container up to the point before its program; its directory stays locked. Raises OciError."""
    check_preserved(how.preserved)
    directory = Directory(root, identifier)
    directory.make()
    try:
        with contextlib.ExitStack() as undo:
            made = _create(directory, bundle, how, log, undo)
            undo.pop_all()
            return made
    except BaseException:
        directory.remove()
        directory.unlock()
        raise


def check_preserved(number: int) -> None:
    """Raise OciError unless the descriptors 3 to number + 2 are open; to be called before anything is opened."""
    for descriptor in range(3, 3 + number):
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError as error:
            raise OciError(f"--preserve-fds: descriptor {descriptor} is not open") from error


def _create(directory: Directory, bundle: Bundle, how: How, log: Log, undo: contextlib.ExitStack) -> Made:
    config = bundle.config
    linux: dict[str, Any] = config.get("linux") or {}
    resources: dict[str, Any] = linux.get("resources") or {}
    wanted = namespaces.read(linux)
    hooked = hooks.read(config)
    path, own = placing.path_of(config, directory.id)
    group = placing.group_at(path, own, resources)
    maker = os.getpid()
    started = birth_of(maker)
    record = Record(
        id=directory.id,
        bundle=bundle.path,
        rootfs=bundle.root,
        created=stamp(),
        owner="root" if os.getuid() == 0 else str(os.getuid()),
        annotations=_annotations(config),
        cgroup=path,
        own=own,
        places=tuple(place.directory(path) for place in group.places),
        maker=(maker, started[0] if started else 0),
    )
    state = json.dumps(document(record, "creating", 0))
    steps = plan(
        config,
        Place(
            (),
            False,
            "",
            hierarchies=_shown(group),
            init=False,
            last_capability=capabilities.last(),
            root=bundle.root,
            state=state,
        ),
    )
    for warning in steps.warnings:
        log.warning(warning)
    profile: dict[str, Any] | None = linux.get("seccomp")
    filter_code = seccomp.cached(profile, directory.root / ".seccomp") if profile else None
    directory.write("config.json", json.dumps(config))
    directory.write("state.json", record.pack())
    leaf = _cgroup(group, resources, log, undo)
    with contextlib.ExitStack() as closing:
        world = World(_user(wanted, closing), 1, 2, 0)
        closing.callback(world.close)
        entered = _namespaces(wanted, world.userns, closing)
        if filter_code is not None:
            world.keep("seccomp", memory_file("seccomp", filter_code))
        if how.console is not None:
            world.keep(CONSOLE, os.dup(how.console))
        for operation in steps.prepare:
            log.debug(operation.describe())
            execute(operation, world)
        enter = steps.enter if how.pivot else _unpivoted(steps.enter)
        program = program_of(steps.program, how.preserved)._replace(keyring=how.keyring)
        entry = leaf.open()
        closing.callback(entry.close)
        directory.fifos()
        ends = _ends(directory, closing)
        birth.leave_imports()
        subject = birth.Birth(enter, program, world, entered, entry.unified, entry.tasks)
        child = birth.deliver(subject, ends)
        closing.callback(os.close, child.go)
        closing.callback(os.close, child.report)
        undo.callback(end, child)
        found = birth_of(child.pid)
        record = record._replace(pid=child.pid, born=found[0] if found else 0)
        directory.write("state.json", record.pack())

        def hook() -> None:
            about = json.dumps(document(record, "creating")).encode()
            undo.callback(poststop, config, record, log)
            for stage in ("prestart", "createRuntime"):
                hooks.run(stage, hooked[stage], about)

        hear(child, hook)
    record = record._replace(made=True)
    directory.write("state.json", record.pack())
    if how.pid_file is not None:
        write_pid(how.pid_file, child.pid)
    return Made(directory, record, child)


def _annotations(config: dict[str, Any]) -> dict[str, str]:
    found: dict[str, Any] = config.get("annotations") or {}
    for key, value in found.items():
        if not key or not isinstance(value, str):
            raise OciError(f"annotations: {key!r}: keys must not be empty, values must be strings")
    return found


def _shown(group: Group) -> tuple[tuple[str, str], ...]:
    """Return the hierarchies for the container's cgroup mount: those in which it has a cgroup of its own."""
    found: list[tuple[str, str]] = []
    for place in group.places:
        if place.version == 2:
            found.append(("unified" if group.layout.mode == "hybrid" else "", ""))
        else:
            found.append((os.path.basename(place.mount), ",".join(sorted(place.controllers))))
    return tuple(found)


def _cgroup(group: Group, resources: dict[str, Any], log: Log, undo: contextlib.ExitStack) -> Leaf:
    leaf = group.itself()
    if members := group.members():
        raise OciError(f"container's cgroup is not empty: {len(members)} process(es) found in {group.path}")
    undo.callback(placing.dissolve, leaf)
    for warning in group.create(resources):
        log.warning(warning)
    if leaf.frozen():
        raise OciError(f"container's cgroup {group.path} is frozen: thaw it, or choose another cgroupsPath")
    return leaf


def _user(wanted: namespaces.Wanted, closing: contextlib.ExitStack) -> int | None:
    """Return the container's user namespace: made with its mappings, opened by its path, or None for the host's."""
    if "user" in wanted.new:
        made, _ = helper.make(wanted.uid_mappings, wanted.gid_mappings, False)
        user = made.user
    else:
        path = next((path for kind, path in wanted.paths if kind == "user"), None)
        user = None if path is None else namespaces.open_path("user", path)
    if user is not None:
        closing.callback(os.close, user)
    return user


def _namespaces(wanted: namespaces.Wanted, user: int | None, closing: contextlib.ExitStack) -> namespaces.Entered:
    joined: list[tuple[str, int]] = []
    if user is not None:
        joined.append(("user", user))
    for kind, path in wanted.paths:
        if kind != "user":
            descriptor = namespaces.open_path(kind, path)
            closing.callback(os.close, descriptor)
            joined.append((kind, descriptor))
    return namespaces.Entered(tuple(joined), wanted.new - {"user"}, wanted.time_offsets)


def _unpivoted(steps: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Return the steps with the root moved instead of pivoted (--no-pivot)."""
    place = next((step.place for step in steps if isinstance(step, AttachRoot)), PIVOT_PLACE)
    return tuple(MoveRoot(place) if isinstance(step, PivotRoot) else step for step in steps)


def program_of(fields: dict[str, Any], preserved: int) -> birth.Program:
    """Return a plan's program; there is no init but what the bundle brings."""
    return birth.Program.planned(fields, None, False)._replace(keep=preserved)


def execute(operation: Operation, world: World) -> None:
    """Do one step as the host's root; raise StartFailure that names it."""
    try:
        operation.execute(world)
    except OSError as error:
        raise birth.failure(operation, error) from error


def _ends(directory: Directory, closing: contextlib.ExitStack) -> birth.Ends:
    """Open the FIFOs; the child's ends for reading and writing, so that it neither ends nor dies without us."""
    both = os.O_RDWR | os.O_CLOEXEC
    go_read = os.open(directory.file("go"), both)
    report_write = os.open(directory.file("report"), both)
    go = os.open(directory.file("go"), os.O_WRONLY | os.O_CLOEXEC)
    report = os.open(directory.file("report"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return birth.Ends(go_read, report_write, go, report)


def hear(child: birth.Child, hook: Callable[[], None]) -> None:
    """Wait until the child stands before its exec; run `hook` where it asks for that. Raises StartFailure."""
    said = b""
    poll = select.poll()
    poll.register(child.report, select.POLLIN)
    while True:
        poll.poll()
        try:
            more = os.read(child.report, 65536)
        except BlockingIOError:
            continue
        said += more
        if said.startswith(birth.HOOKS):
            hook()
            os.write(child.go, hooks.RAN)
            said = said[len(birth.HOOKS) :]
        if said.startswith(birth.CREATED):
            return
        if not more:
            raise birth.failure_from(said)


def end(child: birth.Child) -> None:
    """Kill and reap this process's own child."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitpid(child.pid, WALL)
    os.close(child.pidfd)


def write_pid(path: str, pid: int) -> None:
    """Write the pid file, whole or not at all."""
    try:
        replace(os.path.abspath(path), str(pid), 0o644)
    except OSError as error:
        raise OciError(f"cannot write the pid file {path}: {error.strerror}") from error
