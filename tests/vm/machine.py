"""A virtual machine with pure cgroup v2 that runs one command and hands out what it left in /results.

    python -m tests.vm.machine [--memory MIB] [--timeout SECONDS] [--] COMMAND…

Without a command it runs the kernel tests that `tests/vm/test_machine.py` asks for; words that are paths below tests/
are run by pytest.
"""

import argparse
import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tests.vm import archive, image, kernel

CACHE = image.CHECKOUT / ".cache" / "vm"
DISK = 4 << 30  # bytes; a sparse file
RESULTS = 64 << 20  # bytes, likewise
QEMU = "qemu-system-x86_64"
_RESERVED = (
    30  # seconds of the timeout that are not the command's: it is interrupted before, so that its report is seen
)
_LOOK = 0.3  # seconds between two looks at the console
_SAID = 6000  # characters of the console in an error


class MachineError(RuntimeError):
    """The machine did not come up, did not end in time, or left no results; the text ends with its console."""


class Results(NamedTuple):
    """What the command left: its exit status, its output, files in /results by name, and the console."""

    status: int
    output: str
    files: dict[str, bytes]
    console: str
    seconds: float


def run(
    command: str, *, timeout: float, memory: int = 1536, show: Callable[[str], object] = lambda text: None
) -> Results:
    """Boot, run the shell command in the checkout, and return what it left. Raises MachineError, NoKernel, Missing.

    `show` is told what appears on the console. The command is interrupted some seconds before `timeout`.
    """
    booted = kernel.fetch(CACHE)
    entries = [
        archive.file("/command.sh", command.encode(), 0o755),
        archive.file("/command.seconds", str(int(timeout - min(_RESERVED, timeout / 2))).encode()),
        archive.file("/command.directory", str(image.CHECKOUT).encode()),
    ]
    with tempfile.TemporaryDirectory(prefix="creche-machine-") as made:
        work = Path(made)
        _write(work / "initial.cpio", image.initial(booted))
        _write(work / "system.cpio", image.system(entries))
        for name, size in (("disk", DISK), ("results", RESULTS)):
            with (work / name).open("wb") as opened:
                opened.truncate(size)
        _fill(work / "disk", work / "system.cpio")
        began = time.monotonic()
        with _booted(work, booted.image, memory) as qemu:
            told = 0
            while qemu.poll() is None:
                if time.monotonic() - began > timeout:
                    raise MachineError(f"the machine was not done after {timeout:g} s; its console:\n{_console(work)}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    qemu.wait(_LOOK)
                said = _console(work, None)
                show(said[told:])
                told = len(said)
        return _results(work, time.monotonic() - began)


def _write(path: Path, entries: Iterator[archive.Entry] | list[archive.Entry]) -> None:
    with path.open("wb") as opened:
        for chunk in archive.pack(entries):
            opened.write(chunk)


def _fill(disk: Path, packed: Path) -> None:
    """Make an ext4 filesystem of an archive: here, because unpacking takes ten times as long inside."""
    root = packed.with_name("root")
    root.mkdir(mode=0o755)
    with packed.open("rb") as opened:
        _do([image.BUSYBOX, "cpio", "-idm"], cwd=root, stdin=opened)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    _do(["mkfs.ext4", "-q", "-F", "-d", str(root), "-E", options, str(disk)])
    shutil.rmtree(root)


def _do(command: list[str], cwd: Path | None = None, stdin: BinaryIO | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, stdin=stdin, capture_output=True, timeout=120, check=False)
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is missing: install e2fsprogs and busybox-static") from None
    if done.returncode:
        raise MachineError(f"{shlex.join(command)} failed:\n{done.stderr.decode(errors='replace')}")


@contextlib.contextmanager
def _booted(work: Path, boot: Path, memory: int) -> Iterator[subprocess.Popen[bytes]]:
    """The running machine; it is stopped, by its pid, on the way out."""
    command = [
        *(QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory)),
        *("-kernel", str(boot), "-initrd", str(work / "initial.cpio")),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off cgroup_no_v1=all oops=panic"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-serial", f"file:{work / 'console'}"),
    ]
    for name in ("disk", "results"):
        command += ["-drive", f"file={work / name},if=virtio,format=raw,cache=unsafe"]
    try:
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise MachineError(f"{QEMU} is missing: install qemu-system-x86") from None
    try:
        yield qemu
        assert qemu.stderr is not None
        said = qemu.stderr.read().decode(errors="replace")
        if qemu.returncode:
            raise MachineError(f"{QEMU} ended with {qemu.returncode}:\n{said}")
    finally:
        if qemu.poll() is None:
            qemu.kill()
            qemu.wait()
        if qemu.stderr is not None:
            qemu.stderr.close()


def _console(work: Path, last: int | None = _SAID) -> str:
    try:
        text = (work / "console").read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return text if last is None else text[-last:] or "(it said nothing)"


def _results(work: Path, seconds: float) -> Results:
    raw = (work / "results").read_bytes()
    if not raw.strip(b"\0"):
        raise MachineError(f"the machine left no results; its console:\n{_console(work)}")
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as opened:
        for member in opened:
            content = opened.extractfile(member) if member.isfile() else None
            if content is not None:
                files[member.name.removeprefix("./")] = content.read()
    output = files.pop("output", b"").decode(errors="replace")
    return Results(int(files.pop("status", b"255")), output, files, _console(work), seconds)


def pytest_command(paths: Sequence[str], *options: str) -> str:
    """Return the shell command that runs tests inside and leaves their report as /results/report.xml."""
    words = [
        *(
            sys.executable,
            "-B",
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            "-q",
            "-ra",
            "--tb=short",
        ),
        *("--basetemp=/tmp/tests", "--junitxml=/results/report.xml", "-o", "timeout=120", "-m", "not long"),
        *options,
        *paths,
    ]
    return shlex.join(words)


def _show(text: str) -> None:
    print(text.replace("\r", ""), end="", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--memory", type=int, default=1536, help="MiB")
    options.add_argument("--timeout", type=float, default=900)
    options.add_argument("command", nargs=argparse.REMAINDER)
    chosen = options.parse_args()
    words: list[str] = chosen.command or ["tests/kernel/runtime"]
    paths = words[0].startswith(("tests/", "-"))
    command = pytest_command(words) if paths else shlex.join(words) if len(words) > 1 else words[0]
    done = run(command, timeout=chosen.timeout, memory=chosen.memory, show=_show)
    print(f"[machine: {done.seconds:.1f} s, exit status {done.status}]")
    sys.exit(done.status)


if __name__ == "__main__":
    os.chdir(image.CHECKOUT)
    main()
