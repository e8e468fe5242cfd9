"""Who waits for whom."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.app_file.spec import Container
from supervisor.graph import cycles, dependents, layers, waits, waits_of

names = st.sampled_from("abcdefgh")
graphs = st.dictionaries(names, st.dictionaries(names, st.just("ready"), max_size=4), max_size=8)


def test_links_wait_for_ready_unless_told_not_to():
    web = Container(
        name="web",
        links=["api", {"to": "peer", "wait": False}, "other/db:db"],
        after={"cache": "started", "job": "completed", "api": "started"},
    )
    assert waits_of(web) == {"api": "ready", "cache": "started", "job": "completed"}


def test_layers_are_as_parallel_as_the_graph_allows():
    graph = waits(
        {
            "web": Container(name="web", links=["api", "cache"]),
            "api": Container(name="api", links=["db"]),
            "db": Container(name="db"),
            "cache": Container(name="cache"),
        }
    )
    assert layers(graph) == [["db", "cache"], ["api"], ["web"]]
    assert dependents(graph) == {"web": frozenset(), "api": {"web"}, "db": {"api"}, "cache": {"web"}}


def test_cycles_are_named_in_order():
    graph = {"a": {"b": "ready"}, "b": {"c": "ready"}, "c": {"a": "ready"}, "d": {"a": "ready"}, "e": {"e": "ready"}}
    assert cycles(graph) == [["a", "b", "c", "a"], ["e", "e"]]
    with pytest.raises(ValueError, match="these wait for each other: a → b → c → a"):
        layers(graph)


@given(graphs)
def test_layers_respect_every_wait_or_there_is_a_cycle(graph):
    found = cycles(graph)
    for cycle in found:
        assert cycle[0] == cycle[-1]
        assert all(after in graph[before] for before, after in pairwise(cycle))
    if found:
        with pytest.raises(ValueError, match="wait for each other"):
            layers(graph)
        return
    order = {name: depth for depth, layer in enumerate(layers(graph)) for name in layer}
    assert order.keys() == graph.keys()
    for name, needs in graph.items():
        assert all(order[need] < order[name] for need in needs if need in graph)
