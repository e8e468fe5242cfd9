"""What the launcher holds of one container: its namespaces, cgroup and pipes for life, and its current run."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

from runtime.cgroups.group import Group, Leaf
from runtime.cgroups.hierarchy import Layout
from runtime.launch import birth, helper
from runtime.launch.connection import Reply
from runtime.launch.failures import complain
from runtime.launch.messages import Message
from runtime.mounts import unmappable

_THAWING = 1.0  # seconds; the launcher waits for it


class Run:
    """One life of a container's processes."""

    def __init__(self, number: int, child: birth.Child, leaf: Leaf, creator: Reply, *, at_once: bool) -> None:
        self.number = number
        self.at_once = at_once  # it was asked to run, not to wait before its exec
        self.child = child
        self.leaf = leaf
        self.creator: Reply | None = creator
        self.starter: Reply | None = None
        self.said = b""
        self.phase = "creating"  # creating → created → starting → running → exited
        self.exit: dict[str, Any] | None = None

    def about(self) -> Message:
        """Return what an answer says of it."""
        return {"pid": self.child.pid, "cgroup": self.leaf.path}

    def go(self, starter: Reply) -> None:
        """Let it exec; `starter` is to be answered when the program runs."""
        self.phase, self.starter = "starting", starter
        with contextlib.suppress(BrokenPipeError):  # it died waiting: the end of its report says so
            os.write(self.child.go, b"1")

    def runs(self) -> None:
        """Its program executes."""
        self.phase, self.creator, self.starter = "running", None, None


class Held:
    """What a container has for life."""

    def __init__(
        self, name: str, namespaces: helper.Namespaces, group: Group, pipes: tuple[int, ...], log: Message
    ) -> None:
        self.name = name
        self.namespaces = namespaces
        self.group = group
        self.pipes = pipes  # stdout read, write, staging read, write; stderr the same four
        self.log = log
        self.run: Run | None = None
        self.warnings: list[str] = []

    def kill(self) -> None:
        """SIGKILL pid 1 of the current run, and with it all of its pid namespace; a dead one needs none."""
        run = self.living()
        if run is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.child.pidfd, signal.SIGKILL)
            self.thaw()

    def thaw(self) -> None:
        """Let a paused container go on: frozen by v1 it would not die, and its next run would be born frozen."""
        run = self.run
        try:
            if run is not None and run.leaf.frozen():
                self.group.thaw(_THAWING)
                if run.leaf.frozen():
                    run.leaf.thaw(_THAWING)
        except OSError as error:  # somebody removed the cgroup: no reason to take the other containers' parent away
            complain(f"{self.name} cannot be thawed: {error}")

    def close(self) -> None:
        """Close its descriptors."""
        _close((*self.pipes, self.namespaces.net, self.namespaces.user))

    def living(self) -> Run | None:
        """Return the current run while its pid 1 lives."""
        return None if self.run is None or self.run.phase == "exited" else self.run

    def snapshot(self) -> Message:
        """Return what another supervisor must know of it."""
        run = self.run
        if run is None:
            return {"run": None}
        shown: Message = {"run": run.number, "pid": run.child.pid, "phase": run.phase, "cgroup": run.leaf.path}
        if run.exit is not None:
            shown["exit"] = run.exit
        shown["userns"] = "mapped" if self.namespaces.user is not None else "host"
        return shown


def make(layout: Layout, name: str, asked: Message, log: Callable[[Held], None]) -> tuple[Held, int]:
    """Make what the container `name` has for life, as `hold` asks for it, and have it logged.

    Returns it and a NETLINK_ROUTE socket in its network namespace; raises OSError, and nothing is left then.
    """
    with contextlib.ExitStack() as undo:
        group = Group.at(layout, asked["cgroup"], asked["resources"])
        undo.callback(group.remove)
        warnings = group.create(asked["resources"])
        userns: list[int] | None = asked["userns"]
        ends = undo.enter_context(contextlib.ExitStack())
        namespaces, inner = _namespaces(userns, ends)
        blocked = None
        if namespaces.user is not None:
            blocked = unmappable(tuple(asked.get("idmapped", ())), namespaces.user)
        if blocked is not None:
            if asked.get("required"):
                raise OSError(errno.EINVAL, "cannot be idmapped, and a user namespace is required", blocked)
            warnings.append(f"runs without a user namespace of its own: {blocked} cannot be idmapped")
            ends.close()
            userns = None
            namespaces, inner = _namespaces(None, ends)
        pipes: list[int] = []
        undo.callback(_close, pipes)
        for _ in range(4):
            pipes.extend(os.pipe2(os.O_CLOEXEC))
        if userns:  # the container's root may hand it on to its user; nobody else could
            for write in (pipes[1], pipes[5]):
                os.fchown(write, userns[0], userns[0])
        held = Held(name, namespaces, group, tuple(pipes), asked["log"])
        held.warnings = warnings
        log(held)
        ends.pop_all()
        undo.pop_all()
        return held, inner


def _namespaces(userns: list[int] | None, undo: contextlib.ExitStack) -> tuple[helper.Namespaces, int]:
    mappings = ((0, userns[0], userns[1]),) if userns else ()
    namespaces, inner = helper.make(mappings, mappings, True)
    undo.callback(_close, (namespaces.net, namespaces.user, inner))
    return namespaces, inner


def _close(descriptors: list[int] | tuple[int | None, ...]) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)
