"""up and down as processes over the scripted machine: foreground, detached, waiting, refusals, signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from supervisor.app_file.spec import AppSpec, Container
from supervisor.commands.command import Wrong
from supervisor.commands.up import needed, plan
from supervisor.control.client import listens

PROGRAM = str(Path(__file__).with_name("scripted_creche.py"))
GOOD = """
[containers.db]
rootfs = "/"
command = "run"
[containers.web]
rootfs = "/"
command = "run"
links = ["db"]
"""


def container(name, more=""):
    return f'[containers.{name}]\nrootfs = "/"\ncommand = "run"\n{more}\n'


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def process(places, monkeypatch):
    """Run `creche ARGUMENTS` over the scripted machine as a process; what is still up is taken down at the end."""
    import creche

    monkeypatch.setattr(creche, "__file__", PROGRAM)

    def argv(*arguments):
        return [sys.executable, PROGRAM, "--root", str(places.root), "--run", str(places.run), *arguments]

    def go(*arguments, **environ):
        environ = {**os.environ, **environ}
        done = subprocess.run(argv(*arguments), capture_output=True, text=True, env=environ, timeout=30)
        return Result(done.returncode, done.stdout, done.stderr)

    go.argv = argv
    yield go
    for app in [entry.name for entry in places.run.iterdir()] if places.run.exists() else []:
        go("down", app, "--timeout", "0s")


@pytest.fixture
def detached(process, monkeypatch):
    """As `process`, for commands that start a supervisor of their own: it is the scripted one, too."""
    wrapper = f"import runpy, creche; creche.__file__ = {PROGRAM!r}; runpy.run_path({PROGRAM!r}, run_name='__main__')"

    def go(*arguments, **environ):
        command = [sys.executable, "-c", wrapper, *process.argv(*arguments)[2:]]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ}, timeout=30)
        return Result(done.returncode, done.stdout, done.stderr)

    return go


@pytest.fixture
def shop(places):
    Path("shop.toml").write_text(GOOD)
    return Path("shop.toml").absolute()


def left(places):
    """What is left below the root and the run directory, but the shared parents."""
    found = [str(path.relative_to(places.root.parent)) for top in places for path in top.rglob("*")]
    return [name for name in found if name != "root/apps"]


def test_detached_waited_for_and_taken_down(detached, creche, shop, places):
    up = detached("up", "-d", "--wait", "--timeout", "20s", str(shop))
    assert (up.code, up.err) == (0, "")
    assert "shop is up" in up.out
    assert [each["state"] for each in json.loads(creche("ps", "--json").out)] == ["running", "running"]
    down = creche("down")
    assert (down.code, down.err) == (0, "")
    assert left(places) == []
    assert not listens(places.run, "shop")


def test_up_again_says_that_it_runs(detached, shop):
    detached("up", "-d", str(shop))
    again = detached("up", "--wait", str(shop))
    assert (again.code, "runs already" in again.out) == (0, True)


def test_a_changed_file_is_refused_for_now(detached, shop):
    detached("up", "-d", str(shop))
    shop.write_text(GOOD.replace("run", "walk"))
    again = detached("up", "-d", str(shop))
    assert (again.code, again.out) == (1, "")
    assert "updating a running app is not yet supported" in again.err


def test_another_files_app_of_that_name_is_refused(detached, shop):
    detached("up", "-d", str(shop))
    Path("other.toml").write_text('name = "shop"\n' + GOOD)
    again = detached("up", "-d", "other.toml")
    assert (again.code, str(shop) in again.err) == (2, True)


def test_waiting_for_one_that_gives_up(detached, places):
    Path("shop.toml").write_text(container("missing", 'restart = { policy = "never" }'))
    up = detached("up", "--wait", "shop.toml")
    assert up.code == 1
    assert "/bin/nope is not there" in up.err


def test_waiting_ends_after_its_timeout(detached, places):
    Path("shop.toml").write_text(container("missing", 'restart = { delay = "1h", max_delay = "1h" }'))
    up = detached("up", "--wait", "--timeout", "100ms", "shop.toml")
    assert up.code == 1
    assert "not ready after 0.1 s: missing (backing-off)" in up.err


def test_a_start_error_is_printed_by_up(detached, shop, places):
    up = detached("up", "-d", str(shop), SCRIPTED_BROKEN="1")
    assert (up.code, up.out) == (1, "")
    assert "the subnet is taken" in up.err
    assert left(places) == []


def test_a_supervisor_that_dies_before_it_runs(detached, shop):
    up = detached("up", "-d", str(shop), SCRIPTED_DIES="1")
    assert up.code == 1
    assert "ended before it ran" in up.err


def test_a_broken_file_starts_nothing(process, places):
    Path("shop.toml").write_text(container("web", 'link = ["db"]\nrestart = 3'))
    up = process("up", "shop.toml")
    assert (up.code, up.out, left(places)) == (2, "", [])
    assert "shop.toml:4" in up.err
    assert "shop.toml:5" in up.err


def test_only_some_and_what_they_need(detached, creche, places):
    Path("shop.toml").write_text(GOOD + container("other"))
    assert detached("up", "--wait", "shop.toml", "web").code == 0
    assert [each["name"] for each in json.loads(creche("ps", "--json").out)] == ["db", "web"]


def until_up(process, places):
    """Wait until a foreground supervisor serves."""
    import time

    for _ in range(1000):
        if listens(places.run, "shop"):
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    pytest.fail("it did not come up")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_foreground_gracefully(process, shop, places, signum):
    with subprocess.Popen(process.argv("up", str(shop)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as up:
        until_up(up, places)
        up.send_signal(signum)
        _, err = up.communicate(timeout=20)
    assert (up.returncode, b"Traceback" in err) == (0, False)
    assert left(places) == []


def test_a_second_interrupt_kills(process, places):
    Path("shop.toml").write_text(container("stubborn", 'stop = { timeout = "1h" }'))
    with subprocess.Popen(process.argv("up", "shop.toml"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as up:
        until_up(up, places)
        up.send_signal(signal.SIGINT)
        assert b"stopping" in up.stderr.readline()
        up.send_signal(signal.SIGINT)
        _, err = up.communicate(timeout=20)
    assert (up.returncode, b"killing" in err) == (0, True)
    assert left(places) == []


def test_down_from_elsewhere_ends_the_foreground(process, creche, shop, places):
    with subprocess.Popen(process.argv("up", str(shop)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as up:
        until_up(up, places)
        assert creche("down", "shop").code == 0
        assert up.wait(20) == 0
        up.communicate()


def test_the_foreground_tells_what_dies(process, places):
    Path("shop.toml").write_text(container("crash", 'restart = { policy = "never" }'))
    with subprocess.Popen(process.argv("up", "shop.toml"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as up:
        assert b"crash" in up.stderr.readline()
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=20)


def test_a_detached_supervisor_keeps_its_app_on_sighup_and_ends_on_sigterm(detached, shop, places):
    pid = int(detached("up", "-d", str(shop)).out.partition("pid ")[2].partition(")")[0])
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    assert listens(places.run, "shop")
    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    import select

    assert select.select([descriptor], [], [], 20)[0]
    os.close(descriptor)
    assert left(places) == []


def test_down_without_a_supervisor_works_from_the_journal(detached, process, shop, places):
    pid = int(detached("up", "-d", "--wait", str(shop)).out.partition("pid ")[2].partition(")")[0])
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    import select

    select.select([descriptor], [], [], 20)
    os.close(descriptor)
    assert "shop" in process("ps").err
    down = process("down")
    assert (down.code, down.err) == (0, "")
    assert left(places) == []


def test_down_of_nothing_is_fine(creche):
    assert creche("down").code == 0
    assert creche("down", "shop").code == 0


def test_volumes_go_only_when_asked_even_later(creche, places):
    data = places.root / "volumes" / "shop" / "data"
    data.mkdir(parents=True)
    creche("down", "shop")
    assert data.exists()
    assert "volumes are removed" in creche("down", "shop", "--volumes").err
    assert not data.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--build", "shop.toml"], "not yet supported"),
        (["--force-recreate", "shop.toml"], "not yet supported"),
        (["--profile", "x", "shop.toml"], "not yet supported"),
        (["--timeout", "1s", "shop.toml"], "only with --wait"),
        (["shop.toml", "wbe"], "did you mean 'web'"),
        (["nix.toml"], "no such file"),
        (["-f", "shop.toml", "-f", "b.toml"], "not yet supported"),
    ],
)
def test_wrong_arguments(creche, shop, arguments, words):
    result = creche("up", *arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err


def test_a_dry_run_only_tells(creche, shop, places):
    result = creche("up", "--dry-run", str(shop))
    assert (result.code, left(places)) == (0, [])
    assert [line.strip() for line in result.out.splitlines()[1:]] == ["1. db", "2. web, once db is ready"]


def chain():
    boxes = [Container(name="c", rootfs="/"), Container(name="b", rootfs="/", links=["c"])]
    return AppSpec(
        name="shop", containers=[*boxes, Container(name="a", rootfs="/", after=["b"]), Container(name="z", rootfs="/")]
    )


def test_what_a_container_needs_is_transitive():
    assert needed(chain(), ("a",)) == {"a", "b", "c"}
    with pytest.raises(Wrong, match="no container"):
        needed(chain(), ("nope",))


def test_the_plan_has_the_order_of_start():
    assert [line.split(".")[0].strip() for line in plan(chain()).splitlines()[1:]] == ["1", "1", "2", "3"]


@pytest.mark.parametrize("run", ["/proc/nowhere", "/dev/null"])
def test_a_run_directory_that_cannot_be_made_is_said_in_one_line(process, shop, run):
    up = process("up", "-d", str(shop), "--run", run)
    assert (up.code, up.out, up.err.count("\n")) == (1, "", 1)
    assert f"{run}/" in up.err
    assert "--run" in up.err
