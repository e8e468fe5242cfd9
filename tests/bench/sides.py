"""The sides of the benchmarks of starts: creche's launcher, `creche-oci run`, `runc run`, `unshare`.

All run the same static program, which writes CLOCK_MONOTONIC to its standard output. creche, creche-oci and runc get
the same root filesystem, namespaces, id mappings, capabilities, masked paths, cgroup limits and seccomp profile; creche
besides makes an overlay with a writable layer. `unshare` makes the namespaces and nothing else.
"""

import json
import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from runtime import capabilities, defaults, seccomp, seccomp_profile
from runtime.cgroups.hierarchy import find
from runtime.launch import client, messages
from runtime.plan import Place, plan

PROGRAM = r"""
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long value = now.tv_sec * 1000000000LL + now.tv_nsec;
    return write(1, &value, 8) != 8;
}
"""
BASE = 0x70000000
LIMITS: dict[str, Any] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 100}, "cpu": {"shares": 512}}
Change = Callable[[dict[str, Any]], None]


class Side(Protocol):
    """One way to start the program."""

    def start(self) -> float:
        """Return the milliseconds from the request to the program's first instruction; all of it is gone then."""
        ...

    def end(self) -> None:
        """Leave nothing behind."""
        ...


def program(directory: Path, text: str = PROGRAM) -> Path:
    """Compile the program once for all sides."""
    source, built = directory / "program.c", directory / "program"
    source.write_text(text)
    subprocess.run(["gcc", "-O2", "-static", "-o", str(built), str(source)], check=True)
    return built


def rootfs_for(directory: Path, built: Path, owner: int) -> Path:
    """Make a root filesystem that belongs to `owner`, with the program in it."""
    rootfs = directory / "rootfs"
    for name in ("proc", "dev", "sys", "etc"):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "program").write_bytes(built.read_bytes())
    (rootfs / "program").chmod(0o755)
    for path in (rootfs, *rootfs.rglob("*")):
        os.chown(path, owner, owner)
    return rootfs


def config_of(rootfs: Path) -> dict[str, Any]:
    """Return the config that all sides but `unshare` get."""
    config = defaults.config()
    config["ociVersion"] = "1.0.2"
    config["process"]["args"] = ["/program"]
    config["root"]["path"] = str(rootfs)
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    mapping = [{"containerID": 0, "hostID": BASE, "size": 65536}]
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = mapping
    config["linux"]["resources"] = dict(LIMITS)
    config["linux"]["seccomp"] = seccomp_profile.default(capabilities.DEFAULT, os.uname().machine)
    return config


class Launcher:
    """A warm launcher with one container, asked as the supervisor does it. `change` takes a part of the config away."""

    def __init__(self, directory: Path, built: Path, change: Change = lambda config: None) -> None:
        self.directory = directory
        for name in ("writable/upper", "writable/work", "log"):
            (directory / name).mkdir(parents=True)
        config = config_of(rootfs_for(directory, built, 0))
        change(config)
        linux = config["linux"]
        mapped = bool(linux["uidMappings"])
        self.channel = client.start(directory, "bench")
        self.number = self.run = 0
        self.ask("hello", version=messages.VERSION, control=True, embedded=True)
        log = {"directory": str(directory / "log"), "max_size": 1 << 20, "max_files": 2}
        userns = [BASE, 65536] if mapped else None
        self.cgroup = cgroup = f"creche/bench-{os.getpid()}-{directory.name}/c"
        resources = linux["resources"]
        self.ask("hold", name="c", userns=userns, cgroup=cgroup, resources=resources, log=log).close()
        layout = find()
        hierarchies = tuple(
            ("unified" if layout.mode == "hybrid" else "", "")
            if layout.v2 is not None and place is layout.v2
            else (Path(place.mount).name, ",".join(sorted(place.controllers)))
            for place in dict.fromkeys(
                filter(None, (*map(layout.controllers.get, ("memory", "cpu", "pids")), layout.v2))
            )
        )
        place = Place(
            (config["root"]["path"],), mapped, str(directory / "writable"), 0, hierarchies, False, capabilities.last()
        )
        self.plan = messages.memory_file("plan", json.dumps(plan(config, place).packed()).encode())
        self.passed: tuple[int, ...] = (self.plan,)
        if linux.get("seccomp"):
            code = seccomp.cached(linux["seccomp"], directory / "cache")
            self.passed = (self.plan, messages.memory_file("filter", code))

    def ask(self, operation: str, descriptors: tuple[int, ...] = (), **fields: Any) -> messages.Packet:
        """Send a request and return its answer."""
        self.number += 1
        messages.send(self.channel, {"op": operation, "id": self.number, **fields}, descriptors)
        while True:
            packet = self.receive()
            if packet.message.get("id") == self.number:
                if "error" in packet.message:
                    raise SystemExit(str(packet.message["error"]))
                return packet

    def receive(self) -> messages.Packet:
        """Return the next packet."""
        packet = messages.receive(self.channel)
        if packet is None:
            raise SystemExit((self.directory / client.LOG_NAME).read_text() or "the launcher is gone")
        return packet

    def cycle(self) -> int:
        """Start the program and wait for its end; return when that was asked for, in ns of CLOCK_MONOTONIC."""
        self.run += 1
        began = time.monotonic_ns()
        self.ask("run", self.passed, name="c", run=self.run)
        while self.receive().message.get("event") != "exited":
            pass
        return began

    def start(self) -> float:
        """See Side."""
        began = self.cycle()
        self.ask("flush", name="c")
        last = max((self.directory / "log").glob("*.out"))
        return (struct.unpack("=q", last.read_bytes()[-8:])[0] - began) / 1e6

    def end(self) -> None:
        """See Side."""
        self.ask("forget", name="c")
        self.ask("end")
        self.channel.close()


class Command:
    """A command that runs the program and ends with it."""

    def __init__(self, argv: Callable[[int], list[str]], directory: Path) -> None:
        self.argv = argv
        self.directory = directory
        self.number = 0

    def start(self) -> float:
        """See Side."""
        self.number += 1
        argv = self.argv(self.number)
        began = time.monotonic_ns()
        done = subprocess.run(argv, capture_output=True, check=False, cwd=self.directory)
        if done.returncode or len(done.stdout) != 8:
            raise SystemExit(f"{argv[0]}: {done.returncode} {done.stderr.decode()}")
        return (struct.unpack("=q", done.stdout)[0] - began) / 1e6

    def end(self) -> None:
        """See Side."""


def oci_runtime(binary: str, directory: Path, built: Path) -> Command:
    """Return `<binary> run` of a bundle: runc or creche-oci."""
    config = config_of(rootfs_for(directory, built, BASE))
    config["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
    config["linux"]["cgroupsPath"] = f"/creche-bench-{Path(binary).name}-{os.getpid()}"
    config["linux"]["namespaces"] = [{"type": kind} for kind in ("user", "network", "pid", "mount", "uts", "ipc")]
    (directory / "config.json").write_text(json.dumps(config))
    name = f"creche-bench-{os.getpid()}"
    return Command(
        lambda number: [
            binary,
            "--root",
            str(directory / "state"),
            "run",
            "--bundle",
            str(directory),
            f"{name}-{number}",
        ],
        directory,
    )


def unshare(directory: Path, built: Path) -> Command:
    """Return util-linux's unshare with the same namespaces and nothing else."""
    words = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork"]
    return Command(lambda _: [*words, "--uts", "--ipc", "--cgroup", str(built)], directory)


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """Return p50, p90 and p99."""
    ordered = sorted(values)
    p50, p90, p99 = (ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 90, 99))
    return p50, p90, p99
