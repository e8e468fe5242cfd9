"""Attacks are made as root, on this kernel; what they aim at on the host is recorded before and compared afterwards."""

import contextlib
import ctypes
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.attack.attacking import canary
from tests.system.driver import Creche, driven

TREE = Path(__file__).parents[2]
FILES = (
    sys.executable,
    "/usr/bin/python3",
    "/usr/bin/catatonit",
    "/bin/sh",
    "/bin/busybox",
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/hosts",
)
SETTINGS = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/user/max_user_namespaces",
    "/sys/kernel/uevent_helper",
    "/proc/swaps",
    "/proc/modules",
)


@pytest.fixture
def creche(leak_scope: leaks.Scope, leaves_nothing: None) -> Iterator[Creche]:
    """`creche` under a root and a run directory of the test's own; what runs in the end is taken down."""
    with driven(leak_scope) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def host_stays_as_it_is() -> Iterator[None]:
    """The canary of all attacks: a module whose attacks change the host fails."""
    canary()
    before = state_of_host()
    yield
    after = state_of_host()
    changed = {
        what: (before.get(what), after.get(what)) for what in before | after if before.get(what) != after.get(what)
    }
    assert not changed, "the host was changed"


@pytest.fixture(scope="session", autouse=True)
def canary_goes_in_the_end() -> Iterator[None]:
    yield
    shutil.rmtree(canary().place)


def state_of_host() -> dict[str, str]:
    """What an attack would change: files, settings, mounts, keys, cgroups, processes; each by its name."""
    state: dict[str, str] = {}
    place = canary().place
    for path in (*FILES, *place.rglob("*"), place, *(TREE / "runtime").rglob("*.py")):
        state[str(path)] = _file(Path(path), times=path != place and not Path(path).is_relative_to(TREE))
    for path in SETTINGS:
        with contextlib.suppress(OSError):  # not every kernel has each
            state[path] = Path(path).read_text()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        number, _, _, root, point, options = line.split(" ")[:6]
        if not point.startswith(("/tmp/", "/run/", "/var/lib/")):  # where other tests and daemons mount
            state[f"mount {number}"] = f"{root} {point} {options}"
    state["session keyring"] = str(ctypes.CDLL(None).syscall(_KEYCTL, 0, -3, 0))
    for setting in ("release_agent", "notify_on_release"):
        for file in Path("/sys/fs/cgroup").glob(f"*/{setting}"):
            state[str(file)] = file.read_text()
    for pid in (1, 2, os.getpid(), os.getppid()):
        with contextlib.suppress(OSError):  # a container has no kernel threads
            process = Path("/proc", str(pid))
            born = process.joinpath("stat").read_text().rpartition(")")[2].split()[19]
            rest = f"{process.joinpath('cgroup').read_text()} {os.readlink(process / 'ns/mnt')}"
            state[f"process {pid}"] = f"{born} {rest}"
    return state


_KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]


def _file(path: Path, *, times: bool) -> str:
    try:
        info = path.stat()
    except FileNotFoundError:
        return "missing"
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else sorted(os.listdir(path))
    whose = f"{info.st_mode:o} {info.st_uid}:{info.st_gid} inode {info.st_ino}"
    return f"{whose} {content}{f' {info.st_mtime_ns}' if times else ''}"
