"""The attacker's side: hostile containers on a launcher that is honest, or weakened on purpose to prove the attack."""

import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runtime import capabilities, defaults
from runtime.launch import client, messages
from runtime.plan import Place, plan
from runtime.syscalls import SeccompFilter
from tests.kernel.runtime.launching import BASE, Launching, default_filter, status_of

PYTHON = "/usr/bin/python3"
PROGRAMS = Path(__file__).parent / "programs"
HALF = 32768
"""Ids of each of two neighbours that share the tests' one range."""
Change = Callable[[dict[str, Any]], object]

NO_STATIC_INIT = "from runtime.launch import inits\ninits.find = lambda: None\n"
"""No weakness: what is so on a host without one."""

WEAKNESSES = {
    "descriptors kept": """
import os
from runtime import syscalls
syscalls.close_range = lambda *_, **__: None
execute = os.execve
def leaky(*arguments):
    for number in range(3, 256):
        try:
            os.set_inheritable(number, True)
        except OSError:
            pass
    execute(*arguments)
os.execve = leaky
""",
    "working directory unchecked": "import os\nos.getcwd = lambda: '/'\n",
    "links followed": """
import os
from runtime import syscalls
def follow(directory, path, flags, *, resolve, mode=0):
    return os.open(path.lstrip("/") or ".", flags | os.O_CLOEXEC, mode, dir_fd=directory)
syscalls.openat2 = follow
""",
    "dumpable": """
from runtime import syscalls
prctl = syscalls.prctl
syscalls.prctl = lambda option, *words: 0 if option == syscalls.PR_SET_DUMPABLE else prctl(option, *words)
""",
    "capabilities kept": """
from runtime import syscalls
syscalls.capset = lambda *_: None
""",
    "ids unchecked": "from runtime import accounts\naccounts.MAX_ID = 1 << 40\n",
    "no session": "import os\nos.setsid = lambda: None\n",
    "standard input kept": """
import os
dup2 = os.dup2
os.dup2 = lambda old, new, inheritable=True: new if new == 0 else dup2(old, new, inheritable)
""",
    "keyring kept": "from runtime import syscalls\nsyscalls.join_session_keyring = lambda: None\n",
    "masks unchecked": """
import os, stat
class Same(int):
    __ne__ = lambda self, other: False
makedev = os.makedev
os.makedev = lambda *numbers: Same(makedev(*numbers))
stat.S_ISCHR = lambda mode: True
""",
    "no masks": """
from runtime import mounts
mounts.Mask.execute = mounts.ReadOnlyPaths.execute = lambda self, world: None
""",
    "pids shared": """
from runtime import syscalls
clone3 = syscalls.clone3
syscalls.clone3 = lambda flags, **how: clone3(flags & ~syscalls.CLONE_NEWPID, **how)
""",
    "network shared": """
from runtime import syscalls
clone3 = syscalls.clone3
syscalls.clone3 = lambda flags, **how: clone3(flags & ~syscalls.CLONE_NEWNET, **how)
""",
}
"""What a launcher is made to do wrong, by lines that it runs before it begins."""


class Canary(NamedTuple):
    """A directory of the host that everybody may read and write, and the secret in it that no container may tell."""

    place: Path
    secret: str


@cache
def canary() -> Canary:
    """The one of this pytest process; the directory's fixture looks after it and removes it."""
    place = Path(tempfile.mkdtemp(prefix="creche-canary-", dir="/tmp"))
    secret = f"canary-{secrets.token_hex(16)}"
    for name, content in (("secret", secret + "\n"), ("passwd", "planted:x:7:7::/:/bin/sh\n")):
        (place / name).write_text(content)
        (place / name).chmod(0o666)
    place.chmod(0o777)
    return Canary(place, secret)


@cache
def built(source: str) -> bytes:
    """A static program from tests/attack/programs."""
    with tempfile.TemporaryDirectory() as place:
        program = f"{place}/program"
        compiler = ["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", program, str(PROGRAMS / source)]
        subprocess.run(compiler, check=True, timeout=60)
        return Path(program).read_bytes()


def install(source: str, path: Path, mode: int = 0o755) -> Path:
    """Put a built program at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(built(source))
    path.chmod(mode)
    return path


@cache
def number(name: str) -> int:
    """A system call's number on this machine."""
    with SeccompFilter(0x7FFF0000) as names:
        found = names.number(name)
    assert found is not None, f"libseccomp knows no {name}"
    return found


