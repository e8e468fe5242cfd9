"""What is refused for now: every key of the table, never a default, and nothing silently."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.app_file import support
from supervisor.app_file.read import AppFileError, read
from supervisor.app_file.spec import AppSpec, Container, Group, Limits, Secret, Security
from supervisor.app_file.tables import keys_of

VALID = Path(__file__).parent / "valid"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"image": "x"}, "image: images are not yet supported; use rootfs"),
    ({"build": "."}, "build: builds are not yet supported; use rootfs"),
    ({"pull": "always"}, "pull: asking a registry is not yet supported"),
    ({"secrets": ["x"]}, "secrets: secrets are not yet supported"),
    ({"links": ["a", "b/a"]}, "links[1]: links to another app are not yet supported"),
    ({"accept": ["b/*"]}, "accept: links from another app are not yet supported"),
    ({"ports": ["1:1", "2:2/udp"]}, "ports[1]: udp ports are not yet supported"),
    ({"ports": ["[fd00::1]:1:1"]}, "ports[0]: IPv6 host addresses are not yet supported"),
    ({"affinity": "client"}, "affinity: affinity is not yet supported"),
    ({"network": "host"}, "network: the host's network is not yet supported"),
    ({"network": "container:a"}, "network: another container's network is not yet supported"),
    ({"egress": False}, "egress: limited egress is not yet supported"),
    ({"egress": ["10.0.0.0/8"]}, "egress: limited egress is not yet supported"),
    ({"limits": {"io_weight": 5}}, "limits.io_weight: it is not yet supported"),
    ({"devices": ["/dev/fuse"]}, "devices: devices are not yet supported"),
    ({"tty": True}, "tty: terminals are not yet supported"),
    ({"stdin": True}, "stdin: an open standard input is not yet supported"),
    ({"security": {"privileged": True}}, "security.privileged: privileged containers are not yet supported"),
    ({"on_exhausted": ["x"]}, "on_exhausted: commands on the host are not yet supported"),
    ({"essential": True}, "essential: essential containers are not yet supported"),
    ({"readiness": {"tcp": 1}}, "readiness: probes are not yet supported"),
    ({"liveness": {"notify": True}}, "liveness: probes are not yet supported"),
    ({"startup": {"log": "x"}}, "startup: probes are not yet supported"),
    ({"kind": "job"}, "kind: jobs are not yet supported"),
    ({"schedule": "* * * * *"}, "schedule: jobs are not yet supported"),
    ({"concurrency": "allow"}, "concurrency: jobs are not yet supported"),
    ({"timeout": "1s"}, "timeout: jobs are not yet supported"),
    ({"catch_up": True}, "catch_up: jobs are not yet supported"),
    ({"replicas": 2}, "replicas: more or fewer replicas than one are not yet supported"),
    ({"scale": {"max": 2, "cpu": 0.5}}, "scale: autoscaling is not yet supported"),
    ({"update": {"drain": "1s"}}, "update: updates of a running app are not yet supported"),
    ({"watch": [{"path": ".", "action": "restart"}]}, "watch: watching is not yet supported"),
    ({"profiles": ["dev"]}, "profiles: profiles are not yet supported"),
]


def refused(**keys: Any) -> list[str]:
    return [str(problem) for problem in support.refused(AppSpec(name="x", **keys))]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=[message.split(":")[0] for _, message in REFUSED])
def test_a_containers_key_is_refused(keys: dict[str, Any], message: str) -> None:
    assert refused(containers=[Container(name="a", **keys)]) == [f"containers.a.{message}"]


def test_every_row_of_the_table_is_tested() -> None:
    tested = {message.split(":")[0].partition("[")[0] for _, message in REFUSED}
    assert tested == set(support.CONTAINER)


def test_defaults_are_never_refused() -> None:
    assert refused(containers=[Container(name="a")], group=Group(), groups={"g": Group(parent="h")}) == []


def test_groups_and_the_app() -> None:
    assert refused(
        group={"strategy": "one-for-all", "max_restarts": 1},
        groups={"g": {"limits": {"memory": "1M"}, "on_exhausted": ["x"], "within": "2m"}},
        include=["other.toml"],
        secrets={"s": Secret(env="S")},
    ) == [
        "include: including other files is not yet supported",
        "secrets: secrets are not yet supported",
        "group.strategy: strategies other than one-for-one are not yet supported",
        "group.max_restarts: limits on a group's restarts are not yet supported",
        "groups.g.within: limits on a group's restarts are not yet supported",
        "groups.g.limits: limits of a whole group are not yet supported",
        "groups.g.on_exhausted: commands on the host are not yet supported",
    ]


def test_every_container_key_has_its_effect_or_is_refused() -> None:
    """A new key must be put on one of the two sides: in the table, or in this list of what is built."""
    built = {
        *("rootfs", "command", "entrypoint", "env", "env_file", "workdir", "user", "hostname", "labels", "volumes"),
        *("writable", "links", "after", "ports", "network", "dns", "extra_hosts", "limits", "ulimits", "shm_size"),
        *("group_add", "read_only", "init", "stop", "restart", "security", "logs", "group"),
        "sysctls",
    }
    assert built | {key.split(".")[0] for key in support.CONTAINER} == set(keys_of(Container))
    assert set(keys_of(Limits)) == {"memory", "swap", "cpus", "cpu_weight", "cpuset", "pids", "io_weight"}
    assert "privileged" in keys_of(Security)


def test_the_documented_example_breaks_no_rule_and_needs_what_comes_later() -> None:
    with pytest.raises(AppFileError) as error:
        read(VALID / "shop.toml", {})
    assert all("not yet supported" in problem.message for problem in error.value.problems)
    assert {problem.key for problem in error.value.problems} >= {
        "containers.db.image",
        "containers.api.build",
        "containers.api.replicas",
        "containers.web.liveness",
        "containers.report.schedule",
        "groups.backend.strategy",
        "secrets",
    }
    assert all(problem.line for problem in error.value.problems)


def test_problems_are_frozen() -> None:
    problem = support.refused(AppSpec(name="x", include=["y"]))[0]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        problem.message = "other"  # type: ignore[misc]
