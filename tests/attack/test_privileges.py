"""What a process must not be or get: ids, capabilities, set-user-id programs, keys, the operator's terminal."""

import json
import os
import pty
import struct
from pathlib import Path
from typing import Any

import pytest

from runtime import capabilities
from runtime.plan import PlanError
from tests.attack.attacking import (
    Attacking,
    Change,
    as_it_is,
    every,
    install,
    number,
    open_root,
    python,
    without_filter,
    without_userns,
)
from tests.kernel.runtime.launching import BASE, Refused

# Ids


def as_user(who: str | int) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"username": who} if isinstance(who, str) else {"uid": who, "gid": 0}

    return change


def started_as(launcher: Attacking, run: int, user: str | int, loose: Change) -> str:
    """What `id -u` says, or that it was refused."""
    try:
        before = len(launcher.told())
        return launcher.attack(run, ("/usr/bin/id", "-u"), change=every(loose, as_user(user)))[before:].strip()
    except (Refused, PlanError):
        return "refused"


OVERFLOWS = (
    *(
        "4294967295",
        "4294967296",
        "8589934592",
        "-1",
        "+0",
        "0x0",
        "00",
        "1e0",
        "0:4294967295",
        "0:-1",
        " 0",
        "0 ",
        "٠",
    ),
    *(4294967295, 4294967296, 1 << 64, -1),
)
"""Users by text, as an app's file and an image have them, and by number, as OCI has them."""


@pytest.mark.parametrize("loose", (as_it_is, without_userns), ids=("own ids", "the host's ids"))
def test_ids_that_overflow_are_no_ids(loose: Change, tmp_path: Path) -> None:
    """4294967295 is -1, "no change", to setresuid(2), and 2³² would be cut to root. Plain numbers are the control."""
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(userns=None if loose is without_userns else [BASE, 65536])
        seen = {user: started_as(launcher, run, user, loose) for run, user in enumerate((*OVERFLOWS, "0", "1000"))}
    assert (seen.pop("0"), seen.pop("1000")) == ("0", "1000")
    assert set(seen.values()) == {"refused"}, seen


def test_a_launcher_that_checks_no_ids_stays_root(tmp_path: Path) -> None:
    """The control."""
    with Attacking(tmp_path / "weak", "ids unchecked") as weak:
        weak.hold(userns=None)
        assert started_as(weak, 1, "4294967295", without_userns) == "0"


# Capabilities

INHERIT = f"""
import ctypes, struct
from runtime import syscalls
sets = int(next(line for line in open("/proc/self/status") if line.startswith("CapPrm")).split()[1], 16)
syscalls.capset(sets, sets, sets)
for each in range(41):
    if sets >> each & 1:
        syscalls.prctl({47}, {2}, each)
"""
"""A launcher whose own parent handed it every capability, inheritable and ambient (PR_CAP_AMBIENT_RAISE)."""

STATUS = "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')), flush=True)"


@pytest.mark.parametrize("user", ("0", "1000"))
def test_no_capability_is_inherited(user: str, tmp_path: Path) -> None:
    """Of the launcher's own; the weakened one gives nothing up. Inh, Prm, Eff, Bnd, Amb as proc(5) has them."""
    change = every(without_userns, as_user(user))
    default = f"{capabilities.mask(capabilities.DEFAULT):016x}"
    none = f"{0:016x}"
    with Attacking(tmp_path / "real", boot=INHERIT) as real:
        real.hold(userns=None)
        said = real.attack(1, python(STATUS), change=change).split()
    assert said == [none, *([default, default] if user == "0" else [none, none]), default, none]
    with Attacking(tmp_path / "weak", "capabilities kept", boot=INHERIT) as weak:
        weak.hold(userns=None)
        assert weak.attack(1, python(STATUS), change=change).split()[0] != none


# Programs that give their caller more


def programs(root: Path) -> Path:
    """One that is root's and set-user-id, one that has a file capability (xattr(7), version 2)."""
    for directory in ("proc", "dev", "sys", "tmp"):
        (root / directory).mkdir(parents=True)
    root.chmod(0o755)
    install("who.c", root / "setuid", 0o4755)
    file = install("who.c", root / "capable")
    bit = 1 << capabilities.NAMES.index("CAP_CHOWN")
    os.setxattr(file, "security.capability", struct.pack("<IIIII", 0x02000001, bit, 0, 0, 0))
    return root


