"""Starts the machine with the session where its tests are among others, and lets them come last."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import beside, test_machine

_HERE = Path(__file__).parent
_started: list[beside.Started] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Move the machine's tests to the end and start it, unless they are alone or only listed."""
    last = [item for item in items if item.path.name == "test_machine.py" and item.path.parent == _HERE]
    others = [item for item in items if item not in last]
    items[:] = [*others, *last]
    if last and others and not config.option.collectonly:
        _started.append(beside.Started(test_machine.COMMAND, test_machine.TIMEOUT))


def pytest_unconfigure() -> None:
    """Leave no machine behind, however the session ends."""
    while _started:
        _started.pop().end()


@pytest.fixture(scope="session")
def machine_beside() -> Iterator[beside.Started | None]:
    """The machine that was started with the session, None where its tests are alone."""
    yield _started[0] if _started else None
