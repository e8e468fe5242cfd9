"""What a living launcher has loaded: nothing foreign, and nothing more while it serves. Needs root."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import syscalls
from runtime.launch import client
from tests.kernel.runtime.launching import Launching, open_files

FOREIGN = {"trio", "attr", "attrs", "pyroute2", "asyncio", "threading", "click", "rich", "cattrs", "h11"}


def test_its_modules_are_the_standard_librarys_and_its_own() -> None:
    boot = client._BOOT.partition("main(int")[0]
    script = boot + "print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, client._TREE],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={},
        timeout=30,
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "runtime" in loaded
    assert not FOREIGN & loaded
    # `_sysconfigdata…` and frozen helpers aside, all of it is the standard library's.
    strange = {name for name in loaded - sys.stdlib_module_names if not name.startswith("_")}
    assert strange == {"runtime"}


def mapped(pid: int) -> set[str]:
    """The files in a process's memory."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "/" in line}


def test_no_foreign_library_is_in_its_memory(tmp_path: Path) -> None:
    with Launching(tmp_path) as launcher:
        launcher.hold()
        launcher.run(1, "/bin/true")
        launcher.exited("web", 1)
        files = mapped(launcher.pid)
    assert any("libffi" in file or "_ctypes" in file for file in files), "the reading of maps works"
    assert not [file for file in files if "site-packages" in file]
    assert not [file for file in files if "libseccomp" in file or "libssl" in file]


def test_serving_a_container_loads_nothing(tmp_path: Path) -> None:
    """No library more is in its memory, no file more is open; whether it reads sources is the test below."""
    with Launching(tmp_path) as launcher:
        launcher.hold()
        before = mapped(launcher.pid), open_files(launcher.pid)
        for run in range(3):
            launcher.run(run, "/bin/true")
            launcher.exited("web", run)
        launcher.ask("flush", name="web")
        assert (mapped(launcher.pid), open_files(launcher.pid)) == before


IN_OPEN = 0x20


def opened(watch: int) -> set[str]:
    """The names that were opened below a watched directory (inotify(7))."""
    found: set[str] = set()
    try:
        data = os.read(watch, 1 << 16)
    except BlockingIOError:
        return found
    while data:
        size = struct.unpack_from("=iIII", data)[3]
        found.add(data[16 : 16 + size].rstrip(b"\0").decode())
        data = data[16 + size :]
    return found


def test_serving_a_container_reads_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of its own, so that nobody else opens anything in it."""
    tree = tmp_path / "tree"
    shutil.copytree(Path(client._TREE, "runtime"), tree / "runtime")
    monkeypatch.setattr(client, "_TREE", str(tree))
    watch = syscalls.inotify_init()
    directories = [path for path in (tree, *tree.rglob("*")) if path.is_dir()]
    try:
        for directory in directories:
            syscalls.inotify_add_watch(watch, str(directory), IN_OPEN)
        with Launching(tmp_path) as launcher:
            launcher.hold()
            assert any(name.startswith("launcher.") for name in opened(watch)), "the watch works"
            for run in range(3):
                launcher.run(run, "/bin/true")
                launcher.exited("web", run)
            launcher.ask("kill", name="web")
            launcher.ask("flush", name="web")
            launcher.ask("forget", name="web")
            assert opened(watch) == set()
    finally:
        os.close(watch)
