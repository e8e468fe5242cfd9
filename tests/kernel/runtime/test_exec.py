"""One more process in a running container: as confined as its pid 1, ending with it, leaving nothing. Needs root."""

import contextlib
import errno
import os
import select
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import syscalls
from runtime.cgroups.group import Group
from runtime.cgroups.hierarchy import find
from runtime.launch import birth, child, messages
from runtime.launch.birth import Entry, Program
from runtime.plan import Place, plan_exec
from runtime.world import World
from tests.kernel.runtime.launching import (
    Launching,
    Refused,
    alive,
    default_filter,
    eventually,
    open_files,
    status_of,
)

SLEEP = ("/bin/sleep", "1000")
KINDS = ("user", "net", "pid", "mnt", "uts", "ipc", "cgroup", "time")
SAME = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigIgn")


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launching]:
    with Launching(tmp_path) as launcher:
        launcher.hold()
        yield launcher
        if launcher.pid:
            launcher.ask("end")
            launcher.ended()
        assert launcher.log() == ""


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def said_by(launcher: Launching, identity: str, *args: str, **how: Any) -> str:
    """What an exec writes, once it is over."""
    null = os.open("/dev/null", os.O_RDWR)
    out, write = os.pipe()
    try:
        launcher.exec(identity, *args, streams=(null, write, write), **how)
    finally:
        os.close(write)
        os.close(null)
    with os.fdopen(out) as reader:
        said = reader.read()
    launcher.exec_exited(identity)
    return said


def confinement(pid: int) -> dict[str, str]:
    """What keeps a process in, as the host sees it."""
    place = Path(f"/proc/{pid}")
    status = status_of(pid)
    found = {field: status[field] for field in SAME}
    found |= {f"ns/{kind}": os.readlink(place / "ns" / kind) for kind in KINDS}
    for file in ("cgroup", "uid_map", "gid_map", "loginuid", "mountinfo", "limits"):
        found[file] = (place / file).read_text()
    root = (place / "root").stat()
    return {**found, "root": f"{root.st_dev} {root.st_ino}"}


# Confined as pid 1 is


@pytest.mark.parametrize("init", [True, False], ids=["with init", "without"])
def test_it_is_confined_as_the_main_process(launcher: Launching, init: bool) -> None:
    main = launcher.run(1, *SLEEP, init=init)
    assert confinement(launcher.exec("a", *SLEEP)) == confinement(main)


