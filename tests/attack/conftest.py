"""Attacks are made through the real command line, as root, on this kernel."""

from collections.abc import Iterator

import pytest

from tests import leaks
from tests.system.driver import Creche, driven


@pytest.fixture
def creche(leak_scope: leaks.Scope, leaves_nothing: None) -> Iterator[Creche]:
    """`creche` under a root and a run directory of the test's own; what runs in the end is taken down."""
    with driven(leak_scope) as made:
        yield made
