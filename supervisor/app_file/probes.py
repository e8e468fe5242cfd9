"""Probes: how a container is asked whether it has started, is ready, and lives. In code: `Tcp(6379, interval="1s")`."""

import re
from collections.abc import Mapping
from typing import Any, cast

import attrs

from .forms import Choice, Duration, Flag, Form, MapOf, Maybe, Schema, Text, Whole
from .problems import Invalid, Problem, wrong
from .tables import TableOf, key, keys_of, table, unknown_key
from .values import Command

_PORT = Whole(1, 65535)


@table()
class Probe:
    """What all probes have; the class says what is asked."""

    interval: float = key(converter=Duration(zero=False), default=10.0, kw_only=True)
    timeout: float = key(converter=Duration(zero=False), default=1.0, kw_only=True)
    retries: int = key(converter=Whole(1), default=3, kw_only=True)
    successes: int = key(converter=Whole(1), default=1, kw_only=True)
    delay: float = key(converter=Duration(), default=0.0, kw_only=True)


@table()
class Exec(Probe):
    """A command in the container that exits with 0."""

    exec: tuple[str, ...] = key(converter=Command(least=1))


@table()
class Http(Probe):
    """A GET of a path that answers 200–399; without a port, the scheme's own."""

    http: str = key(converter=Text("a path that begins with /", r"/[!-~]*"))
    port: int | None = key(converter=Maybe(_PORT), default=None)
    scheme: str = key(converter=Choice(("http", "https")), default="http")
    headers: Mapping[str, str] = key(
        converter=MapOf(Text("a header's name", r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), Text("one line of text", r"[^\r\n]*")),
        factory=dict,
    )


@table()
class Tcp(Probe):
    """A port in the container that accepts a connection."""

    tcp: int = key(converter=_PORT)


@table()
class Grpc(Probe):
    """A port in the container that answers gRPC's health check with SERVING."""

    grpc: int = key(converter=_PORT)


@table()
class Notify(Probe):
    """The container's own word: `READY=1`, `WATCHDOG=1` on `NOTIFY_SOCKET` (sd_notify)."""

    notify: bool = key(converter=Flag(only=True), default=True)


def _compiles(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(str(error)) from None


@table()
class Log(Probe):
    """A line of the container's output in which the regular expression is found."""

    log: str = key(converter=Text("a regular expression", r"[\s\S]+", test=_compiles))


_PROBES: dict[str, type[Probe]] = {
    "exec": Exec, "http": Http, "tcp": Tcp, "grpc": Grpc, "notify": Notify, "log": Log
}  # fmt: skip


@attrs.frozen
class ProbeForm(Form[Probe]):
    """A probe: a table with exactly one of the kinds' keys, and the keys that this kind has."""

    def parse(self, value: Any) -> Probe:
        if not isinstance(value, Mapping):
            raise wrong(f"must be a table with one of the keys {', '.join(_PROBES)}", value)
        given = cast("Mapping[str, Any]", value)
        kinds = [word for word in given if word in _PROBES]
        if not kinds:
            known = {key for kind in _PROBES.values() for key in keys_of(kind)}
            problems = [unknown_key(key, known) for key in given if key not in known]
            raise Invalid([*problems, Problem((), f"needs one of the keys {', '.join(_PROBES)}")])
        if len(kinds) > 1:
            raise wrong(f"must have only one of the keys {', '.join(kinds)}")
        return TableOf(_PROBES[kinds[0]]).parse(given)

    def __call__(self, value: Any) -> Probe:
        return value if isinstance(value, Probe) else self.parse(value)

    def show(self, value: Probe) -> Any:
        return TableOf(type(value)).show(value)

    def schema(self) -> Schema:
        schemas = [TableOf(kind).schema() for kind in _PROBES.values()]
        for word, schema in zip(_PROBES, schemas, strict=True):
            schema["required"] = [word]
        return {"oneOf": schemas}

    def merge(self, under: Any, over: Any) -> Any:
        if not isinstance(under, Mapping) or not isinstance(over, Mapping):
            return over
        below, above = cast("Mapping[str, Any]", under), cast("Mapping[str, Any]", over)
        if any(word in _PROBES for word in above):
            own = {key for key in keys_of(Probe)}
            below = {key: value for key, value in below.items() if key in own}
        return {**below, **above}
