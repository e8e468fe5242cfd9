"""One more process in a container that is hostile already, and waits for whoever comes in."""

import json
from pathlib import Path
from typing import Any

from runtime import capabilities
from tests.attack.attacking import (
    Attacking,
    Change,
    canary,
    every,
    open_root,
    python,
    without_filter,
    without_userns,
)
from tests.attack.test_descriptors import FIND
from tests.attack.test_interpreter import answers, bound, copy, script, state
from tests.attack.test_privileges import INHERIT, STATUS
from tests.kernel.runtime.launching import Refused, eventually

__all__ = ["copy", "script"]  # fixtures
SLEEP = ("/bin/sleep", "1000")


def test_no_descriptor_leads_out_of_an_exec(tmp_path: Path) -> None:
    find = python(FIND, secret=str(canary().place / "secret"))
    with Attacking(tmp_path / "real") as real:
        real.hold()
        real.begin(1, SLEEP)
        assert real.execute("it", find) == "descriptors 0 1 2 3\n"
    with Attacking(tmp_path / "weak", "descriptors kept") as weak:
        weak.hold()
        weak.begin(1, python("os.closerange(3, 256)\ntime.sleep(1000)"))  # or it would never be seen to run
        assert leaked(weak.execute("it", ("/bin/ls", "-l", "/proc/self/fd"))) > 4


def leaked(listing: str) -> int:
    return sum("->" in line for line in listing.splitlines())


LEFT_OPEN = """
import os
from runtime import syscalls
os.dup2(os.open("/", os.O_RDONLY | os.O_CLOEXEC), 200, inheritable=False)
close_range = syscalls.close_range
def spare(first, last=0x7FFFFFFF, flags=0):
    for lower, upper in ((first, min(last, 199)), (max(first, 201), last)):
        if lower <= upper:
            close_range(lower, upper, flags)
syscalls.close_range = spare
"""
"""The host's root, which nothing closes before exec: an exec by itself has no directory of the host."""


def directories(launcher: Attacking) -> set[str]:
    """Where execs found themselves that asked for a descriptor as their working directory."""
    launcher.hold()
    launcher.begin(1, SLEEP)
    seen: set[str] = set()
    for number in (*range(3, 30), 200):

        def change(config: dict[str, Any], number: int = number) -> None:
            config["process"]["cwd"] = f"/proc/self/fd/{number}"

        try:
            seen.add(launcher.execute(str(number), ("/bin/cat", f".{canary().place}/secret"), change=change))
        except Refused as refusal:
            assert "working directory" in refusal.fields["operation"]
    return seen


def test_no_working_directory_of_an_exec_lies_outside(tmp_path: Path) -> None:
    """CVE-2024-21626 had an exec, too. Both launchers leave a directory open; the weakened one does not look."""
    with Attacking(tmp_path / "real", boot=LEFT_OPEN) as real:
        assert not any(canary().secret in said for said in directories(real))
    with Attacking(tmp_path / "weak", "working directory unchecked", boot=LEFT_OPEN) as weak:
        assert any(canary().secret in said for said in directories(weak))


def test_a_script_of_proc_self_exe_in_an_exec_changes_nothing(copy: Path, script: Path, tmp_path: Path) -> None:
    """CVE-2019-5736 waited for an exec: the control is that of the container's own start (test_interpreter)."""
    before = state(copy)
    loose = every(open_root, without_filter)
    with Attacking(tmp_path / "real") as real:
        real.hold(userns=None)
        real.begin(1, SLEEP, change=every(loose, bound(script)))
        said = answers(real.execute("it", ("/attack/script",), change=loose))
    said.pop("remount")
    assert set(said.values()) <= {"EROFS", "ETXTBSY"} and said["chmod"] == said["chown"] == "EROFS", said
    assert state(copy) == before


def test_an_exec_inherits_no_capability(tmp_path: Path) -> None:
    default = f"{capabilities.mask(capabilities.DEFAULT):016x}"
    none = f"{0:016x}"
    for weaknesses in ((), ("capabilities kept",)):
        with Attacking(tmp_path / f"it-{len(weaknesses)}", *weaknesses, boot=INHERIT) as launcher:
            launcher.hold(userns=None)
            launcher.begin(1, SLEEP, change=without_userns)
            said = launcher.execute("it", python(STATUS)).split()
        assert (said == [none, default, default, default, none]) == (not weaknesses), said


WATCH = """
import signal
early, going = set(), True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
mine = os.getpid()
print("watching", flush=True)
last = mine
def look(pid):
    exe = os.readlink(f"/proc/{pid}/exe")
    if exe.endswith("/sleep"):
        return
    early.add("exe")
    for what, act in dict(
        descriptors=lambda: os.listdir(f"/proc/{pid}/fd"),
        memory=lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        environ=lambda: open(f"/proc/{pid}/environ", "rb").read(1),
        root=lambda: os.stat(f"/proc/{pid}/root/"),
        open_exe=lambda: os.close(os.open(f"/proc/{pid}/exe", os.O_PATH)),
    ).items():
        if tried(act) == "done":
            early.add(what)
met = set()
while going:
    for pid in range(last + 1, last + 4):
        try:
            os.stat(f"/proc/{pid}")
        except OSError:
            continue
        met.add(pid)
        while going:
            try:
                look(pid)
            except FileNotFoundError:
                last = pid
                break
            except OSError:
                pass
print(json.dumps({"early": sorted(early), "met": len(met)}), flush=True)
"""


def watched(launcher: Attacking, execs: int, change: Change) -> dict[str, Any]:
    """Let a process that belongs to the same user look at so many execs from their first moment on."""
    launcher.hold(userns=None)
    launcher.begin(1, python(WATCH), change=change)
    assert eventually(lambda: launcher.output() == b"watching\n")
    for each in range(execs):
        launcher.execute(str(each), ("/bin/sleep", "0.01"))
    launcher.ask("signal", name="web", signal=15)
    launcher.exited("web", 1)
    return json.loads(launcher.told().splitlines()[1])


def test_nobody_looks_into_an_exec_before_it_executes(tmp_path: Path) -> None:
    """It is a clone of the launcher, with its descriptors and its memory, in the attacker's own pid namespace.

    The weakened one may be looked into.
    """
    with Attacking(tmp_path / "real") as real:
        said = watched(real, 40, without_userns)
    assert said["met"] > 20
    assert said["early"] == []
    with Attacking(tmp_path / "weak", "dumpable") as weak:
        said = watched(weak, 40, without_userns)
    assert "exe" in said["early"]
