"""Starts and restarts beside runc on pure cgroup v2: the other benchmarks, run inside the virtual machine.

Absolute figures mean nothing there, where every instruction is translated: what counts are the ratios.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vm import machine


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=30)
    options.add_argument("--timeout", type=float, default=900, help="seconds for the whole machine")
    chosen = options.parse_args()
    python = shlex.quote(sys.executable)
    runs = f"--runs {chosen.runs}"
    done = machine.run(
        f"uname -r && {python} -B tests/bench/starts.py {runs} && {python} -B tests/bench/restarts.py {runs}",
        timeout=chosen.timeout,
    )
    print(done.output, end="")
    sys.exit(done.status)


if __name__ == "__main__":
    main()
