"""What the format has and this version does not do yet: one table of keys. Pure, for files and for code alike."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from .problems import KeyPath, Problem
from .spec import AppSpec, Container, Group


@attrs.frozen
class Refusal:
    """Why a key must keep its default for now; with `which` only values (or list elements) for which it is true."""

    why: str
    which: Callable[[Any], bool] | None = None


def _not_yet(what: str, which: Callable[[Any], bool] | None = None) -> Refusal:
    return Refusal(f"{what} not yet supported", which)


_JOBS = _not_yet("jobs are")
_PROBES = _not_yet("probes are")

CONTAINER: Mapping[str, tuple[Refusal, ...]] = {
    "image": (Refusal("images are not yet supported; use rootfs"),),
    "build": (Refusal("builds are not yet supported; use rootfs"),),
    "pull": (_not_yet("asking a registry is"),),
    "secrets": (_not_yet("secrets are"),),
    "links": (_not_yet("links to another app are", lambda link: link.app is not None),),
    "accept": (_not_yet("links from another app are"),),
    "ports": (
        _not_yet("udp ports are", lambda port: port.protocol != "tcp"),
        _not_yet("IPv6 host addresses are", lambda port: ":" in port.host_ip and port.host_ip != "::1"),
    ),
    "affinity": (_not_yet("affinity is"),),
    "network": (
        _not_yet("the host's network is", lambda network: network == "host"),
        _not_yet("another container's network is", lambda network: network.startswith("container:")),
    ),
    "egress": (_not_yet("limited egress is"),),
    "limits.io_weight": (_not_yet("it is"),),
    "devices": (_not_yet("devices are"),),
    "tty": (_not_yet("terminals are"),),
    "stdin": (_not_yet("an open standard input is"),),
    "security.privileged": (_not_yet("privileged containers are"),),
    "on_exhausted": (_not_yet("commands on the host are"),),
    "essential": (_not_yet("essential containers are"),),
    "readiness": (_PROBES,),
    "liveness": (_PROBES,),
    "startup": (_PROBES,),
    "kind": (_JOBS,),
    "schedule": (_JOBS,),
    "concurrency": (_JOBS,),
    "timeout": (_JOBS,),
    "catch_up": (_JOBS,),
    "replicas": (_not_yet("more or fewer replicas than one are"),),
    "scale": (_not_yet("autoscaling is"),),
    "update": (_not_yet("updates of a running app are"),),
    "watch": (_not_yet("watching is"),),
    "profiles": (_not_yet("profiles are"),),
}
"""A container's keys, dotted, → why they are refused."""

GROUP: Mapping[str, tuple[Refusal, ...]] = {
    "strategy": (_not_yet("strategies other than one-for-one are"),),
    "max_restarts": (_not_yet("limits on a group's restarts are"),),
    "within": (_not_yet("limits on a group's restarts are"),),
    "limits": (_not_yet("limits of a whole group are"),),
    "on_exhausted": (_not_yet("commands on the host are"),),
}

APP: Mapping[str, tuple[Refusal, ...]] = {
    "include": (_not_yet("including other files is"),),
    "secrets": (_not_yet("secrets are"),),
}


def refused(spec: AppSpec) -> tuple[Problem, ...]:
    """Return a problem for each value that this version cannot give its effect; paths begin at the file's top."""
    found = list(_against(spec, AppSpec(name=spec.name), APP))
    default = Container(name="default")
    for name, container in spec.containers.items():
        problems = _against(container, default, CONTAINER)
        found += [problem.below("containers", name) for problem in problems]
    found += [problem.below("group") for problem in _against(spec.group, Group(), GROUP)]
    for name, group in spec.groups.items():
        found += [problem.below("groups", name) for problem in _against(group, Group(), GROUP)]
    return tuple(found)


def _against(thing: Any, default: Any, table: Mapping[str, tuple[Refusal, ...]]) -> Iterator[Problem]:
    for key, refusals in table.items():
        path = tuple(key.split("."))
        value = _value(thing, path)
        if value == _value(default, path):
            continue
        for refusal in refusals:
            for place in _places(value, path, refusal.which):
                yield Problem(place, refusal.why)


def _places(value: Any, path: KeyPath, which: Callable[[Any], bool] | None) -> Iterator[KeyPath]:
    if which is None:
        yield path
    elif isinstance(value, tuple):
        yield from ((*path, index) for index, element in enumerate(value) if which(element))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    elif which(value):
        yield path


def _value(thing: Any, path: KeyPath) -> Any:
    for step in path:
        thing = getattr(thing, str(step))
    return thing
