"""What creche-oci adds: the engine's process is the container's parent, in an interpreter and with files of its own."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.oci import spec
from tests import leaks
from tests.attack.attacking import canary, install
from tests.kernel.runtime.launching import eventually

TREE = Path(__file__).parents[2]
REAL = (str(Path(sys.executable).parent / "creche-oci"),)
WEAK = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(TREE)!r}); from runtime.oci.main import main; main()",
)
"""The same words without boot's read-only interpreter."""

SCRIPT = """#!/proc/self/exe
import errno, os
target = "/proc/self/exe"
try:
    os.chmod(target, os.stat(target).st_mode & 0o7777)  # to what it is: a control that succeeds harms nobody
    print("changed", flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
"""


class Bundle:
    """A bundle whose root shows the host's programs read-only, and the hostile ones in /attack."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.root = directory, directory / "state"
        self.group = f"test-{os.getpid()}-{directory.name[-12:]}"
        rootfs = directory / "rootfs"
        for name in ("attack", "proc", "sys", "dev", "tmp", "usr"):
            (rootfs / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            (rootfs / name).symlink_to(f"usr/{name}")
        (rootfs / "attack/script").write_text(SCRIPT)
        (rootfs / "attack/script").chmod(0o755)
        install("read.c", rootfs / "attack/read")

    def write(self, *args: str, directory: str = "/") -> None:
        config: dict[str, Any] = spec.example()
        config["process"] |= {"args": list(args), "terminal": False, "cwd": directory}
        config["process"]["env"] += [f"PYTHONHOME={sys.base_prefix}", f"LD_LIBRARY_PATH={sys.base_prefix}/lib"]
        config["root"]["readonly"] = False
        config["linux"]["cgroupsPath"] = f"/creche/{self.group}/one"
        for path in dict.fromkeys(("/usr", sys.base_prefix)):
            config["mounts"].append({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]})
        (self.directory / "config.json").write_text(json.dumps(config))

    def call(self, program: Sequence[str], *words: str, pass_fds: tuple[int, ...] = ()) -> str:
        """What a command writes, whether it succeeds or not."""
        command = [*program, "--root", str(self.root), *words]
        with (self.directory / "said").open("w") as said:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=30, pass_fds=pass_fds)
        return (self.directory / "said").read_text()

    def run(self, program: Sequence[str], *options: str, pass_fds: tuple[int, ...] = ()) -> str:
        return self.call(program, "run", "--bundle", str(self.directory), *options, "one", pass_fds=pass_fds)


@pytest.fixture
def bundle(tmp_path: Path, leaves_nothing: None) -> Iterator[Bundle]:
    made = Bundle(tmp_path)
    yield made
    made.call(REAL, "delete", "--force", "one")
    for mount in leaks._hierarchies():
        for top, _, _ in os.walk(mount / "creche" / made.group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(top)


@pytest.mark.parametrize(("program", "said"), ((REAL, "EROFS\n"), (WEAK, "changed\n")), ids=("real", "control"))
def test_a_script_of_proc_self_exe_cannot_change_the_interpreter(
    program: Sequence[str], said: str, bundle: Bundle
) -> None:
    bundle.write("/attack/script")
    assert bundle.run(program) == said


@pytest.mark.parametrize(("program", "said"), ((REAL, "EROFS\n"), (WEAK, "changed\n")), ids=("real", "control"))
def test_nor_can_one_in_an_exec(program: Sequence[str], said: str, bundle: Bundle) -> None:
    bundle.write("/bin/sleep", "1000")
    bundle.run(REAL, "--detach")
    assert eventually(lambda: '"running"' in bundle.call(REAL, "state", "one"))
    assert bundle.call(program, "exec", "one", "/attack/script") == said


@pytest.fixture
def outside() -> Iterator[int]:
    """The host's root as a directory that whoever calls creche-oci has open and hands on."""
    number = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    yield number
    os.close(number)


@pytest.mark.parametrize("kept", (False, True), ids=("real", "control"))
def test_what_the_engine_has_open_does_not_come_in(kept: bool, bundle: Bundle, outside: int) -> None:
    """CVE-2024-21626. The control asks for it: `--preserve-fds`."""
    secret = f"{canary().place}/secret"
    bundle.write("/attack/read", *(f"/proc/self/fd/{number}{secret}" for number in range(3, outside + 1)))
    options = ("--preserve-fds", str(outside - 2)) if kept else ()
    handed = tuple(range(3, outside + 1)) if kept else (outside,)
    with contextlib.ExitStack() as opened:
        for number in handed:
            if not os.path.exists(f"/proc/self/fd/{number}"):
                os.dup2(outside, number)
                opened.callback(os.close, number)
        said = bundle.run(REAL, *options, pass_fds=handed)
    assert (canary().secret in said) == kept, said


def test_no_working_directory_is_what_the_engine_has_open(bundle: Bundle, outside: int) -> None:
    for number in {*range(3, 12), outside}:
        bundle.write("/attack/read", f".{canary().place}/secret", directory=f"/proc/self/fd/{number}")
        assert canary().secret not in bundle.run(REAL, pass_fds=(outside,))
        bundle.call(REAL, "delete", "--force", "one")
