"""One launcher through everything: what it weighs afterwards is bounded, and nothing of it is left. Needs root."""

import contextlib
import json
import random
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from runtime.launch import client
from tests.faults.launcher.weight import MOST, proportional, resident, worse
from tests.kernel.runtime.launching import Launching, Refused, eventually, open_files

SLEEP = ("/bin/sleep", "1000")
HOARDING = """
from runtime.launch import launcher
answer, hoard = launcher.Launcher._answer, []
def hoarding(self, connection, packet):
    hoard.append(bytes(8000))
    answer(self, connection, packet)
launcher.Launcher._answer = hoarding
"""


def wear(launcher: Launching, rounds: int) -> None:
    """Runs, execs, failures of each kind, floods and rubbish."""
    chance = random.Random(rounds)
    for number in range(rounds):
        name = f"c{number % 5}"
        launcher.hold(name)
        with pytest.raises(Refused):
            launcher.create(2 * number, "nonexistent", name=name)
        launcher.run(2 * number + 1, *SLEEP, name=name, init=bool(number % 2))
        for each in range(3):
            launcher.exec(str(each), "/bin/true", name=name)
            with pytest.raises(Refused):
                launcher.exec("bad", "nonexistent", name=name)
        launcher.ask("kill", name=name)
        launcher.exited(name, 2 * number + 1)
        if number % 3 == 0:
            launcher.ask("forget", name=name)
        with stranger(launcher) as channel, contextlib.suppress(OSError):
            channel.send(chance.randbytes(chance.randrange(1, 100_000)))
        with stranger(launcher) as channel, contextlib.suppress(OSError):
            for _ in range(500):
                channel.send(json.dumps({"op": "hello" + "x" * chance.randrange(100), "id": 1}).encode())
        launcher.events.clear()


@contextlib.contextmanager
def stranger(launcher: Launching) -> Generator[socket.socket]:
    channel = client.connect(launcher.directory / "run")
    assert channel is not None
    with channel:
        channel.settimeout(10)
        yield channel


@pytest.mark.parametrize("rounds", [20, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_a_launcher_that_has_seen_everything(tmp_path: Path, rounds: int) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        before = open_files(launcher.pid).keys()
        wear(launcher, rounds)
        for name in launcher.greet()["held"]:
            launcher.ask("forget", name=name)
        assert eventually(lambda: resident(launcher.pid) <= MOST), resident(launcher.pid)
        assert proportional(launcher.pid) <= MOST
        assert eventually(lambda: open_files(launcher.pid).keys() == before)
        assert list(launcher.children().values()) == ["creche-logger"]
        assert not launcher.leaves()
        print(f"resident {resident(launcher.pid) >> 10} kB, proportional {proportional(launcher.pid) >> 10} kB")
        launcher.ask("end")
        assert launcher.ended() == 0
        assert launcher.log() == ""


def test_one_that_keeps_eight_kilobytes_of_each_request_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative control."""
    monkeypatch.setattr(client, "_BOOT", worse(f"exec({HOARDING!r})"))
    with Launching(tmp_path, embedded=False) as launcher:
        wear(launcher, 3)
        assert not eventually(lambda: resident(launcher.pid) <= MOST, 1)


def test_a_launcher_that_has_just_begun(tmp_path: Path) -> None:
    with Launching(tmp_path) as launcher:
        assert resident(launcher.pid) <= MOST - (256 << 10)
