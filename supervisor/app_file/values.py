"""The values that the app file writes as one string: ports, mounts, links, signals, addresses; read and printed."""

import ipaddress
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs

from runtime import capabilities

from .forms import Choice, Flag, Form, ListOf, MapOf, Schema, Spelled, Spread, Text, Whole
from .problems import Invalid, Problem, did_you_mean, shown, wrong
from .quantities import parse_size, print_size
from .tables import TableOf, key, table

NAME = Text('a name of lower-case letters, digits, "-" and "_", at most 63 long', r"[a-z0-9][a-z0-9_-]{0,62}")
APP_NAME = Text('a name of lower-case letters, digits and "-", at most 31 long', r"[a-z0-9][a-z0-9-]{0,30}")
VOLUME_NAME = Text(
    'a name of letters, digits, "-", "_" and "." that begins with a letter or digit', r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
)
HOSTNAME = Text(
    "a host name",
    r"(?=.{1,64}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*",
)
ADDRESS = Text("an IP address", test=ipaddress.ip_address)
CIDR = Text('an IP network like "10.1.0.0/16"', test=ipaddress.ip_network)
ABSOLUTE = Text("an absolute path in the container", r"/[\s\S]*")
NOT_EMPTY = Text("a string that is not empty", r"[\s\S]+")


