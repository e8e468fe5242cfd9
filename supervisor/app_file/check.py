"""The rules that a whole app must keep, beyond what each value must be. Pure: an AppSpec → its problems."""

import ipaddress
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping

from .effects import group_without_effect, without_effect
from .problems import Invalid, KeyPath, Problem, did_you_mean, shown
from .spec import AppSpec, Container
from .values import NAME, Port

ROOTS = ("image", "build", "rootfs")
_CAUSES = {"scale": {"limits"}, "update": {"replicas", "scale"}, "watch": {"build"}}
"""Rules between keys: the one that a problem names → those that it follows from too."""


def check(spec: AppSpec, broken: Mapping[str, Collection[str]] | None = None) -> tuple[Problem, ...]:
    """Return everything in the app that breaks a rule; paths begin at the file's top.

    `broken` names keys of containers that could not be read and have their default here: rules that would only
    follow from that are left out.
    """
    return tuple(_problems(spec, broken or {}))


def _problems(spec: AppSpec, broken: Mapping[str, Collection[str]]) -> Iterator[Problem]:
    for name, container in spec.containers.items():
        for problem in _container(spec, name, container, broken.get(name, ())):
            yield problem.below("containers", name)
    yield from _circles(spec)
    yield from _taken_ports(spec)
    yield from _groups(spec)
    yield from _named(spec)
    if spec.network.subnet is not None and ipaddress.ip_network(spec.network.subnet).version != 4:
        yield Problem(("network", "subnet"), "must be an IPv4 network", shown(spec.network.subnet))


def _container(spec: AppSpec, name: str, container: Container, broken: Collection[str]) -> Iterator[Problem]:
    try:
        NAME.parse(container.name)
    except Invalid as error:
        yield from error.problems
    if name != container.name:
        yield Problem((), f'is kept under another name than its own, "{container.name}"')
    given = [key for key in ROOTS if getattr(container, key) is not None]
    if not given and not any(did_you_mean(key, ROOTS) for key in broken):
        yield Problem((), "needs one of image, build, rootfs")
    elif len(given) > 1:
        yield Problem((given[0],), f"must be the only one of image, build, rootfs, found {' and '.join(given)}")
    yield from _links(spec, container)
    yield from _volumes(container)
    for problem in (*_values(container), *_scaling(container)):
        causes = {str(problem.path[0])} | _CAUSES.get(str(problem.path[0]), set())
        if causes.isdisjoint(broken):
            yield problem
    yield from without_effect(container, broken)
    for index, port in enumerate(container.ports):
        if ":" in port.host_ip and ipaddress.ip_address(port.host_ip).is_loopback:
            yield Problem(("ports", index), f"[{port.host_ip}] cannot be published; use 127.0.0.1")
    if container.group is not None and container.group not in spec.groups:
        yield _missing(("group",), "group", container.group, spec.groups)
    for index, secret in enumerate(container.secrets):
        if secret not in spec.secrets:
            yield _missing(("secrets", index), "secret", secret, spec.secrets)
    if container.network.startswith("container:"):
        shared = container.network.removeprefix("container:")
        if shared == container.name:
            yield Problem(("network",), "a container cannot share its own network")
        elif shared not in spec.containers:
            yield _missing(("network",), "container", shared, spec.containers)


def _missing(path: KeyPath, what: str, name: str, known: Iterable[str]) -> Problem:
    return Problem(path, f'there is no {what} "{name}"', advice=did_you_mean(name, known))


def _links(spec: AppSpec, container: Container) -> Iterator[Problem]:
    others = [name for name in spec.containers if name != container.name]
    aliases = {"localhost": "this container itself", container.hostname or container.name: "this container itself"}
    for index, link in enumerate(container.links):
        path: KeyPath = ("links", index)
        if link.app is None and link.to == container.name:
            yield Problem(path, "a container cannot link to itself")
            continue
        if link.app is None and link.to not in spec.containers:
            yield _missing(path, "container", link.to, others)
        if link.alias.lower() in aliases:
            yield Problem(path, f'the name "{link.alias}" already means {aliases[link.alias.lower()]}')
        aliases.setdefault(link.alias.lower(), f"{link.app}/{link.to}" if link.app else link.to)
    for name in container.after:
        if name == container.name:
            yield Problem(("after", name), "a container cannot wait for itself")
        elif name not in spec.containers:
            yield _missing(("after", name), "container", name, others)


def _volumes(container: Container) -> Iterator[Problem]:
    targets: set[str] = set()
    for index, mount in enumerate(container.volumes):
        target = posixpath.normpath(mount.target)
        path: KeyPath = ("volumes", index)
        if not mount.target.startswith("/") or ".." in mount.target.split("/"):
            yield Problem(path, "the target must be an absolute path without ..", shown(mount.target))
        elif target.lstrip("/") == "" or f"{target}/".startswith("/proc/"):
            yield Problem(path, f"nothing can be mounted at {mount.target}; choose another target")
        elif target in targets:
            yield Problem(path, f"{mount.target} is another volume's target already")
        targets.add(target)
        if ":" in mount.target or ":" in (mount.source or ""):
            yield Problem(path, "a path with a colon cannot be mounted")


def _values(container: Container) -> Iterator[Problem]:
    restart = container.restart
    for code in restart.fatal_codes:
        if code in restart.success_codes:
            yield Problem(("restart", "fatal_codes"), f"{code} is one of restart.success_codes too")
    if restart.policy != "never" and restart.delay > restart.max_delay:
        yield Problem(("restart", "delay"), "must not be longer than restart.max_delay")
    for name, limit in container.ulimits.items():
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            yield Problem(("ulimits", name), "soft must not be more than hard")
    for part in (container.limits.cpuset or "").split(","):
        first, _, last = part.partition("-")
        if last and int(first) > int(last):
            yield Problem(("limits", "cpuset"), "a range must not end before it begins", shown(part))
    for index, watch in enumerate(container.watch):
        if (watch.action == "sync") != (watch.target is not None):
            yield Problem(("watch", index), 'needs a target with action = "sync", and only then')
        if watch.action == "rebuild" and container.build is None:
            yield Problem(("watch", index), 'action = "rebuild" needs build')


