"""An app: what its file says, as frozen classes. Times are seconds, sizes bytes, paths of the host absolute.

The attributes are the file's keys with the file's defaults; each takes the file's short forms from code as well:
`Container(name="web", rootfs="/", command="python3 -m http.server", ports=["8080:8000"], restart="always")`.
A bad value raises ValueError (`problems.Invalid`) that names the key.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs

from .forms import Choice, Duration, Flag, Form, ListOf, MapOf, Maybe, Number, Schema, Size, Text, Whole
from .probes import Exec, Grpc, Http, Log, Notify, Probe, ProbeForm, Tcp
from .problems import Invalid, Problem, wrong
from .tables import TableOf, key, table
from .values import (
    ABSOLUTE,
    ADDRESS,
    APP_NAME,
    CIDR,
    ENV_NAME,
    HOSTNAME,
    LINKS,
    MOUNTS,
    NAME,
    NOT_EMPTY,
    PORTS,
    ULIMITS,
    VOLUME_NAME,
    WRITABLE,
    After,
    Capability,
    Command,
    EnvValue,
    ExtraHosts,
    Link,
    Mount,
    Port,
    Signal,
    Ulimit,
    Writable,
    check_cron,
)

__all__ = [
    "AppSpec",
    "Budget",
    "Build",
    "Capabilities",
    "Container",
    "Exec",
    "Group",
    "Grpc",
    "Http",
    "Limits",
    "Link",
    "Log",
    "Logs",
    "Mount",
    "Network",
    "Notify",
    "Port",
    "Probe",
    "Restart",
    "Scale",
    "Secret",
    "Security",
    "Stop",
    "Tcp",
    "Ulimit",
    "Update",
    "Volume",
    "Watch",
    "Writable",
]

POLICIES = ("always", "on-failure", "unless-stopped", "never")
STRATEGIES = ("one-for-one", "one-for-all", "rest-for-one")
KINDS = ("service", "job")

_COUNT = Maybe(Whole(1))
_EXIT_CODES = ListOf(Whole(0, 255), "a list of exit codes", unique=True)
_WORDS = ListOf(NOT_EMPTY, "a list of strings")
_CPUS = Number("a number of processors, more than 0", above=0)
_SHARE = Number("a fraction from 0 to 1, more than 0", above=0, most=1)


@table(kw_only=True)
class Build:
    """A build: the context's directory, the Dockerfile in it, the stage to stop at, and arguments."""

    context: str = key(converter=NOT_EMPTY)
    dockerfile: str = key(converter=NOT_EMPTY, default="Dockerfile")
    target: str | None = key(converter=Maybe(NOT_EMPTY), default=None)
    args: Mapping[str, str] = key(converter=MapOf(ENV_NAME, EnvValue(), pair=True), factory=dict)


