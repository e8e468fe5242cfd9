"""What the operations of one run act on and hand to each other."""

import os
from typing import Protocol

from runtime.accounts import Account


class World:
    """Descriptors by key, the container's root, its user namespace and streams, and who its process will be."""

    __slots__ = ("account", "descriptors", "go", "report", "root", "stderr", "stdin", "stdout", "terminal", "userns")

    def __init__(self, userns: int | None, stdout: int, stderr: int, stdin: int | None = None) -> None:
        self.userns = userns
        self.stdin = stdin  # None: /dev/null
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = False  # whether the streams are a terminal that is to control the process's session
        self.go = -1  # the child's ends of the pipes that runtime.launch.birth waits and reports on
        self.report = -1
        self.descriptors: dict[str, int] = {}
        self.root = -1
        self.account = Account(0, 0, (), "/root")

    def keep(self, key: str, descriptor: int) -> None:
        """Remember `descriptor` under `key` until the world is closed."""
        self.descriptors[key] = descriptor

    def close(self) -> None:
        """Close every descriptor that was kept."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


class Operation(Protocol):
    """One step: what it is about, in words, and the doing of it."""

    def describe(self) -> str:
        """Return the step in a few words, as `inspect --plan` and errors print it."""
        ...

    def execute(self, world: World) -> None:
        """Do it; raise OSError with the path it was about."""
        ...
