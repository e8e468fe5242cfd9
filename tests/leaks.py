"""What a test left behind: taken before and after it, compared, told by name.

Several developers' tests may run on one machine at once. So a process, cgroup, interface, route, table or claim counts
only when it can be shown to be this test's: a descendant of this pytest process, or named by the seed of an app below
one of the test's own directories. File descriptors and mounts are this process's own.
"""

import json
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from net import addresses, firewall
from runtime.cgroups.hierarchy import OURS
from supervisor.claims import LEDGER

SETTLE = 5.0
"""Seconds that what was told to end may take to be gone: the kernel removes some of it later."""
_PAUSE = 0.02
_NAMED = re.compile(r"^\s*name\s*=\s*\"([a-z0-9-]+)\"", re.MULTILINE)
_LABEL = re.compile(r"creche ([a-z0-9-]+)/")
_SEEDED = re.compile(r"(?:creche-)?([a-z0-9][a-z0-9-]*)-([0-9a-f]{8})")


class Leak(AssertionError):
    """A test left something behind; the text lists it."""


@attrs.define
class Scope:
    """What makes a thing this test's: its directories, and names of apps that no file or kernel object tells."""

    directories: set[Path] = attrs.field(factory=set)
    apps: set[str] = attrs.field(factory=set)

    def own(self, directory: Path, *apps: str) -> Path:
        """Count what is made under this directory, and what belongs to these apps under it."""
        self.directories.add(directory.resolve())
        self.apps.update(apps)
        return directory

    def runs(self) -> list[Path]:
        """Every directory that may be a run directory: the own ones and two levels below."""
        found: list[Path] = []
        for top in self.directories:
            found.append(top)
            for below in _directories(top):
                found += [below, *_directories(below)]
        return found

    def named(self) -> set[str]:
        """Names of apps: told ones, those of app files here, and those that objects in the kernel bear."""
        names = set(self.apps)
        for top in self.directories:
            for file in [*top.glob("*.toml"), *top.glob("*/*.toml")]:
                with suppress(OSError, UnicodeDecodeError):
                    names.update(_NAMED.findall(file.read_text()), {file.stem})
        for label in [*_cgroup_names(), *firewall.tables("creche-")]:
            if matched := _SEEDED.fullmatch(label):
                names.add(matched[1])
        for _, _, alias in _interfaces():
            names.update(_LABEL.findall(alias))
        return names

    def seeds(self) -> dict[str, str]:
        """The seed of every possible app of this test, and the app's name."""
        names = self.named()
        return {addresses.seed(str(run), name): name for run in self.runs() for name in names}

    def holds(self, text: str) -> bool:
        """Whether a text names one of the own directories."""
        return any(str(directory) in text for directory in self.directories)


def _directories(top: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


# --- processes ---


@attrs.frozen
class Process:
    """A living or dead process as /proc shows it."""

    pid: int
    parent: int
    state: str
    born: str
    name: str
    command: str
    cgroups: frozenset[str]
    output: str

    def __str__(self) -> str:
        kind = "zombie" if self.state == "Z" else "process"
        return f"{kind} {self.pid} {self.name!r} (started at tick {self.born}): {self.command[:160] or '-'}"


def processes() -> dict[int, Process]:
    """All processes of the machine but the kernel's own, which are most of them and nobody's test."""
    found: dict[int, Process] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):  # it ended meanwhile
                stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
                if not int(stat.rpartition(")")[2].split()[6]) & _KERNEL_THREAD:
                    found[int(entry)] = _process(int(entry), stat)
    return found


_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in linux/sched.h, of the flags in proc_pid_stat(5)


def _process(pid: int, stat: str) -> Process:
    place = Path("/proc", str(pid))
    name, _, rest = stat.rpartition(")")
    fields = rest.split()
    command = place.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    lines = place.joinpath("cgroup").read_text(errors="replace").splitlines()
    output = ""
    with suppress(OSError):  # a zombie has none
        output = str(place.joinpath("fd/1").readlink())
    return Process(
        pid,
        int(fields[1]),
        fields[0],
        fields[19],
        name.partition("(")[2],
        command,
        frozenset(line.split(":", 2)[2] for line in lines),
        output,
    )


def own_processes(scope: Scope) -> list[Process]:
    """The processes that are this test's."""
    everybody = processes()
    mine = os.getpid()
    labels = {f"/{OURS}/{name}-{seed[:8]}" for seed, name in scope.seeds().items()} | {f"/{OURS}/test-{mine}"}

    def descends(process: Process) -> bool:
        seen: set[int] = set()
        while process.parent in everybody and process.pid not in seen:
            if process.parent == mine:
                return True
            seen.add(process.pid)
            process = everybody[process.parent]
        return False

    def confined(process: Process) -> bool:
        return any(label in f"{cgroup}/" for cgroup in process.cgroups for label in labels)

    return [
        each
        for each in everybody.values()
        if each.pid != mine
        and (descends(each) or confined(each) or scope.holds(each.command) or scope.holds(each.output))
    ]