def python(script: str, **values: object) -> tuple[str, ...]:
    """A command that runs a script, which finds `values` as variables, `libc`, and `said(result)`."""
    head = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    return PYTHON, "-I", "-c", PREAMBLE + head + script


PREAMBLE = """
import ctypes, errno, json, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def said(result):
    return "done" if result != -1 else errno.errorcode[ctypes.get_errno()]
def tried(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
"""


def open_root(config: dict[str, Any]) -> None:
    """Everything but what is under test taken away: the host's ids and every capability, with the filter as it is."""
    names = sorted(capabilities.names(int(status_of(os.getpid())["CapBnd"], 16)))  # all that this host has
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] = names
    without_userns(config)


def as_it_is(_: dict[str, Any]) -> None:
    """Loosen nothing."""


def without_userns(config: dict[str, Any]) -> None:
    linux = config["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "user"]
    linux["uidMappings"] = linux["gidMappings"] = []


def without_filter(config: dict[str, Any]) -> None:
    config["linux"].pop("seccomp")


def every(*changes: Change) -> Change:
    def change(config: dict[str, Any]) -> None:
        for each in changes:
            each(config)

    return change


class Attacking(Launching):
    """A launcher with the weaknesses that are named, none for the real one."""

    def __init__(self, directory: Path, *weaknesses: str, boot: str = "") -> None:
        """`boot` is more that the launcher runs before it begins: the circumstances of an attack."""
        self.weak = bool(weaknesses)
        lines = [boot, *(WEAKNESSES[name] for name in weaknesses)]
        code = "".join(f"exec({line!r}, {{}}); " for line in lines if line)
        directory.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            start = "from runtime.launch.launcher"
            patch.setattr(client, "_BOOT", client._BOOT.replace(start, code + start))
            super().__init__(directory)

    def send_attack(
        self,
        run: int,
        args: Iterable[str],
        *,
        name: str = "web",
        change: Change | None = None,
        root: Path | None = None,
        init: bool = False,
        ids: tuple[int, int] = (BASE, 65536),
        memory: int = 0,
        hierarchies: tuple[tuple[str, str], ...] = (),
    ) -> int:
        """Ask for a container of `root`, or of the host's own, as the supervisor would."""
        config = defaults.config()
        config["process"]["args"] = list(args)
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": ids[0], "size": ids[1]}]
        config["linux"]["gidMappings"] = config["linux"]["uidMappings"]
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}  # the filter itself goes along compiled
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]})
        if change is not None:
            change(config)
        mapped = any(each["type"] == "user" for each in config["linux"]["namespaces"])
        place = Place(
            (str(root or "/"),),
            root is not None and mapped,
            "" if memory else str(self.directory / name),
            memory=memory,
            hierarchies=hierarchies,
            init=init,
        )
        packed = json.dumps(plan(config, place).packed()).encode()
        files = [messages.memory_file("plan", packed)]
        if "seccomp" in config["linux"]:
            files.append(messages.memory_file("filter", default_filter()))
        try:
            return self.send("create", tuple(files), name=name, run=run)
        finally:
            for file in files:
                os.close(file)

    def begin(self, run: int, args: Iterable[str], *, name: str = "web", **how: Any) -> int:
        """Create and start; the pid of pid 1."""
        pid: int = self.answer(self.send_attack(run, args, name=name, **how))["pid"]
        self.ask("start", name=name, run=run)
        return pid

    def attack(self, run: int, args: Iterable[str], *, name: str = "web", **how: Any) -> str:
        """Run to the end; what the container has written up to then, the secret never among it."""
        self.begin(run, args, name=name, **how)
        self.exited(name, run)
        return self.told(name)

    def execute(self, identity: str, args: Iterable[str], *, name: str = "web", change: Change | None = None) -> str:
        """Run one more process in a container to its end; what it has written, the secret never among it."""
        reading, writing = os.pipe()
        with open(reading, "rb") as output:  # noqa: PTH123 -- a descriptor
            try:
                number = self.send_exec(identity, *args, name=name, streams=(writing, writing, writing), change=change)
            finally:
                os.close(writing)
            self.answer(number)
            self.exec_exited(identity, name)
            text = output.read().decode()
        assert self.weak or canary().secret not in text, "an exec has read the host's secret"
        return text

    def told(self, name: str = "web") -> str:
        """Standard output and error of all runs."""
        text = (self.output(name) + self.output(name, "err")).decode()
        assert self.weak or canary().secret not in text, "a container has read the host's secret"
        return text

    def __enter__(self) -> "Attacking":
        return self

    def home(self, name: str) -> Path:
        return self.directory / name
