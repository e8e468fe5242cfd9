"""A real launcher over its socket: runs, failures at every step, deaths of each side, and nothing left. Needs root."""

import contextlib
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.group import remove_tree
from runtime.cgroups.hierarchy import find
from runtime.launch import client, messages
from tests.kernel.runtime.launching import (
    BASE,
    OWN_INIT_BOOT,
    Launching,
    Refused,
    alive,
    eventually,
    open_files,
    status_of,
)

INITS = ("static init", "own init", "no init")
SLEEP = ("/bin/sleep", "1000")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launching]:
    """A launcher that has not complained when the test is over."""
    with Launching(tmp_path) as launcher:
        yield launcher
        if launcher.pid:
            launcher.ask("end")
            launcher.ended()
        remove_tree(find(), launcher.cgroup)  # what failed before it was held leaves the app's own directory
        assert launcher.log() == ""


@pytest.fixture(params=INITS)
def any_init(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A launcher, and how to create a run, for each kind of pid 1."""
    if request.param == "own init":
        monkeypatch.setattr(client, "_BOOT", OWN_INIT_BOOT)
    with Launching(tmp_path) as launcher:
        assert (launcher.hello["init"] is None) == (request.param == "own init")
        yield launcher, request.param
        launcher.ask("end")
        assert launcher.ended() == 0
        assert launcher.log() == ""


def limit_to(launcher: Launching, spare: int) -> tuple[int, int]:
    """Leave the launcher room for so many more descriptors; return its former limit."""
    used = open_files(launcher.pid)
    free = [number for number in range(len(used) + spare + 1) if number not in used]
    former = resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, (free[spare], former[1]))
    return former


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


# One life


def test_a_run_writes_its_log_and_tells_its_end(launcher: Launching) -> None:
    launcher.hold()
    launcher.run(1, *shell("echo out; echo err >&2; exit 3"))
    assert launcher.exited("web", 1) == (3, None, False)
    assert (launcher.output(), launcher.output(suffix="err")) == (b"out\n", b"err\n")


def test_nothing_runs_between_create_and_start(launcher: Launching) -> None:
    launcher.hold()
    pid = launcher.create(1, "/bin/echo", "ran", init=False)["pid"]
    time.sleep(0.05)
    assert (alive(pid), launcher.output()) == (True, b"")
    launcher.ask("start", name="web", run=1)
    launcher.exited("web", 1)
    assert launcher.output() == b"ran\n"


def test_started_means_that_the_program_runs(launcher: Launching) -> None:
    launcher.hold()
    pid = launcher.run(1, *SLEEP, init=False)
    assert os.readlink(f"/proc/{pid}/exe").endswith("sleep")


def test_runs_follow_each_other_under_one_network_namespace(launcher: Launching) -> None:
    launcher.hold()
    seen: set[str] = set()
    for run in (1, 2, 3):
        seen.add(os.readlink(f"/proc/{launcher.run(run, *SLEEP)}/ns/net"))
        launcher.ask("kill", name="web")
        launcher.exited("web", run)
    assert len(seen) == 1
    assert seen != {os.readlink("/proc/self/ns/net")}


def test_a_second_hold_finds_the_first(launcher: Launching) -> None:
    launcher.hold()
    pid = launcher.run(1, *SLEEP)
    launcher.hold()
    assert launcher.greet()["held"]["web"]["pid"] == pid


def test_forget_leaves_no_cgroup_and_no_descriptor(launcher: Launching) -> None:
    before = open_files(launcher.pid).keys()
    launcher.hold()
    launcher.run(1, "/bin/true")
    launcher.exited("web", 1)
    launcher.ask("forget", name="web")
    assert eventually(lambda: not launcher.cgroups())
    assert eventually(lambda: open_files(launcher.pid).keys() == before), launcher.log()


def test_forget_kills_what_runs(launcher: Launching) -> None:
    launcher.hold("a")
    launcher.hold("b")
    pids = launcher.run(1, *SLEEP, name="a"), launcher.create(1, *SLEEP, name="b")["pid"]
    for name in ("a", "b"):
        launcher.ask("forget", name=name)
    assert not any(map(alive, pids))
    assert launcher.greet()["held"] == {}


def test_end_takes_everything_along(launcher: Launching) -> None:
    launcher.hold("a")
    launcher.hold("b")
    pids = launcher.run(1, *SLEEP, name="a"), launcher.create(1, *SLEEP, name="b")["pid"]
    launcher.ask("end")
    assert launcher.ended() == 0
    assert not any(map(alive, pids))
    assert not launcher.cgroups()


def test_end_while_runs_are_ending(launcher: Launching) -> None:
    for number in range(10):
        launcher.hold(str(number))
        launcher.run(1, *SLEEP, name=str(number), init=False)
    for number in range(10):
        launcher.send("kill", name=str(number))
    launcher.ask("end")
    assert (launcher.ended(), launcher.log()) == (0, "")


# Ends


@pytest.mark.parametrize("code", [0, 1, 126, 255])
def test_exit_codes(any_init: tuple[Launching, str], code: int) -> None:
    launcher, kind = any_init
    launcher.hold()
    launcher.run(1, *shell(f"exit {code}"), init=kind != "no init")
    assert launcher.exited("web", 1) == (code, None, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN + 3])
def test_a_signal_reaches_the_program(any_init: tuple[Launching, str], number: int) -> None:
    launcher, kind = any_init
    launcher.hold()
    script = f"import signal, sys; signal.signal({number}, lambda *_: sys.exit(7)); print('ready', flush=True)\n"
    launcher.run(1, "/usr/bin/python3", "-c", script + "while True: signal.pause()", init=kind != "no init")
    assert eventually(lambda: launcher.output() == b"ready\n")
    launcher.ask("signal", name="web", signal=number)
    assert launcher.exited("web", 1) == (7, None, False)


@pytest.mark.parametrize("kind", INITS[:2])
def test_an_init_shows_a_signals_death_as_a_shell_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "own init":
        monkeypatch.setattr(client, "_BOOT", OWN_INIT_BOOT)
    with Launching(tmp_path) as launcher:
        launcher.hold()
        launcher.run(1, *shell("kill -USR1 $$; sleep 9"))
        assert launcher.exited("web", 1) == (128 + signal.SIGUSR1, None, False)


def test_a_signal_right_after_start_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own init: it must hold signals back from before its program exists."""
    monkeypatch.setattr(client, "_BOOT", OWN_INIT_BOOT)
    with Launching(tmp_path) as launcher:
        launcher.hold()
        for run in range(20):
            launcher.run(run, *SLEEP)
            launcher.ask("signal", name="web", signal=signal.SIGTERM)
            assert launcher.exited("web", run) == (128 + signal.SIGTERM, None, False)


def test_without_init_a_signals_death_is_told_as_it_is(launcher: Launching) -> None:
    launcher.hold()
    launcher.run(1, *SLEEP, init=False)
    launcher.ask("kill", name="web")
    assert launcher.exited("web", 1) == (None, signal.SIGKILL, False)


def test_orphans_are_reaped(any_init: tuple[Launching, str]) -> None:
    launcher, kind = any_init
    if kind == "no init":
        return  # then they are the program's own to reap
    launcher.hold()
    pid = launcher.run(1, *shell("for n in 1 2 3 4 5; do (sleep 0.01 &); done; echo ready; sleep 1000"))
    assert eventually(lambda: launcher.output() == b"ready\n")
    members = Path(f"/proc/{pid}/task/{pid}/children")
    assert eventually(lambda: len(members.read_text().split()) == 1)


def test_a_process_that_outlives_the_program_dies_with_it(any_init: tuple[Launching, str]) -> None:
    launcher, kind = any_init
    launcher.hold()
    launcher.run(1, *shell("sleep 1000 & echo left"), init=kind != "no init")
    assert launcher.exited("web", 1)[0] == 0
    assert eventually(lambda: not launcher.leaves())


def test_the_oom_killer_is_told(launcher: Launching) -> None:
    launcher.hold(resources={"memory": {"limit": 64 << 20, "swap": 64 << 20}, "pids": {"limit": 100}})
    launcher.run(1, "/usr/bin/python3", "-c", "x = b'x' * (200 << 20)")
    assert launcher.exited("web", 1) == (137, None, True)
    launcher.run(2, "/bin/true")
    assert launcher.exited("web", 2) == (0, None, False), "the next run starts without the last one's count"


# What a container inherits


def test_signals_are_at_their_defaults(any_init: tuple[Launching, str]) -> None:
    launcher, kind = any_init
    launcher.hold()
    # catatonit itself hands on SIGTSTP, SIGTTIN and SIGTTOU blocked.
    blocked = b"" if kind == "static init" else b"SigBlk:\t0000000000000000\n"
    names = "SigIgn" if kind == "static init" else "SigBlk|SigIgn"
    launcher.run(1, "/bin/grep", "-E", names, "/proc/self/status", init=kind != "no init")
    launcher.exited("web", 1)
    assert launcher.output() == blocked + b"SigIgn:\t0000000000000000\n"


def test_a_parent_that_ignores_signals_changes_nothing(tmp_path: Path) -> None:
    former = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        with Launching(tmp_path) as launcher:
            launcher.hold()
            launcher.run(1, "/bin/grep", "SigIgn", "/proc/self/status")
            launcher.exited("web", 1)
            assert launcher.output() == b"SigIgn:\t0000000000000000\n"
    finally:
        signal.signal(signal.SIGUSR2, former)


def test_no_descriptor_is_inherited(any_init: tuple[Launching, str]) -> None:
    launcher, kind = any_init
    launcher.hold()
    # The fourth is the listing itself.
    launcher.run(1, "/bin/ls", "-1", "/proc/self/fd", init=kind != "no init")
    launcher.exited("web", 1)
    assert launcher.output() == b"0\n1\n2\n3\n"


def test_pid_1_holds_its_streams_alone(launcher: Launching) -> None:
    launcher.hold()
    pid = launcher.run(1, *SLEEP, init=False)
    # For a moment its loader holds what it loads.
    assert eventually(lambda: open_files(pid).keys() == {0, 1, 2})
    assert open_files(pid)[0] == "/dev/null"


def test_creches_init_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_BOOT", OWN_INIT_BOOT)
    with Launching(tmp_path) as launcher:
        launcher.hold()
        pid = launcher.run(1, *SLEEP)
        assert eventually(lambda: open_files(pid) == {})


def test_the_working_directory_is_the_root(any_init: tuple[Launching, str]) -> None:
    launcher, kind = any_init
    launcher.hold()
    launcher.run(1, "/bin/pwd", init=kind != "no init")
    launcher.exited("web", 1)
    assert launcher.output() == b"/\n"


def test_nobody_looks_into_a_run_before_exec(launcher: Launching) -> None:
    """The files of a process that is not dumpable belong to root, not to its own user (proc(5))."""
    launcher.hold()
    pid = launcher.create(1, *SLEEP, init=False)["pid"]
    before = os.stat(f"/proc/{pid}/fd").st_uid
    launcher.ask("start", name="web", run=1)
    assert (before, os.stat(f"/proc/{pid}/fd").st_uid) == (0, BASE)


def test_two_runs_do_not_hold_each_others_pipes(launcher: Launching) -> None:
    pipes: list[set[str]] = []
    for name in ("a", "b"):
        launcher.hold(name)
    numbers = [launcher.send_create(1, *SLEEP, name=name) for name in ("a", "b")]
    for number in numbers:
        files = open_files(launcher.answer(number)["pid"])
        pipes.append({file for file in files.values() if file.startswith("pipe:")})
    assert all(pipes)
    assert not pipes[0] & pipes[1]


def test_the_launchers_open_files_limit_is_not_the_containers(launcher: Launching) -> None:
    launcher.hold()
    launcher.run(1, *shell("ulimit -Sn"))
    launcher.exited("web", 1)
    assert launcher.output() == b"1024\n"


# Failures


def no_source(config: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/tmp/x", "type": "bind", "source": "/nonexistent/creche"})


def target_below_a_file(config: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/etc/passwd/x", "type": "tmpfs"})


def target_inside_below_a_file(config: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/proc/version/x", "type": "tmpfs"})


def host_name_too_long(config: dict[str, Any]) -> None:
    config["hostname"] = "x" * 65


def impossible_limit(config: dict[str, Any]) -> None:
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}]


def unknown_user(config: dict[str, Any]) -> None:
    config["process"]["user"] = {"username": "no-such-user"}


def no_directory(config: dict[str, Any]) -> None:
    config["process"]["cwd"] = "/nonexistent"


@pytest.mark.parametrize(
    ("change", "args", "init", "words", "code"),
    [
        (no_source, SLEEP, True, "open /nonexistent/creche", 125),
        (target_below_a_file, SLEEP, True, "mount target /etc/passwd/x", 125),
        (target_inside_below_a_file, SLEEP, True, "/proc/version/x", 125),
        (host_name_too_long, SLEEP, True, "set the host name", 125),
        (impossible_limit, SLEEP, True, "limit RLIMIT_NOFILE", 125),
        (unknown_user, SLEEP, True, "look up the user 'no-such-user'", 125),
        (no_directory, SLEEP, True, "working directory /nonexistent", 125),
        (None, ("nonexistent",), True, "no such program in PATH", 127),
        (None, ("/etc/passwd",), True, "not executable", 126),
        (None, ("/etc",), True, "not a regular file", 126),
    ],
)
def test_a_create_that_fails_leaves_nothing(
    launcher: Launching, change: Change | None, args: tuple[str, ...], init: bool, words: str, code: int
) -> None:
    launcher.hold()
    before = open_files(launcher.pid).keys()
    with pytest.raises(Refused, match=words) as caught:
        launcher.create(1, *args, init=init, change=change)
    assert caught.value.fields["exit_code"] == code
    assert eventually(lambda: list(launcher.children().values()) == ["creche-logger"])
    assert eventually(lambda: not launcher.leaves())
    assert eventually(lambda: open_files(launcher.pid).keys() == before), launcher.log()


def test_a_filter_that_is_none_is_refused(launcher: Launching) -> None:
    launcher.hold()
    with pytest.raises(Refused, match="load the seccomp filter"):
        launcher.create(1, *SLEEP, filter=b"12345678")


def test_the_layers_must_be_there(launcher: Launching, tmp_path: Path) -> None:
    launcher.hold()
    (tmp_path / "web/upper").rmdir()
    with pytest.raises(Refused, match="make the root of 1 layer"):
        launcher.create(1, *SLEEP)


def test_a_container_without_room_for_a_process(launcher: Launching) -> None:
    launcher.hold(resources={"pids": {"limit": 1}})
    with pytest.raises(Refused, match="clone pid 1") as caught:
        launcher.create(1, *SLEEP)
    assert "pids limit" in caught.value.fields["advice"]


def test_a_program_of_no_kind_fails_when_it_is_started(launcher: Launching, tmp_path: Path) -> None:
    program = tmp_path / "web/upper/program"
    launcher.hold()
    program.write_bytes(b"no program\n")
    program.chmod(0o755)
    launcher.create(1, "/program", init=False)
    with pytest.raises(Refused, match="no #! line") as caught:
        launcher.ask("start", name="web", run=1)
    assert caught.value.fields["exit_code"] == 126
    launcher.exited("web", 1)


def test_a_failed_create_is_over_when_it_is_answered(launcher: Launching) -> None:
    """Whoever hears of the failure may try again at once."""
    launcher.hold()
    for run in range(30):
        with pytest.raises(Refused, match="no such program"):
            launcher.create(run, "nonexistent")
    launcher.create(30, *SLEEP)


def test_a_failed_container_may_be_forgotten_at_once(launcher: Launching) -> None:
    for _ in range(10):
        launcher.hold()
        with pytest.raises(Refused, match="no such program"):
            launcher.create(1, "nonexistent")
        launcher.ask("forget", name="web")


def test_a_hundred_runs_leave_no_descriptor(launcher: Launching) -> None:
    launcher.hold()
    before = open_files(launcher.pid).keys()
    for run in range(0, 100, 2):
        launcher.run(run, "/bin/true")
        launcher.exited("web", run)
        with pytest.raises(Refused, match="working directory"):
            launcher.create(run + 1, *SLEEP, change=no_directory)
        launcher.exited("web", run + 1)
    assert eventually(lambda: open_files(launcher.pid).keys() == before), launcher.log()
    assert eventually(lambda: not launcher.leaves())


def test_a_second_create_is_refused_and_changes_nothing(launcher: Launching) -> None:
    launcher.hold()
    pid = launcher.run(1, *SLEEP)
    with pytest.raises(Refused, match="run 1 of web is still running"):
        launcher.create(2, *SLEEP)
    assert alive(pid)


def test_start_after_the_created_run_was_killed(launcher: Launching) -> None:
    launcher.hold()
    launcher.create(1, *SLEEP)
    launcher.ask("kill", name="web")
    launcher.exited("web", 1)
    with pytest.raises(Refused, match="exited, not created"):
        launcher.ask("start", name="web", run=1)


def test_start_in_the_moment_of_the_kill(launcher: Launching) -> None:
    launcher.hold()
    for run in range(10):
        launcher.create(run, *SLEEP, init=False)
        launcher.send("kill", name="web")
        start = launcher.send("start", name="web", run=run)
        with contextlib.suppress(
            Refused
        ):  # whether it still came to exec nobody can tell; that it is dead all are told
            launcher.answer(start)
        assert launcher.exited("web", run)[1] == signal.SIGKILL


def test_kill_while_it_is_created(launcher: Launching) -> None:
    launcher.hold()
    for run in range(10):
        create = launcher.send_create(run, *SLEEP)
        kill = launcher.send("kill", name="web")
        try:
            launcher.answer(create)
        except Refused as error:
            assert "died before its program ran" in str(error)
        launcher.answer(kill)
        assert launcher.exited("web", run)[1] == signal.SIGKILL
    assert eventually(lambda: not launcher.leaves())


def test_start_of_another_run_is_refused(launcher: Launching) -> None:
    launcher.hold()
    launcher.create(1, *SLEEP)
    with pytest.raises(Refused, match="no run 2"):
        launcher.ask("start", name="web", run=2)


def test_a_hold_that_fails_leaves_nothing(launcher: Launching) -> None:
    before = open_files(launcher.pid).keys()
    with pytest.raises(Refused):
        launcher.hold(userns=[0xFFFFFFF0, 65536])
    assert not [path for path in launcher.cgroups() if path.endswith("/web")]
    assert eventually(lambda: open_files(launcher.pid).keys() == before), launcher.log()


def test_a_log_that_cannot_be_opened_does_not_keep_its_container(launcher: Launching, tmp_path: Path) -> None:
    log = {"directory": str(tmp_path / "nowhere"), "max_size": 1 << 20, "max_files": 1}
    launcher.hold(log=log)
    launcher.ask("forget", name="web")


# What a peer may say


@pytest.mark.parametrize(
    "packet", [b"not json", b"[]", b"[" * 100_000, b'{"a":' * 20_000, b"\xff\xfe", b"1", b'"' + b"x" * 200_000]
)
def test_a_packet_that_is_none_ends_the_connection_and_nothing_else(launcher: Launching, packet: bytes) -> None:
    stranger = client.connect(launcher.directory / "run")
    assert stranger is not None
    with stranger:
        stranger.settimeout(10)
        stranger.send(packet)
        try:
            said = stranger.recv(100)
        except ConnectionResetError:
            said = b""
        assert said == b""
    assert launcher.greet()["pid"] == launcher.pid


@pytest.mark.parametrize(
    "message",
    [
        {"op": "dance"},
        {"op": None},
        {},
        {"op": "é" * 50_000},
        {"op": "create"},
        {"op": "create", "name": "web", "run": 1},
        {"op": "create", "name": "nobody", "run": 1},
        {"op": "hold"},
        {"op": "start", "name": []},
        {"op": "signal", "name": "nobody", "signal": 9},
        {"op": "reserve", "ports": ["a"]},
        {"op": "hello", "version": 99},
        {"op": "flush"},
    ],
)
def test_a_request_that_is_none_is_refused(launcher: Launching, message: dict[str, Any]) -> None:
    launcher.hold()
    before = open_files(launcher.pid).keys()
    launcher.channel.send(json.dumps({"id": 77, **message}, ensure_ascii=False).encode())
    with pytest.raises(Refused):
        launcher.answer(77)
    assert eventually(lambda: open_files(launcher.pid).keys() == before), launcher.log()


def test_a_launcher_short_of_descriptors_goes_on(launcher: Launching) -> None:
    launcher.hold()
    pid = launcher.run(1, *SLEEP)
    former = limit_to(launcher, 0)
    stranger = client.connect(launcher.directory / "run")
    assert stranger is not None
    with stranger:
        stranger.settimeout(5)
        assert stranger.recv(100) == b"", "who cannot be served is turned away"
    for run in range(3):
        with pytest.raises(Refused):
            launcher.hold(f"other-{run}")
    resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, former)
    assert launcher.greet()["held"]["web"]["pid"] == pid
    assert alive(pid)


@pytest.mark.parametrize("spare", range(2, 24))  # the message itself brings two
def test_a_create_short_of_descriptors_leaves_nothing(launcher: Launching, spare: int) -> None:
    launcher.hold()
    before = open_files(launcher.pid).keys()
    former = limit_to(launcher, spare)
    with contextlib.suppress(Refused):
        launcher.create(1, *SLEEP)
        launcher.ask("kill", name="web")
        launcher.exited("web", 1)
    resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, former)
    assert eventually(lambda: list(launcher.children().values()) == ["creche-logger"])
    assert eventually(lambda: open_files(launcher.pid).keys() == before), launcher.log()


