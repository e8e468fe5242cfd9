"""A thousand starts and ends: how many a second to a clean state, beside runc, and what grows (`make bench`)."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runtime.cgroups.hierarchy import find
from tests.bench import sides

PEER_SHARE = 10  # runc runs a tenth as often: it takes its time


def leaves(cgroup: str) -> list[str]:
    """Return the directories of runs that are still there."""
    layout = find()
    places = layout.v1 if layout.v2 is None else (*layout.v1, layout.v2)
    return [path for place in places for path, _, _ in os.walk(f"{place.mount}/{cgroup}") if "/run-" in path]


def state(pid: int) -> dict[str, int]:
    """Return what a launcher that leaks would have more of."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "resident kB": int(status["VmRSS"].split()[0]),
        "mounts on the host": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "children": len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()),
    }


def main() -> None:
    """Run it; exit 1 where something is left or grows."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cycles", type=int, default=1000)
    count = options.parse_args().cycles
    directory = Path(tempfile.mkdtemp(prefix="creche-bench-"))
    directory.chmod(0o755)
    try:
        built = sides.program(directory)
        for name in ("creche", "runc"):
            (directory / name).mkdir(mode=0o755)
        creche = sides.Launcher(directory / "creche", built)
        runc = sides.oci_runtime("runc", directory / "runc", built)
        pid: int = creche.ask("hello", version=sides.messages.VERSION, control=True, embedded=True).message["ok"]["pid"]
        took = {"creche": 0.0, "runc": 0.0}
        try:
            for _ in range(50):
                creche.cycle()
            before = state(pid)
            for _ in range(10):
                began = time.monotonic()
                for _ in range(count // 10):
                    creche.cycle()
                while leaves(creche.cgroup):
                    time.sleep(0.001)
                took["creche"] += time.monotonic() - began
                began = time.monotonic()
                for _ in range(count // 10 // PEER_SHARE):
                    runc.start()
                took["runc"] += time.monotonic() - began
            after = state(pid)
        finally:
            creche.end()
        rates = {"creche": count / took["creche"], "runc": count / PEER_SHARE / took["runc"]}
        print(f"{count} starts and ends, ten blocks in turn with a tenth as many of runc, each to a clean state")
        for name, rate in rates.items():
            print(f"  {name:8} {rate:7.1f} a second")
        print(f"  creche / runc: {rates['creche'] / rates['runc']:.1f}")
        for what, value in before.items():
            print(f"  {what:20} {value} before, {after[what]} after")
        grown = after["resident kB"] - before["resident kB"]
        if grown > 512 or any(after[what] != before[what] for what in before if what != "resident kB"):
            raise SystemExit("something is left or grows")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