@table(kw_only=True)
class Budget:
    """Limits that all members of a group share; None is no limit. Sizes in bytes, swap beyond memory."""

    memory: int | None = key(converter=Maybe(Size()), default=None)
    swap: int = key(converter=Size(0), default=0)
    cpus: float | None = key(converter=Maybe(_CPUS), default=None)
    cpu_weight: int | None = key(converter=Maybe(Whole(1, 10000)), default=None)
    cpuset: str | None = key(
        converter=Maybe(Text('a list of processors like "0-3,6"', r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*")), default=None
    )
    pids: int | None = key(converter=_COUNT, default=None)
    io_weight: int | None = key(converter=Maybe(Whole(1, 10000)), default=None)


@table(kw_only=True)
class Limits(Budget):
    """One container's limits."""

    pids: int = key(converter=Whole(1), default=2048)


@table(kw_only=True)
class Restart:
    """What happens after a death: the policy, its exponential back-off, and when it is exhausted."""

    policy: str = key(converter=Choice(POLICIES), default="on-failure")
    delay: float = key(converter=Duration(), default=0.1)
    factor: float = key(converter=Number("a number of at least 1", least=1), default=2.0)
    max_delay: float = key(converter=Duration(), default=30.0)
    jitter: float = key(converter=Number("a fraction from 0 to 1", least=0, most=1), default=0.1)
    reset_after: float = key(converter=Duration(), default=10.0)
    max_restarts: int | None = key(converter=Maybe(Whole(0)), default=None)
    within: float = key(converter=Duration(zero=False), default=60.0)
    success_codes: tuple[int, ...] = key(converter=_EXIT_CODES, default=(0,))
    fatal_codes: tuple[int, ...] = key(converter=_EXIT_CODES, default=())


@table(kw_only=True)
class Stop:
    """How a container is stopped: the signal (None: the image's, else SIGTERM), and after how long it is killed."""

    signal: str | None = key(converter=Maybe(Signal()), default=None)
    timeout: float = key(converter=Duration(), default=10.0)


@table(kw_only=True)
class Capabilities:
    """What is added to and dropped from the usual capabilities: names without CAP_, or ALL."""

    add: tuple[str, ...] = key(converter=ListOf(Capability(), "a list of capabilities"), default=())
    drop: tuple[str, ...] = key(converter=ListOf(Capability(), "a list of capabilities"), default=())


@table(kw_only=True)
class Security:
    """Secure by default; every loosening is explicit. `seccomp` is default, unconfined or a profile's path."""

    privileged: bool = key(converter=Flag(), default=False)
    capabilities: Capabilities = key(converter=TableOf(Capabilities), factory=Capabilities)
    seccomp: str = key(converter=NOT_EMPTY, default="default")
    userns: str = key(converter=Choice(("auto", "required", "host")), default="auto")
    no_new_privileges: bool = key(converter=Flag(), default=True)
    masked: bool = key(converter=Flag(), default=True)


@table(kw_only=True)
class Logs:
    """How much output is kept: at most `max_size` bytes times `max_files`; no files keeps none."""

    max_size: int = key(converter=Size(4096), default=16 << 20)
    max_files: int = key(converter=Whole(0, 10000), default=4)


@table(kw_only=True)
class Scale:
    """Autoscaling between `min` and `max` replicas towards a fraction of `limits.cpus` or `limits.memory`."""

    max: int = key(converter=Whole(1))
    min: int = key(converter=Whole(0), default=1)
    cpu: float | None = key(converter=Maybe(_SHARE), default=None)
    memory: float | None = key(converter=Maybe(_SHARE), default=None)
    cooldown: float = key(converter=Duration(), default=300.0)


@table(kw_only=True)
class Update:
    """What a changed container does on reload; `min_ready` None is replicas − 1."""

    order: str = key(converter=Choice(("stop-first", "start-first")), default="stop-first")
    parallelism: int = key(converter=Whole(1), default=1)
    monitor: float = key(converter=Duration(), default=5.0)
    on_failure: str = key(converter=Choice(("rollback", "pause", "continue")), default="rollback")
    drain: float = key(converter=Duration(), default=0.0)
    min_ready: int | None = key(converter=Maybe(Whole(0)), default=None)


@table(kw_only=True)
class Watch:
    """A path of the host whose changes restart, rebuild or are copied to `target`."""

    path: str = key(converter=NOT_EMPTY)
    action: str = key(converter=Choice(("restart", "rebuild", "sync")))
    target: str | None = key(converter=Maybe(ABSOLUTE), default=None)


@attrs.frozen
class Egress(Form["bool | tuple[str, ...]"]):
    """Whether connections may be opened outside the app: true, false, or a list of networks."""

    def parse(self, value: Any) -> bool | tuple[str, ...]:
        if isinstance(value, bool):
            return value
        if not isinstance(value, list | tuple):
            raise wrong("must be true, false or a list of networks", value)
        return ListOf(CIDR).parse(value)

    def show(self, value: bool | tuple[str, ...]) -> Any:
        return value if isinstance(value, bool) else list(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "boolean"}, ListOf(CIDR).schema()]}


def _restart_default(container: "Container") -> Restart:
    return Restart(policy="never" if container.kind == "job" else "on-failure")


