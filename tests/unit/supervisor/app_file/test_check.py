"""Rules of a whole app that no file can reach yet, and the search for circles."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.app_file.check import check, circles
from supervisor.app_file.spec import AppSpec, Container

LATER: list[tuple[dict[str, Any], list[str]]] = [
    ({"kind": "job", "concurrency": "allow"}, ["concurrency: has no effect on a job without schedule"]),
    ({"kind": "job", "schedule": "* * * * *", "concurrency": "allow", "timeout": 5}, []),
    ({"schedule": "* * * * *"}, ['schedule: has no effect on a service; kind = "job" makes it a job']),
    ({"pull": "never"}, ["pull: has no effect on a rootfs"]),
    ({"affinity": "client"}, ["affinity: has no effect with one replica"]),
    ({"affinity": "client", "replicas": 2}, []),
    ({"network": "host", "egress": False, "links": ["b"]}, ['egress: has no effect with network = "host"']),
    ({"network": "container:a"}, ["network: a container cannot share its own network"]),
    ({"network": "container:bb"}, ['network: there is no container "bb"; did you mean "b"?']),
    (
        {"security": {"privileged": True, "masked": False}},
        ["security.masked: has no effect with security.privileged = true"],
    ),
    ({"on_exhausted": ["x"]}, ["on_exhausted: has no effect without restart.max_restarts"]),
    ({"scale": {"min": 3, "max": 2, "memory": 0.5}},
     ["scale.min: must not be more than scale.max, found 3",
      "scale.memory: needs limits.memory, of which it is a fraction"]),
    ({"scale": {"max": 2}}, ["scale: needs exactly one of cpu, memory"]),
    ({"update": {"min_ready": 2}}, ["update.min_ready: must not be more than replicas, 1, found 2"]),
    ({"watch": [{"path": ".", "action": "sync"}]}, ['watch[0]: needs a target with action = "sync", and only then']),
    ({"watch": [{"path": ".", "action": "rebuild"}]}, ['watch[0]: action = "rebuild" needs build']),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "messages"), LATER)
def test_rules(keys: dict[str, Any], messages: list[str]) -> None:
    spec = AppSpec(name="x", containers=[Container(name="a", rootfs="/", **keys), Container(name="b", rootfs="/")])
    assert [str(problem).removeprefix("containers.a.") for problem in check(spec)] == messages


def test_a_container_built_in_code_has_a_valid_name() -> None:
    spec = AppSpec(name="x", containers=[Container(name="../x", rootfs="/")])
    assert str(check(spec)[0]).startswith('containers."../x": must be a name of')


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), unique=True)))
def test_circles_are_found_exactly_where_they_are(graph: dict[str, list[str]]) -> None:
    graph = {node: [to for to in edges if to in graph] for node, edges in graph.items()}
    left = dict(graph)
    while free := [node for node in left if not any(to in left for to in left[node])]:
        for node in free:
            del left[node]
    found = circles(graph)
    assert bool(found) == bool(left)
    for circle in found:
        assert all(after in graph[node] for node, after in zip(circle, [*circle[1:], circle[0]], strict=True))
        assert len(set(circle)) == len(circle)


def test_a_long_chain_is_no_circle_and_no_recursion() -> None:
    assert circles({str(n): [str(n + 1)] for n in range(5000)} | {"5000": []}) == []
