"""Pure: the app-wide dependency graph: who waits for whom, in which order to start and to stop."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from supervisor.app_file.spec import Container

Condition = Literal["started", "ready", "completed"]
Waits = Mapping[str, Mapping[str, Condition]]
"""For each container, in app order: what it waits for, and for which condition."""

_STRENGTH: dict[Condition, int] = {"started": 0, "ready": 1, "completed": 2}


def waits_of(container: "Container") -> dict[str, Condition]:
    """Return what it waits for: its waiting links within the app (ready) and its `after`; the stronger wins."""
    found: dict[str, Condition] = {}
    links: list[tuple[str, Condition]] = [
        (link.to, "ready") for link in container.links if link.wait and link.app is None
    ]
    after = cast("Mapping[str, Condition]", container.after)
    for name, condition in [*links, *after.items()]:
        if name not in found or _STRENGTH[found[name]] < _STRENGTH[condition]:
            found[name] = condition
    return found


def waits(containers: Mapping[str, "Container"]) -> dict[str, dict[str, Condition]]:
    """Return the graph of a whole app."""
    return {name: waits_of(container) for name, container in containers.items()}


def dependents(graph: Waits) -> dict[str, frozenset[str]]:
    """Return, for each container, those that wait for it: they stop before it."""
    return {name: frozenset(other for other, needs in graph.items() if name in needs) for name in graph}


def layers(graph: Waits) -> list[list[str]]:
    """Return the order of start: each layer waits only for earlier ones. Reversed, it is the order of stop.

    Names that are not in the graph are no obstacle. Raises ValueError naming a cycle.
    """
    left = {name: {need for need in needs if need in graph} for name, needs in graph.items()}
    found: list[list[str]] = []
    while left:
        layer = [name for name, needs in left.items() if not needs & left.keys()]
        if not layer:
            raise ValueError(f"these wait for each other: {' → '.join(cycles(graph)[0])}")
        found.append(layer)
        for name in layer:
            del left[name]
    return found


def cycles(graph: Waits) -> list[list[str]]:
    """Return one cycle per knot of waiting containers, each as a path that ends where it began."""
    found: list[list[str]] = []
    done: set[str] = set()
    for root in graph:
        path: list[str] = []
        trail = [iter([root])]
        while trail:
            name = next(trail[-1], None)
            if name is None:
                trail.pop()
                if path:
                    done.add(path.pop())
            elif name in path:
                found.append([*path[path.index(name) :], name])
            elif name not in done and name in graph:
                path.append(name)
                trail.append(iter(graph[name]))
    return found