@table(kw_only=True)
class Container:
    """One container of an app. Exactly one of `image`, `build`, `rootfs` is set in one that may run."""

    name: str
    kind: str = key(converter=Choice(KINDS), default="service")
    image: str | None = key(converter=Maybe(NOT_EMPTY), default=None)
    build: Build | None = key(
        converter=Maybe(
            TableOf(
                Build,
                short=lambda value: {"context": value} if isinstance(value, str) else value,
                short_schema={"type": "string"},
                what="a path, or a table { context, dockerfile, target, args }",
            )
        ),
        default=None,
    )
    rootfs: str | None = key(converter=Maybe(NOT_EMPTY), default=None)
    pull: str = key(converter=Choice(("missing", "always", "never")), default="missing")
    command: tuple[str, ...] | None = key(converter=Maybe(Command()), default=None)
    entrypoint: tuple[str, ...] | None = key(converter=Maybe(Command()), default=None)
    env: Mapping[str, str] = key(
        converter=MapOf(ENV_NAME, EnvValue(), 'a table NAME → value, or a list of "NAME=value"', pair=True),
        factory=dict,
    )
    env_file: tuple[str, ...] = key(converter=ListOf(NOT_EMPTY, "a path or a list of paths", single=True), default=())
    workdir: str | None = key(converter=Maybe(ABSOLUTE), default=None)
    user: str | None = key(
        converter=Maybe(Text('"user" or "user:group", names or numbers', r"[^:\s]+(?::[^:\s]+)?", numbers=True)),
        default=None,
    )
    hostname: str | None = key(converter=Maybe(HOSTNAME), default=None)
    labels: Mapping[str, str] = key(
        converter=MapOf(ENV_NAME, EnvValue(), 'a table name → value, or a list of "name=value"', pair=True),
        factory=dict,
    )
    volumes: tuple[Mount, ...] = key(converter=MOUNTS, default=())
    writable: Writable = key(converter=WRITABLE, factory=Writable)
    secrets: tuple[str, ...] = key(converter=ListOf(VOLUME_NAME, "a list of names", unique=True), default=())
    links: tuple[Link, ...] = key(converter=LINKS, default=())
    accept: tuple[str, ...] = key(
        converter=ListOf(
            Text('"app/name" or "app/*"', rf"{APP_NAME.pattern}/(?:{NAME.pattern}|\*)"),
            "a list of containers",
            unique=True,
        ),
        default=(),
    )
    after: Mapping[str, str] = key(converter=After(), factory=dict)
    ports: tuple[Port, ...] = key(converter=PORTS, default=())
    affinity: str = key(converter=Choice(("none", "client")), default="none")
    network: str = key(
        converter=Text('"group", "host", "none" or "container:NAME"', rf"group|host|none|container:{NAME.pattern}"),
        default="group",
    )
    egress: bool | tuple[str, ...] = key(converter=Egress(), default=True)
    dns: tuple[str, ...] = key(converter=ListOf(ADDRESS, "an address or a list of addresses", single=True), default=())
    extra_hosts: tuple[str, ...] = key(converter=ExtraHosts(), default=())
    limits: Limits = key(converter=TableOf(Limits), factory=Limits)
    ulimits: Mapping[str, Ulimit] = key(converter=ULIMITS, factory=dict)
    shm_size: int | None = key(converter=Maybe(Size()), default=None)
    sysctls: Mapping[str, str] = key(
        converter=MapOf(
            Text("a sysctl's name", r"[A-Za-z0-9_/-]+(?:\.[A-Za-z0-9_/-]+)+"),
            Text("a string or a whole number", numbers=True),
            'a table name → value, or a list of "name=value"',
            pair=True,
        ),
        factory=dict,
    )
    devices: tuple[str, ...] = key(
        converter=ListOf(
            Text('"/dev/host[:/dev/container[:rwm]]"', r"/[^:]+(?::/[^:]+(?::[rwm]{1,3})?)?"), "a list of devices"
        ),
        default=(),
    )
    group_add: tuple[str, ...] = key(
        converter=ListOf(Text("a group's name or number", r"[^:\s]+", numbers=True), "a list of groups"), default=()
    )
    read_only: bool = key(converter=Flag(), default=False)
    tty: bool = key(converter=Flag(), default=False)
    stdin: bool = key(converter=Flag(), default=False)
    init: bool = key(converter=Flag(), default=True)
    stop: Stop = key(converter=TableOf(Stop), factory=Stop)
    restart: Restart = key(
        converter=TableOf(
            Restart,
            short=lambda value: {"policy": value} if isinstance(value, str) else value,
            short_schema=Choice(POLICIES).schema(),
            what="a policy, or a table { policy, delay, … }",
        ),
        default=attrs.Factory(_restart_default, takes_self=True),
    )
    on_exhausted: tuple[str, ...] = key(converter=_WORDS, default=())
    essential: bool = key(converter=Flag(), default=False)
    readiness: Probe | None = key(converter=Maybe(ProbeForm()), default=None)
    liveness: Probe | None = key(converter=Maybe(ProbeForm()), default=None)
    startup: Probe | None = key(converter=Maybe(ProbeForm()), default=None)
    security: Security = key(converter=TableOf(Security), factory=Security)
    logs: Logs = key(converter=TableOf(Logs), factory=Logs)
    schedule: str | None = key(converter=Maybe(Text("a cron line of five fields", test=check_cron)), default=None)
    concurrency: str = key(converter=Choice(("forbid", "allow", "replace")), default="forbid")
    timeout: float | None = key(converter=Maybe(Duration(zero=False)), default=None)
    catch_up: bool = key(converter=Flag(), default=False)
    replicas: int = key(converter=Whole(0, 10000), default=1)
    scale: Scale | None = key(converter=Maybe(TableOf(Scale)), default=None)
    update: Update = key(converter=TableOf(Update), factory=Update)
    watch: tuple[Watch, ...] = key(converter=ListOf(TableOf(Watch), "a list of tables"), default=())
    group: str | None = key(converter=Maybe(NAME), default=None)
    profiles: tuple[str, ...] = key(converter=ListOf(NAME, "a list of names", unique=True), default=())