# --- the rest ---


def _hierarchies() -> Iterator[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            yield Path(left.split(" ")[4])


def _cgroup_names() -> set[str]:
    return {each.name for mount in _hierarchies() for each in _directories(mount / OURS)}


def _cgroups(scope: Scope) -> Iterator[str]:
    labels = {f"{name}-{seed[:8]}" for seed, name in scope.seeds().items()}
    for mount in _hierarchies():
        for each in _directories(mount / OURS):
            if each.name in labels or each.name.startswith(f"test-{os.getpid()}"):
                below = [Path(top) for top, _, _ in os.walk(each)]
                yield f"cgroup {each}" + (f" with {len(below) - 1} below it" if len(below) > 1 else "")


def _interfaces() -> Iterator[tuple[str, int, str]]:
    """Name, group and alias of every interface that bears a name of ours."""
    for each in Path("/sys/class/net").iterdir():
        if each.name.startswith("cr"):
            with suppress(OSError, ValueError):
                yield each.name, int((each / "netdev_group").read_text()), (each / "ifalias").read_text().strip()


def _network(scope: Scope) -> Iterator[str]:
    seeds = scope.seeds()
    groups = {addresses.group(seed) for seed in seeds}
    for name, group, alias in _interfaces():
        if group in groups:
            yield f"interface {name} ({alias})"
    tables = set(firewall.tables("creche-"))
    for seed, app in seeds.items():
        if addresses.table(app, seed) in tables:
            yield f"nftables table {addresses.table(app, seed)}"
    for subnet, group in _claims():
        if group in groups:
            yield f"unreachable route {subnet}"


def _claims() -> Iterator[tuple[str, int]]:
    """The unreachable routes of the main table with their metric, which is the link group of the app that has it."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        device, destination, _, _, _, _, metric, mask = line.split()[:8]
        if device == "*":
            octets = ".".join(str(byte) for byte in bytes.fromhex(destination)[::-1])
            yield f"{octets}/{int(mask, 16).bit_count()}", int(metric) & 0xFFFFFFFF


def _mounts(scope: Scope) -> Iterator[str]:
    """Mounts of this namespace; those in other tests' temporary directories are theirs."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4]
        if scope.holds(line) or not point.startswith("/tmp/"):
            yield f"mount {line.split(' ')[0]} on {point}: {line.partition(' - ')[2]}"


def _descriptors() -> Iterator[str]:
    with os.scandir("/proc/self/fd") as entries:
        numbers = [entry.name for entry in entries]
    for number in numbers:
        with suppress(OSError):  # the listing's own
            yield f"descriptor {number} -> {os.readlink(f'/proc/self/fd/{number}')}"


def _ids(scope: Scope) -> Iterator[str]:
    with suppress(FileNotFoundError):
        for base, (root, app, name) in json.loads(LEDGER.read_text())["claims"].items():
            if any(Path(root).is_relative_to(directory) for directory in scope.directories):
                yield f"id range {base} of {name} in {app} under {root}"


def snapshot(scope: Scope) -> frozenset[str]:
    """All there is of this test's, a sentence for each thing."""
    return frozenset(
        (
            *map(str, own_processes(scope)),
            *_mounts(scope),
            *_cgroups(scope),
            *_network(scope),
            *_ids(scope),
            *_descriptors(),
        )
    )


def left(before: Iterable[str], scope: Scope, settle: float = SETTLE) -> list[str]:
    """What is there that was not before, once it had time to go; the one wait on the wall clock in these tests."""
    known = frozenset(before)
    deadline = time.monotonic() + settle
    while True:
        rest = sorted(snapshot(scope) - known)
        if not rest or time.monotonic() > deadline:
            return rest
        time.sleep(_PAUSE)


@contextmanager
def checked(scope: Scope | None = None, settle: float = SETTLE) -> Generator[Scope]:
    """Raise Leak after the block where it left something; an error of the block itself goes first."""
    scope = scope or Scope()
    before = snapshot(scope)
    yield scope
    rest = left(before, scope, settle)
    if rest:
        raise Leak("left behind:\n  " + "\n  ".join(rest))


def ensure_tools(*paths: str) -> None:
    """Fail with a clear sentence where root or a program that these tests run is missing."""
    if os.geteuid() != 0:
        raise AssertionError("these tests make real containers: run them as root")
    missing = [path for path in paths if not os.access(path, os.X_OK)]
    if missing:
        raise AssertionError(f"these tests run {', '.join(missing)}: install what is missing")
