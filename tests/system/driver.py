"""The installed command line, driven as a person's shell would, under a root and a run directory of a test's own."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from runtime.launch import inits
from tests import leaks

REPOSITORY = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
TOOLS = (PYTHON, "/bin/busybox", "/usr/bin/catatonit", "/usr/sbin/nft", "/bin/ip")
_POLL = 0.03
Value = TypeVar("Value")


class Result(NamedTuple):
    """How a command ended and what it said."""

    code: int
    raw: bytes
    err: str
    seconds: float

    @property
    def out(self) -> str:
        return self.raw.decode()


def until(look: Callable[[], Value], timeout: float = 10.0, what: str | None = None) -> Value:
    """Poll until `look` gives something true, and return that; fail the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{what or look.__name__} did not become true within {timeout:g} s; last seen: {found!r}")
        time.sleep(_POLL)


class Creche:
    """`creche` with its own --root and --run, and a memory of what it started."""

    def __init__(self, directory: Path, scope: leaks.Scope) -> None:
        self.directory = directory
        self.root, self.run = directory / "root", directory / "run"
        self.scope = scope
        self._foregrounds: list[subprocess.Popen[bytes]] = []
        self.prefix: list[str] = []

    @property
    def argv(self) -> list[str]:
        return [
            *self.prefix,
            sys.executable,
            str(REPOSITORY / "creche.py"),
            "--root",
            str(self.root),
            "--run",
            str(self.run),
        ]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TERM") if name in os.environ}
        return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}

    def __call__(
        self, *arguments: str, code: int | None = 0, timeout: float = 30, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run a command to its end; `code` is the exit status it must have, None for any."""
        began = time.monotonic()
        ended = subprocess.run(
            [*self.argv, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            cwd=self.directory,
            env=self.environment(env),
            check=False,
        )
        result = Result(ended.returncode, ended.stdout, ended.stderr.decode(), time.monotonic() - began)
        if code is not None and result.code != code:
            pytest.fail(
                f"creche {' '.join(arguments)}: exit {result.code}, not {code}\n"
                f"{result.out[-4000:]}\n{result.err[-4000:]}{self._supervisor_logs()}"
            )
        return result

    def _supervisor_logs(self) -> str:
        texts = [f"\n{path}:\n{path.read_text()[-3000:]}" for path in self.run.glob("*/*.log")]
        return "".join(texts)

    @contextmanager
    def without_static_inits(self) -> Generator[None]:
        """Commands run where the host has no static init: in a mount namespace with /dev/null in their places."""
        hidden = " ".join(path for path in inits.CANDIDATES if Path(path).exists())
        script = f'for path in {hidden or "/dev/null"}; do mount --bind /dev/null $path; done; exec "$@"'
        self.prefix = ["unshare", "--mount", "sh", "-ec", script, "sh"]
        try:
            yield
        finally:
            self.prefix = []

    # Files

    def file(self, name: str, text: str) -> str:
        """Write an app file `NAME.toml` of the app NAME and return its path."""
        path = self.directory / f"{name}.toml"
        path.write_text(f'name = "{name}"\n{text}')
        return str(path)

    def up(self, name: str, text: str, *options: str, wait: bool = True, timeout: float = 60) -> str:
        """Write the file of app NAME, start it detached, and return the file's path."""
        path = self.file(name, text)
        self("up", "-d", *(["--wait"] if wait else []), *options, path, timeout=timeout)
        return path

    @contextmanager
    def following(self, *arguments: str) -> Generator[subprocess.Popen[bytes]]:
        """Run a command beside the test; it is interrupted in the end where it still runs."""
        child = subprocess.Popen(
            [*self.argv, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.directory,
            env=self.environment(),
            start_new_session=True,
        )
        self._foregrounds.append(child)
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise
            finally:
                for stream in (child.stdout, child.stderr):
                    assert stream is not None
                    stream.close()

    # What there is

    def ps(self, app: str | None = None) -> dict[str, dict[str, Any]]:
        """`creche ps --json` by container."""
        return {each["name"]: each for each in json.loads(self("ps", "--json", *([app] if app else [])).out)}

    def status(self, name: str, app: str | None = None) -> dict[str, Any]:
        return self.ps(app)[name]

    def events(self, app: str | None = None, name: str | None = None, event: str | None = None) -> list[dict[str, Any]]:
        """`creche events --json`, those of a container or kind."""
        every = [json.loads(line) for line in self("events", "--json", *([app] if app else [])).out.splitlines()]
        return [
            each
            for each in every
            if (name is None or each["container"] == name) and (event is None or each["event"] == event)
        ]

    def logs(self, *arguments: str) -> bytes:
        return self("logs", *arguments).raw

    def wait_for(self, name: str, seen: Callable[[dict[str, Any]], object], timeout: float = 10) -> dict[str, Any]:
        """Poll ps until `seen` says yes to a container's status; return that status."""

        def look() -> dict[str, Any] | None:
            status = self.ps().get(name)
            return status if status is not None and seen(status) else None

        found = None
        deadline = time.monotonic() + timeout
        while found is None:
            found = look()
            if found is None:
                if time.monotonic() > deadline:
                    pytest.fail(f"{name} never became so in {timeout:g} s; ps: {self.ps().get(name)}\n{self.story()}")
                time.sleep(_POLL)
        return found

    def story(self) -> str:
        """The events as people read them, for failures."""
        return self("events", code=None).out[-4000:]

    def last_word(self, name: str, timeout: float = 10) -> dict[str, Any]:
        """The first line of a container's log as JSON, once there is one."""

        def first() -> bytes:
            return self.logs(name).partition(b"\n")[0]

        return json.loads(until(first, timeout, f"the first line of {name}"))

    # Its processes

    def supervisor(self, app: str) -> int:
        """The pid of the process that listens on the app's control socket."""
        return self._by_command("supervise", f"{app}.toml")

    def launcher(self, app: str) -> int:
        return self._by_name("creche-launcher", app)

    def logger(self, app: str) -> int:
        return self._by_name("creche-logger", app)

    def _by_command(self, *words: str) -> int:
        found = [each.pid for each in self.processes() if all(word in each.command for word in words)]
        assert len(found) == 1, (words, self.processes())
        return found[0]

    def _by_name(self, name: str, app: str) -> int:
        found = [each.pid for each in self.processes() if each.name == name and each.output.find(f"/{app}/") >= 0]
        assert len(found) == 1, (name, self.processes())
        return found[0]

    def processes(self) -> list[leaks.Process]:
        """What lives of this test, its own commands aside."""
        mine = {child.pid for child in self._foregrounds}
        return [each for each in leaks.own_processes(self.scope) if each.pid not in mine]

    def sigkill(self, *pids: int) -> None:
        """SIGKILL processes at one moment and wait until each is gone."""
        descriptors = [os.pidfd_open(pid) for pid in pids]
        for descriptor in descriptors:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        for descriptor in descriptors:
            assert select.select([descriptor], [], [], 10)[0], "a process survived SIGKILL for 10 s"
            os.close(descriptor)

    # The end

    def apps(self) -> set[str]:
        """Every app that left something under this root or run directory."""
        return {each.name for top in (self.run, self.root / "apps") if top.is_dir() for each in top.iterdir()}

    def nothing_left(self, *, settle: float = leaks.SETTLE) -> None:
        """Assert that of all apps nothing is left in the kernel or on disk but volumes and the cache."""
        rest = leaks.left(self._before, self.scope, settle)
        files = [str(path) for top in (self.run, self.root / "apps") if top.is_dir() for path in top.rglob("*")]
        if rest or files:
            pytest.fail("left behind:\n  " + "\n  ".join(rest + files))

    def finish(self) -> list[str]:
        """Take down what runs; return what had to be killed."""
        said: list[str] = []
        for app in sorted(self.apps()):
            try:
                ended = self("down", app, "--timeout", "3s", code=None, timeout=60)
            except subprocess.TimeoutExpired as error:
                said.append(str(error))
            else:
                if ended.code:
                    said.append(f"creche down {app}: exit {ended.code}: {ended.err}")
        for each in leaks.own_processes(self.scope):
            if each.pid not in self._known and each.state != "Z" and leaks_of(each):
                deadline = time.monotonic() + 2
                while Path(f"/proc/{each.pid}").exists() and time.monotonic() < deadline:
                    time.sleep(_POLL)
                if Path(f"/proc/{each.pid}").exists():
                    said.append(f"had to be killed: {each}")
                    with suppress(ProcessLookupError):
                        os.kill(each.pid, signal.SIGKILL)
        return said

    @contextmanager
    def alive(self) -> Generator["Creche"]:
        """The time of a test: what was there before is remembered, what is there after is taken down."""
        self._before = leaks.snapshot(self.scope)
        self._known = {each.pid for each in leaks.own_processes(self.scope)}
        try:
            yield self
        finally:
            said = self.finish()
            shutil.rmtree(self.directory, ignore_errors=True)
            if said:
                pytest.fail("\n".join(said), pytrace=False)


def leaks_of(process: leaks.Process) -> bool:
    """Whether it is creche's or a container's, and not a helper of pytest itself."""
    return "creche" in process.command or any("/creche/" in cgroup for cgroup in process.cgroups)


@contextmanager
def driven(scope: leaks.Scope, parent: str = "/tmp") -> Generator[Creche]:
    """A Creche in a short directory of its own: socket paths end at 108 bytes, and people's are short, too."""
    leaks.ensure_tools(*TOOLS)
    directory = Path(tempfile.mkdtemp(prefix="cr-", dir=parent)).resolve()
    directory.chmod(0o755)
    scope.own(directory)
    own = leaks.Scope()
    own.own(directory)
    with Creche(directory, own).alive() as creche:
        yield creche


@contextmanager
def checked_driver(parent: str = "/tmp") -> Generator[Creche]:
    """The same for fixtures that outlive one test, with a leak check of its own."""
    scope = leaks.Scope()
    with leaks.checked(scope), driven(scope, parent) as creche:
        yield creche


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def get(port: int, timeout: float = 5) -> str:
    """What `curl 127.0.0.1:PORT` prints; an OSError while nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def answered(port: int, timeout: float = 10) -> str:
    """The first answer, once there is one."""
    seen: list[OSError] = []

    def ask() -> str | None:
        try:
            return get(port)
        except OSError as error:
            seen.append(error)
            return None

    return until(ask, timeout, f"an answer on port {port}")


def busybox_root(place: Path, *commands: str) -> Path:
    """A root filesystem of busybox and links to it: no more than a container needs."""
    binaries = place / "bin"
    binaries.mkdir(parents=True)
    shutil.copy("/bin/busybox", binaries / "busybox")
    for command in ("sh", "cat", "id", "ls", "sleep", "echo", "stat", "touch", "test", "mkdir", "dd", "df", *commands):
        (binaries / command).symlink_to("busybox")
    for directory in ("etc", "proc", "sys", "dev", "tmp", "root"):
        (place / directory).mkdir()
    (place / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (place / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
    return place


def lines(raw: bytes) -> Iterator[str]:
    yield from raw.decode().splitlines()
