"""Containers built in code take what the file takes; their defaults are the documented ones."""

from typing import Any

import attrs
import pytest

from supervisor.app_file.problems import Invalid
from supervisor.app_file.spec import (
    AppSpec,
    Container,
    Exec,
    Grpc,
    Http,
    Limits,
    Link,
    Log,
    Logs,
    Mount,
    Notify,
    Port,
    Restart,
    Security,
    Stop,
    Tcp,
    Ulimit,
    Update,
    Writable,
)


def test_defaults_are_the_documented_ones() -> None:
    container = Container(name="x")
    assert container.limits == Limits(pids=2048, swap=0)
    assert container.restart == Restart(
        policy="on-failure", delay=0.1, factor=2, max_delay=30, jitter=0.1, reset_after=10, max_restarts=None, within=60
    )
    assert (container.restart.success_codes, container.restart.fatal_codes) == ((0,), ())
    assert container.stop == Stop(signal=None, timeout=10)
    assert container.logs == Logs(max_size=16 << 20, max_files=4)
    assert container.security == Security(no_new_privileges=True, masked=True, userns="auto", seccomp="default")
    assert container.update == Update(order="stop-first", parallelism=1, monitor=5, on_failure="rollback", drain=0)
    assert (container.init, container.network, container.egress, container.replicas) == (True, "group", True, 1)
    assert (container.writable, container.pull, container.hostname) == (Writable("disk"), "missing", None)
    assert attrs.astuple(Tcp(1))[:5] == (10, 1, 3, 1, 0)


def test_a_job_is_never_restarted_by_default() -> None:
    assert Container(name="x", kind="job").restart.policy == "never"


def test_short_forms() -> None:
    container = Container(
        name="x",
        rootfs="/",
        command="sh -c 'a b'",
        env={"A": 1, "B": True, "C": 1.5, "D": "d"},
        labels=["a=b"],
        links=["db", "cache:redis", "other/db:far", {"to": "late", "as": "l", "wait": False}],
        after=["job"],
        ports=["8080:80", "0.0.0.0:9000-9001:1-2/udp", "[::]:1:1"],
        volumes=["data:/data", "./here:/there:ro", "tmpfs:/t:size=64M,ro"],
        writable="tmpfs:1M",
        restart="always",
        limits={"memory": "64M", "cpus": 2},
        ulimits={"nofile": 10, "core": {"soft": 0, "hard": -1}},
        stop={"signal": 15, "timeout": "1m"},
        user=1000,
        dns="1.1.1.1",
        extra_hosts={"a": "::1"},
        readiness={"http": "/", "port": 80},
    )
    assert container.command == ("sh", "-c", "a b")
    assert container.env == {"A": "1", "B": "true", "C": "1.5", "D": "d"}
    assert container.labels == {"a": "b"}
    assert container.links == (
        Link("db"),
        Link("cache", "redis"),
        Link("db", "far", app="other"),
        Link("late", "l", wait=False),
    )
    assert container.after == {"job": "ready"}
    assert container.ports == (
        Port("127.0.0.1", 8080, 80, "tcp"),
        Port("0.0.0.0", 9000, 1, "udp"),
        Port("0.0.0.0", 9001, 2, "udp"),
        Port("::", 1, 1, "tcp"),
    )
    assert container.volumes == (
        Mount("volume", "data", "/data"),
        Mount("bind", "./here", "/there", read_only=True),
        Mount("tmpfs", None, "/t", read_only=True, size=64 << 20),
    )
    assert container.writable == Writable("tmpfs", 1 << 20)
    assert container.restart == Restart(policy="always")
    assert (container.limits.memory, container.limits.cpus) == (64 << 20, 2.0)
    assert container.ulimits == {"nofile": Ulimit(10, 10), "core": Ulimit(0, -1)}
    assert container.stop == Stop(signal="SIGTERM", timeout=60)
    assert (container.user, container.dns, container.extra_hosts) == ("1000", ("1.1.1.1",), ("a:::1",))
    assert container.readiness == Http("/", port=80)


def test_native_values_stay() -> None:
    container = Container(
        name="x", restart=Restart(delay=0.25), ports=[Port("127.0.0.1", 1, 2)], readiness=Tcp(1, delay=3)
    )
    assert attrs.evolve(container) == container
    assert (container.restart.delay, container.readiness) == (0.25, Tcp(1, delay="3s"))


def test_an_app_takes_a_list_of_containers() -> None:
    assert list(AppSpec(name="x", containers=[Container(name="b"), Container(name="a")]).containers) == ["b", "a"]


def test_probes() -> None:
    assert Exec(["a", "b"]).exec == Exec("a b").exec == ("a", "b")
    assert (Grpc(5).grpc, Log("up$").log, Notify().notify) == (5, "up$", True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ports": ["x"]}, 'ports[0]: must be "[ip:]host:container[/tcp or /udp]", found "x"'),
        ({"ports": [80]}, "ports[0]: must be a string, found 80"),
        ({"restart": "alway"}, 'restart: must be "always", "on-failure", "unless-stopped" or "never", found "alway"'),
        ({"limits": {"memry": 1}}, 'limits.memry: unknown key; did you mean "memory"?'),
        ({"limits": {"pids": True}}, "limits.pids: must be a whole number of at least 1, found true"),
        ({"replicas": 1.0}, "replicas: must be a whole number from 0 to 10000, found 1.0"),
        ({"stop": {"timeout": 5}}, 'stop.timeout: must be a duration like "100ms", "10s" or "1h30m", found 5'),
        ({"stop": {"signal": "SIGFOO"}}, 'stop.signal: must be a signal like "SIGTERM", found "SIGFOO"'),
        ({"init": 1}, "init: must be true or false, found 1"),
    ],
)
def test_bad_values_name_their_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Container(name="x", **keys)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("term", "SIGTERM"), ("SIGINT", "SIGINT"), (9, "SIGKILL"), ("37", "SIGRTMIN+3"), ("RTMAX-2", "SIGRTMAX-2")],
)
def test_signals(given: object, kept: str) -> None:
    assert Stop(signal=given).signal == kept


@pytest.mark.parametrize("line", ["0 3 * * *", "*/5 0-6,22 1 jan-mar sun", "59 23 31 12 7"])
def test_cron(line: str) -> None:
    assert Container(name="x", kind="job", schedule=line).schedule == line


@pytest.mark.parametrize("line", ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "a * * * *"])
def test_no_cron(line: str) -> None:
    with pytest.raises(Invalid, match="cron line"):
        Container(name="x", kind="job", schedule=line)
