"""The tree: groups as nurseries, the actors in them, and the order in which they stop.

A group is a nursery with a strategy. The order of start and stop follows the app-wide graph; groups decide only what
restarts together. With one-for-one, the only strategy that the app file may ask for now, that is the container that
died, and its actor does it alone.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import TypeAlias, Union

import attrs
import trio

from supervisor import graph
from supervisor.actor import Actor, NotRunning, Request
from supervisor.app_file.spec import AppSpec, Group
from supervisor.machine import Survivor
from supervisor.policy import Reason
from supervisor.status import Status

ROOT: None = None
"""The root group's name."""


@attrs.frozen
class Branch:
    """One group, for `creche tree`: its subgroups, then its containers."""

    name: str
    strategy: str
    children: tuple["Node", ...]


Node: TypeAlias = Union[Branch, Status]  # noqa: UP007 - a forward reference


class Tree:
    """The running groups of one app. `run` is its task; actors are added while it runs."""

    def __init__(self, spec: AppSpec) -> None:
        self._groups: dict[str | None, Group] = {ROOT: spec.group, **spec.groups}
        self._nurseries: dict[str | None, trio.Nursery] = {}
        self._name = spec.name
        self.actors: dict[str, Actor] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the groups open until cancelled; started once every group takes actors."""
        await self._run_group(ROOT, task_status=task_status)

    async def _run_group(self, name: str | None, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            self._nurseries[name] = nursery
            for child in self._subgroups(name):
                await nursery.start(self._run_group_of, child)
            task_status.started()
            await trio.sleep_forever()

    async def _run_group_of(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        await self._run_group(name, task_status=task_status)

    def _subgroups(self, name: str | None) -> list[str]:
        return [child for child, group in self._groups.items() if child is not None and group.parent == name]

    def add(self, actor: Actor, survivor: Survivor | None = None) -> None:
        """Start an actor in its container's group."""
        self.actors[actor.name] = actor
        self._nurseries[actor.container.group].start_soon(actor.run, survivor, name=f"container {actor.name}")

    def leave_running(self) -> None:
        """From now on, cancelling the tree leaves the containers to the next supervisor."""
        for actor in self.actors.values():
            actor.leave_running()

    async def stop(
        self,
        names: Iterable[str],
        *,
        each: float | None = None,
        overall: float | None = None,
        reason: Reason = "request",
        lasting: bool = True,
    ) -> None:
        """Stop these containers, dependents first, as parallel as the graph allows.

        `each` replaces the containers' own stop timeouts; `overall` bounds everything: what is left of it bounds each.
        """
        waits = graph.waits({name: actor.container for name, actor in self.actors.items()})
        chosen = {name: trio.Event() for name in names}
        dependents = graph.dependents(waits)
        limit = trio.current_time() + (float("inf") if overall is None else overall)

        async def stop_one(name: str) -> None:
            for other in dependents[name] & chosen.keys():
                await chosen[other].wait()
            actor = self.actors[name]
            timeout = actor.container.stop.timeout if each is None else each
            timeout = max(0.0, min(timeout, limit - trio.current_time()))
            with suppress(NotRunning):  # its actor ended before, and killed it
                await actor.ask(Request("stop", timeout=timeout, reason=reason, lasting=lasting))
            chosen[name].set()

        async with trio.open_nursery() as nursery:
            for name in chosen:
                nursery.start_soon(stop_one, name)

    def branch(self, statuses: dict[str, Status], name: str | None = ROOT) -> Branch:
        """Return the group with all below it."""
        members = [statuses[actor.name] for actor in self.actors.values() if actor.container.group == name]
        groups = [self.branch(statuses, child) for child in self._subgroups(name)]
        return Branch(self._name if name is None else name, self._groups[name].strategy, (*groups, *members))
