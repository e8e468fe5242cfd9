"""What is to be born: a run's pid 1, or one more process of a container that runs already."""

import signal
from typing import NamedTuple

from runtime.launch.program import Program
from runtime.namespaces import Entered
from runtime.world import Operation, World

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
"""What the launcher ignores, the last two because Python does, and no container may inherit."""

# On the report pipe; every other line is a failure in JSON.
CREATED = b"created\n"
HOOKS = b"hooks\n"  # runtime.hooks: the hooks of the runtime's side are to run now, and `h` on the go pipe ends them


class Birth(NamedTuple):
    """Everything the children of one run need; descriptors are the caller's.

    A user namespace is always a joined one: its id maps can only be written from outside (runtime.launch.helper).
    """

    enter: tuple[Operation, ...]
    program: Program
    world: World
    namespaces: Entered
    cgroup: int | None
    tasks: tuple[int, ...]


class Entry(NamedTuple):
    """Everything that one more process in a running container needs; descriptors are the caller's."""

    enter: tuple[Operation, ...]
    program: Program
    world: World
    pidfd: int  # of the container's pid 1
    namespaces: frozenset[str]  # the kinds to join, all of them pid 1's
    cgroup: int | None
    tasks: tuple[int, ...]


class Child(NamedTuple):
    """A process that was cloned and is on its way through `enter`."""

    pid: int
    pidfd: int
    go: int  # one byte here lets it exec
    report: int  # reads JSON lines; its end means that the program runs (or that the process is dead)


class Ends(NamedTuple):
    """Both ends of the two pipes or FIFOs between a child and whoever lets it go.

    A FIFO whose other side may be closed meanwhile is opened for reading and writing: a child would wait for ever
    on the one, and die of a report that nobody reads on the other.
    """

    go_read: int
    report_write: int
    go: int
    report: int


Subject = Birth | Entry
