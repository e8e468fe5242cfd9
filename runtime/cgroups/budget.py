"""A budget above several containers: one cgroup with limits that all of its members share.

    creche/<app>/<budget>               limits; holds no process
    creche/<app>/<budget>/<container>   a member: an ordinary `Group`, whose own limits hold below the budget's

The kernel keeps both: a member never gets more than its own limit, all members never more than the budget's.
"""

import errno
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.cgroups import freezer, oom, tree
from runtime.cgroups.group import Group
from runtime.cgroups.hierarchy import OURS, CgroupError, Layout
from runtime.cgroups.resources import Resources
from runtime.cgroups.stats import Stats

_DEPTH = 3
"""Parts of a budget's path: a member below it is told from a container by having one more."""


class Budget(NamedTuple):
    """A group that holds groups. It has to be created before its members, and removed after them."""

    group: Group

    @classmethod
    def at(cls, layout: Layout, path: str, resources: Mapping[str, Any]) -> "Budget":
        """Name the budget at `path`, `creche/<app>/<budget>`, for limits in OCI's form; touches nothing.

        Raises ValueError for another path, and whatever `Group.at` raises. `unified` may say `memory.oom.group`: then
        an OOM kill by the budget's limit takes all members together, on v2.
        """
        parts = path.split("/")
        if len(parts) < _DEPTH or parts[0] != OURS:
            raise ValueError(f"{path!r} is no budget: it must be {OURS}/<app>/<budget>, with its members below")
        _refuse_throttles(layout, resources)
        return cls(Group.at(layout, path, resources))

    @property
    def path(self) -> str:
        """The budget's cgroup; a member's path begins with it."""
        return self.group.path

    def create(self, resources: Mapping[str, Any]) -> list[str]:
        """Make the directories and set the limits; return warnings. An existing one gets its limits again."""
        return self.group.create(resources)

    def update(self, resources: Mapping[str, Any]) -> list[str]:
        """Change the limits that `resources` names while members run; see `Group.update`."""
        _refuse_throttles(self.group.layout, resources)
        return self.group.update(resources)

    def stats(self) -> Stats:
        """Read what all members together use."""
        return self.group.stats()

    def freeze(self, timeout: float = freezer.TIMEOUT) -> None:
        """Stop all members; see `Group.freeze`."""
        self.group.freeze(timeout)

    def thaw(self, timeout: float = freezer.TIMEOUT) -> None:
        """Let all members go on; raises CgroupError where the app above is frozen."""
        self.group.thaw(timeout)

    def oom_watch(self) -> oom.OomWatch:
        """Watch the budget: `own` counts how often its limit, not a member's, called the OOM killer.

        Which process died is counted by the member (`Leaf.oom_kills`), whosever limit it was.
        """
        return self.group.oom_watch()

    def members(self) -> list[int]:
        """Return the pids of all members."""
        return tree.members(self.group.places, self.path)

    def remove(self) -> bool:
        """Remove the budget and its members' empty directories; False while a process is left."""
        return self.group.remove()


def _refuse_throttles(layout: Layout, resources: Mapping[str, Any]) -> None:
    """Refuse what v1 counts for each cgroup alone: members would each get the whole budget."""
    if Resources.parse(resources, update=True).throttles and "io" not in layout.controllers:
        raise CgroupError(
            errno.ENOTSUP,
            "blockIO.throttle*Device is not supported for a budget on cgroup v1: each cgroup is throttled for itself",
            None,
            "limit each container, or use cgroup v2",
        )
