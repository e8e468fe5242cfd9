"""Every test that touches the real kernel is checked for what it left behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks

CHECKED = ("kernel", "system", "attack", "faults")
"""Directories below tests/ whose tests may leave nothing."""


@pytest.fixture
def leak_scope(tmp_path: Path) -> leaks.Scope:
    """What counts as this test's; a test that works elsewhere tells it by `leak_scope.own(directory)`."""
    scope = leaks.Scope()
    scope.own(tmp_path)
    return scope


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of the real kernel that left a process, mount, cgroup, link, table, claim or descriptor."""
    here = request.path.relative_to(Path(__file__).parent)
    if here.parts[0] not in CHECKED:
        yield
        return
    scope: leaks.Scope = request.getfixturevalue("leak_scope")
    before = leaks.snapshot(scope)
    yield
    rest = leaks.left(before, scope)
    if rest:
        pytest.fail("the test left behind:\n  " + "\n  ".join(rest), pytrace=False)
