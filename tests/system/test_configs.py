"""Every file in configs/ is run as it is shipped. A new one without an expectation here fails."""

import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.driver import REPOSITORY, Creche, answered, free_port, get

CONFIGS = REPOSITORY / "configs"
FILES = sorted(CONFIGS.glob("*.toml"))
_PORT = re.compile(r"(127\.0\.0\.1):(\d+):(\d+)")


def hello(creche: Creche, port: Callable[[int], int]) -> None:
    first = int(answered(port(8080)).split()[0])
    assert [int(get(port(8080)).split()[0]) for _ in range(3)] == [first + 1, first + 2, first + 3]


EXPECTED: dict[str, Callable[[Creche, Callable[[int], int]], None]] = {"hello.toml": hello}
"""What each example shows; `port` gives the port that a port of the file is published on."""


def free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def shipped(path: Path, creche: Creche) -> tuple[Path, dict[int, int]]:
    """The file as it is where its ports are free, else a copy of it with others, and which became which."""
    text = path.read_text()
    wanted = {int(found[2]) for found in _PORT.finditer(text)}
    if all(map(free, wanted)):
        return path, {port: port for port in wanted}
    others = {port: free_port() for port in wanted}
    copy = creche.directory / "configs"
    shutil.copytree(path.parent, copy)
    (copy / path.name).write_text(_PORT.sub(lambda found: f"{found[1]}:{others[int(found[2])]}:{found[3]}", text))
    return copy / path.name, others


def test_every_file_has_an_expectation() -> None:
    assert {path.name for path in FILES} == set(EXPECTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_is_for(path: Path, creche: Creche) -> None:
    file, ports = shipped(path, creche)
    creche("up", "-d", "--wait", str(file), timeout=60)
    EXPECTED[path.name](creche, lambda port: ports[port])
    creche("down", timeout=60)
    creche.nothing_left()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_explained(path: Path) -> None:
    assert path.name in (CONFIGS / "README.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_valid(path: Path, creche: Creche) -> None:
    assert creche("config", str(path)).out