@attrs.frozen
class Command(Form["tuple[str, ...]"]):
    """A program and its arguments: a list, or a string split by shell rules."""

    least: int = 0

    def parse(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError as error:
                raise wrong(f"a shell could not split it ({str(error).lower()})", value) from None
        return ListOf(Text(), "a list, or a string that a shell would split", self.least).parse(value)

    def show(self, value: tuple[str, ...]) -> Any:
        return list(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}


@attrs.frozen
class EnvValue(Form[str]):
    """A variable's value: a string; numbers, true and false become the text that Compose makes of them."""

    def parse(self, value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        return Text("a string, a number, true or false").parse(value)

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean"]}


ENV_NAME = Text('a variable\'s name: not empty, without "="', r"[^=]+")


@attrs.frozen
class Port:
    """One published port: connections to `host_ip`:`host` reach the container's port `container`."""

    host_ip: str
    host: int
    container: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        ip = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{ip}:{self.host}:{self.container}/{self.protocol}"


PORT_FORM = '"[ip:]host:container[/tcp or /udp]"'
_PORT = re.compile(
    r"(?:(?P<ip>\[[^\[\]]*\]|[^\[\]:]*):)?(?P<host>\d+(?:-\d+)?):(?P<container>\d+(?:-\d+)?)(?:/(?P<protocol>\w+))?",
    re.ASCII,
)


def read_ports(text: str) -> list[Port]:
    """Return the ports of `"[ip:]host:container[/protocol]"`, one for each of a range. Raises ValueError."""
    match = _PORT.fullmatch(text)
    if not match:
        raise ValueError(f"must be {PORT_FORM}")
    protocol = match["protocol"] or "tcp"
    if protocol not in ("tcp", "udp"):
        raise ValueError("the protocol must be tcp or udp")
    ip = "127.0.0.1" if match["ip"] is None else match["ip"].strip("[]")
    try:
        ip = str(ipaddress.ip_address(ip))
    except ValueError:
        raise ValueError("the host address must be an IP address") from None
    host, container = _range(match["host"]), _range(match["container"])
    if len(host) != len(container):
        raise ValueError("both ranges must be equally long")
    return [Port(ip, one, other, protocol) for one, other in zip(host, container, strict=True)]


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    if max(len(first), len(last)) > 5:
        raise ValueError("a port is a number from 1 to 65535")
    low, high = int(first), int(last or first)
    if not 1 <= low <= 65535 or not 1 <= high <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    if high < low:
        raise ValueError("a range must not end before it begins")
    return range(low, high + 1)


PORTS = Spread(Port, read_ports, str, f"a list of {PORT_FORM}")


@attrs.frozen
class Mount:
    """One volume of a container: `kind` volume (`source` its name), bind (a path) or tmpfs (no source).

    `size` is a tmpfs's limit in bytes, None for the kernel's own (half of the memory).
    """

    kind: str
    source: str | None
    target: str
    read_only: bool = False
    size: int | None = None

    def __str__(self) -> str:
        options = ["ro"] if self.read_only else []
        if self.size is not None:
            options.append(f"size={print_size(self.size)}")
        return ":".join([self.source or "tmpfs", self.target, *([",".join(options)] if options else [])])


MOUNT_FORM = '"name-or-path:/target[:ro]" or "tmpfs:/target[:size=64M]"'


def read_mount(text: str) -> Mount:
    """Return the mount of `"name-or-path:/target[:ro]"` or `"tmpfs:/target[:size=64M]"`. Raises ValueError."""
    source, *rest = text.split(":")
    if not source or not 1 <= len(rest) <= 2 or "\0" in text:
        raise ValueError(f"must be {MOUNT_FORM}")
    target, options = rest[0], rest[1].split(",") if len(rest) == 2 else []
    if not target.startswith("/"):
        raise ValueError("the target must be an absolute path in the container")
    tmpfs = source == "tmpfs"
    read_only, size = False, None
    for option in options:
        word, _, number = option.partition("=")
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif tmpfs and word == "size":
            try:
                size = parse_size(number)
            except ValueError:
                raise ValueError('the size must be like "64M"') from None
            if not size:
                raise ValueError('the size must be like "64M", more than 0')
        else:
            raise ValueError(f'the options must be "ro"{" or" if tmpfs else ""}{" size=64M" if tmpfs else ""}')
    if tmpfs:
        return Mount("tmpfs", None, target, read_only, size)
    if source.startswith(("/", ".")):
        return Mount("bind", source, target, read_only)
    if not re.fullmatch(VOLUME_NAME.pattern, source):
        path = "; write a path with ./ in front" if "/" in source else ""
        raise ValueError(f"a volume's name must be {VOLUME_NAME.what}{path}")
    return Mount("volume", source, target, read_only)


MOUNTS = ListOf(Spelled(Mount, read_mount, str, f"a string: {MOUNT_FORM}"), f"a list of {MOUNT_FORM}")


@attrs.frozen
class Writable:
    """Where the writable layer lives: `kind` disk, or tmpfs with at most `size` bytes."""

    kind: str = "disk"
    size: int | None = None

    def __str__(self) -> str:
        return self.kind if self.size is None else f"tmpfs:{print_size(self.size)}"


def read_writable(text: str) -> Writable:
    """Return what `"disk"` or `"tmpfs:SIZE"` means. Raises ValueError."""
    if text == "disk":
        return Writable()
    kind, _, size = text.partition(":")
    if kind == "tmpfs":
        try:
            if bytes_ := parse_size(size):
                return Writable("tmpfs", bytes_)
        except ValueError:
            pass
    raise ValueError('must be "disk" or "tmpfs:SIZE" with a size like "64M"')


WRITABLE = Spelled(Writable, read_writable, str, '"disk" or "tmpfs:SIZE"')

_LINK = re.compile(r"(?:(?P<app>[^/:]+)/)?(?P<to>[^/:]+)(?::(?P<alias>[^/:]+))?")


@table()
class Link:
    """Reach the container `to`, of another app where `app` is given, as host `alias`; start after it where `wait`."""

    to: str = key(converter=NAME)
    alias: str = key(converter=HOSTNAME, name="as", default=attrs.Factory(lambda self: self.to, takes_self=True))
    wait: bool = key(converter=Flag(), default=True)
    app: str | None = attrs.field(default=None)


LINK_FORM = '"name[:alias]", "app/name[:alias]" or { to = "name", as = "alias", wait = false }'


def read_link(text: str) -> Link:
    """Return the link of `"[app/]name[:alias]"`. Raises ValueError."""
    match = _LINK.fullmatch(text)
    if not match:
        raise ValueError(f"must be {LINK_FORM}")
    for part, form in ((match["to"], NAME), (match["app"], APP_NAME), (match["alias"], HOSTNAME)):
        if part is not None and not re.fullmatch(form.pattern, part):
            raise ValueError(f'"{part}" must be {form.what}')
    return Link(match["to"], match["alias"] or match["to"], app=match["app"])


@attrs.frozen
class LinkTable(TableOf[Link]):
    """A link as a table; its `to` may name another app's container."""

    def parse(self, value: Any) -> Link:
        app, slash, name = str(value.get("to", "")).partition("/")
        if not slash:
            return super().parse(value)
        link = super().parse({**value, "to": name})
        if not re.fullmatch(APP_NAME.pattern, app):
            raise wrong(f'"{app}" must be {APP_NAME.what}').below("to")
        return attrs.evolve(link, app=app)


def _show_link(link: Link) -> Any:
    to = link.to if link.app is None else f"{link.app}/{link.to}"
    if not link.wait:
        return {"to": to, "as": link.alias, "wait": False}
    return to if link.alias == link.to else f"{to}:{link.alias}"


LINK_TABLE = LinkTable(Link)
LINKS = ListOf(Spelled(Link, read_link, _show_link, LINK_FORM, LINK_TABLE), f"a list of {LINK_FORM}")

CONDITIONS = ("started", "ready", "completed")


@attrs.frozen
class After(Form["Mapping[str, str]"]):
    """Order without reach: a table name → condition, or a list of names that must be ready."""

    def parse(self, value: Any) -> Mapping[str, str]:
        if isinstance(value, list | tuple):
            names = ListOf(NAME, unique=True).parse(value)
            return dict.fromkeys(names, "ready")
        return MapOf(NAME, Choice(CONDITIONS), "a list of names, or a table name → condition").parse(value)

    def show(self, value: Mapping[str, str]) -> Any:
        return dict(value)

    def schema(self) -> Schema:
        table = MapOf(NAME, Choice(CONDITIONS)).schema()
        return {"anyOf": [table, {"type": "array", "items": NAME.schema()}]}

    def merge(self, under: Any, over: Any) -> Any:
        try:
            return {**self.parse(under), **self.parse(over)}
        except Invalid:
            return over


@attrs.frozen
class Signal(Form[str]):
    """A signal by name, with or without SIG, or by number; kept as `SIGTERM`, `SIGRTMIN+3`."""

    def parse(self, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str):
            name = value.upper()
            if name.isdecimal() and len(name) < 4:
                number = int(name)
                if 34 < number <= 64:
                    return f"SIGRTMIN+{number - 34}"
                if number in set(signal.Signals):
                    return signal.Signals(number).name
            name = name if name.startswith("SIG") else f"SIG{name}"
            real_time = re.fullmatch(r"SIGRTMIN\+(\d\d?)|SIGRTMAX-(\d\d?)", name, re.ASCII)
            if name in signal.Signals.__members__ or (real_time and int(real_time[1] or real_time[2]) <= 30):
                return name
        raise wrong('must be a signal like "SIGTERM"', value)

    def schema(self) -> Schema:
        return {"type": ["string", "integer"]}


CAPABILITIES = tuple(name.removeprefix("CAP_") for name in capabilities.NAMES)


@attrs.frozen
class Capability(Form[str]):
    """A capability's name, with or without CAP_, in any case, or ALL; kept without CAP_, upper case."""

    def parse(self, value: Any) -> str:
        name = value.upper().removeprefix("CAP_") if isinstance(value, str) else ""
        if name != "ALL" and name not in CAPABILITIES:
            advice = did_you_mean(name, CAPABILITIES)
            raise wrong('must be a capability like "NET_ADMIN", or "ALL"', value, advice)
        return name

    def schema(self) -> Schema:
        return {"type": "string"}


_CRON = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_CRON_PART = re.compile(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,3}))?", re.ASCII)
_CRON_WORDS = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "weekday": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


