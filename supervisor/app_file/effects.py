"""Keys without effect: what a container's other keys make of a key, and why. Pure."""

import functools
from collections.abc import Collection, Iterator

import attrs

from .problems import KeyPath, Problem
from .spec import Container, Group, Restart
from .tables import keys_of


def without_effect(container: Container, broken: Collection[str] = ()) -> Iterator[Problem]:
    """Yield a problem for each key that differs from its default and changes nothing; paths begin at the container.

    Rules that follow from a key in `broken`, whose value is not known, are left out.
    """
    for cause, path, why in _rules(container):
        if cause not in broken and _value(container, path) != _value(_default(container.kind), path):
            yield Problem(path, f"has no effect {why}")


def group_without_effect(group: Group, root: bool) -> Iterator[Problem]:
    """Yield the same for a group's keys; paths begin at the group."""
    if group.max_restarts is None:
        if group.within != Group().within:
            yield Problem(("within",), "has no effect without max_restarts")
        if group.on_exhausted:
            yield Problem(("on_exhausted",), "has no effect without max_restarts")
    if group.limits.swap and group.limits.memory is None:
        yield Problem(("limits", "swap"), "has no effect without limits.memory")
    if root and group.parent is not None:
        yield Problem(("parent",), "has no effect on the root group")


Rule = tuple[str, KeyPath, str]
"""The key that is the cause, the one without effect, and why."""


def _rules(container: Container) -> Iterator[Rule]:
    if container.rootfs is not None:
        yield "rootfs", ("pull",), "on a rootfs"
    if container.kind == "service":
        for key in ("schedule", "concurrency", "timeout", "catch_up"):
            yield "kind", (key,), 'on a service; kind = "job" makes it a job'
    elif container.schedule is None:
        for key in ("concurrency", "catch_up"):
            yield "schedule", (key,), "on a job without schedule"
    yield from _restart_rules(container.restart)
    yield from _network_rules(container)
    if container.limits.memory is None:
        yield "limits", ("limits", "swap"), "without limits.memory"
    if container.read_only:
        yield "read_only", ("writable",), "with read_only = true"
    if container.logs.max_files == 0:
        yield "logs", ("logs", "max_size"), "with logs.max_files = 0"
    if container.security.privileged:
        for key in ("capabilities", "seccomp", "masked"):
            yield "security", ("security", key), "with security.privileged = true"
    if container.scale is not None:
        yield "scale", ("replicas",), "with scale, which decides how many there are"


def _restart_rules(restart: Restart) -> Iterator[Rule]:
    if restart.policy == "never":
        for key in keys_of(Restart):
            if key not in ("policy", "success_codes"):
                yield "restart", ("restart", key), 'with restart.policy = "never"'
    elif restart.max_restarts is None:
        yield "restart", ("restart", "within"), "without restart.max_restarts"
    if restart.max_restarts is None:
        yield "restart", ("on_exhausted",), "without restart.max_restarts"


def _network_rules(container: Container) -> Iterator[Rule]:
    if container.network != "group":
        with_it = f'with network = "{container.network}"'
        for key in ("ports", "accept", "affinity", "egress"):
            yield "network", (key,), with_it
        if container.network != "host":
            yield "network", ("links",), f"{with_it}; after orders without reach"
        if container.network == "none":
            yield "network", ("dns",), with_it
    elif container.replicas == 1 and container.scale is None:
        yield "replicas", ("affinity",), "with one replica"


@functools.cache
def _default(kind: str) -> Container:
    return Container(name="default", kind=kind)


def _value(container: Container, path: KeyPath) -> object:
    value: object = container
    for step in path:
        value = getattr(value, str(step))
    return value


def quiet(container: Container, path: KeyPath) -> Container:
    """Return the container with the key at `path` (one or two steps) back at its default."""
    default = _default(container.kind)
    first, *rest = (str(step) for step in path)
    if not rest:
        return attrs.evolve(container, **{first: getattr(default, first)})
    inner = attrs.evolve(getattr(container, first), **{rest[0]: getattr(getattr(default, first), rest[0])})
    return attrs.evolve(container, **{first: inner})
