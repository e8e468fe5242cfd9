"""A launcher is found or started: the client's side, with a program in its place that says what it was given."""

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from runtime.launch import client

ECHO = (
    "import json, os, socket, sys\n"
    "listener, controller = (socket.socket(fileno=int(each)) for each in sys.argv[2:4])\n"
    "fds = [int(each) for each in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{each}')]\n"
    "said = dict(argv=sys.argv, env=dict(os.environ), cwd=os.getcwd(), sid=os.getsid(0) == os.getpid(), "
    "flags=[sys.flags.isolated, sys.flags.no_site], path=sys.path, fds=sorted(fds))\n"
    "controller.send(json.dumps(said).encode())\n"
    "controller.recv(1)\n"
)


@pytest.fixture(autouse=True)
def _plain_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts are root's to make; the real one is seen from inside a container (tests/attack)."""
    monkeypatch.setattr(client, "_interpreter", lambda: os.open(sys.executable, os.O_PATH | os.O_CLOEXEC))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_there_is_none(tmp_path: Path) -> None:
    before = descriptors()
    assert client.connect(tmp_path) is None
    assert client.connect(tmp_path / "missing") is None
    assert descriptors() == before


def test_a_socket_that_nobody_serves_is_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / client.SOCKET_NAME))
    assert client.connect(tmp_path) is None


def test_a_living_one_is_found_below_any_path(tmp_path: Path) -> None:
    """sun_path holds 108 bytes."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    here = os.open(deep, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as living:
        living.bind(f"/proc/self/fd/{here}/{client.SOCKET_NAME}")
        os.close(here)
        living.listen()
        found = client.connect(deep)
        assert found is not None
        found.close()


def test_what_a_launcher_is_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setattr(client, "_BOOT", ECHO)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("SECRET", "x")
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    (tmp_path / client.SOCKET_NAME).write_text("left behind by a dead one")
    before = descriptors()
    channel = client.start(tmp_path, "shop")
    try:
        assert descriptors() == before + 1
        said = json.loads(channel.recv(65536))
        found = client.connect(tmp_path)
        assert found is not None
        found.close()
    finally:
        pid = peer(channel)
        channel.close()
        os.waitpid(pid, 0)
        os.close(inherited)
    assert said["argv"][4:] == ["creche-launcher", "shop"]
    assert "SECRET" not in said["env"]
    assert (said["cwd"], said["sid"], said["flags"]) == ("/", True, [1, 1])
    assert not any("site-packages" in path for path in said["path"])
    assert len(said["fds"]) == 5, "its three streams and two sockets"
    assert stat.S_IMODE((tmp_path / client.SOCKET_NAME).stat().st_mode) == 0o600


def peer(channel: socket.socket) -> int:
    """The launcher's pid: the one child that has the channel's other end."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return int(children[-1])


def test_a_start_that_fails_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        client.start(tmp_path, "shop")
    assert descriptors() == before


def test_a_run_directory_that_is_missing(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        client.start(tmp_path / "missing", "shop")
    assert descriptors() == before