def test_a_request_whose_descriptors_do_not_arrive_ends_the_connection(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        former = limit_to(launcher, 1)
        with pytest.raises(ConnectionError):
            launcher.create(1, *SLEEP)
        resource.prlimit(launcher.pid, resource.RLIMIT_NOFILE, former)
        launcher.channel.close()
        assert launcher.reconnect()["held"]["web"]["run"] is None


# Deaths


def test_a_killed_logger_is_replaced_and_nothing_is_lost(launcher: Launching) -> None:
    launcher.hold()
    first = launcher.logger()
    lines = 200_000
    launcher.run(1, "/usr/bin/seq", str(lines))
    os.kill(launcher.logger(), signal.SIGKILL)
    assert eventually(lambda: first not in launcher.children() and "creche-logger" in launcher.children().values())
    launcher.exited("web", 1)
    assert launcher.output() == b"".join(b"%d\n" % line for line in range(1, lines + 1))


def test_a_logger_that_stands_still_holds_nobody(launcher: Launching) -> None:
    """What it cannot take waits in the launcher; far more than a socket's queue holds is asked here."""
    launcher.hold()
    logger = launcher.logger()
    os.kill(logger, signal.SIGSTOP)
    try:
        asked = [launcher.send("flush", name="web") for _ in range(1000)]
        assert launcher.greet()["pid"] == launcher.pid
    finally:
        os.kill(logger, signal.SIGCONT)
    assert "incomplete" not in launcher.answer(asked[-1])


def test_loggers_that_die_at_once_follow_each_other_slowly(launcher: Launching) -> None:
    launcher.hold()
    seen: set[int] = set()
    for _ in range(5):  # each well within its first second
        assert eventually(lambda: bool({pid for pid, name in launcher.children().items() if name == "creche-logger"}))
        seen.add(launcher.logger())
        os.kill(launcher.logger(), signal.SIGKILL)
        assert eventually(lambda: not seen & launcher.children().keys())
    assert "creche-logger" not in launcher.children().values()
    assert launcher.greet()["pid"] == launcher.pid
    assert eventually(lambda: "creche-logger" in launcher.children().values())


def test_a_flush_survives_the_loggers_death(launcher: Launching) -> None:
    launcher.hold()
    for _ in range(10):
        flush = launcher.send("flush", name="web")
        os.kill(launcher.logger(), signal.SIGKILL)
        launcher.answer(flush)
        assert eventually(lambda: list(launcher.children().values()) == ["creche-logger"])


def test_an_embedded_supervisors_end_is_the_end_of_everything(launcher: Launching) -> None:
    launcher.hold("a")
    launcher.hold("b")
    pids = launcher.run(1, *SLEEP, name="a"), launcher.create(1, *SLEEP, name="b")["pid"], launcher.logger()
    launcher.channel.close()
    assert launcher.ended() == 0
    assert not any(map(alive, pids))
    assert not launcher.cgroups()


def test_without_embedding_containers_live_on_and_are_found_again(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold("stays")
        launcher.hold("ends")
        stays = launcher.run(1, *SLEEP, name="stays")
        ends = launcher.run(4, *SLEEP, name="ends", init=False)
        launcher.channel.close()
        os.kill(ends, signal.SIGKILL)
        assert eventually(lambda: not Path(f"/proc/{ends}").exists()), "its parent reaps it without a supervisor"
        held = launcher.reconnect()["held"]
        assert (held["stays"]["pid"], held["stays"]["phase"]) == (stays, "running")
        assert (held["ends"]["run"], held["ends"]["exit"]["signal"]) == (4, signal.SIGKILL)
        launcher.ask("kill", name="stays")
        launcher.exited("stays", 1)


def test_a_launcher_that_holds_nothing_ends_with_its_supervisor(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.channel.close()
        assert launcher.ended() == 0


def test_an_onlookers_end_ends_nothing(launcher: Launching) -> None:
    launcher.hold()
    pid = launcher.run(1, *SLEEP)
    onlooker = client.connect(launcher.directory / "run")
    assert onlooker is not None
    with onlooker:
        messages.send(onlooker, {"op": "hello", "id": 1, "version": messages.VERSION})
        answer = messages.receive(onlooker)
    assert answer is not None
    assert answer.message["ok"]["held"]["web"]["pid"] == pid
    assert launcher.greet()["pid"] == launcher.pid
    assert alive(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE])
def test_the_launcher_ignores_what_is_sent_to_everybody(launcher: Launching, number: int) -> None:
    launcher.hold()
    pid = launcher.run(1, *SLEEP)
    os.kill(launcher.pid, number)
    assert launcher.greet()["held"]["web"]["pid"] == pid
    assert alive(pid)


def test_a_cgroup_that_somebody_removed_is_no_reason_to_die(launcher: Launching) -> None:
    launcher.hold("a")
    launcher.hold("b")
    pids = launcher.run(1, *SLEEP, name="a", init=False), launcher.run(1, *SLEEP, name="b")
    os.kill(launcher.pid, signal.SIGSTOP)
    os.kill(pids[0], signal.SIGKILL)
    assert eventually(lambda: not alive(pids[0]))
    for leaf in launcher.leaves():
        if "/a/" in leaf:
            os.rmdir(leaf)
    os.kill(launcher.pid, signal.SIGCONT)
    assert launcher.exited("a", 1)[1] == signal.SIGKILL
    assert alive(pids[1])
    assert "is not known" in launcher.log()
    (launcher.directory / "run" / client.LOG_NAME).write_text("")


def test_a_created_run_ends_with_its_launcher(launcher: Launching) -> None:
    launcher.hold("a")
    launcher.hold("b")
    pids = [launcher.create(1, *SLEEP, name=name)["pid"] for name in ("a", "b")]
    os.kill(launcher.pid, signal.SIGKILL)
    assert launcher.ended() == -signal.SIGKILL
    assert eventually(lambda: not any(map(alive, pids)))
    launcher.close()


def test_the_logger_ends_after_its_launcher_with_all_on_disk(launcher: Launching) -> None:
    launcher.hold()
    launcher.run(1, *shell("seq 1000"))
    launcher.exited("web", 1)
    logger = launcher.logger()
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.ended()
    assert eventually(lambda: not alive(logger))
    text = b"".join(file.read_bytes() for file in sorted((launcher.directory / "web/log").glob("*.out")))
    assert text == b"".join(b"%d\n" % line for line in range(1, 1001))
    launcher.close()


# Ports


def test_reserved_ports_are_held_until_they_are_released(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port: int = bound.getsockname()[1]
            launcher.ask("reserve", (bound.fileno(),), ports=["p"])
        launcher.channel.close()
        assert launcher.reconnect()["ports"] == ["p"]
        with socket.socket() as other:
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            launcher.ask("release", ports=["p"])
            other.bind(("127.0.0.1", port))


# The process itself


def test_it_is_named_and_single_threaded_and_its_collector_rests(launcher: Launching) -> None:
    status = status_of(launcher.pid)
    assert (status["Name"], status["Threads"]) == ("creche-launcher", "1")
    assert os.stat(f"/proc/{launcher.pid}/fd").st_uid == 0
