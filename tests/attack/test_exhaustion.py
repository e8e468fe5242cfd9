"""Containers that take all they can: processes, descriptors, memory, disk, log. The rest of the app goes on."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.attack.attacking import Attacking, install, python, without_filter, without_userns
from tests.kernel.runtime.launching import eventually, open_files

LIMIT = 50
BOUND = 10.0
"""Seconds in which something that must go on has to; generous, for the machine is shared."""


def within(act: Callable[[], object]) -> None:
    began = time.monotonic()
    act()
    assert time.monotonic() - began < BOUND


def goes_on(launcher: Attacking, run: int) -> None:
    """A neighbour starts, runs and ends, and its log arrives."""
    launcher.hold("neighbour", resources={"pids": {"limit": 20}})
    before = len(launcher.told("neighbour"))
    within(lambda: launcher.attack(run, ("/bin/echo", "well"), name="neighbour"))
    assert launcher.told("neighbour")[before:] == "well\n"


def members(launcher: Attacking, name: str) -> int:
    """How many processes there are below a container's cgroup."""
    places = {path for path in launcher.cgroups() if f"/{name}" in path}
    found = {line for path in places for line in Path(path, "cgroup.procs").read_text().split()}
    return len(found)


def bomb(launcher: Attacking, place: Path, most: int) -> str:
    """Let a fork bomb go off; what stopped it."""
    program = install("bomb.c", place / "bomb")

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/bomb", "type": "bind", "source": str(program), "options": ["bind"]})

    launcher.begin(1, ("/bomb", str(most)), change=change)
    assert eventually(lambda: launcher.output() != b"", BOUND)
    return launcher.output().decode().split()[0]


def test_a_fork_bomb_is_held_by_its_limit_and_ended_at_once(tmp_path: Path) -> None:
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(resources={"pids": {"limit": LIMIT}})
        assert bomb(launcher, tmp_path, 1_000_000) == "limit"
        assert members(launcher, "web") <= LIMIT
        goes_on(launcher, 1)
        launcher.ask("kill", name="web")
        within(lambda: launcher.exited("web", 1))
        assert eventually(lambda: members(launcher, "web") == 0, BOUND)


def test_a_fork_bomb_without_a_limit_grows(tmp_path: Path) -> None:
    """The control; it stops by itself at twice the limit, for the machine is not ours alone."""
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(resources={})
        assert bomb(launcher, tmp_path, 2 * LIMIT) == "most"
        assert members(launcher, "web") > LIMIT


DESCRIPTORS = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
try:
    while len(held) < most:
        held.append(os.dup(2))
except OSError as error:
    os.close(held.pop())
    print(errno.errorcode[error.errno], flush=True)
print(len(held), flush=True)
time.sleep(1000)
"""


def test_descriptors_end_at_their_limit(tmp_path: Path) -> None:
    """And are the container's alone: launcher, host and neighbours have theirs. The control has no such limit."""

    def limited(config: dict[str, Any]) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]

    with Attacking(tmp_path / "it") as launcher:
        launcher.hold()
        launcher.hold("control")
        before = open_files(launcher.pid).keys()
        launcher.begin(1, python(DESCRIPTORS, most=2000), change=limited)
        launcher.begin(1, python(DESCRIPTORS, most=2000), name="control")
        assert eventually(lambda: launcher.told("control") == "2000\n")
        assert eventually(lambda: launcher.told().startswith("EMFILE\n"))
        assert int(launcher.told().split()[1]) < 64
        assert len(open_files(launcher.pid).keys() - before) < 20
        goes_on(launcher, 1)


MEMORY = """
held = []
for _ in range(count):
    pid = os.fork()
    if pid == 0:
        file = os.memfd_create("it")
        for _ in range(64):
            os.write(file, b"x" * (1 << 20))
            held.append(b"x" * (1 << 20))
        os._exit(0)
for _ in range(count):
    os.wait()
print("had it all", flush=True)
"""


def test_memory_ends_inside(tmp_path: Path) -> None:
    """Of several processes and in files that lie in memory. The control has no limit, and takes a bounded lot."""
    with Attacking(tmp_path / "it") as launcher:
        bound = 48 << 20
        launcher.hold(resources={"memory": {"limit": bound, "swap": bound}, "pids": {"limit": LIMIT}})
        launcher.hold("control", resources={})
        launcher.begin(1, python(MEMORY, count=3))
        goes_on(launcher, 1)
        assert launcher.exited("web", 1)[2], "the OOM killer is not told of"
        assert launcher.attack(1, python(MEMORY, count=1), name="control") == "had it all\n"
        assert launcher.exited("control", 1) == (0, None, False)
        goes_on(launcher, 2)


FILL = """
written = 0
try:
    with open("/filled", "wb", buffering=0) as file:
        while written < 64 << 20:
            written += file.write(b"x" * (1 << 20))
except OSError as error:
    print(errno.errorcode[error.errno], end=" ")
print(written >> 20, flush=True)
"""


def test_a_bounded_writable_layer_is_full_alone(tmp_path: Path) -> None:
    """`writable = "tmpfs:8M"`. The control writes to the disk."""
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(userns=None)  # the host's root, which may write its root directory
        launcher.hold("control", userns=None)
        said = launcher.attack(1, python(FILL), memory=8 << 20, change=without_userns)
        assert said in ("ENOSPC 7\n", "ENOSPC 8\n")
        goes_on(launcher, 1)
        assert launcher.attack(1, python(FILL), name="control", change=without_userns) == "64\n"
        assert (launcher.home("control") / "upper/filled").stat().st_size == 64 << 20
        assert not list((launcher.home("web") / "upper").iterdir())


FLOOD = """
line = b"x" * 65535 + b"\\n"
for _ in range(count):
    os.write(1, line)
"""


def log_of(launcher: Attacking, name: str) -> int:
    launcher.ask("flush", name=name)
    return sum(file.stat().st_size for file in (launcher.home(name) / "log").iterdir())


def test_a_log_flood_keeps_its_size_and_holds_nobody(tmp_path: Path) -> None:
    """64 MB at full speed into a log of 8; the control's log may have 100."""
    with Attacking(tmp_path / "it") as launcher:
        log = {"directory": str(launcher.home("web") / "log"), "max_size": 2 << 20, "max_files": 4}
        launcher.hold(log=log)
        wide = {"directory": str(launcher.home("control") / "log"), "max_size": 25 << 20, "max_files": 4}
        launcher.hold("control", log=wide)
        flood = python(FLOOD, count=1024)
        launcher.begin(1, flood, change=without_filter)
        goes_on(launcher, 1)
        launcher.exited("web", 1)
        launcher.attack(1, flood, name="control", change=without_filter)
        assert log_of(launcher, "web") < 9 << 20
        assert log_of(launcher, "control") > 60 << 20
