"""Starts, beside runc: request to the first instruction of pid 1, both sides in turn in one run (`make bench`).

Both sides get the same root filesystem (a directory with one static program), the same namespaces, id mappings,
capabilities, masked paths, cgroup limits and a seccomp filter of the same profile; creche besides makes an overlay with
a writable layer. The program writes CLOCK_MONOTONIC to its standard output: a pipe to this script in runc's case, the
container's log pipe in creche's, from whose log it is read back. `--gap` spaces the starts, in seconds.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runtime import capabilities, defaults, seccomp, seccomp_profile
from runtime.launch import client, messages
from runtime.plan import Place, plan

PROGRAM = r"""
#include <time.h>
#include <unistd.h>
int main(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long value = now.tv_sec * 1000000000LL + now.tv_nsec;
    return write(1, &value, 8) != 8;
}
"""
BASE = 0x70000000
LIMITS: dict[str, Any] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 100}, "cpu": {"shares": 512}}


class Creche:
    """A launcher, spoken to as the supervisor does."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        self.directory = directory
        for name in ("writable/upper", "writable/work", "log"):
            (directory / name).mkdir(parents=True)
        self.channel = client.start(directory, "bench")
        self.number = self.run = 0
        self.ask("hello", version=messages.VERSION, control=True, embedded=True)
        log = {"directory": str(directory / "log"), "max_size": 1 << 20, "max_files": 2}
        held = self.ask("hold", name="c", userns=[BASE, 65536], cgroup="creche/bench/c", resources=LIMITS, log=log)
        held.close()
        config = config_of(rootfs)
        hierarchies = (("memory", "memory"), ("cpu", "cpu"), ("pids", "pids"), ("unified", ""))
        place = Place((str(rootfs),), True, str(directory / "writable"), 0, hierarchies, False, capabilities.last())
        packed = json.dumps(plan(config, place).packed()).encode()
        self.plan = messages.memory_file("plan", packed)
        self.filter = messages.memory_file("filter", seccomp.cached(config["linux"]["seccomp"], directory / "cache"))

    def ask(self, operation: str, descriptors: tuple[int, ...] = (), **fields: Any) -> messages.Packet:
        self.number += 1
        messages.send(self.channel, {"op": operation, "id": self.number, **fields}, descriptors)
        while True:
            packet = messages.receive(self.channel)
            if packet is None:
                raise SystemExit((self.directory / client.LOG_NAME).read_text() or "the launcher is gone")
            if packet.message.get("id") == self.number:
                if "error" in packet.message:
                    raise SystemExit(str(packet.message["error"]))
                return packet

    def start(self) -> float:
        """Return the milliseconds from the request to the program's first instruction."""
        self.run += 1
        began = time.monotonic_ns()
        self.ask("create", (self.plan, self.filter), name="c", run=self.run)
        self.ask("start", name="c")
        while True:
            packet = messages.receive(self.channel)
            if packet is not None and packet.message.get("event") == "exited":
                break
        self.ask("flush", name="c")
        last = max((self.directory / "log").glob("*.out"))
        return (struct.unpack("=q", last.read_bytes()[-8:])[0] - began) / 1e6

    def end(self) -> None:
        self.ask("forget", name="c")
        self.ask("end")


class Runc:
    """`runc run` of a bundle."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        self.directory = directory
        self.number = 0
        config = config_of(rootfs)
        config["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}]
        config["linux"]["cgroupsPath"] = "/creche-bench-runc"
        config["linux"]["namespaces"] = [{"type": kind} for kind in ("user", "network", "pid", "mount", "uts", "ipc")]
        (directory / "config.json").write_text(json.dumps(config))

    def start(self) -> float:
        self.number += 1
        command = ["runc", "--root", str(self.directory / "state"), "run", "--bundle", str(self.directory)]
        began = time.monotonic_ns()
        done = subprocess.run([*command, f"creche-bench-{self.number}"], capture_output=True, check=False)
        if done.returncode or len(done.stdout) != 8:
            raise SystemExit(f"runc: {done.stderr.decode()}")
        return (struct.unpack("=q", done.stdout)[0] - began) / 1e6

    def end(self) -> None:
        pass


def config_of(rootfs: Path) -> dict[str, Any]:
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


def rootfs_for(directory: Path, owner: int) -> Path:
    rootfs = directory / "rootfs"
    for name in ("proc", "dev", "sys", "etc"):
        (rootfs / name).mkdir(parents=True)
    source = directory / "program.c"
    source.write_text(PROGRAM)
    subprocess.run(["gcc", "-O2", "-static", "-o", str(rootfs / "program"), str(source)], check=True)
    for path in (rootfs, *rootfs.rglob("*")):
        os.chown(path, owner, owner)
    return rootfs


def line(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    points = (ordered[len(ordered) * part // 100] for part in (50, 90, 99))
    return f"{name:8} p50 {next(points):7.2f}  p90 {next(points):7.2f}  p99 {next(points):7.2f} ms"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=40)
    options.add_argument("--gap", type=float, action="append")
    chosen = options.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="creche-bench-"))
    directory.chmod(0o755)
    try:
        for place in ("creche", "runc"):
            (directory / place).mkdir(mode=0o755)
        sides = [
            Creche(directory / "creche", rootfs_for(directory / "creche", 0)),
            Runc(directory / "runc", rootfs_for(directory / "runc", BASE)),
        ]
        try:
            for gap in chosen.gap or [0.0, 0.05]:
                times: dict[str, list[float]] = {"creche": [], "runc": []}
                for _ in range(chosen.runs):
                    for side, values in zip(sides, times.values(), strict=True):
                        values.append(side.start())
                        time.sleep(gap)
                print(f"{chosen.runs} starts each, in turn, {gap * 1000:.0f} ms apart")
                for name, values in times.items():
                    print("  " + line(name, values))
                middle = chosen.runs // 2
                ratio = sorted(times["creche"])[middle] / sorted(times["runc"])[middle]
                print(f"  creche / runc, medians: {ratio:.2f}")
        finally:
            for side in sides:
                side.end()
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
