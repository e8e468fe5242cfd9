"""exec for real: as confined as the container's own program, streams and terminals byte for byte, exit statuses."""

import fcntl
import hashlib
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.driver import Creche, checked_driver, until

APP = """
[containers.web]
rootfs = "/"
command = ["sleep", "1000"]
env = { FROM = "the file" }
ulimits = { nofile = 512 }
limits = { memory = "256M", pids = 100 }

[containers.user]
rootfs = "/"
command = ["sleep", "1000"]
user = "1234:1235"
workdir = "/tmp"
init = false

[containers.loose]
rootfs = "/"
command = ["sleep", "1000"]

[containers.loose.security]
seccomp = "unconfined"
userns = "host"
no_new_privileges = false
capabilities = { add = ["SYS_PTRACE"] }
"""


@pytest.fixture(scope="module")
def app() -> Iterator[Creche]:
    with checked_driver() as creche:
        creche.up("execs", APP)
        yield creche


def run(
    creche: Creche, *arguments: str, data: bytes | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[bytes]:
    """`creche exec …` with this as standard input."""
    return subprocess.run(
        [*creche.argv, "exec", *arguments],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        timeout=timeout,
        cwd=creche.directory,
        env=creche.environment(),
        check=False,
    )


# Confinement

CONFINING = (
    "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "CapInh", "CapPrm", "CapEff", "CapBnd",
    "CapAmb", "Cpus_allowed_list", "Mems_allowed_list",
)  # fmt: skip


def fields(status: str) -> dict[str, str]:
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {key: told[key] for key in CONFINING}


def program(creche: Creche, name: str) -> int:
    """The pid of the container's own program on the host: its pid 1's child, or pid 1 itself."""
    found = json.loads(creche("top", "--json", name).out)
    return max((each for each in found if each["command"].endswith("sleep 1000")), key=lambda each: each["inner_pid"])[
        "pid"
    ]


@pytest.mark.parametrize("name", ["web", "user", "loose"])
def test_it_may_no_more_and_no_less_than_the_program(app: Creche, name: str) -> None:
    """What the kernel says of both, read on the host, where both are named in the host's ids."""
    with beside(app, name) as pid:
        assert fields(status_of(pid)) == fields(status_of(program(app, name)))


@pytest.mark.parametrize("name", ["web", "user", "loose"])
def test_it_is_in_the_programs_namespaces(app: Creche, name: str) -> None:
    with beside(app, name) as pid:
        kinds = ("user", "net", "pid", "mnt", "uts", "ipc", "cgroup")
        own, theirs = ([os.readlink(f"/proc/{each}/ns/{kind}") for kind in kinds] for each in (pid, program(app, name)))
        assert own == theirs


def test_it_is_in_the_programs_cgroups(app: Creche) -> None:
    with beside(app, "web") as pid:
        own, theirs = (sorted(Path(f"/proc/{each}/cgroup").read_text().split()) for each in (pid, program(app, "web")))
        assert own == theirs


def test_it_has_the_programs_limits(app: Creche) -> None:
    with beside(app, "web") as pid:
        own, theirs = (Path(f"/proc/{each}/limits").read_text() for each in (pid, program(app, "web")))
        assert own == theirs


def test_it_is_in_the_programs_root(app: Creche) -> None:
    with beside(app, "web") as pid:
        assert os.stat(f"/proc/{pid}/root").st_dev == os.stat(f"/proc/{program(app, 'web')}/root").st_dev


def test_it_inherits_no_descriptor(app: Creche) -> None:
    found = run(app, "web", "sh", "-c", "ls /proc/self/fd")
    assert found.stdout.split() == [b"0", b"1", b"2", b"3"]  # the fourth is ls's own directory


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@contextmanager
def beside(creche: Creche, name: str) -> Generator[int]:
    """A process that exec started and that waits; its pid on the host."""
    with creche.following("exec", name, "sh", "-c", "exec sleep 4711"):

        def look() -> int:
            found = json.loads(creche("top", "--json", name).out)
            return next((each["pid"] for each in found if each["command"] == "sleep 4711"), 0)

        pid = until(look, what="the exec")
        yield pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{pid}"), what="its end")


# What it is given


def test_the_containers_environment_and_more(app: Creche) -> None:
    assert run(app, "-e", "MORE=1", "web", "sh", "-c", 'echo "$FROM $MORE"').stdout == b"the file 1\n"


def test_user_and_directory(app: Creche) -> None:
    assert run(app, "-u", "5:6", "-w", "/usr", "web", "sh", "-c", "id -u; id -g; pwd").stdout == b"5\n6\n/usr\n"


def test_the_containers_own_user_and_directory(app: Creche) -> None:
    assert run(app, "user", "sh", "-c", "id -u; id -g; pwd").stdout == b"1234\n1235\n/tmp\n"


def test_options_after_the_command_are_its_own(app: Creche) -> None:
    assert run(app, "web", "echo", "-e", "-i", "--help").stdout == b"-i --help\n"


# Ends


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("/nope",), 127),
        (("nope",), 127),
        (("/etc/passwd",), 126),
        (("/etc",), 126),
    ],
)
def test_the_exit_status(app: Creche, words: tuple[str, ...], code: int) -> None:
    assert run(app, "web", *words).returncode == code


