"""Births without a launcher: what a process is born into, what it is handed, and who may die on the way. Needs root."""

import contextlib
import errno
import os
import pty
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runtime import syscalls
from runtime.launch import birth, helper
from runtime.launch.birth import Birth, Ends, Entry, Program, StartFailure, failure_from
from runtime.namespaces import KINDS, Entered, open_path, read
from runtime.world import Operation, World
from tests.kernel.runtime.launching import BASE, status_of

FILES = {"network": "net", "mount": "mnt"}
SLEEP = ("/bin/sleep", "1000")
NOTHING = Entered((), frozenset())
MAPS = ((0, BASE, 65536),)


class Made(NamedTuple):
    """A child and where its output comes out."""

    child: birth.Child
    output: int

    def go(self) -> None:
        os.write(self.child.go, b"1")

    def created(self) -> bytes:
        """What it reports first."""
        return said(self.child.report)

    def ended(self) -> str:
        """Let it run to its end; what it wrote."""
        self.go()
        with os.fdopen(os.dup(self.output)) as reader:
            return reader.read()


def said(descriptor: int) -> bytes:
    os.set_blocking(descriptor, True)
    return os.read(descriptor, 65536)


@pytest.fixture
def open_descriptors() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def dumpable() -> Iterator[None]:
    """A birth closes its parent to debuggers; the test's process opens again."""
    yield
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def program(*arguments: str, **fields: Any) -> Program:
    return Program(arguments, {"PATH": os.defpath}, "/", None, **{"own_init": False, **fields})


@contextlib.contextmanager
def born(
    what: Program,
    namespaces: Entered = NOTHING,
    steps: tuple[Operation, ...] = (),
    ends: Ends | None = None,
    stdin: int | None = None,
) -> Generator[Made]:
    output, writer = os.pipe2(os.O_CLOEXEC)
    user = dict(namespaces.joined).get("user")
    child = None
    try:
        child = birth.deliver(Birth(steps, what, World(user, writer, writer, stdin), namespaces, None, ()), ends)
        os.close(writer)
        yield Made(child, output)
    finally:
        os.close(output)
        if child is None:
            os.close(writer)
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
            for each in (child.pidfd,) if ends else (child.pidfd, child.go, child.report):
                os.close(each)


def of(pid: int | str, kind: str) -> str:
    """A process's own namespace of a kind."""
    return os.readlink(f"/proc/{pid}/ns/{FILES.get(kind, kind)}")


# Namespaces


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "user"])
def test_each_kind_can_be_new_alone(kind: str) -> None:
    with born(program(*SLEEP), Entered((), frozenset({kind}))) as made:
        assert made.created() == birth.CREATED
        assert {each for each in KINDS if of(made.child.pid, each) != of("self", each)} == {kind}


def test_without_any_it_has_the_runtimes_own() -> None:
    with born(program(*SLEEP)) as made:
        assert made.created() == birth.CREATED
        assert [of(made.child.pid, kind) for kind in KINDS] == [of("self", kind) for kind in KINDS]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "user"])
def test_each_kind_can_be_joined(kind: str, open_descriptors: contextlib.ExitStack) -> None:
    with born(program(*SLEEP), Entered((), frozenset({kind}))) as first:
        assert first.created() == birth.CREATED
        descriptor = open_path(kind, f"/proc/{first.child.pid}/ns/{FILES.get(kind, kind)}")
        open_descriptors.callback(os.close, descriptor)
        with born(program(*SLEEP), Entered(((kind, descriptor),), frozenset())) as second:
            assert second.created() == birth.CREATED
            assert {each for each in KINDS if of(second.child.pid, each) != of("self", each)} == {kind}
            assert of(second.child.pid, kind) == of(first.child.pid, kind)


def test_a_user_namespace_is_joined_with_all_that_it_will_own(open_descriptors: contextlib.ExitStack) -> None:
    made, _ = helper.make(MAPS, MAPS, False)
    assert made.user is not None
    open_descriptors.callback(os.close, made.user)
    kinds = frozenset(KINDS) - {"user"}
    with born(program(*SLEEP), Entered((("user", made.user),), kinds)) as child:
        assert child.created() == birth.CREATED
        pid = child.child.pid
        assert not [kind for kind in KINDS if of(pid, kind) == of("self", kind)]
        assert status_of(pid)["Uid"].split() == [str(BASE)] * 4
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(BASE), "65536"]


