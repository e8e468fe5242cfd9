"""The board: where containers post how they stand, and where those that depend on them look and wait."""

from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from supervisor.graph import Condition
    from supervisor.lifecycle import State


@attrs.frozen
class Standing:
    """How one container stands. `begun`: it executed at least once since it was asked to start."""

    state: "State" = "pending"
    ready: bool = False
    begun: bool = False

    def meets(self, condition: "Condition") -> bool:
        """A completed one counts as ready and as started: it did what others waited for."""
        if self.state == "completed":
            return True
        return {"started": self.begun, "ready": self.ready, "completed": False}[condition]


class Board:
    """Standings by name; waiting costs nothing until the one waited for changes."""

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._changes: dict[str, trio.Event] = {}
        self._any = trio.Event()

    def post(self, name: str, standing: Standing) -> None:
        """Replace a standing and wake those that wait for it."""
        self._standings[name] = standing
        changed = self._changes.pop(name, None)
        if changed is not None:
            changed.set()
        self._any.set()
        self._any = trio.Event()

    def standing(self, name: str) -> Standing:
        """Return the latest; an unknown name is pending."""
        return self._standings.get(name, Standing())

    async def change(self, name: str) -> None:
        """Wait for the next posting of that name."""
        await self._changes.setdefault(name, trio.Event()).wait()

    async def any_change(self) -> None:
        """Wait for the next posting of any name."""
        await self._any.wait()