def test_a_directory_that_is_not_there(app: Creche) -> None:
    found = run(app, "-w", "/nope", "web", "true")
    assert (found.returncode, b"/nope" in found.stderr) in ((125, True), (126, True), (127, True))


def test_a_detached_one_goes_on(app: Creche) -> None:
    assert run(app, "-d", "web", "sh", "-c", "sleep 0.2; touch /tmp/done; exec sleep 0.2").returncode == 0
    until(lambda: run(app, "web", "test", "-e", "/tmp/done").returncode == 0, what="what it does later")


def test_a_client_that_is_killed_leaves_the_process(app: Creche) -> None:
    with app.following(
        "exec", "web", "sh", "-c", "echo here; sleep 1; yes | head -c 1000000; touch /tmp/left"
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"here\n"
        client.kill()
    until(lambda: run(app, "web", "test", "-e", "/tmp/left").returncode == 0, what="the process's end")


def test_a_child_that_keeps_the_output_open_does_not_keep_the_client(app: Creche) -> None:
    began = time.monotonic()
    found = run(app, "web", "sh", "-c", "sleep 30 & echo $!")
    assert time.monotonic() - began < 20
    run(app, "web", "kill", found.stdout.decode().strip())


# Streams


def test_ten_megabytes_come_back_byte_for_byte(app: Creche) -> None:
    data = os.urandom(10 << 20)
    found = run(app, "-i", "web", "cat", data=data, timeout=60)
    assert hashlib.sha256(found.stdout).digest() == hashlib.sha256(data).digest()
    assert found.returncode == 0


def test_output_and_errors_stay_apart(app: Creche) -> None:
    found = run(app, "web", "sh", "-c", "echo out; echo err >&2")
    assert (found.stdout, found.stderr) == (b"out\n", b"err\n")


def test_without_i_input_is_empty(app: Creche) -> None:
    assert run(app, "web", "cat", data=b"secret").stdout == b""


def test_a_process_that_reads_no_input_ends_nevertheless(app: Creche) -> None:
    assert run(app, "-i", "web", "true", data=bytes(4 << 20)).returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_trouble(app: Creche, closed: str) -> None:
    script = f'"$@" {closed}'
    command = ["sh", "-c", script, "sh", *app.argv, "exec", "-i", "web", "sh", "-c", "echo out; echo err >&2; exit 5"]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=app.environment(), timeout=30, check=False
    )
    assert ended.returncode == 5


def test_its_streams_can_be_opened_again(app: Creche) -> None:
    """As nginx's images do with /dev/stdout; as a user of its own, too."""
    for name in ("web", "user"):
        assert run(app, name, "sh", "-c", "echo out > /dev/stdout").stdout == b"out\n"


# Terminals


