"""The real command line, as root, on this kernel."""

from collections.abc import Iterator

import pytest

from tests import leaks
from tests.system.driver import Creche, checked_driver, driven


@pytest.fixture
def creche(leak_scope: leaks.Scope, leaves_nothing: None) -> Iterator[Creche]:
    """`creche` under a root and a run directory of the test's own; what runs in the end is taken down."""
    with driven(leak_scope) as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[Creche]:
    """The same for all tests of a module that only look."""
    with checked_driver() as made:
        yield made
