"""SIGKILL of a container's pid 1 until its next program runs, with a policy's delay of 0 and of 100 ms (`make bench`).

A real app under a real supervisor; `runc run` of the same program in turn with it, as the measure of the machine.
"""

import argparse
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from supervisor.control.client import Client
from tests.bench import sides

CRECHE = Path(__file__).resolve().parents[2] / "creche.py"
LASTING = sides.PROGRAM.replace("return write(1, &value, 8) != 8;", "write(1, &value, 8); for (;;) pause();")
FILE = """
name = "bench-restarts"
[defaults]
rootfs = "{rootfs}"
command = ["/program"]
limits = {{ memory = "64M", pids = 100, cpu_weight = 50 }}
network = "none"
[containers.at-once]
restart = {{ policy = "always", delay = "0s", jitter = 0 }}
[containers.delayed]
restart = {{ policy = "always", delay = "100ms", factor = 1, jitter = 0 }}
"""


class App:
    """The app of `FILE`, up."""

    def __init__(self, directory: Path) -> None:
        self.root, self.sockets = directory / "root", directory / "run"
        rootfs = sides.rootfs_for(directory, sides.program(directory, LASTING), 0)
        file = directory / "app.toml"
        file.write_text(FILE.format(rootfs=rootfs))
        self.creche("up", "-d", "--wait", str(file))
        self.client = Client(self.sockets, "bench-restarts")

    def creche(self, *words: str) -> None:
        """Run a command."""
        places = ["--root", str(self.root), "--run", str(self.sockets)]
        subprocess.run([sys.executable, str(CRECHE), *places, *words], check=True, stdout=subprocess.DEVNULL)

    def restart(self, name: str) -> float:
        """Kill its pid 1; return the milliseconds until the next program's first instruction."""
        status = next(each for each in self.client.get("/creche/containers") if each["name"] == name)
        log = self.root / "apps" / "bench-restarts" / "logs" / name
        written = self._size(log)
        began = time.monotonic_ns()
        os.kill(status["pid"], signal.SIGKILL)
        while self._size(log) < written + 8:
            time.sleep(0.0005)
        last = max(log.glob("*.out"))
        while self._again(name, status["pid"]):
            time.sleep(0.002)
        return (struct.unpack("=q", last.read_bytes()[-8:])[0] - began) / 1e6

    def _again(self, name: str, pid: int) -> bool:
        status = next(each for each in self.client.get("/creche/containers") if each["name"] == name)
        return status["state"] != "running" or status["pid"] == pid

    @staticmethod
    def _size(log: Path) -> int:
        return sum(file.stat().st_size for file in log.glob("*.out"))

    def end(self) -> None:
        """Leave nothing behind."""
        self.creche("down")


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=40)
    runs = options.parse_args().runs
    directory = Path(tempfile.mkdtemp(prefix="creche-bench-"))
    directory.chmod(0o755)
    try:
        for name in ("app", "runc"):
            (directory / name).mkdir(mode=0o755)
        runc = sides.oci_runtime("runc", directory / "runc", sides.program(directory))
        app = App(directory / "app")
        times: dict[str, list[float]] = {"at-once": [], "delayed": [], "runc run": []}
        try:
            for _ in range(runs):
                for name in ("at-once", "delayed"):
                    times[name].append(app.restart(name))
                    time.sleep(0.05)
                times["runc run"].append(runc.start())
                time.sleep(0.05)
        finally:
            app.end()
        print(
            f"{runs} restarts each, in turn with runc run, 50 ms apart: ms from SIGKILL to the next first instruction"
        )
        for name, values in times.items():
            print("  {:10} p50 {:7.2f}  p90 {:7.2f}  p99 {:7.2f}".format(name, *sides.quantiles(values)))
        peer = sides.quantiles(times["runc run"])[0]
        print(f"  delay 0 ÷ runc run: {sides.quantiles(times['at-once'])[0] / peer:.2f}")
        print(
            f"  after a delay of 100 ms: {sides.quantiles(times['delayed'])[0] - 100:.2f} ms later than the policy says"
        )
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