def test_a_host_owned_network_is_joined_beside_a_user_namespace(open_descriptors: contextlib.ExitStack) -> None:
    """From inside the user namespace it could not be: what is the host's is joined before."""
    made, _ = helper.make(MAPS, MAPS, False)
    assert made.user is not None
    open_descriptors.callback(os.close, made.user)
    with born(program(*SLEEP), Entered((), frozenset({"network"}))) as first:
        assert first.created() == birth.CREATED
        network = open_path("network", f"/proc/{first.child.pid}/ns/net")
        open_descriptors.callback(os.close, network)
        joined = (("user", made.user), ("network", network))
        with born(program(*SLEEP), Entered(joined, frozenset({"pid", "mount"}))) as second:
            assert second.created() == birth.CREATED
            assert of(second.child.pid, "network") == of(first.child.pid, "network")


def test_id_maps_are_as_they_are_given(open_descriptors: contextlib.ExitStack) -> None:
    made, inner = helper.make(((0, BASE, 10), (10, BASE + 100, 5)), ((0, BASE + 50, 1),), True)
    assert made.user is not None
    for each in (made.user, made.net, inner):
        open_descriptors.callback(os.close, each)
    with born(program(*SLEEP), Entered((("user", made.user), ("network", made.net)), frozenset({"pid"}))) as child:
        assert child.created() == birth.CREATED
        place = Path(f"/proc/{child.child.pid}")
        lines = [line.split() for line in (place / "uid_map").read_text().splitlines()]
        assert lines == [["0", str(BASE), "10"], ["10", str(BASE + 100), "5"]]
        assert (place / "gid_map").read_text().split() == ["0", str(BASE + 50), "1"]


def test_a_user_namespace_without_a_root_is_refused_by_name(open_descriptors: contextlib.ExitStack) -> None:
    made, _ = helper.make(((5, BASE, 10),), MAPS, False)
    assert made.user is not None
    open_descriptors.callback(os.close, made.user)
    with born(program(*SLEEP), Entered((("user", made.user),), frozenset({"pid"}))) as child:
        fields = failure_from(child.created()).fields
        assert (fields["operation"], fields["errno"]) == ("become the container's root", errno.EINVAL)
        assert "map" in fields["advice"]


def test_a_new_network_has_its_loopback() -> None:
    script = "import socket as s; a = s.create_server(('127.0.0.1', 0)); s.create_connection(a.getsockname()); print(1)"
    with born(program("/usr/bin/python3", "-c", script), Entered((), frozenset({"network"}))) as made:
        assert made.ended() == "1\n"


def test_clocks_are_moved() -> None:
    wanted = read({"namespaces": [{"type": "mount"}, {"type": "time"}], "timeOffsets": {"boottime": {"secs": 10**6}}})
    with born(program("/bin/cat", "/proc/uptime"), Entered((), wanted.new, wanted.time_offsets)) as made:
        assert float(made.ended().split()[0]) > 10**6


def test_clocks_cannot_be_moved_before_their_beginning() -> None:
    entered = Entered((), frozenset({"time"}), (("boottime", -(10**9), 0),))
    with pytest.raises(StartFailure, match="the clocks cannot be moved") as caught, born(program(*SLEEP), entered):
        pass
    assert caught.value.fields["path"] == "/proc/self/timens_offsets"


def test_moved_clocks_are_joined(open_descriptors: contextlib.ExitStack) -> None:
    offsets = (("boottime", 10**6, 0),)
    with born(program(*SLEEP), Entered((), frozenset({"time"}), offsets)) as first:
        assert first.created() == birth.CREATED
        clocks = open_path("time", f"/proc/{first.child.pid}/ns/time")
        open_descriptors.callback(os.close, clocks)
        with born(program("/bin/cat", "/proc/uptime"), Entered((("time", clocks),), frozenset())) as second:
            assert float(second.ended().split()[0]) > 10**6


def test_an_entry_joins_what_pid_1_has(open_descriptors: contextlib.ExitStack) -> None:
    made, _ = helper.make(MAPS, MAPS, False)
    assert made.user is not None
    open_descriptors.callback(os.close, made.user)
    kinds = frozenset(KINDS) - {"user"}
    with born(program(*SLEEP), Entered((("user", made.user),), kinds, (("boottime", 10**6, 0),))) as first:
        assert first.created() == birth.CREATED
        output, writer = os.pipe()
        open_descriptors.callback(os.close, output)
        what = program("/bin/cat", "/proc/uptime")
        world = World(made.user, writer, writer)
        second = birth.enter(Entry((), what, world, first.child.pidfd, frozenset(KINDS), None, ()))
        world.close()
        os.close(writer)
        assert said(second.report) == birth.CREATED
        assert [of(second.pid, kind) for kind in KINDS] == [of(first.child.pid, kind) for kind in KINDS]
        os.write(second.go, b"1")
        assert float(os.read(output, 100).split()[0]) > 10**6
        os.waitid(os.P_PIDFD, second.pidfd, os.WEXITED)
        for each in (second.pidfd, second.go, second.report):
            os.close(each)