@table(kw_only=True)
class Group:
    """A supervisor node: what restarts together, and when it gives up. `parent` None is the root."""

    strategy: str = key(converter=Choice(STRATEGIES), default="one-for-one")
    max_restarts: int | None = key(converter=Maybe(Whole(0)), default=None)
    within: float = key(converter=Duration(zero=False), default=60.0)
    parent: str | None = key(converter=Maybe(NAME), default=None)
    limits: Budget = key(converter=TableOf(Budget), factory=Budget)
    on_exhausted: tuple[str, ...] = key(converter=_WORDS, default=())


@table(kw_only=True)
class Network:
    """The app's network; `subnet` None is a free one, remembered."""

    subnet: str | None = key(converter=Maybe(CIDR), default=None)


@table(kw_only=True)
class Volume:
    """A named volume."""


@table(kw_only=True)
class Secret:
    """Where a secret comes from: a file of the host, or a variable of the environment."""

    file: str | None = key(converter=Maybe(NOT_EMPTY), default=None)
    env: str | None = key(converter=Maybe(ENV_NAME), default=None)


@attrs.frozen
class Containers(Form["Mapping[str, Container]"]):
    """The table of containers, each of which knows its name; code may give a list."""

    def parse(self, value: Any) -> Mapping[str, Container]:
        if not isinstance(value, Mapping):
            raise wrong("must be a table name → container", value)
        result: dict[str, Container] = {}
        problems: list[Problem] = []
        for name, element in cast("Mapping[str, Any]", value).items():
            try:
                NAME.parse(name)
                result[name] = container_form(name).parse(element)
            except Invalid as error:
                problems += error.below(name).problems
        if problems:
            raise Invalid(problems)
        return result

    def __call__(self, value: Any) -> Mapping[str, Container]:
        if isinstance(value, Mapping):
            value = cast("Mapping[str, Container]", value).values()
        return {container.name: container for container in value}

    def show(self, value: Mapping[str, Container]) -> Any:
        return {name: container_form(name).show(container) for name, container in value.items()}

    def schema(self) -> Schema:
        return MapOf(NAME, container_form("name")).schema()


def container_form(name: str) -> TableOf[Container]:
    """Return the form of the container of that name."""
    return TableOf(Container, prepare=_job_never_restarts, construct=partial(Container, name=name))


def _job_never_restarts(value: dict[str, Any]) -> dict[str, Any]:
    restart = value.get("restart")
    if value.get("kind") == "job" and isinstance(restart, Mapping) and "policy" not in restart:
        return {**value, "restart": {"policy": "never", **cast("Mapping[str, Any]", restart)}}
    return value


@table(kw_only=True)
class AppSpec:
    """A whole app. `groups` are the named ones, `group` the root; `file` is where it was read, None for code."""

    name: str = key(converter=APP_NAME)
    containers: Mapping[str, Container] = key(converter=Containers(), factory=dict)
    groups: Mapping[str, Group] = key(converter=MapOf(NAME, TableOf(Group)), factory=dict)
    group: Group = key(converter=TableOf(Group), factory=Group)
    volumes: Mapping[str, Volume] = key(converter=MapOf(VOLUME_NAME, TableOf(Volume)), factory=dict)
    secrets: Mapping[str, Secret] = key(converter=MapOf(VOLUME_NAME, TableOf(Secret)), factory=dict)
    network: Network = key(converter=TableOf(Network), factory=Network)
    include: tuple[str, ...] = key(converter=_WORDS, default=())
    file: Path | None = attrs.field(default=None)