class Terminal:
    """`creche exec -it …` on a terminal of 30 by 90, driven as a person's hands would."""

    def __init__(self, creche: Creche, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self._size(30, 90)
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            [*creche.argv, "exec", "-it", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=creche.environment(),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.slave = slave
        self.seen = b""

    def _size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the foreground group by SIGWINCH."""
        self._size(rows, columns)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def expect(self, wanted: bytes, timeout: float = 15) -> None:
        deadline = time.monotonic() + timeout
        while wanted not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                pytest.fail(f"{wanted!r} never came: {self.seen!r}")
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(wanted)[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def terminal(creche: Creche, *arguments: str) -> Generator[Terminal]:
    made = Terminal(creche, *arguments)
    try:
        yield made
    finally:
        made.close()


def test_a_terminal_is_one(app: Creche) -> None:
    with terminal(app, "web", "sh", "-c", "tty; stty size; echo $TERM") as seen:
        seen.expect(b"/dev/pts/0\r\n30 90\r\nxterm")
        assert seen.process.wait(10) == 0


def test_a_terminals_size_follows(app: Creche) -> None:
    with terminal(app, "web", "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done") as seen:
        seen.expect(b"ready")
        seen.resize(41, 101)
        seen.expect(b"41 101")
        seen.type(b"\x03")
        assert seen.process.wait(10) == 130


def test_ctrl_c_is_the_processs(app: Creche) -> None:
    with terminal(app, "web", "sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; sleep 100") as seen:
        seen.expect(b"ready")
        seen.type(b"\x03")
        seen.expect(b"caught")
        assert seen.process.wait(10) == 9


def test_a_shell_as_a_person_uses_it(app: Creche) -> None:
    with terminal(app, "web", "sh") as seen:
        seen.type(b"echo $((6 * 7))\n")
        seen.expect(b"42")
        seen.type(b"exit 4\n")
        assert seen.process.wait(10) == 4


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_itself_again_after_a_signal(app: Creche, end: int) -> None:
    with terminal(app, "web", "sh", "-c", "echo ready; sleep 2") as seen:
        seen.expect(b"ready")
        assert termios.tcgetattr(seen.master) != seen.before
        seen.process.send_signal(end)
        seen.process.wait(10)
        assert termios.tcgetattr(seen.master) == seen.before


def test_the_terminal_is_itself_again_after_the_end(app: Creche) -> None:
    with terminal(app, "web", "true") as seen:
        seen.process.wait(10)
        assert termios.tcgetattr(seen.master) == seen.before


def test_it_is_no_terminal_of_the_hosts(app: Creche) -> None:
    """TIOCSTI on a terminal of the host's would type commands into it."""
    with terminal(app, "web", "sh", "-c", "stat -c %d $(tty); stat -c %d /dev/pts/ptmx; exit 3") as seen:
        assert seen.process.wait(10) == 3
        seen.expect(b"\r\n")


# What cannot be


def test_a_paused_container_refuses(creche: Creche) -> None:
    creche.up("paused", '[containers.web]\nrootfs = "/"\ncommand = ["sleep", "100"]\n')
    creche("pause", "web")
    refused = run(creche, "web", "true")
    assert (refused.returncode, b"web is paused" in refused.stderr) == (125, True)
    creche("unpause", "web")
    assert run(creche, "web", "true").returncode == 0


def test_a_container_that_does_not_run_refuses(creche: Creche) -> None:
    creche.up("stopped", '[containers.web]\nrootfs = "/"\ncommand = ["sleep", "100"]\n')
    creche("stop", "web")
    refused = run(creche, "web", "true")
    assert (refused.returncode, b"web is not running, it is stopped" in refused.stderr) == (125, True)


def test_it_ends_with_its_container(creche: Creche) -> None:
    creche.up("ends", '[containers.web]\nrootfs = "/"\ncommand = ["sleep", "100"]\n')
    with creche.following("exec", "web", "sh", "-c", "echo here; sleep 100") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"here\n"
        creche("restart", "web")
        assert client.wait(10) == 137


def test_down_ends_it(creche: Creche) -> None:
    creche.up("down", '[containers.web]\nrootfs = "/"\ncommand = ["sleep", "100"]\n')
    with creche.following("exec", "web", "sh", "-c", "echo here; sleep 100") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"here\n"
        creche("down", "down")
        assert client.wait(10) in (125, 137)
    creche.nothing_left()


def test_it_survives_nothing_that_it_should_not(creche: Creche) -> None:
    """A hundred one after the other leave no process, descriptor or pipe behind in supervisor and launcher."""
    creche.up("many", '[containers.web]\nrootfs = "/"\ncommand = ["sleep", "100"]\n')
    pids = (creche.supervisor("many"), creche.launcher("many"))
    assert run(creche, "web", "true").returncode == 0

    def counted() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    before = counted()
    for _ in range(30):
        assert run(creche, "web", "true").returncode == 0
    until(lambda: counted() == before, what="as few descriptors as before")