def _scaling(container: Container) -> Iterator[Problem]:
    if (least := container.update.min_ready) is not None and least > container.replicas and container.scale is None:
        yield Problem(("update", "min_ready"), f"must not be more than replicas, {container.replicas}", str(least))
    scale = container.scale
    if scale is None:
        return
    if scale.min > scale.max:
        yield Problem(("scale", "min"), "must not be more than scale.max", str(scale.min))
    if (scale.cpu is None) == (scale.memory is None):
        yield Problem(("scale",), "needs exactly one of cpu, memory")
    if scale.cpu is not None and container.limits.cpus is None:
        yield Problem(("scale", "cpu"), "needs limits.cpus, of which it is a fraction")
    if scale.memory is not None and container.limits.memory is None:
        yield Problem(("scale", "memory"), "needs limits.memory, of which it is a fraction")


def waits(container: Container) -> dict[str, KeyPath]:
    """Return the app's containers that this one waits for → the key that says so, from the container."""
    found: dict[str, KeyPath] = {name: ("after", name) for name in container.after}
    for index, link in enumerate(container.links):
        if link.wait and link.app is None:
            found.setdefault(link.to, ("links", index))
    return {name: path for name, path in found.items() if name != container.name}


def _circles(spec: AppSpec) -> Iterator[Problem]:
    graph = {name: waits(container) for name, container in spec.containers.items()}
    for circle in circles({name: [to for to in edges if to in graph] for name, edges in graph.items()}):
        first, second = circle[0], circle[1 % len(circle)]
        yield Problem(
            ("containers", first, *graph[first][second]),
            f"none of these can start first: {' → '.join([*circle, first])}",
            advice="a link with wait = false does not wait",
        )


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return circles of a graph, each as its nodes in order from the one first mentioned; no node is in two."""
    found: list[list[str]] = []
    done: set[str] = set()
    for root in graph:
        trail: list[str] = []
        stack = [(root, iter(graph[root]))] if root not in done else []
        trail += [root] if stack else []
        while stack:
            node, edges = stack[-1]
            for other in edges:
                if other in trail:
                    circle = trail[trail.index(other) :]
                    if not any(set(circle) & set(known) for known in found):
                        found.append(circle)
                elif other not in done:
                    trail.append(other)
                    stack.append((other, iter(graph[other])))
                    break
            else:
                done.add(node)
                trail.pop()
                stack.pop()
    order = {name: index for index, name in enumerate(graph)}
    starts = [min(range(len(circle)), key=lambda at, circle=circle: order[circle[at]]) for circle in found]
    return [circle[start:] + circle[:start] for circle, start in zip(found, starts, strict=True)]


def _taken_ports(spec: AppSpec) -> Iterator[Problem]:
    taken: dict[tuple[int, str], list[tuple[Port, str]]] = {}
    for name, container in spec.containers.items():
        if container.network != "group":
            continue
        for index, port in enumerate(container.ports):
            others = taken.setdefault((port.host, port.protocol), [])
            for other, owner in others:
                if _overlap(other.host_ip, port.host_ip):
                    whose = "by this container already" if owner == name else f"by containers.{owner} too"
                    place = f"{port.host_ip}:{port.host}/{port.protocol}"
                    yield Problem(("containers", name, "ports", index), f"{place} is published {whose}")
                    break
            others.append((port, name))


def _overlap(one: str, other: str) -> bool:
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return first == second or (first.version == second.version and (first.is_unspecified or second.is_unspecified))


def _groups(spec: AppSpec) -> Iterator[Problem]:
    yield from (problem.below("group") for problem in group_without_effect(spec.group, root=True))
    used = {container.group for container in spec.containers.values()}
    used |= {group.parent for group in spec.groups.values()}
    for name, group in spec.groups.items():
        yield from (problem.below("groups", name) for problem in group_without_effect(group, root=False))
        if group.parent is not None and group.parent not in spec.groups:
            yield _missing(
                ("groups", name, "parent"), "group", group.parent, [key for key in spec.groups if key != name]
            )
        if name not in used:
            yield Problem(("groups", name), "has no effect: no container and no group is in it")
    parents = {name: [group.parent] if group.parent in spec.groups else [] for name, group in spec.groups.items()}
    for circle in circles({name: [parent for parent in up if parent] for name, up in parents.items()}):
        trail = " → ".join([*circle, circle[0]])
        yield Problem(("groups", circle[0], "parent"), f"these groups are in each other: {trail}")


def _named(spec: AppSpec) -> Iterator[Problem]:
    mounts = [mount for container in spec.containers.values() for mount in container.volumes]
    mounted = {mount.source for mount in mounts if mount.kind == "volume"}
    for name in spec.volumes:
        if name not in mounted:
            advice = did_you_mean(name, [source for source in mounted if source])
            yield Problem(("volumes", name), "has no effect: no container mounts it", advice=advice)
    used = {secret for container in spec.containers.values() for secret in container.secrets}
    for name, secret in spec.secrets.items():
        if (secret.file is None) == (secret.env is None):
            yield Problem(("secrets", name), "needs exactly one of file, env")
        if name not in used:
            advice = did_you_mean(name, used)
            yield Problem(("secrets", name), "has no effect: no container uses it", advice=advice)
