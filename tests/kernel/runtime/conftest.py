"""Cgroups for a test: the machine's layout in each form that it can be used in, and groups that are removed again."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.group import Group, remove_tree
from runtime.cgroups.hierarchy import Layout, find
from tests.kernel.runtime.confined import APP, variants

_names = itertools.count()


@pytest.fixture(params=list(variants()))
def layout(request: pytest.FixtureRequest) -> Iterator[Layout]:
    """The machine's layout; fails a test that leaves a cgroup behind."""
    yield variants()[request.param]
    everything = find()
    left = [place.mount for place in everything.places if Path(place.mount, APP).exists()]
    remove_tree(everything, APP)
    assert not left, "the test left cgroups behind"


@pytest.fixture
def group(layout: Layout) -> Iterator[Callable[[Mapping[str, Any]], Group]]:
    """Make a group with limits; it and its app are removed afterwards."""

    def make(oci: Mapping[str, Any]) -> Group:
        made = Group.at(layout, f"{APP}/web{next(_names)}", oci)
        made.create(oci)
        return made

    yield make
    remove_tree(layout, APP)