# What it is handed


def test_the_umask_is_the_programs() -> None:
    with born(program("/bin/sh", "-c", "umask", umask=0o137)) as made:
        assert made.ended() == "0137\n"


@pytest.mark.parametrize("soft", [64, None])
def test_the_limit_of_open_files(soft: int | None) -> None:
    with born(program("/bin/sh", "-c", "ulimit -Sn", soft_files=soft)) as made:
        here = Path("/proc/self/limits").read_text().split("Max open files")[1].split()[0]
        assert made.ended().strip() == (here if soft is None else str(soft))


def test_descriptors_are_kept_from_3_on_and_no_others(tmp_path: Path) -> None:
    """In a process of its own: 3 and 4 must be free there."""
    script = tmp_path / "keeping.py"
    script.write_text(KEEPING)
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.dup2(writing, 1)
            os.closerange(3, 1000)
            os.execv("/usr/bin/python3", ["python3", str(script), str(Path(birth.__file__).parents[2])])
        os._exit(1)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as output:
        assert output.read() == "two\nthree\nrefused\n"


KEEPING = """
import os, sys
sys.path.insert(0, sys.argv[1])
for number, text in ((3, "two"), (4, "three")):
    r, w = os.pipe()
    os.write(w, text.encode() + b"\\n")
    os.close(w)
    if r != number:
        os.dup2(r, number)
        os.close(r)
    os.set_inheritable(number, True)
from runtime.launch import birth
from runtime.launch.birth import Birth, Program
from runtime.namespaces import Entered
from runtime.world import World
def run(keep):
    words = ("/bin/sh", "-c", "cat <&3; cat <&4; test ! -e /proc/self/fd/5 && test ! -e /proc/self/fd/6 || echo leak")
    program = Program(words, {"PATH": os.defpath}, "/", None, False, keep=keep)
    child = birth.deliver(Birth((), program, World(None, 1, 1), Entered((), frozenset()), None, ()))
    try:
        os.write(child.go, b"1")
    except BrokenPipeError:
        pass
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    os.set_blocking(child.report, True)
    return os.read(child.report, 65536)
run(2)
if b"are not the caller's" in run(20):
    os.write(1, b"refused\\n")
"""


def test_its_input_can_be_the_callers(open_descriptors: contextlib.ExitStack) -> None:
    reading, writing = os.pipe()
    open_descriptors.callback(os.close, reading)
    os.write(writing, b"words\n")
    os.close(writing)
    with born(program("/bin/cat"), stdin=reading) as made:
        assert made.ended() == "words\n"


class Terminal(NamedTuple):
    """What runtime.terminal does to a world, with a terminal of the test's."""

    slave: str

    def describe(self) -> str:
        return "open a terminal"

    def execute(self, world: World) -> None:
        slave = os.open(self.slave, os.O_RDWR | os.O_NOCTTY)
        world.stdin = world.stdout = world.stderr = slave
        world.terminal = True


@pytest.mark.parametrize("own_init", [False, True])
def test_a_terminal_controls_its_session(own_init: bool, open_descriptors: contextlib.ExitStack) -> None:
    master, slave = pty.openpty()
    open_descriptors.callback(os.close, master)
    open_descriptors.callback(os.close, slave)
    what = program("/bin/sh", "-c", "echo here > /dev/tty; tty", own_init=own_init)
    with born(what, Entered((), frozenset({"pid"})), (Terminal(os.ttyname(slave)),)) as made:
        assert made.created() == birth.CREATED
        made.go()
        written = b""
        while written.count(b"\n") < 2:
            written += os.read(master, 1000)
        assert written.split() == [b"here", os.ttyname(slave).encode()]


# The word to go


class Says(NamedTuple):
    """Writes a word on the process's output; under this name it is one that runs after the word to go."""

    word: str
    stage: str = "startContainer"

    def describe(self) -> str:
        return f"say {self.word}"

    def execute(self, world: World) -> None:
        if self.word == "fail":
            raise OSError(errno.EPERM, "may not", "/hook")
        os.write(world.stdout if self.stage != "startContainer" else 1, f"{self.word}\n".encode())


class ContainerHooks(Says):
    """As runtime.hooks names them."""


class Rendezvous(NamedTuple):
    """What runtime.hooks.RuntimeHooks does."""

    def describe(self) -> str:
        return "wait for the hooks"

    def execute(self, world: World) -> None:
        os.write(world.report, birth.HOOKS)
        if os.read(world.go, 1) != b"h":
            raise OSError(errno.ECANCELED, "no hooks")


