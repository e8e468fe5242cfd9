"""creche-oci as people and engines call it: real containers of a bundle, and runc beside it as the measure."""

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.hierarchy import find
from runtime.oci import spec
from tests import leaks
from tests.kernel.runtime.launching import alive, eventually, open_files

OCI = str(Path(sys.executable).parent / "creche-oci")
RUNC = shutil.which("runc") or "/usr/sbin/runc"
BUSYBOX = "/bin/busybox"
LINKS = ("sh", "cat", "echo", "sleep", "kill", "id", "ls", "env", "tty", "test", "grep", "true", "head", "tr", "pwd")
Change = Callable[[dict[str, Any]], object]


class Oci:
    """A bundle, a root of containers and a cgroup that are the test's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundle, self.root = directory / "bundle", directory / "root"
        self.group = f"test-{os.getpid()}-{directory.name[-12:]}"
        rootfs = self.bundle / "rootfs"
        for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
            (rootfs / name).mkdir(parents=True)
        (rootfs / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        shutil.copy(os.path.realpath(BUSYBOX), rootfs / "bin" / "busybox")
        for name in LINKS:
            (rootfs / "bin" / name).symlink_to("busybox")

    def configure(self, *args: str, change: Change | None = None, terminal: bool = False) -> dict[str, Any]:
        config = spec.example()
        config["process"]["args"] = list(args)
        config["process"]["terminal"] = terminal
        config["linux"]["cgroupsPath"] = f"/creche/{self.group}/one"
        if change is not None:
            change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))
        return config

    def argv(self, command: str, *arguments: str) -> list[str]:
        bundle = ["--bundle", str(self.bundle)] if command in ("create", "run") else []
        return [OCI, "--root", str(self.root), command, *bundle, *arguments]

    def try_(self, command: str, *arguments: str, stdin: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(command, *arguments), capture_output=True, text=True, timeout=30, input=stdin, check=False, **more
        )

    def __call__(self, command: str, *arguments: str, code: int = 0, stdin: str = "") -> str:
        done = self.try_(command, *arguments, stdin=stdin)
        assert done.returncode == code, f"{command} {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def create(self, *options: str, name: str = "one") -> None:
        """`create` with streams that nobody waits for."""
        with (self.directory / "out").open("w") as out:
            done = subprocess.run(
                self.argv("create", *options, name),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=30,
                check=False,
                pass_fds=tuple(range(3, 3 + int(options[1]))) if options[:1] == ("--preserve-fds",) else (),
            )
        assert done.returncode == 0, self.output()

    def start(self, *args: str, change: Change | None = None) -> int:
        """A container that runs; the pid of its first process."""
        self.configure(*args, change=change)
        self.create()
        self("start", "one")
        pid: int = self.state()["pid"]
        return pid

    def output(self) -> str:
        return (self.directory / "out").read_text()

    def state(self, name: str = "one") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", name))
        return found

    def status(self) -> str:
        found: str = self.state()["status"]
        return found

    def cgroups(self) -> list[str]:
        return [top for place in find().places for top, _, _ in os.walk(place.directory(f"creche/{self.group}"))]

    def gone(self) -> bool:
        """Whether nothing of the container is left."""
        names = [each for each in os.listdir(self.root) if each != ".seccomp"] if self.root.exists() else []
        return not names and not [each for each in self.cgroups() if each.endswith("/one")]


@pytest.fixture
def oci(tmp_path: Path, leaves_nothing: None) -> Iterator[Oci]:
    leaks.ensure_tools(OCI, BUSYBOX)
    made = Oci(tmp_path)
    yield made
    for name in list(os.listdir(made.root)) if made.root.exists() else []:
        if name != ".seccomp":
            made.try_("delete", "--force", name)
    for mount in leaks._hierarchies():  # runc makes one in the named hierarchies, too, and leaves what is above it
        for top, _, _ in os.walk(mount / "creche" / made.group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(top)


FOREVER = ("sh", "-c", "trap 'exit 7' USR1; trap 'exit 0' TERM; while :; do sleep 0.05; done")


# --- the life of a container ---


def test_a_container_is_created_started_and_deleted(oci: Oci) -> None:
    oci.configure(*FOREVER)
    oci.create("--pid-file", str(oci.directory / "pid"))
    state = oci.state()
    assert state["status"] == "created" and state["bundle"] == str(oci.bundle)
    assert int((oci.directory / "pid").read_text()) == state["pid"]
    assert Path(f"/proc/{state['pid']}/comm").read_text() != "sh\n"
    oci("start", "one")
    assert oci.status() == "running"
    assert "one" in oci("list") and oci("list", "--quiet") == "one\n"
    assert json.loads(oci("ps", "--format", "json", "one"))[0] == state["pid"]
    oci("kill", "one", "KILL")
    assert eventually(lambda: oci.status() == "stopped")
    assert oci.state()["pid"] == 0
    oci("delete", "one")
    assert oci.gone()


def test_what_is_not_in_order_is_refused(oci: Oci) -> None:
    oci.start(*FOREVER)
    assert "already exists" in oci.try_("run", "one").stderr
    assert "already running" in oci.try_("start", "one").stderr
    assert "not stopped: running" in oci.try_("delete", "one").stderr
    assert "not paused" in oci.try_("resume", "one").stderr
    oci("delete", "--force", "one")
    for command in ("state", "start", "kill", "delete", "pause", "exec"):
        assert "container does not exist" in oci.try_(command, "one", *(("true",) if command == "exec" else ())).stderr
    oci("delete", "--force", "one")


def test_run_gives_the_programs_output_and_status(oci: Oci) -> None:
    oci.configure("sh", "-c", "cat; echo out; echo err >&2; exit 3")
    done = oci.try_("run", "one", stdin="given\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "given\nout\n", "err\n")
    assert oci.gone()


def test_run_keeps_what_it_is_told_to(oci: Oci) -> None:
    oci.configure("true")
    oci("run", "--keep", "one")
    assert oci.status() == "stopped"
    oci("delete", "one")
    assert oci.gone()


def test_run_in_the_foreground_passes_signals_on(oci: Oci) -> None:
    oci.configure("sh", "-c", "trap 'echo heard; exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    with subprocess.Popen(oci.argv("run", "one"), stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGUSR1)
        assert run.stdout.read() == "heard\n"
        assert run.wait(10) == 7
    assert oci.gone()


def test_a_signals_death_is_128_and_its_number(oci: Oci) -> None:
    oci.configure("sh", "-c", "echo ready; while :; do sleep 0.05; done")
    with subprocess.Popen(oci.argv("run", "one"), stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        oci("kill", "one", "9")
        assert run.wait(10) == 137
    assert oci.gone()


@pytest.mark.parametrize("moment", ["create", "start"])
def test_a_program_that_is_missing_leaves_nothing(oci: Oci, moment: str) -> None:
    oci.configure("missing" if moment == "create" else "true")
    if moment == "start":  # there at creation, gone at the exec
        (oci.bundle / "rootfs" / "bin" / "late").write_bytes(b"\x7fELF nothing that runs")
        (oci.bundle / "rootfs" / "bin" / "late").chmod(0o755)
        oci.configure("late")
    done = oci.try_("run", "one")
    assert done.returncode == 1
    assert ("executable file not found" if moment == "create" else "permission denied") in done.stderr
    assert oci.gone()


def _no_such_mount(config: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/x", "type": "bind", "source": "/missing/source", "options": ["bind"]})


def _no_such_namespace(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"][0] = {"type": "pid", "path": "/proc/self/ns/net"}


def _no_such_limit(config: dict[str, Any]) -> None:
    config["linux"]["resources"]["memory"] = {"limit": 1 << 20, "swap": 1 << 10}


def _no_such_user(config: dict[str, Any]) -> None:
    config["process"]["user"]["uid"] = "root"


@pytest.mark.parametrize("change", [_no_such_mount, _no_such_namespace, _no_such_limit, _no_such_user])
def test_a_create_that_fails_says_one_line_and_leaves_nothing(oci: Oci, change: Change) -> None:
    oci.configure("true", change=change)
    log = oci.directory / "log.json"
    given = [OCI, "--root", str(oci.root), "--log", str(log), "--log-format", "json", "create", "-b", str(oci.bundle)]
    done = subprocess.run([*given, "one"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    line = json.loads(log.read_text().splitlines()[-1])
    assert line["level"] == "error" and line["msg"] == done.stderr.strip()
    assert oci.gone()


def test_many_creates_of_one_id_make_one_container(oci: Oci) -> None:
    oci.configure(*FOREVER)
    nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    racing = [subprocess.Popen(oci.argv("create", "one"), **nothing) for _ in range(5)]  # type: ignore[call-overload]
    assert sorted(each.wait(30) for each in racing) == [0, 1, 1, 1, 1]
    oci("start", "one")
    assert oci.status() == "running"


def test_a_creator_killed_at_any_moment_leaves_what_delete_cleans(oci: Oci) -> None:
    oci.configure(*FOREVER)
    nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for number in range(12):
        creator = subprocess.Popen(oci.argv("create", "one"), **nothing)  # type: ignore[call-overload]
        with contextlib.suppress(subprocess.TimeoutExpired):
            creator.wait(0.02 + 0.012 * number)
        creator.kill()
        creator.wait()
        oci("delete", "--force", "one")
        assert oci.gone(), f"killed after {0.02 + 0.012 * number:.3f} s"


# --- signals, pause, limits ---


def test_kill_all_reaches_every_process(oci: Oci) -> None:
    oci.start("sh", "-c", "sleep 100 & sleep 100 & while :; do sleep 100; done")
    assert eventually(lambda: len(json.loads(oci("ps", "-f", "json", "one"))) == 4)
    oci("kill", "--all", "one", "KILL")
    assert eventually(lambda: oci.status() == "stopped")
    assert "container not running" in oci.try_("kill", "one", "TERM").stderr


def test_a_paused_container_is_killed_and_deleted(oci: Oci) -> None:
    pid = oci.start(*FOREVER)
    oci("pause", "one")
    assert oci.status() == "paused"
    assert "paused" in oci.try_("exec", "one", "true").stderr
    oci("kill", "one", "KILL")
    assert eventually(lambda: not alive(pid))
    oci("delete", "one")
    assert oci.gone()


def test_a_paused_container_goes_on(oci: Oci) -> None:
    oci.start(*FOREVER)
    oci("pause", "one")
    oci("resume", "one")
    assert oci.status() == "running"
    oci("kill", "one", "USR1")
    assert eventually(lambda: oci.status() == "stopped")


def test_update_changes_the_kernels_limits(oci: Oci) -> None:
    oci.start(*FOREVER)
    oci("update", "--memory", "64m", "--pids-limit", "33", "one")
    oci("update", "--resources", "-", "one", stdin='{"cpu": {"quota": 20000, "period": 100000}}')
    stats = json.loads(oci("events", "--stats", "one"))
    assert (stats["type"], stats["id"]) == ("stats", "one")
    assert stats["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert stats["data"]["pids"]["limit"] == 33


def test_events_tell_an_oom_kill_and_end_with_the_container(oci: Oci) -> None:
    def small(config: dict[str, Any]) -> None:
        config["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}

    oci.configure("sh", "-c", "x=$(cat /dev/zero | tr '\\0' a)", change=small)
    oci.create()
    with subprocess.Popen(oci.argv("events", "--interval", "50ms", "one"), stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        assert json.loads(events.stdout.readline())["type"] == "stats"
        oci("start", "one")
        said = [json.loads(line)["type"] for line in events.stdout]
        assert events.wait(20) == 0
    assert "oom" in said


# --- one more process ---


def test_exec_joins_the_container(oci: Oci) -> None:
    pid = oci.start(*FOREVER)
    script = "echo $X; pwd; id -u; kill -0 1 && readlink /proc/1/ns/pid /proc/self/ns/pid; exit 9"
    (oci.bundle / "rootfs" / "bin" / "readlink").symlink_to("busybox")
    said = oci("exec", "-e", "X=1", "--cwd", "/tmp", "--user", "5:6", "one", "sh", "-c", script, code=9).split()
    assert said[:3] == ["1", "/tmp", "5"]
    assert oci("exec", "one", "readlink", "/proc/self/ns/pid").strip() == os.readlink(f"/proc/{pid}/ns/pid")


def test_exec_in_the_background_writes_its_pid(oci: Oci) -> None:
    oci.start(*FOREVER)
    process = oci.directory / "process.json"
    process.write_text(
        json.dumps({"args": ["sleep", "100"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
    )
    done = subprocess.run(
        oci.argv("exec", "--detach", "--pid-file", str(oci.directory / "pid"), "--process", str(process), "one"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0
    pid = int((oci.directory / "pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\0" + b"100\0"
    assert pid in json.loads(oci("ps", "-f", "json", "one"))


def test_exec_of_a_missing_program_is_255(oci: Oci) -> None:
    oci.start(*FOREVER)
    assert "executable file not found" in oci.try_("exec", "one", "missing").stderr
    assert oci.try_("exec", "one", "missing").returncode == 255


def test_exec_in_a_mapped_container(oci: Oci) -> None:
    def mapped(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            config["linux"][key] = [{"containerID": 0, "hostID": 0x7FFF0000, "size": 65536}]

    pid = oci.start(*FOREVER, change=mapped)
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(0x7FFF0000), "65536"]
    assert oci("exec", "one", "id", "-u") == "0\n"


def test_preserved_descriptors_reach_the_program_and_no_others(oci: Oci) -> None:
    oci.configure("sh", "-c", "cat <&3; ls /proc/self/fd")
    read, write = os.pipe()
    os.write(write, b"given\n")
    os.close(write)

    def third() -> None:
        os.dup2(read, 3)

    done = subprocess.run(
        oci.argv("run", "--preserve-fds", "1", "one"),
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=third,
        close_fds=False,
        check=False,
    )
    os.close(read)
    assert done.stdout.split() == ["given", "0", "1", "2", "3", "4"], done.stderr  # 4 is the listing's own
    assert "descriptor 3 is not open" in oci.try_("run", "--preserve-fds", "1", "one").stderr


KEYRING = (
    "import ctypes, os; number = {'x86_64': 250, 'aarch64': 219}[os.uname().machine]; "
    "print(ctypes.CDLL(None).syscall(number, 0, -3, 0))"  # KEYCTL_GET_KEYRING_ID of the session
)


@pytest.mark.parametrize(("options", "own"), [((), True), (("--no-new-keyring",), False)])
def test_the_session_keyring_is_its_own_but_with_no_new_keyring(oci: Oci, options: tuple[str, ...], own: bool) -> None:
    def hosts_root(config: dict[str, Any]) -> None:  # for the sake of its python
        config["root"]["path"] = "/"

    oci.configure("/usr/bin/python3", "-c", KEYRING, change=hosts_root)
    ours = subprocess.run(["/usr/bin/python3", "-c", KEYRING], capture_output=True, text=True, check=True).stdout
    assert (oci("run", *options, "one") != ours) is own


# --- terminals ---


def test_a_console_socket_is_sent_the_master(oci: Oci) -> None:
    oci.configure("sh", "-c", "tty; exit 0", terminal=True)
    path = oci.directory / "console.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        oci.create("--console-socket", str(path))
        channel, _ = listener.accept()
        with channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 4096, 1)
    oci("start", "one")
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the container has ended
        while more := os.read(descriptors[0], 4096):
            shown += more
    os.close(descriptors[0])
    assert shown == b"/dev/pts/0\r\n"


def _on_a_terminal(command: list[str], typed: bytes) -> tuple[bytes, int]:
    pid, master = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    termios.tcsetwinsize(master, (33, 77))
    shown, sent = b"", False
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.05)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:  # EIO: nobody has it open any more
                break
        if not sent and b"# " in shown:
            os.write(master, typed)
            sent = True
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(master)
    return shown, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("command", ["run", "exec"])
def test_a_terminal_in_the_foreground_is_proxied(oci: Oci, command: str) -> None:
    (oci.bundle / "rootfs" / "bin" / "stty").symlink_to("busybox")
    if command == "run":
        oci.configure("sh", terminal=True)
        given = oci.argv("run", "one")
    else:
        oci.start(*FOREVER)
        given = oci.argv("exec", "--tty", "one", "sh")
    shown, code = _on_a_terminal(given, b"test -t 0 && echo a$((1+1))b; stty size 2>&1; exit 5\n")
    assert b"a2b" in shown and b"33 77" in shown
    assert code == 5


# --- hooks ---


def _hooked(config: dict[str, Any], log: Path, **broken: str) -> None:
    config["hooks"] = {
        stage: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {stage} $(cat) >>{log}; {broken.get(stage, 'true')}"]}]
        for stage in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    }
    config["hooks"]["startContainer"] = [
        {"path": "/bin/sh", "args": ["sh", "-c", f"echo startContainer $(cat); {broken.get('startContainer', 'true')}"]}
    ]


def _told(log: Path) -> list[tuple[str, str, int]]:
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    return [(stage, (state := json.loads(text))["status"], state["pid"]) for stage, _, text in lines]


def test_hooks_run_at_every_stage_with_the_right_state(oci: Oci) -> None:
    log = oci.directory / "hooks"
    oci.configure(*FOREVER, change=lambda config: _hooked(config, log))
    oci.create()
    pid = oci.state()["pid"]
    early = [("prestart", "creating", pid), ("createRuntime", "creating", pid), ("createContainer", "creating", 1)]
    assert _told(log) == early
    oci("start", "one")
    assert _told(log) == [*early, ("poststart", "running", pid)]
    oci("delete", "--force", "one")
    assert _told(log)[4:] == [("poststop", "stopped", 0)]


@pytest.mark.parametrize("stage", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_failing_hook_ends_the_container(oci: Oci, stage: str) -> None:
    log = oci.directory / "hooks"
    oci.configure("true", change=lambda config: _hooked(config, log, **{stage: "echo no luck; exit 1"}))
    done = oci.try_("run", "one")
    assert done.returncode == 1 and f"the {stage} hook #0 (/bin/sh) failed with exit status 1: " in done.stderr
    assert oci.gone()
    assert _told(log)[-1][0] == "poststop"


@pytest.mark.parametrize("stage", ["poststart", "poststop"])
def test_a_late_hooks_failure_is_a_warning(oci: Oci, stage: str) -> None:
    log = oci.directory / "hooks"
    oci.configure("sh", "-c", "exit 3", change=lambda config: _hooked(config, log, **{stage: "exit 1"}))
    done = oci.try_("run", "one")
    assert done.returncode == 3 and "level=warning" in done.stderr and stage in done.stderr
    assert oci.gone()


# --- what stands in the container before its program ---


def test_what_waits_in_a_container_is_no_file_of_the_host_that_can_be_written(oci: Oci) -> None:
    oci.configure(*FOREVER)
    oci.create()
    pid = oci.state()["pid"]
    with pytest.raises(OSError, match=r"Text file busy|Read-only file system"):
        os.close(os.open(f"/proc/{pid}/exe", os.O_WRONLY))
    info = Path(f"/proc/{pid}/mountinfo").read_text()
    assert os.path.realpath(sys.executable) not in info
    # Negative control: the interpreter of this very test is the host's file, which only its running keeps from writing.
    assert os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY == 0
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY


def test_a_waiting_container_holds_nothing_but_its_streams_and_fifos(oci: Oci) -> None:
    oci.configure(*FOREVER)
    oci.create()
    held = open_files(oci.state()["pid"])
    outside = {name for number, name in held.items() if number > 2}
    fifos = {str(oci.root / "one" / name) for name in ("go", "report")}
    assert fifos <= outside
    assert not {name for name in outside - fifos if name.startswith(str(oci.directory)) and "rootfs" not in name}


# --- beside runc ---


def _under(runtime: list[str], oci: Oci, name: str) -> str:
    done = subprocess.run(
        [*runtime, "run", "--bundle", str(oci.bundle), name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bundle_is_the_same_under_runc(oci: Oci) -> None:
    leaks.ensure_tools(RUNC)
    script = (
        "cat /proc/self/status | grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)'; echo ---; "
        "cat /proc/self/mounts; echo ---; cat /proc/self/limits; echo ---; env; echo ---; pwd; echo ---; "
        "cat /proc/sys/kernel/hostname; echo ---; ls /dev; echo ---; ls /proc/self/fd; echo ---; "
        "cat /proc/self/oom_score_adj"
    )
    said = subprocess.run([RUNC, "spec", "--bundle", str(oci.directory)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    config = json.loads((oci.directory / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["sh", "-c", script]
    config["linux"]["cgroupsPath"] = f"/creche/{oci.group}/one"
    config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
    config["linux"]["resources"]["pids"] = {"limit": 50}
    (oci.bundle / "config.json").write_text(json.dumps(config))
    theirs = _under([RUNC, "--root", str(oci.directory / "runc")], oci, "theirs").split("---\n")
    ours = _under([OCI, "--root", str(oci.root)], oci, "ours").split("---\n")
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if number == 1:
            assert sorted({_mount(line) for line in mine.splitlines()}) == sorted(
                {_mount(line) for line in other.splitlines()}
            )
            shown = [line.split(" ")[3].split(",")[0] for line in mine.splitlines() if " /sys/fs/cgroup" in line]
            assert shown and set(shown) == {"ro"}
        elif number == 0:
            keep = [line for line in other.splitlines() if not line.startswith("Seccomp_filters")]
            assert mine.splitlines() == keep
        elif number == 6:
            assert set(mine.split()) == set(other.split())
        else:
            assert mine == other


def _mount(line: str) -> tuple[str, ...]:
    """A line of mounts without what names the container; a mask is a mask, whatever else it forbids.

    Of the cgroups runc shows all hierarchies, also those of others' book-keeping.
    """
    _, point, kind, options, *_ = line.split(" ")
    if point.startswith("/sys/fs/cgroup"):
        return ()
    if point.startswith(("/proc/", "/sys/firmware")) and kind == "tmpfs" and "ro" in options.split(","):
        return point, "mask"
    return point, kind, *sorted(options.split(","))


def test_limits_are_the_same_as_under_runc(oci: Oci) -> None:
    leaks.ensure_tools(RUNC)
    seen: list[dict[str, str]] = []
    for runtime in ([RUNC, "--root", str(oci.directory / "runc")], [OCI, "--root", str(oci.root)]):

        def limited(config: dict[str, Any]) -> None:
            config["linux"]["resources"].update(
                memory={"limit": 64 << 20, "reservation": 32 << 20},
                cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
                pids={"limit": 50},
            )
            config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "cgroup"]

        oci.configure(*FOREVER, change=limited)
        with (oci.directory / "out").open("w") as out:
            given = [*runtime, "run", "--detach", "--bundle", str(oci.bundle), "one"]
            done = subprocess.run(given, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False, timeout=30)
        assert done.returncode == 0, oci.output()
        seen.append(_limits(oci))
        subprocess.run([*runtime, "delete", "--force", "one"], check=True, capture_output=True, timeout=30)
    assert seen[0] == seen[1] and len(seen[0]) > 5


def _limits(oci: Oci) -> dict[str, str]:
    """The values of the files that hold limits, in every hierarchy."""
    names = (
        *("memory.limit_in_bytes", "memory.soft_limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
        *("cpuset.cpus", "pids.max", "devices.list", "memory.max", "memory.low", "cpu.max", "cpu.weight"),
    )
    found: dict[str, str] = {}
    for place in find().places:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                text = Path(f"{place.directory(f'creche/{oci.group}/one')}/{name}").read_text()
                # runc allows /dev/net/tun to everybody, which no specification asks for
                found[name] = "\n".join(sorted(line for line in text.split("\n") if line != "c 10:200 rwm"))
    return found
