"""Starts: from the request to the first instruction of pid 1, all sides in turn in one run (`make bench`).

Prints both ways, back to back and spaced by 50 ms, because hot loops hide the kernel's waits; then what each part of a
start costs, as the difference that leaving it out makes.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import sides

CRECHE_OCI = str(Path(sys.executable).with_name("creche-oci"))


def no_user_namespace(config: dict[str, Any]) -> None:
    """The host's ids."""
    config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "user"]
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = []


def no_seccomp(config: dict[str, Any]) -> None:
    """No filter."""
    del config["linux"]["seccomp"]


def no_masks(config: dict[str, Any]) -> None:
    """Nothing of /proc and /sys is masked or read-only."""
    config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []


def no_limits(config: dict[str, Any]) -> None:
    """A cgroup without the three limits."""
    config["linux"]["resources"] = {}


def no_filesystems(config: dict[str, Any]) -> None:
    """No /sys, /dev/shm, /dev/mqueue, /dev/pts: /proc and /dev alone."""
    config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] in ("/proc", "/dev")]


PARTS = {
    "user namespace, idmapped layer": no_user_namespace,
    "seccomp filter": no_seccomp,
    "masked and read-only paths": no_masks,
    "memory, cpu and pids limits": no_limits,
    "/sys, /dev/shm, /dev/mqueue, /dev/pts": no_filesystems,
}


def measure(contestants: Mapping[str, sides.Side], runs: int, gap: float) -> dict[str, list[float]]:
    """Start each in turn, `runs` times, `gap` seconds apart; return the milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(runs):
        for name, side in contestants.items():
            times[name].append(side.start())
            time.sleep(gap)
    return times


def beside(directory: Path, built: Path, runs: int, gaps: list[float]) -> None:
    """Print creche beside its peers."""
    contestants: dict[str, sides.Side] = {"creche": sides.Launcher(_place(directory, "creche"), built)}
    if shutil.which(CRECHE_OCI):
        contestants["creche-oci run"] = sides.oci_runtime(CRECHE_OCI, _place(directory, "oci"), built)
    contestants["runc run"] = sides.oci_runtime("runc", _place(directory, "runc"), built)
    contestants["unshare"] = sides.unshare(_place(directory, "unshare"), built)
    try:
        for gap in gaps:
            times = measure(contestants, runs, gap)
            print(f"{runs} starts each, in turn, {gap * 1000:.0f} ms apart, ms to the first instruction")
            ours = sides.quantiles(times["creche"])[0]
            for name, values in times.items():
                p50, p90, p99 = sides.quantiles(values)
                print(f"  {name:15} p50 {p50:7.2f}  p90 {p90:7.2f}  p99 {p99:7.2f}   creche ÷ this {ours / p50:5.2f}")
    finally:
        for side in contestants.values():
            side.end()


def parts(directory: Path, built: Path, runs: int) -> None:
    """Print what each part costs."""
    contestants = {"everything": sides.Launcher(_place(directory, "everything"), built)}
    for number, (name, change) in enumerate(PARTS.items()):
        contestants[name] = sides.Launcher(_place(directory, f"part-{number}"), built, change)
    try:
        times = measure(contestants, runs, 0.0)
        whole = sides.quantiles(times["everything"])[0]
        print(f"{runs} starts each, in turn: what leaving out a part saves of {whole:.2f} ms (p50)")
        for name in PARTS:
            print(f"  {name:40} {whole - sides.quantiles(times[name])[0]:6.2f} ms")
    finally:
        for side in contestants.values():
            side.end()


def _place(directory: Path, name: str) -> Path:
    place = directory / name
    place.mkdir(mode=0o755)
    return place


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=40)
    options.add_argument("--gap", type=float, action="append")
    chosen = options.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="creche-bench-"))
    directory.chmod(0o755)
    try:
        built = sides.program(directory)
        beside(directory, built, chosen.runs, chosen.gap or [0.0, 0.05])
        parts(directory, built, chosen.runs)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
