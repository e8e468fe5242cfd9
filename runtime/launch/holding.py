"""What the launcher holds of one container: its namespaces, cgroup and pipes for life, and its current run."""

from typing import Any

from runtime.cgroups.group import Group, Leaf
from runtime.launch import birth, helper
from runtime.launch.connection import Reply
from runtime.launch.messages import Message


class Run:
    """One life of a container's processes."""

    def __init__(self, number: int, child: birth.Child, leaf: Leaf, creator: Reply) -> None:
        self.number = number
        self.child = child
        self.leaf = leaf
        self.creator: Reply | None = creator
        self.starter: Reply | None = None
        self.said = b""
        self.phase = "creating"  # creating → created → starting → running → exited
        self.exit: dict[str, Any] | None = None


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