@pytest.mark.parametrize("confined", (True, False), ids=("real", "control"))
def test_set_user_id_and_file_capabilities_give_nothing(confined: bool, tmp_path: Path) -> None:
    """The control has no_new_privileges off."""

    def change(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = confined

    root = programs(tmp_path / "root")
    with Attacking(tmp_path / "it") as launcher:
        launcher.hold(userns=None)
        for run, name in enumerate(("/setuid", "/capable")):
            launcher.begin(
                run, (name,), root=root, change=every(without_userns, without_filter, as_user("1000"), change)
            )
            launcher.exited("web", run)
        said = launcher.told().splitlines()
    plain = f"uid 1000 euid 1000 {0:016x}"
    if confined:
        assert said == [plain, plain]
    else:
        assert "euid 0" in said[0] and said[1] == f"uid 1000 euid 1000 {1:016x}"


# Keys

KEYS = """
key = libc.syscall(keyctl, 10, -3, b"user", b"creche-attack", 0)  # KEYCTL_SEARCH in the session's keyring
text = ctypes.create_string_buffer(64)
if key != -1:
    libc.syscall(keyctl, 11, key, text, 64)  # KEYCTL_READ
print(said(key), text.value.decode(), flush=True)
"""
OWNING = """
import ctypes
libc = ctypes.CDLL(None)
libc.syscall({keyctl}, 1, None)
libc.syscall({add_key}, b"user", b"creche-attack", b"hidden", 6, -3)
"""


def test_the_session_keys_of_whoever_started_it_are_out_of_reach(tmp_path: Path) -> None:
    """Without a filter, which refuses keyctl(2) altogether."""
    boot = OWNING.format(keyctl=number("keyctl"), add_key=number("add_key"))
    script = python(KEYS, keyctl=number("keyctl"))
    with Attacking(tmp_path / "real", boot=boot) as real:
        real.hold(userns=None)
        assert real.attack(1, script, change=every(open_root, without_filter)) == "ENOKEY \n"
    with Attacking(tmp_path / "weak", "keyring kept", boot=boot) as weak:
        weak.hold(userns=None)
        assert weak.attack(1, script, change=every(open_root, without_filter)) == "done hidden\n"


# The operator's terminal

TYPE = """
import fcntl
seen = {}
for number in range(3):
    seen[f"descriptor {number}"] = tried(lambda: fcntl.ioctl(number, 0x5412, b"x"))  # TIOCSTI
def controlling():
    with open("/dev/tty", "rb+", buffering=0) as terminal:
        fcntl.ioctl(terminal, 0x5412, b"x")
seen["controlling"] = tried(controlling)
print(json.dumps(seen), flush=True)
"""
AT_TERMINAL = """
import fcntl, os
terminal = os.open({path!r}, os.O_RDWR)
fcntl.ioctl(terminal, 0x540E, 1)  # TIOCSCTTY
os.dup2(terminal, 0)
"""


def test_nothing_is_typed_into_the_operators_terminal(tmp_path: Path) -> None:
    """CVE-2005-4890: TIOCSTI pushes what a shell then executes. The launcher here has a terminal that controls it.

    The weakened one keeps its session and its standard input. Where the kernel itself allows TIOCSTI to those only
    who have CAP_SYS_ADMIN (dev.tty.legacy_tiocsti = 0), both containers have it.
    """
    ours, theirs = pty.openpty()
    try:
        boot = AT_TERMINAL.format(path=os.ttyname(theirs))
        seen: list[dict[str, str]] = []
        for weaknesses in ((), ("no session", "standard input kept")):
            with Attacking(tmp_path / f"it-{len(weaknesses)}", *weaknesses, boot=boot) as launcher:
                launcher.hold(userns=None)
                seen.append(json.loads(launcher.attack(1, python(TYPE), change=every(open_root, without_filter))))
    finally:
        os.close(ours)
        os.close(theirs)
    real, weak = seen
    assert set(real.values()) <= {"ENOTTY", "ENXIO", "EPERM", "EIO"}, real
    assert "done" in weak.values(), weak
