"""What is written reads back as an equal app, as JSON and as TOML, whatever the app."""

import json
import string
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.app_file import spec as app_spec
from supervisor.app_file.document import Document
from supervisor.app_file.read import parse, read, restore
from supervisor.app_file.spec import AppSpec, Container, Group, Limits, Link, Mount, Port, Tcp, Ulimit, Writable
from supervisor.app_file.tables import keys_of
from supervisor.app_file.write import normalised, to_json, to_toml

VALID = Path(__file__).parent / "valid"

names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["${A}", "$${A}", "$$${", "'", '"""', "\n\r\t\x7f"]
)
some = texts.filter(bool)
paths = st.text(st.characters(exclude_characters="\0:", exclude_categories=["Cs"]), max_size=8).map(lambda x: f"/{x}")
seconds = st.floats(0, 1e6)
positive = st.floats(1e-3, 1e6)
sizes = st.integers(1, 1 << 50)
counts = st.integers(1, 1000)
flags = st.booleans()
codes = st.lists(st.integers(0, 255), unique=True, max_size=3).map(tuple)
words = st.lists(some, max_size=3).map(tuple)
variables = st.dictionaries(some.filter(lambda name: "=" not in name), texts, max_size=3)
numbers = st.integers(1, 65535)
fractions = st.floats(0.01, 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def choice(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def many(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=2).map(tuple)


probe = {"interval": positive, "timeout": positive, "retries": counts, "successes": counts, "delay": seconds}
probes = st.one_of(
    st.builds(app_spec.Exec, st.lists(texts, min_size=1, max_size=3), **probe),
    st.builds(
        app_spec.Http, choice("/", "/healthz?x=1"), port=maybe(numbers), scheme=choice("http", "https"), **probe,
        headers=st.dictionaries(names, choice("", "a b"), max_size=2),
    ),
    st.builds(app_spec.Tcp, numbers, **probe),
    st.builds(app_spec.Grpc, numbers, **probe),
    st.builds(app_spec.Notify, **probe),
    st.builds(app_spec.Log, choice("ready$", "[a-z]+\\d"), **probe),
)  # fmt: skip
budget = {
    "memory": maybe(sizes), "swap": st.integers(0, 1 << 40), "cpus": maybe(st.floats(0.01, 64)),
    "cpu_weight": maybe(counts), "cpuset": maybe(choice("0", "0-3,6")), "io_weight": maybe(counts),
}  # fmt: skip
mounts = st.one_of(
    st.builds(Mount, st.just("volume"), names.filter(lambda name: name != "tmpfs"), paths, flags),
    st.builds(Mount, st.just("bind"), paths, paths, flags),
    st.builds(Mount, st.just("tmpfs"), st.none(), paths, flags, maybe(sizes)),
)
capabilities = many(choice("ALL", "NET_ADMIN", "KILL"))
signals = choice("SIGTERM", "SIGINT", "SIGRTMIN+3")
fields: dict[str, st.SearchStrategy[Any]] = {
    "kind": choice("service", "job"),
    "image": maybe(some),
    "build": maybe(st.builds(app_spec.Build, context=some, dockerfile=some, target=maybe(some), args=variables)),
    "rootfs": maybe(some),
    "pull": choice("missing", "always", "never"),
    "command": maybe(many(texts)),
    "entrypoint": maybe(many(texts)),
    "env": variables,
    "env_file": words,
    "workdir": maybe(paths),
    "user": maybe(choice("me", "0:0", "1000:audio")),
    "hostname": maybe(names),
    "labels": variables,
    "volumes": many(mounts),
    "writable": choice(Writable(), Writable("tmpfs", 1000), Writable("tmpfs", 1 << 20)),
    "secrets": st.lists(names, unique=True, max_size=2).map(tuple),
    "links": many(st.builds(Link, names, names, flags, app=maybe(names))),
    "accept": choice((), ("a/b", "c/*")),
    "after": st.dictionaries(names, choice("started", "ready", "completed"), max_size=2),
    "ports": many(st.builds(Port, choice("127.0.0.1", "0.0.0.0", "::"), numbers, numbers, choice("tcp", "udp"))),
    "affinity": choice("none", "client"),
    "network": choice("group", "host", "none", "container:x"),
    "egress": choice(True, False, (), ("10.0.0.0/8", "fd00::/8")),
    "dns": choice((), ("1.1.1.1", "fd00::1")),
    "extra_hosts": choice((), ("a:1.1.1.1", "b.c:fd00::1")),
    "limits": st.builds(Limits, pids=counts, **budget),
    "ulimits": st.dictionaries(choice("nofile", "core"), st.builds(Ulimit, counts, counts), max_size=2),
    "shm_size": maybe(sizes),
    "sysctls": choice({}, {"net.core.somaxconn": "5"}),
    "devices": choice((), ("/dev/fuse:/dev/fuse:rwm",)),
    "group_add": choice((), ("audio", "44")),
    "read_only": flags,
    "tty": flags,
    "stdin": flags,
    "init": flags,
    "stop": st.builds(app_spec.Stop, signal=maybe(signals), timeout=seconds),
    "restart": st.builds(
        app_spec.Restart, policy=choice("always", "on-failure", "unless-stopped", "never"), delay=seconds,
        factor=st.floats(1, 10), max_delay=seconds, jitter=st.floats(0, 1), reset_after=seconds,
        max_restarts=maybe(counts), within=positive, success_codes=codes, fatal_codes=codes,
    ),
    "on_exhausted": words,
    "essential": flags,
    "readiness": maybe(probes),
    "liveness": maybe(probes),
    "startup": maybe(probes),
    "security": st.builds(
        app_spec.Security, privileged=flags, seccomp=choice("default", "unconfined", "/x"), no_new_privileges=flags,
        capabilities=st.builds(app_spec.Capabilities, add=capabilities, drop=capabilities), masked=flags,
        userns=choice("auto", "required", "host"),
    ),
    "logs": st.builds(app_spec.Logs, max_size=st.integers(4096, 1 << 40), max_files=st.integers(0, 9)),
    "schedule": maybe(choice("0 3 * * *")),
    "concurrency": choice("forbid", "allow", "replace"),
    "timeout": maybe(positive),
    "catch_up": flags,
    "replicas": st.integers(0, 9),
    "scale": maybe(
        st.builds(
            app_spec.Scale, min=counts, max=counts, cpu=maybe(fractions), memory=maybe(fractions), cooldown=seconds
        )
    ),
    "update": st.builds(
        app_spec.Update, order=choice("stop-first", "start-first"), parallelism=counts, monitor=seconds, drain=seconds,
        on_failure=choice("rollback", "pause", "continue"), min_ready=maybe(counts),
    ),
    "watch": many(
        st.builds(
            app_spec.Watch, path=some, action=choice("restart", "rebuild", "sync"), target=maybe(paths)
        )
    ),
    "group": maybe(names),
    "profiles": st.lists(names, unique=True, max_size=2).map(tuple),
}  # fmt: skip
containers = st.builds(Container, name=names, **fields)
groups = st.builds(
    Group, strategy=choice("one-for-one", "one-for-all", "rest-for-one"), max_restarts=maybe(counts), within=positive,
    parent=maybe(names), limits=st.builds(app_spec.Budget, pids=maybe(counts), **budget), on_exhausted=words,
)  # fmt: skip
apps = st.builds(
    AppSpec,
    name=names,
    containers=st.lists(containers, min_size=1, max_size=2),
    groups=st.dictionaries(names, groups, max_size=2),
    group=groups,
    volumes=st.dictionaries(names, st.just(app_spec.Volume()), max_size=2),
    secrets=st.dictionaries(names, st.builds(app_spec.Secret, file=maybe(some), env=maybe(names)), max_size=2),
    network=st.builds(app_spec.Network, subnet=maybe(choice("10.0.0.0/22"))),
    include=words,
)


def test_the_strategy_draws_every_key() -> None:
    assert set(fields) == set(keys_of(Container))


slow = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@slow
@given(apps)
def test_every_app_survives_json(app: AppSpec) -> None:
    assert restore(json.loads(to_json(app))) == app


@slow
@given(apps)
def test_every_app_survives_toml(app: AppSpec) -> None:
    document = Document(tomllib.loads(to_toml(app)), {})
    assert document.app("", None) == app
    assert document.problems == []


@pytest.mark.parametrize("file", ["supported.toml", "interpolated.toml"])
def test_a_normalised_file_is_a_file(file: str) -> None:
    app = read(VALID / file, {})
    assert app.file
    again = parse(to_toml(app), file=app.file, environ={})
    assert again == app
    assert to_toml(again) == to_toml(app)
    assert restore(normalised(app), app.file) == app


def test_every_key_is_explicit_in_the_files_own_forms() -> None:
    container = Container(
        name="a",
        rootfs="/",
        command="sleep 1",
        links=["b", "c:d", {"to": "e", "wait": False}],
        ports=["8080-8081:1-2"],
        volumes=["v:/v:ro", "tmpfs:/t:size=64M"],
        readiness=Tcp(80),
    )
    table = normalised(AppSpec(name="x", containers=[container]))["containers"]["a"]
    assert set(table) == set(keys_of(Container))
    assert table["links"] == ["b", "c:d", {"to": "e", "as": "e", "wait": False}]
    assert table["ports"] == ["127.0.0.1:8080:1/tcp", "127.0.0.1:8081:2/tcp"]
    assert table["volumes"] == ["v:/v:ro", "tmpfs:/t:size=64M"]
    assert table["restart"]["delay"] == "100ms"
    assert table["restart"]["max_delay"] == "30s"
    assert table["logs"] == {"max_size": "16M", "max_files": 4}
    assert table["limits"]["pids"] == 2048
    assert table["limits"]["memory"] is None
    assert table["readiness"] == {
        "interval": "10s", "timeout": "1s", "retries": 3, "successes": 1, "delay": "0s", "tcp": 80
    }  # fmt: skip


def test_specs_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Container(name="a").image = "x"  # type: ignore[misc]
