"""Docker's own smoke under `docker run --runtime creche`: a dockerd of this test's own drives creche-oci."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import leaks

BUSYBOX = "/bin/busybox"
OCI = Path(sys.executable).parent / "creche-oci"
RUNTIME = "creche"
DOCKERD, DOCKER = shutil.which("dockerd") or "/usr/sbin/dockerd", shutil.which("docker") or "/usr/bin/docker"
IMAGE = "busybox:creche"
LINKS = ("sh", "cat", "ls", "id", "echo", "sleep", "head", "test", "grep", "touch", "true", "kill", "env", "pwd", "tr")


class Done(NamedTuple):
    """How a docker command ended."""

    code: int
    out: str
    err: str


def until(look: Callable[[], Any], timeout: float = 20.0, what: str = "") -> Any:
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what or look} did not come true within {timeout:g} s; last seen: {found!r}")
        time.sleep(0.05)
    return found


class Docker:
    """One dockerd with its containerd, its data and its cgroups below one parent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.parent = f"/creche-dockerd-{os.getpid()}"
        self.socket = f"unix://{directory}/d.sock"
        self.log = directory / "dockerd.log"
        (directory / "d.json").write_text("{}")  # not the machine's
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    DOCKERD,
                    *("--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"),
                    *("--pidfile", f"{directory}/d.pid", "--host", self.socket, "--config-file", f"{directory}/d.json"),
                    *("--add-runtime", f"{RUNTIME}={OCI}", "--cgroup-parent", self.parent),
                    *("--iptables=false", "--ip6tables=false", "--ip-masq=false", "--bridge=none"),
                    *("--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        until(lambda: self.try_("version").code == 0 or self.process.poll() is not None, 40, "dockerd")
        assert self.process.poll() is None, self.log.read_text()[-4000:]

    @property
    def argv(self) -> list[str]:
        return [DOCKER, "--host", self.socket]

    def try_(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> Done:
        """Run a docker command, however it ends."""
        done = subprocess.run(
            [*self.argv, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run a docker command that succeeds; what it says."""
        done = self.try_(*arguments, stdin=stdin, timeout=timeout)
        assert done.code == 0, f"docker {' '.join(arguments)}: {done.code}\n{done.out}{done.err}\n{self._words()}"
        return done.out.strip()

    def _words(self) -> str:
        return self.log.read_text()[-3000:]

    def run(self, *arguments: str, code: int = 0) -> str:
        """`docker run --rm` under creche; standard output."""
        done = self.try_("run", "--rm", "--runtime", RUNTIME, "--network", "none", *arguments)
        assert done.code == code, f"docker run {arguments}: {done.code}\n{done.out}{done.err}\n{self._words()}"
        return done.out.strip()

    def start(self, *arguments: str) -> str:
        """`docker run -d`; the container's id."""
        return self("run", "-d", "--runtime", RUNTIME, "--network", "none", *arguments)

    def inspect(self, container: str, field: str) -> Any:
        return json.loads(self("inspect", "--format", f"{{{{json {field}}}}}", container))

    def stop(self) -> None:
        """End it and all that it made: containers, shims, containerd, cgroups, mounts."""
        if self.process.poll() is None:
            for each in self("ps", "-aq").split():
                self.try_("rm", "-f", each)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        for mount in self.mounts():
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        until(lambda: not self.processes(), 20, "the end of every process of dockerd's")
        for each in self.cgroups():
            with contextlib.suppress(OSError):
                os.rmdir(each)

    def processes(self) -> list[str]:
        return [str(each) for each in leaks.processes().values() if str(self.directory) in each.command]

    def mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [point for line in reversed(lines) if str(self.directory) in (point := line.split(" ")[4])]

    def cgroups(self) -> list[str]:
        """Every cgroup below the parent, the deepest first."""
        found: list[str] = []
        for mount in leaks._hierarchies():
            found += [top for top, _, _ in os.walk(f"{mount}{self.parent}", topdown=False)]
        return found

    def containers(self) -> list[str]:
        """The ids that creche-oci itself remembers."""
        return [path.parent.name for path in self.directory.glob(f"exec/runtime-{RUNTIME}/*/*/state.json")]


def root_filesystem(path: Path) -> None:
    """A tar archive of busybox with a few links, users and directories."""
    with tarfile.open(path, "w") as archive:
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "data"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        archive.add(os.path.realpath(BUSYBOX), "bin/busybox")
        for name in LINKS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
        for name, text in (
            ("passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/data:/bin/sh\n"),
            ("group", "web:x:33:\n"),
        ):
            file = path.with_name(name)
            file.write_text(text)
            archive.add(file, f"etc/{name}", filter=_roots)


def _roots(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode = 0o644
    return entry


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    leaks.ensure_tools(DOCKERD, DOCKER, BUSYBOX, str(OCI))
    directory = Path(tempfile.mkdtemp(prefix="cd-", dir="/tmp"))
    try:
        made = Docker(directory)
        try:
            root_filesystem(directory / "root.tar")
            made("import", f"{directory}/root.tar", IMAGE)
            yield made
            rest = made.containers()
        finally:
            made.stop()
        assert rest == []
        assert made.mounts() == [] and made.cgroups() == []
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def idle(docker: Docker) -> Iterator[str]:
    """A container that waits, with a limit of each kind."""
    limits = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "50")
    script = "trap 'exit 7' USR1; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    made = docker.start(*limits, IMAGE, "sh", "-c", script)
    yield made
    docker("rm", "-f", made)


def limit(docker: Docker, container: str, controller: str, v1: str, v2: str) -> str:
    """What the kernel holds of a container, read from its cgroup."""
    pid = docker.inspect(container, ".State.Pid")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        if controller in names.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text().strip()
        if number == "0" and not any(f":{controller}:" in each for each in [Path(f"/proc/{pid}/cgroup").read_text()]):
            return Path(f"/sys/fs/cgroup{path}/{v2}").read_text().strip()
    raise AssertionError(f"the container is in no cgroup of {controller}")


def through_a_pty(command: list[str], typed: bytes, last: bytes, timeout: float = 20) -> tuple[bytes, int]:
    """Run a command on a terminal of ours, type, and return what it shows and how it ends."""
    pid, master = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown = b""
    deadline = time.monotonic() + timeout
    sent = False
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    more = os.read(master, 65536)
                except OSError:  # EIO: nobody has the terminal open any more
                    break
                if not more:
                    break
                shown += more
            if not sent and b"# " in shown:
                os.write(master, typed)
                sent = True
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(master)
    _, status = os.waitpid(pid, 0)
    assert last in shown, shown
    return shown, os.waitstatus_to_exitcode(status)


# --- output and status ---


def test_run_shows_output_and_exit_status(docker: Docker) -> None:
    done = docker.try_(
        "run", "--rm", "--runtime", RUNTIME, "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3"
    )
    assert done == Done(3, "out\n", "err\n")


def test_a_signals_death_is_128_and_its_number(docker: Docker) -> None:
    docker.run("--init", IMAGE, "sh", "-c", "kill -9 $$", code=137)


def test_stdin_reaches_the_program(docker: Docker) -> None:
    given = ("run", "--rm", "-i", "--runtime", RUNTIME, "--network", "none", IMAGE, "cat")
    assert docker(*given, stdin="hello") == "hello"


def test_a_program_that_is_missing_is_127(docker: Docker) -> None:
    docker.run(IMAGE, "missing", code=127)


def test_a_program_that_cannot_be_executed_is_126(docker: Docker) -> None:
    docker.run(IMAGE, "/etc/passwd", code=126)


def test_a_container_has_its_own_name_processes_and_network(docker: Docker) -> None:
    said = docker.run(
        "--hostname", "nest", IMAGE, "sh", "-c", "cat /proc/sys/kernel/hostname; echo $$; ls /sys/class/net"
    )
    assert said.split() == ["nest", "1", "lo"]


# --- a running container ---


def test_exec_runs_beside_it_and_tells_its_status(docker: Docker, idle: str) -> None:
    assert (
        docker("exec", "-e", "X=1", "-w", "/tmp", idle, "sh", "-c", "echo $X; pwd; cat /proc/1/comm") == "1\n/tmp\nsh"
    )
    assert docker.try_("exec", idle, "sh", "-c", "exit 9").code == 9
    assert docker.try_("exec", idle, "missing").code in (126, 127)
    assert docker("exec", "--user", "web", idle, "id", "-u") == "33"


def test_exec_is_in_the_containers_cgroup(docker: Docker, idle: str) -> None:
    with subprocess.Popen([*docker.argv, "exec", idle, "sleep", "60"], stdout=subprocess.DEVNULL) as execution:
        pid = until(lambda: _pid_of(docker("top", idle, "-eo", "pid,args"), "sleep 60"))
        main = docker.inspect(idle, ".State.Pid")
        assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{main}/cgroup").read_text()
        docker("kill", idle)
        execution.wait(20)


def _pid_of(top: str, program: str) -> int | None:
    return next((int(line.split()[0]) for line in top.splitlines() if line.endswith(program)), None)


def test_exec_with_a_terminal(docker: Docker, idle: str) -> None:
    shown, code = through_a_pty(
        [*docker.argv, "exec", "-it", idle, "sh"], b"test -t 0 && echo a$((1+1))b; exit 5\n", b"a2b"
    )
    assert code == 5, shown


def test_run_with_a_terminal(docker: Docker) -> None:
    given = [*docker.argv, "run", "--rm", "-it", "--runtime", RUNTIME, "--network", "none", IMAGE, "sh"]
    shown, code = through_a_pty(
        given, b"test -t 1 && cat /proc/self/comm; ls -l /dev/console; exit 4\n", b"/dev/console"
    )
    assert code == 4, shown


def test_limits_are_the_kernels(docker: Docker, idle: str) -> None:
    assert limit(docker, idle, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert limit(docker, idle, "pids", "pids.max", "pids.max") == "50"
    assert limit(docker, idle, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"


def test_limits_are_seen_from_inside(docker: Docker) -> None:
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert docker.run("--memory", "64m", IMAGE, "sh", "-c", f"{script}; true") == str(64 << 20)


def test_update_changes_limits(docker: Docker, idle: str) -> None:
    docker("update", "--memory", "80m", "--memory-swap", "160m", "--cpus", "0.25", "--pids-limit", "40", idle)
    assert limit(docker, idle, "memory", "memory.limit_in_bytes", "memory.max") == str(80 << 20)
    assert limit(docker, idle, "pids", "pids.max", "pids.max") == "40"
    assert limit(docker, idle, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "25000"


def test_a_paused_container_stands_still(docker: Docker, idle: str) -> None:
    docker("pause", idle)
    assert docker.inspect(idle, ".State.Status") == "paused"
    assert docker.try_("exec", idle, "true").code != 0
    docker("unpause", idle)
    assert docker("exec", idle, "echo", "on") == "on"


def test_stop_and_kill_send_signals(docker: Docker, idle: str) -> None:
    docker("kill", "-s", "USR1", idle)
    assert docker("wait", idle) == "7"
    docker("start", idle)
    docker("stop", "-t", "10", idle)
    assert docker.inspect(idle, ".State.ExitCode") == 0


def test_stop_kills_after_its_time(docker: Docker) -> None:
    made = docker.start(IMAGE, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    began = time.monotonic()
    docker("stop", "-t", "1", made)
    assert 0.9 < time.monotonic() - began < 9
    assert docker.inspect(made, ".State.ExitCode") == 137
    docker("rm", made)


def test_restart_gives_a_new_process(docker: Docker, idle: str) -> None:
    before = docker.inspect(idle, ".State.Pid")
    docker("restart", "-t", "5", idle)
    assert docker.inspect(idle, ".State.Pid") not in (0, before)


def test_stats_and_top(docker: Docker, idle: str) -> None:
    stats = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", idle))
    assert stats["MemUsage"].endswith("64MiB") and int(stats["PIDs"]) >= 1
    assert "sh -c" in docker("top", idle)


def test_logs_are_whole(docker: Docker) -> None:
    made = docker.start(IMAGE, "sh", "-c", "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done")
    assert docker("wait", made) == "0"
    assert docker("logs", made).splitlines() == [f"line {number}" for number in range(500)]
    docker("rm", made)


def test_an_oom_kill_is_reported(docker: Docker) -> None:
    made = docker.start("--memory", "16m", "--memory-swap", "16m", IMAGE, "sh", "-c", "x=$(cat /dev/zero | tr '\\0' a)")
    docker("wait", made)
    state = until(lambda: (found := docker.inspect(made, ".State"))["OOMKilled"] and found, 10, "OOMKilled")
    assert state["ExitCode"] != 0
    docker("rm", made)


def test_a_policy_restarts_it(docker: Docker) -> None:
    made = docker.start("--restart", "on-failure:2", IMAGE, "sh", "-c", "exit 1")
    until(lambda: docker.inspect(made, ".RestartCount") == 2 and not docker.inspect(made, ".State.Running"))
    docker("rm", "-f", made)


def test_events_tell_a_life(docker: Docker) -> None:
    began = str(time.time() - 1)
    made = docker.start(IMAGE, "true")
    docker("wait", made)
    docker("rm", made)
    said = docker("events", "--since", began, "--until", str(time.time() + 1), "--filter", f"container={made}")
    events = re.findall(r" container (\w+) ", said)
    assert [each for each in events if each in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]


# --- who and where ---


def test_user_directory_and_environment(docker: Docker) -> None:
    given = ("--user", "web", "-w", "/data", "-e", "X=1", "--group-add", "99")
    assert docker.run(*given, IMAGE, "sh", "-c", "id; pwd; echo $X $HOME").split("\n") == [
        "uid=33(web) gid=33(web) groups=33(web),99",
        "/data",
        "1 /data",
    ]


def test_a_read_only_root_with_a_tmpfs(docker: Docker) -> None:
    script = "touch /x 2>/dev/null || echo closed; touch /scratch/x && echo open; grep ' /scratch ' /proc/mounts"
    said = docker.run("--read-only", "--tmpfs", "/scratch:size=1m,noexec", IMAGE, "sh", "-c", script).splitlines()
    assert said[:2] == ["closed", "open"]
    assert "tmpfs" in said[2] and "noexec" in said[2] and "size=1024k" in said[2]


def test_volumes(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("given")
    given = ("-v", f"{tmp_path}:/volume", "-v", f"{tmp_path}:/closed:ro")
    script = "cat /volume/in; echo made >/volume/out; echo no >/closed/out2 2>/dev/null || echo closed"
    assert docker.run(*given, IMAGE, "sh", "-c", script).replace("given", "given\n").split() == ["given", "closed"]
    assert (tmp_path / "out").read_text() == "made\n" and not (tmp_path / "out2").exists()


def status(docker: Docker, *options: str) -> dict[str, str]:
    lines = docker.run(*options, IMAGE, "cat", "/proc/self/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_capabilities(docker: Docker) -> None:
    assert int(status(docker)["CapEff"], 16) == 0xA80425FB
    assert int(status(docker, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN")["CapEff"], 16) == 1 << 12
    assert int(status(docker, "--user", "web")["CapEff"], 16) == 0


def test_security_options(docker: Docker, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    assert status(docker)["Seccomp"] == "2"
    assert status(docker, "--security-opt", "seccomp=unconfined")["Seccomp"] == "0"
    assert status(docker, "--security-opt", "no-new-privileges")["NoNewPrivs"] == "1"
    with contextlib.nullcontext(
        docker.run("--security-opt", f"seccomp={profile}", IMAGE, "sh", "-c", "echo ok")
    ) as said:
        assert said == "ok"
    given = ("--rm", "--runtime", RUNTIME, "--network", "none", "--security-opt", f"seccomp={profile}")
    assert "temporarily unavailable" in docker.try_("run", *given, IMAGE, "busybox", "mkdir", "/tmp/x").err


def test_init(docker: Docker) -> None:
    assert docker.run("--init", IMAGE, "cat", "/proc/1/comm") in ("docker-init", "tini")


def test_another_containers_namespaces(docker: Docker) -> None:
    made = docker.start("--ipc", "shareable", "--name", "first", IMAGE, "sleep", "60")
    first = docker("exec", made, "ls", "-l", "/proc/self/ns/pid", "/proc/self/ns/ipc")
    second = docker.run(
        "--pid",
        "container:first",
        "--ipc",
        "container:first",
        IMAGE,
        "ls",
        "-l",
        "/proc/self/ns/pid",
        "/proc/self/ns/ipc",
    )
    kinds = r"(?:pid|ipc):\[\d+\]"
    assert re.findall(kinds, first) == re.findall(kinds, second)
    docker("rm", "-f", made)


def test_limits_of_the_process_and_kernel_parameters(docker: Docker) -> None:
    given = (
        "--ulimit",
        "nofile=123:456",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=99",
        "--oom-score-adj",
        "77",
    )
    script = "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj"
    assert docker.run(*given, IMAGE, "sh", "-c", script).split() == ["123", "456", "99", "77"]


def test_devices(docker: Docker) -> None:
    script = "head -c 4 /dev/mine | tr '\\0' z; ls -l /dev/mine"
    said = docker.run("--device", "/dev/zero:/dev/mine:r", IMAGE, "sh", "-c", script)
    assert said.startswith("zzzz") and "1,   5" in said


def test_a_removed_container_leaves_nothing(docker: Docker) -> None:
    docker.run(IMAGE, "true")
    assert docker("ps", "-aq") == ""
    assert docker.containers() == []
    assert [each for each in docker.cgroups() if not each.endswith(docker.parent)] == []
    assert not list(docker.directory.glob("exec/containerd/daemon/io.containerd.runtime.v2.task/moby/*"))
