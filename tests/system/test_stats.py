"""stats and top for real, and Docker's own client for all of these words."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests import leaks
from tests.system.driver import Creche, checked_driver, until

APP = """
[containers.busy]
rootfs = "/"
command = ["sh", "-c", "while :; do :; done"]
limits = { memory = "64M", cpus = 0.5, pids = 20 }

[containers.idle]
rootfs = "/"
command = ["sleep", "1000"]
user = "1234"
"""


@pytest.fixture(scope="module")
def app() -> Iterator[Creche]:
    leaks.ensure_tools("/usr/bin/docker")
    with checked_driver() as creche:
        creche.up("figures", APP)
        yield creche


def figures(creche: Creche, *names: str) -> dict[str, dict[str, object]]:
    said = creche("stats", "--no-stream", "--json", *names).out
    return {each["name"]: each for each in map(json.loads, said.splitlines())}


def test_the_busy_one_is_busier(app: Creche) -> None:
    found = figures(app)
    busy, idle = found["busy"]["cpu_percent"], found["idle"]["cpu_percent"]
    assert isinstance(busy, float)
    assert isinstance(idle, float)
    assert busy > 10 > idle


def test_limits_are_told(app: Creche) -> None:
    busy = figures(app, "busy")["busy"]
    assert (busy["memory_limit"], busy["pids_limit"]) == (64 << 20, 20)
    assert isinstance(busy["memory"], int)
    assert 0 < busy["memory"] < 64 << 20


def test_memory_rises_with_what_is_used(app: Creche) -> None:
    def used() -> int:
        value = figures(app, "busy")["busy"]["memory"]
        assert isinstance(value, int)
        return value

    before = used()
    script = "import time; x = bytearray(b'x') * (20 << 20); time.sleep(10)"
    with app.following("exec", "busy", "python3", "-c", script):
        until(lambda: used() > before + (15 << 20), what="15 MiB more")


def test_a_stream_goes_on(app: Creche) -> None:
    with app.following("stats", "--json", "idle") as stream:
        assert stream.stdout is not None
        first, second = (json.loads(stream.stdout.readline()) for _ in range(2))
        assert first["time"] < second["time"]


def test_top_shows_the_processes_with_both_pids(app: Creche) -> None:
    found = json.loads(app("top", "--json", "idle").out)
    assert found[0]["inner_pid"] == 1
    assert found[0]["pid"] == app.status("idle")["pid"]
    sleep = next(each for each in found[1:] if each["command"].endswith("sleep 1000"))  # the first is its init
    assert (sleep["uid"], sleep["container"]) == (1234, "idle")
    assert os.path.exists(f"/proc/{sleep['pid']}")


def test_top_shows_the_whole_app(app: Creche) -> None:
    text = app("top").out
    assert "sleep 1000" in text
    assert "while :; do :; done" in text


# Docker's client


def docker(creche: Creche, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    host = f"unix://{creche.run}/figures/control.sock"
    environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": "/nonexistent"}
    return subprocess.run(
        [shutil.which("docker") or "docker", *arguments],
        input=data,
        capture_output=True,
        timeout=60,
        env=environment,
        check=False,
    )


def test_docker_exec(app: Creche) -> None:
    found = docker(app, "exec", "-e", "A=1", "-w", "/usr", "idle", "sh", "-c", "echo $A; pwd; echo no >&2; exit 3")
    assert (found.returncode, found.stdout, found.stderr) == (3, b"1\n/usr\n", b"no\n")


def test_docker_exec_with_input(app: Creche) -> None:
    data = os.urandom(1 << 20)
    found = docker(app, "exec", "-i", "idle", "cat", data=data)
    assert (found.returncode, found.stdout == data) == (0, True)


def test_docker_exec_with_a_terminal(app: Creche) -> None:
    found = subprocess.run(
        ["script", "-qec", f"docker -H unix://{app.run}/figures/control.sock exec -it idle tty", "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    # What script(1) writes at the end of its own input comes before or after it.
    assert (found.returncode, b"/dev/pts/0" in found.stdout) == (0, True), found.stdout


def test_docker_exec_of_what_is_not_there(app: Creche) -> None:
    found = docker(app, "exec", "idle", "/nope")
    assert (found.returncode, b"/nope" in found.stdout + found.stderr) == (127, True)


def test_docker_exec_detached(app: Creche) -> None:
    assert docker(app, "exec", "-d", "idle", "touch", "/tmp/by-docker").returncode == 0
    until(lambda: docker(app, "exec", "idle", "test", "-e", "/tmp/by-docker").returncode == 0, what="the file")


def test_docker_stats(app: Creche) -> None:
    found = docker(app, "stats", "--no-stream", "--format", "{{json .}}", "busy")
    assert found.returncode == 0, found.stderr
    shown = json.loads(found.stdout)
    assert float(shown["CPUPerc"].rstrip("%")) > 10
    assert shown["MemUsage"].endswith("/ 64MiB")
    assert int(shown["PIDs"]) >= 1


def test_docker_top(app: Creche) -> None:
    found = docker(app, "top", "idle")
    assert found.returncode == 0, found.stderr
    assert b"sleep 1000" in found.stdout
    assert docker(app, "top", "idle", "-o", "pid,comm").stdout.split()[:2] == [b"PID", b"COMMAND"]


def test_docker_pause_and_unpause(app: Creche) -> None:
    assert docker(app, "pause", "idle").returncode == 0
    try:
        assert b"(Paused)" in docker(app, "ps").stdout
        assert app.status("idle")["state"] == "paused"
        refused = docker(app, "exec", "idle", "true")
        assert (refused.returncode != 0, b"paused" in refused.stderr) == (True, True)
    finally:
        assert docker(app, "unpause", "idle").returncode == 0
    assert app.status("idle")["state"] == "running"


def test_docker_update(app: Creche) -> None:
    found = docker(app, "update", "--memory", "48m", "--memory-swap", "48m", "--pids-limit", "30", "busy")
    assert found.returncode == 0, found.stderr
    busy = figures(app, "busy")["busy"]
    assert (busy["memory_limit"], busy["pids_limit"]) == (48 << 20, 30)
    docker(app, "update", "--memory", "64m", "--memory-swap", "64m", "--pids-limit", "20", "busy")