def check_cron(text: str) -> None:
    """Raise ValueError unless `text` is a cron line: minute, hour, day, month and weekday (crontab(5))."""
    fields = text.lower().split()
    if len(fields) != len(_CRON):
        raise ValueError(text)
    for field, (name, least, most) in zip(fields, _CRON, strict=True):
        for number, word in enumerate(_CRON_WORDS.get(name, ())):
            field = re.sub(rf"\b{word}\b", str(number + least), field)
        for part in field.split(","):
            match = _CRON_PART.fullmatch(part)
            low, high, step = match.groups() if match else ("-1", None, None)
            numbers = [int(number) for number in (low, high) if number is not None]
            if numbers != sorted(numbers) or any(not least <= number <= most for number in numbers) or step == "0":
                raise ValueError(text)


@table()
class Ulimit:
    """A resource limit's two values; -1 is no limit."""

    soft: int = key(converter=Whole(-1))
    hard: int = key(converter=Whole(-1))


LIMIT_NAMES = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)
ULIMITS = MapOf(
    Choice(LIMIT_NAMES),
    TableOf(
        Ulimit,
        short=lambda value: {"soft": value, "hard": value} if type(value) is int else value,
        short_schema=Whole(-1).schema(),
        what="a whole number (-1: no limit) or a table { soft, hard }",
    ),
)


@attrs.frozen
class ExtraHosts(Form["tuple[str, ...]"]):
    """Lines of the hosts file: a table name → address, or a list of "name:address"; kept as "name:address"."""

    def parse(self, value: Any) -> tuple[str, ...]:
        lines: list[tuple[str | int, Any]]
        if isinstance(value, Mapping):
            names = cast("Mapping[str, Any]", value)
            lines = [(name, f"{name}:{address}") for name, address in names.items()]
        elif isinstance(value, list | tuple):
            lines = list(enumerate(cast("Sequence[Any]", value)))
        else:
            raise wrong('must be a list of "name:address", or a table name → address', value)
        problems: list[Problem] = []
        for step, line in lines:
            name, _, address = line.partition(":") if isinstance(line, str) else ("", "", "")
            for form, part in ((HOSTNAME, name), (ADDRESS, address)):
                try:
                    form.parse(part)
                except Invalid:
                    problems.append(Problem((step,), 'must be "name:address", each valid', shown(line)))
                    break
        if problems:
            raise Invalid(problems)
        return tuple(line for _, line in lines)

    def show(self, value: tuple[str, ...]) -> Any:
        return list(value)

    def schema(self) -> Schema:
        names: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
        return {"anyOf": [names, {"type": "array", "items": {"type": "string", "pattern": ":"}}]}
