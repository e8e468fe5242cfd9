"""The supervisor's part, for tests of the launcher: starts one, asks it, and ends it with everything it made."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runtime import capabilities, defaults, seccomp, seccomp_profile
from runtime.cgroups.group import remove_tree
from runtime.cgroups.hierarchy import find
from runtime.launch import client, messages
from runtime.plan import Place, plan, plan_exec

BASE = 0x7FFF0000  # the one range of 65,536 ids below 2³¹ that supervisor.claims never gives to anybody
OWN_INIT_BOOT = client._BOOT.replace(
    "from runtime.launch.launcher",
    "from runtime.launch import inits; inits.find = lambda: None; from runtime.launch.launcher",
)
"""Starts a launcher on a host without any static init."""


class Refused(Exception):
    """The launcher said no."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(f"{fields['operation']}: {fields['message']} ({fields['path']})")
        self.fields = fields


def eventually(said: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether it comes true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not said():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def open_files(pid: int) -> dict[int, str]:
    """What each descriptor of a process leads to."""
    found: dict[int, str] = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


def status_of(pid: int) -> dict[str, str]:
    """/proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@cache
def default_filter() -> bytes:
    profile = seccomp_profile.default(frozenset(capabilities.DEFAULT), os.uname().machine)
    return seccomp.compile(profile).code


class Launching:
    """One launcher with its cgroups below `creche/test-<pid>-<name>`; leaving the block leaves nothing."""

    def __init__(self, directory: Path, *, embedded: bool = True, lasting: bool = False) -> None:
        self.directory = directory
        self.embedded = embedded
        self.cgroup = f"creche/test-{os.getpid()}-{directory.name[-20:]}"
        self.events: list[dict[str, Any]] = []
        self.answers: dict[int, dict[str, Any]] = {}
        self._last = 0
        (directory / "run").mkdir()
        self.channel = client.start(directory / "run", "test", lasting=lasting)
        self.channel.settimeout(20)
        self.hello = self.greet()
        self.pid: int = self.hello["pid"]

    def greet(self) -> dict[str, Any]:
        return self.ask("hello", version=messages.VERSION, control=True, embedded=self.embedded)

    def reconnect(self) -> dict[str, Any]:
        """Be another supervisor."""
        found = client.connect(self.directory / "run")
        assert found is not None
        self.channel = found
        self.channel.settimeout(20)
        return self.greet()

    # Words

    def send(self, operation: str, descriptors: tuple[int, ...] = (), **fields: Any) -> int:
        self._last += 1
        messages.send(self.channel, {"op": operation, "id": self._last, **fields}, descriptors)
        return self._last

    def _receive(self) -> None:
        packet = messages.receive(self.channel)
        if packet is None:
            raise ConnectionResetError("the launcher is gone: " + self.log())
        if "id" in packet.message:
            self.answers[packet.message["id"]] = packet.message
            packet.message["descriptors"] = packet.descriptors
        else:
            self.events.append(packet.message)

    def answer(self, number: int) -> dict[str, Any]:
        while number not in self.answers:
            self._receive()
        message = self.answers.pop(number)
        if "error" in message:
            raise Refused(message["error"])
        return {**message["ok"], "descriptors": message["descriptors"]}

    def ask(self, operation: str, descriptors: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        return self.answer(self.send(operation, descriptors, **fields))

    def exited(self, name: str, run: int) -> tuple[int | None, int | None, bool]:
        """Code, signal and oom of a run, once it is told."""
        while True:
            for event in self.events:
                if (event.get("event"), event.get("name"), event.get("run")) == ("exited", name, run):
                    return event["code"], event["signal"], event["oom"]
            self._receive()

    # Containers

    def hold(self, name: str = "web", **fields: Any) -> None:
        home = self.directory / name
        for each in ("upper", "work", "log"):
            (home / each).mkdir(parents=True, exist_ok=True)
        wanted = {
            "userns": [BASE, 65536],
            "idmapped": [],
            "required": True,
            "cgroup": f"{self.cgroup}/{name}",
            "resources": {"pids": {"limit": 100}},
            "log": {"directory": str(home / "log"), "max_size": 8 << 20, "max_files": 4},
        }
        for descriptor in self.ask("hold", name=name, **{**wanted, **fields})["descriptors"]:
            os.close(descriptor)
        self.ask("release", ports=[])  # and now it is done with all that it did for the one before

    def create(self, run: int, *args: str, name: str = "web", **how: Any) -> dict[str, Any]:
        return self.answer(self.send_create(run, *args, name=name, **how))

    @staticmethod
    def config(*args: str) -> dict[str, Any]:
        config = defaults.config()
        config["process"]["args"] = list(args)
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": BASE, "size": 65536}]
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
        return config

    def send_create(
        self,
        run: int,
        *args: str,
        name: str = "web",
        init: bool = True,
        filter: bytes | None = None,
        change: Callable[[dict[str, Any]], object] | None = None,
        operation: str = "create",
    ) -> int:
        config = self.config(*args)
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]})
        if change is not None:
            change(config)
        place = Place(("/",), False, str(self.directory / name), init=init)
        packed = json.dumps(plan(config, place).packed()).encode()
        files = messages.memory_file("plan", packed), messages.memory_file("filter", filter or default_filter())
        try:
            return self.send(operation, files, name=name, run=run)
        finally:
            for file in files:
                os.close(file)

    def run(self, number: int, *args: str, name: str = "web", **how: Any) -> int:
        """Create and start; the pid of pid 1."""
        pid: int = self.create(number, *args, name=name, **how)["pid"]
        self.ask("start", name=name, run=number)
        return pid

    def run_at_once(self, number: int, *args: str, name: str = "web", **how: Any) -> dict[str, Any]:
        """Create and start in one request."""
        return self.answer(self.send_create(number, *args, name=name, operation="run", **how))

    def exec(self, identity: str, *args: str, name: str = "web", **how: Any) -> int:
        """Run one more process; its pid once its program runs."""
        pid: int = self.answer(self.send_exec(identity, *args, name=name, **how))["pid"]
        return pid

    def send_exec(
        self,
        identity: str,
        *args: str,
        name: str = "web",
        streams: tuple[int, int, int] | None = None,
        console: int | None = None,
        change: Callable[[dict[str, Any]], object] | None = None,
    ) -> int:
        config = self.config(*args)
        config["process"]["terminal"] = console is not None
        if change is not None:
            change(config)
        place = Place(("/",), False, str(self.directory / name), init=False)
        planned = plan_exec(config["process"], config["linux"], place)
        packed = json.dumps({"enter": planned.packed()["enter"], "program": planned.program}).encode()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        files = messages.memory_file("plan", packed), messages.memory_file("filter", default_filter())
        given = (console,) if console is not None else streams or (null, null, null)
        try:
            terminal = console is not None
            return self.send("exec", (*files, *given), name=name, exec=identity, seccomp=True, terminal=terminal)
        finally:
            for file in (*files, null):
                os.close(file)

    def exec_exited(self, identity: str, name: str = "web") -> tuple[int | None, int | None]:
        """Code and signal of an exec, once it is told."""
        while True:
            for event in self.events:
                if (event.get("event"), event.get("name"), event.get("exec")) == ("exec-exited", name, identity):
                    return event["code"], event["signal"]
            self._receive()

    def output(self, name: str = "web", suffix: str = "out") -> bytes:
        """Everything the container has written by now."""
        self.ask("flush", name=name)
        return b"".join(file.read_bytes() for file in sorted((self.directory / name / "log").glob(f"*.{suffix}")))

    # The launcher itself

    def log(self) -> str:
        return (self.directory / "run" / client.LOG_NAME).read_text()

    def children(self) -> dict[int, str]:
        """The launcher's children, with their names."""
        pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        found: dict[int, str] = {}
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # reaped meanwhile
                found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
        return found

    def logger(self) -> int:
        return next(pid for pid, name in self.children().items() if name == "creche-logger")

    def cgroups(self) -> list[str]:
        """Every cgroup that is there of this launcher's."""
        layout = find()
        places = layout.v1 if layout.v2 is None else (*layout.v1, layout.v2)
        return [path for place in places for path, _, _ in os.walk(f"{place.mount}/{self.cgroup}")]

    def leaves(self) -> list[str]:
        return [path for path in self.cgroups() if "/run-" in path]

    def ended(self) -> int:
        """Wait for the launcher's end; its exit status."""
        assert eventually(lambda: not alive(self.pid)), "the launcher did not end"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self.channel.close()
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """End the launcher, and it alone; then whatever is left of it."""
        if self.pid:
            with contextlib.suppress(OSError):
                self.channel.close()
            with contextlib.suppress(OSError), client.connect(self.directory / "run") or socket.socket() as last:
                last.settimeout(10)
                messages.send(last, {"op": "end", "id": 1})
                messages.receive(last)
            if not eventually(lambda: not alive(self.pid), 5):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for message in self.answers.values():
            for descriptor in message["descriptors"]:
                os.close(descriptor)
        remove_tree(find(), self.cgroup)

    def __enter__(self) -> "Launching":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