def test_hooks_of_the_container_run_where_they_belong() -> None:
    steps = (ContainerHooks("first", "createContainer"), ContainerHooks("last"), Says("step", "x"))
    with born(program("/bin/echo", "program"), steps=steps) as made:
        assert made.created() == birth.CREATED
        assert os.read(made.output, 100) == b"first\nstep\n", "before the word to go"
        assert made.ended() == "last\nprogram\n"


def test_a_start_hook_that_fails_is_named() -> None:
    with born(program("/bin/echo", "program"), steps=(ContainerHooks("fail"),)) as made:
        assert made.created() == birth.CREATED
        assert made.ended() == ""
        assert failure_from(said(made.child.report)).fields["operation"] == "say fail"


def test_it_waits_for_the_runtimes_hooks() -> None:
    with born(program("/bin/echo", "program"), steps=(Rendezvous(), Says("after", "x"))) as made:
        assert made.created() == birth.HOOKS
        os.write(made.child.go, b"h")
        assert made.created() == birth.CREATED
        assert made.ended() == "after\nprogram\n"


def test_fifos_outlive_who_created_it(tmp_path: Path) -> None:
    """Nobody has the other ends open while it waits: another process, later, says go and hears."""
    paths = [tmp_path / "go", tmp_path / "report"]
    for path in paths:
        os.mkfifo(path)
    go, report = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in paths)
    with born(program("/bin/echo", "program"), ends=Ends(go, report, -1, -1)) as made:
        for closed in (go, report):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(closed)
        reading = os.open(paths[1], os.O_RDONLY)
        writing = os.open(paths[0], os.O_WRONLY)
        assert os.read(reading, 100) == birth.CREATED
        os.write(writing, b"1")
        assert os.read(reading, 100) == b"", "the exec closed the other end"
        assert os.read(made.output, 100) == b"program\n"
        os.close(reading)
        os.close(writing)


def test_ends_of_a_birth_that_fails_stay_the_callers() -> None:
    go_read, go = os.pipe()
    report, report_write = os.pipe()
    entered = Entered((("network", go_read),), frozenset())
    with pytest.raises(StartFailure, match="join the namespaces"):
        birth.deliver(
            Birth((), program(*SLEEP), World(None, 1, 1), entered, None, ()), Ends(go_read, report_write, go, report)
        )
    for closed in (go_read, report_write):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed)
    os.close(go)
    os.close(report)


def test_a_runtime_that_is_gone_ends_who_waits_for_it() -> None:
    with born(program(*SLEEP)) as made:
        assert made.created() == birth.CREATED
        go, made_go = os.pipe()
        os.dup2(made_go, made.child.go)  # the only writer is closed by this
        os.close(made_go)
        os.close(go)
        assert os.waitid(os.P_PIDFD, made.child.pidfd, os.WEXITED | os.WNOWAIT).si_status == birth.CANNOT_START


# Deaths


def test_a_middle_that_is_killed_after_it_cloned_leaves_a_child_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(birth.syscalls, "clone3", dying_after(syscalls.clone3))
    with born(program("/bin/echo", "lived")) as made:
        assert made.child.pid in children()
        assert made.ended() == "lived\n"
    assert not children()


def test_a_child_that_only_its_middle_knows_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: with the pid told by the middle itself nobody would know whom to reap."""
    clone = dying_after(syscalls.clone3)

    def untold(flags: int, *, told: object = None, **how: Any) -> int:
        return clone(flags, **how)

    monkeypatch.setattr(birth.syscalls, "clone3", untold)
    with pytest.raises(StartFailure, match="was killed"), born(program(*SLEEP)):
        pass
    lost = children()
    for pid in lost:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert len(lost) == 1


def test_a_middle_that_is_killed_before_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return -1

    monkeypatch.setattr(birth.syscalls, "clone3", die)
    for _ in range(50):
        with pytest.raises(StartFailure, match="was killed"), born(program(*SLEEP)):
            pass
    assert not children()


def dying_after(clone: Any) -> Any:
    def dying(*arguments: Any, **how: Any) -> int:
        pid: int = clone(*arguments, **how)
        if pid:
            os.kill(os.getpid(), signal.SIGKILL)
        return pid

    return dying


def children() -> list[int]:
    return [int(pid) for pid in Path("/proc/thread-self/children").read_text().split()]


def test_a_child_that_is_killed_while_it_waits_reports_nothing_more() -> None:
    with born(program(*SLEEP)) as made:
        assert made.created() == birth.CREATED
        os.kill(made.child.pid, signal.SIGKILL)
        assert said(made.child.report) == b""


def test_whoever_has_two_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(birth.os, "listdir", lambda _: ["1", "2"])
    with pytest.raises(StartFailure, match="more than one thread"):
        birth.deliver(Birth((), program(*SLEEP), World(None, 1, 1), NOTHING, None, ()))
    monkeypatch.undo()
    assert os.listdir("/proc/self/fd") == before
