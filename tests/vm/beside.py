"""The machine beside the other tests: started when the session starts, its results awaited by the tests that come last.

Tests wait more than they compute and the machine computes alone, so both together take little longer than one of them.
It runs in a process of its own, in no test's family: some tests clone this process and need it to have one thread.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.vm import machine


class Started:
    """A run of the machine on its way."""

    def __init__(self, command: str, timeout: float) -> None:
        self.timeout = timeout
        self.directory = tempfile.TemporaryDirectory(prefix="creche-beside-")
        self.results = Path(self.directory.name) / "results"
        with (Path(self.directory.name) / "words").open("wb") as words:
            # The one between ends at once, so that the other is nobody's child here.
            boot = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True).pid)"
            told = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    boot,
                    sys.executable,
                    "-m",
                    "tests.vm.beside",
                    command,
                    str(timeout),
                    self.results,
                ],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                check=True,
            )
        self.group = int(told.stdout)

    def wait(self) -> machine.Results:
        """Return what it left, when it is done; raise what it met."""
        deadline = time.monotonic() + self.timeout
        while not self.results.exists():
            if time.monotonic() > deadline or not Path(f"/proc/{self.group}").exists():
                raise machine.MachineError((Path(self.directory.name) / "words").read_text(errors="replace")[-8000:])
            time.sleep(0.2)
        found = pickle.loads(self.results.read_bytes())
        if isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Stop it, done or not."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        self.directory.cleanup()


def main(command: str, timeout: float, results: Path) -> None:
    """Run the machine and leave what came of it in a file."""
    found: machine.Results | Exception
    try:
        found = machine.run(command, timeout=timeout)
    except (machine.MachineError, OSError) as error:
        found = error
    done = results.with_suffix(".part")
    done.write_bytes(pickle.dumps(found))
    done.replace(results)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
