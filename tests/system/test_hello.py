"""configs/hello.toml from start to end, as its reader is told to use it."""

import re
import shutil
import signal
import time

import pytest

from tests.system.driver import REPOSITORY, Creche, answered, free_port, get, until


@pytest.fixture
def hello(creche: Creche) -> tuple[Creche, str, int]:
    """The example, up and ready, on a port of the test's own."""
    port = free_port()
    text = (REPOSITORY / "configs/hello.toml").read_text()
    text = re.sub(r"^name\s*=.*$", "", text, flags=re.MULTILINE).replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    shutil.copytree(REPOSITORY / "configs/hello", creche.directory / "hello")
    return creche, creche.up("hello", text), port


def count(answer: str) -> int:
    """The first number in the answer."""
    found = re.search(r"\d+", answer)
    assert found, answer
    return int(found[0])


def test_the_count_grows_by_one_with_each_request(hello: tuple[Creche, str, int]) -> None:
    _, _, port = hello
    first = answered(port)
    assert first.count("\n") == 1
    assert [count(get(port)) for _ in range(5)] == [count(first) + number for number in range(1, 6)]


def test_a_killed_api_is_back_within_a_second_under_the_same_address(hello: tuple[Creche, str, int]) -> None:
    creche, _, port = hello
    before, status = count(answered(port)), creche.status("api")
    inside = [each for each in creche.processes() if each.parent == status["pid"]]
    assert len(inside) == 1, "an init with the api below it"
    killed = time.monotonic()
    creche.sigkill(inside[0].pid)
    after = count(answered(port, timeout=5))
    assert time.monotonic() - killed < 1.0
    now = creche.status("api")
    assert (after, now["ip"], now["restarts"]) == (before + 1, status["ip"], 1)
    assert now["pid"] != status["pid"]
    died = creche.events(name="api", event="died")
    assert [each["reason"] for each in died] == ["signal"]


def test_a_killed_pid_1_is_back_within_a_second_under_the_same_address(hello: tuple[Creche, str, int]) -> None:
    creche, _, port = hello
    before, status = count(answered(port)), creche.status("api")
    killed = time.monotonic()
    creche.sigkill(status["pid"])
    after = count(answered(port, timeout=5))
    assert time.monotonic() - killed < 1.0
    assert (after, creche.status("api")["ip"]) == (before + 1, status["ip"])


def test_the_count_goes_on_after_down_and_up(hello: tuple[Creche, str, int]) -> None:
    creche, path, port = hello
    before = count(answered(port))
    creche("down")
    with pytest.raises(OSError):
        get(port)
    creche("up", "-d", "--wait", path)
    assert count(answered(port)) == before + 1


def test_down_with_volumes_forgets_the_count(hello: tuple[Creche, str, int]) -> None:
    creche, path, port = hello
    answered(port)
    creche("down", "--volumes")
    assert not (creche.root / "volumes/hello").exists()
    creche("up", "-d", "--wait", path)
    assert count(answered(port)) == 1


def test_down_leaves_nothing(hello: tuple[Creche, str, int]) -> None:
    creche, _, port = hello
    answered(port)
    creche("down")
    creche.nothing_left()


def test_the_worker_crashes_alone_and_comes_back(hello: tuple[Creche, str, int]) -> None:
    creche, _, port = hello
    answered(port)
    before = creche.ps()
    creche("kill", "worker")
    after = creche.wait_for("worker", lambda status: status["restarts"] == 1 and status["state"] == "running")
    assert after["pid"] != before["worker"]["pid"]
    assert {name: creche.status(name)["pid"] for name in ("store", "api")} == {
        name: before[name]["pid"] for name in ("store", "api")
    }


def test_an_up_in_the_foreground_prints_logs_and_ends_by_ctrl_c(creche: Creche) -> None:
    path = creche.file(
        "front", '[containers.one]\nrootfs = "/"\ncommand = ["sh", "-c", "echo spoken; exec sleep 60"]\n'
    )
    with creche.following("up", path) as child:
        assert child.stdout is not None
        seen = b""
        while b"spoken\n" not in seen:
            seen += child.stdout.readline()
        until(lambda: creche("ps", code=None).code == 0)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
    creche.nothing_left()