def test_the_comparison_catches_an_exec_without_its_last_steps(launcher: Launching) -> None:
    """A negative control: the same process without filter and capabilities given up is another."""
    main = launcher.run(1, *SLEEP, init=False)

    def weaken(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = False
        config["process"]["capabilities"]["bounding"].append("CAP_SYS_ADMIN")

    assert confinement(launcher.exec("a", *SLEEP, change=weaken)) != confinement(main)


def test_it_stands_in_the_root_and_sees_its_pid_namespace(launcher: Launching) -> None:
    launcher.run(1, *SLEEP, init=False)
    assert said_by(launcher, "a", *shell("pwd; cat /proc/1/comm")).split() == ["/", "sleep"]


def test_it_inherits_no_descriptor(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    assert said_by(launcher, "a", "/bin/ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


LOOK = """
import os, sys
for what in ("exe", "cwd", "root"):
    try:
        print(os.readlink(f"/proc/{sys.argv[1]}/{what}"))
    except OSError as error:
        print(error.errno)
try:
    print(len(os.listdir(f"/proc/{sys.argv[1]}/fd")))
except OSError as error:
    print(error.errno)
"""


@contextlib.contextmanager
def waiting(launcher: Launching, main: int, leak: int | None = None) -> Generator[birth.Child]:
    """A process in the container of `main` that waits for its word; with `leak` that descriptor is its directory."""
    config = launcher.config(*SLEEP)
    if leak is not None:
        config["process"]["cwd"] = f"/proc/self/fd/{leak}"
    planned = plan_exec(config["process"], config["linux"], Place(("/",), False, "", init=False))
    pidfd = os.pidfd_open(main)
    user = os.open(f"/proc/{main}/ns/user", os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDWR)
    world = World(user, null, null)
    world.keep("seccomp", messages.memory_file("filter", default_filter()))
    if leak is not None:
        world.descriptors["leak"] = leak
    kinds = frozenset({"user", "network", "pid", "mount", "uts", "ipc", "cgroup"})
    program = Program.planned(planned.program, None, False)
    child = birth.enter(Entry(planned.enter, program, world, pidfd, kinds, None, ()))
    try:
        assert eventually(lambda: readable(child.report))
        yield child
    finally:
        os.close(child.go)
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        for each in (child.report, child.pidfd, pidfd, null, user):
            os.close(each)
        os.close(world.descriptors["seccomp"])
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def looked_into(launcher: Launching, main: int) -> str:
    """What a process of the container finds out about one that waits in it before its exec."""
    with waiting(launcher, main) as child:
        assert os.read(child.report, 100) == birth.CREATED
        return said_by(launcher, "look", "/usr/bin/python3", "-c", LOOK, status_of(child.pid)["NSpid"].split()[-1])


def through_a_leak(launcher: Launching, main: int) -> bytes:
    """What one reports whose working directory is a descriptor of the host's."""
    (launcher.directory / "open").mkdir(mode=0o755)
    leak = os.open(launcher.directory / "open", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with waiting(launcher, main, leak) as child:
            return os.read(child.report, 1000)
    finally:
        os.close(leak)


def readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def test_nobody_looks_into_it_before_its_exec(launcher: Launching) -> None:
    main = launcher.run(1, *SLEEP, init=False)
    assert set(looked_into(launcher, main).split()) == {str(errno.EACCES)}


def test_the_look_catches_one_that_is_dumpable(launcher: Launching, monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: then even the host's interpreter can be opened (CVE-2019-5736)."""
    main = launcher.run(1, *SLEEP, init=False)
    monkeypatch.setattr(child, "stay_closed", lambda: syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1))
    assert "python" in looked_into(launcher, main)


def test_a_working_directory_outside_the_root_is_refused(launcher: Launching) -> None:
    """A descriptor of the host that is still open when the directory is entered leads nowhere (CVE-2024-21626)."""
    main = launcher.run(1, *SLEEP, init=False)
    assert b"it is outside the root" in through_a_leak(launcher, main)


def test_the_leak_is_one_without_the_check(launcher: Launching, monkeypatch: pytest.MonkeyPatch) -> None:
    main = launcher.run(1, *SLEEP, init=False)
    monkeypatch.setattr(child, "enter_directory", os.chdir)
    assert through_a_leak(launcher, main) == birth.CREATED


# One life


def test_its_streams_are_the_callers(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    theirs, ours = os.pipe()
    out, write = os.pipe()
    launcher.exec("a", "/bin/cat", streams=(theirs, write, write))
    for each in (theirs, write):
        os.close(each)
    os.write(ours, b"through\n")
    os.close(ours)
    with os.fdopen(out) as reader:
        assert reader.read() == "through\n"
    assert launcher.exec_exited("a") == (0, None)


def test_its_end_is_told(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    launcher.exec("a", *shell("exit 7"))
    launcher.exec("b", *SLEEP)
    launcher.ask("exec-signal", name="web", exec="b", signal=signal.SIGTERM)
    assert (launcher.exec_exited("a"), launcher.exec_exited("b")) == ((7, None), (None, signal.SIGTERM))


def test_a_signal_to_one_that_is_dead_is_no_error(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    launcher.exec("a", "/bin/true")
    launcher.exec_exited("a")
    launcher.ask("exec-signal", name="web", exec="a", signal=signal.SIGKILL)


def test_its_container_lives_on(launcher: Launching) -> None:
    pid = launcher.run(1, *SLEEP)
    launcher.exec("a", *shell("kill -9 $$"))
    assert launcher.exec_exited("a") == (None, signal.SIGKILL)
    assert alive(pid)


def test_it_ends_with_its_container(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    pids = [launcher.exec(str(number), *SLEEP) for number in range(3)]
    launcher.ask("kill", name="web")
    launcher.exited("web", 1)
    assert [launcher.exec_exited(str(number)) for number in range(3)] == [(None, signal.SIGKILL)] * 3
    assert not any(map(alive, pids))
    assert eventually(lambda: not launcher.leaves())


@pytest.mark.parametrize("how", ["forget", "end"])
def test_letting_go_of_a_container_takes_its_execs_along(launcher: Launching, how: str) -> None:
    launcher.run(1, *SLEEP)
    pids = [launcher.exec(str(number), *SLEEP) for number in range(3)]
    launcher.ask(how, name="web")
    assert not any(map(alive, pids))
    if how == "end":
        assert launcher.ended() == 0


def test_a_dead_supervisors_execs_are_reaped_and_forgotten(tmp_path: Path) -> None:
    with Launching(tmp_path, embedded=False) as launcher:
        launcher.hold()
        launcher.run(1, *SLEEP)
        first = launcher.exec("a", *SLEEP)
        launcher.channel.close()
        launcher.reconnect()
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: first not in launcher.children())
        launcher.exec("a", "/bin/true")
        assert launcher.exec_exited("a") == (0, None), "the first one's end is nobody's news"


def test_many_leave_no_descriptor_and_no_process(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    before, children = open_files(launcher.pid).keys(), launcher.children()
    for number in range(50):
        launcher.exec(str(number), "/bin/true")
        launcher.exec_exited(str(number))
        with pytest.raises(Refused, match="no such program"):
            launcher.exec(f"bad {number}", "nonexistent")
    assert eventually(lambda: open_files(launcher.pid).keys() == before)
    assert launcher.children() == children


# Refused


@pytest.mark.parametrize(("args", "code"), [(("nonexistent",), 127), (("/etc/passwd",), 126), (("/etc",), 126)])
def test_a_program_that_cannot_run_is_told_as_a_shell_does(
    launcher: Launching, args: tuple[str, ...], code: int
) -> None:
    launcher.run(1, *SLEEP)
    with pytest.raises(Refused) as caught:
        launcher.exec("a", *args)
    assert caught.value.fields["exit_code"] == code


def test_a_container_that_does_not_run_is_refused(launcher: Launching) -> None:
    with pytest.raises(Refused, match="does not run: it is not created"):
        launcher.exec("a", "/bin/true")
    launcher.create(1, *SLEEP)
    with pytest.raises(Refused, match="does not run: it is created"):
        launcher.exec("a", "/bin/true")
    launcher.ask("kill", name="web")
    launcher.exited("web", 1)
    with pytest.raises(Refused, match="does not run: it is exited"):
        launcher.exec("a", "/bin/true")


def test_a_second_of_one_id_is_refused(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    pid = launcher.exec("a", *SLEEP)
    with pytest.raises(Refused, match="runs already"):
        launcher.exec("a", *SLEEP)
    assert alive(pid)


@pytest.mark.parametrize("identity", ["", "x" * 129, 7, None])
def test_an_id_that_is_none_is_refused(launcher: Launching, identity: Any) -> None:
    launcher.run(1, *SLEEP)
    with pytest.raises(Refused, match="an exec's id"):
        launcher.exec(identity, "/bin/true")


def test_too_few_descriptors_are_refused(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    with pytest.raises(Refused, match="0 descriptors instead of 4"):
        launcher.ask("exec", name="web", exec="a", seccomp=False, terminal=False)


def test_a_container_that_dies_meanwhile_is_told_as_that(launcher: Launching) -> None:
    for run in range(10):
        launcher.run(run, *SLEEP, init=False)
        started = launcher.send_exec(f"of {run}", *SLEEP)
        launcher.ask("kill", name="web")
        with contextlib.suppress(Refused):
            launcher.answer(started)
        launcher.exited("web", run)
    assert eventually(lambda: list(launcher.children().values()) == ["creche-logger"])


# Paused


def group(launcher: Launching) -> Group:
    return Group.at(find(), f"{launcher.cgroup}/web", {"pids": {"limit": 100}})


def test_a_paused_container_refuses(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    group(launcher).freeze()
    with pytest.raises(Refused, match="web is paused"):
        launcher.exec("a", "/bin/true")
    group(launcher).thaw()
    launcher.exec("a", "/bin/true")


@pytest.mark.parametrize("how", ["kill", "forget", "end"])
def test_a_paused_container_is_let_go_of(launcher: Launching, how: str) -> None:
    pids = [launcher.run(1, *SLEEP), launcher.exec("a", *SLEEP)]
    group(launcher).freeze()
    launcher.ask(how, name="web")
    assert eventually(lambda: not any(map(alive, pids)))
    if how == "end":
        assert launcher.ended() == 0


def test_a_kill_thaws_the_execs_too_and_the_next_run_is_born_thawed(launcher: Launching) -> None:
    launcher.run(1, *SLEEP)
    launcher.exec("a", *SLEEP)
    group(launcher).freeze()
    launcher.ask("exec-signal", name="web", exec="a", signal=signal.SIGKILL)
    assert launcher.exec_exited("a") == (None, signal.SIGKILL)
    group(launcher).freeze()
    os.kill(launcher.greet()["held"]["web"]["pid"], signal.SIGKILL)
    launcher.exited("web", 1)
    launcher.run(2, "/bin/true")
    assert launcher.exited("web", 2)[0] == 0
