"""Other containers and the host's own processes: not seen, not traced, not signalled, not talked to."""

import json
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.attack.attacking import HALF, Attacking, Change, every, number, open_root, python, without_filter
from tests.kernel.runtime.launching import BASE, Refused, eventually

VICTIM = """
secret = ctypes.create_string_buffer(b"hidden in memory")
listener = socket.socket(socket.AF_UNIX)
listener.bind(name)
listener.listen()
print(hex(ctypes.addressof(secret)), flush=True)
time.sleep(1000)
"""
ATTACK = """
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
into = ctypes.create_string_buffer(16)
def vectors(where):
    return ctypes.byref(Vector(where, 16))
def read_memory():
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(address)
        into[:] = memory.read(16)
def talk():
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(name)
calls = dict(
    signal=lambda: libc.kill(pid, 0),
    pidfd=lambda: libc.syscall(numbers["pidfd_open"], pid, 0),
    attach=lambda: libc.ptrace(16, pid, 0, 0),
    detach=lambda: libc.waitpid(pid, None, 0x40000000) and libc.ptrace(17, pid, 0, 0),
    vm_read=lambda: libc.process_vm_readv(pid, vectors(ctypes.addressof(into)), 1, vectors(address), 1, 0),
    vm_write=lambda: libc.process_vm_writev(pid, vectors(ctypes.addressof(into)), 1, vectors(address), 1, 0),
    limits=lambda: libc.prlimit(pid, 7, None, ctypes.create_string_buffer(16)),
    move=lambda: libc.syscall(numbers["migrate_pages"], pid, 0, 0, 0),
)
seen = {what: said(call()) for what, call in calls.items()}
seen |= dict(
    proc_mem=tried(read_memory),
    proc_environ=tried(lambda: open(f"/proc/{pid}/environ", "rb").read(1)),
    proc_root=tried(lambda: os.listdir(f"/proc/{pid}/root")),
    proc_cwd=tried(lambda: os.listdir(f"/proc/{pid}/cwd/")),
    proc_descriptors=tried(lambda: os.listdir(f"/proc/{pid}/fd")),
    oom=tried(lambda: open(f"/proc/{pid}/oom_score_adj", "w").close()),
    socket=tried(talk),
)
processes = [each for each in os.listdir("/proc") if each.isdigit()]
print(json.dumps({"seen": seen, "processes": len(processes)}), flush=True)
"""
NAME = "\0creche-attack-{}"
OPEN = every(open_root, without_filter)


@contextmanager
def victim_on_host(name: str) -> Generator[tuple[int, int]]:
    with subprocess.Popen(python(VICTIM, name=name), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline(), 16)
        finally:
            process.kill()


def attacked(launcher: Attacking, change: Change, *, mapped: bool, host: bool) -> dict[str, Any]:
    """What an attacker of container `web` gets of a victim whose pid on the host and address it knows."""
    how: dict[str, Any] = {}
    if mapped:
        launcher.hold("victim", userns=[BASE, HALF])
        launcher.hold("web", userns=[BASE + HALF, HALF])
        how = {"ids": (BASE + HALF, HALF)}
    else:
        launcher.hold("victim", userns=None)
        launcher.hold("web", userns=None)
    name = NAME.format(host)
    script = {"numbers": {each: number(each) for each in ("pidfd_open", "migrate_pages")}, "name": name}
    if host:
        with victim_on_host(name) as (pid, address):
            return json.loads(
                launcher.attack(1, python(ATTACK, pid=pid, address=address, **script), change=change, **how)
            )
    ids = {"ids": (BASE, HALF)} if mapped else {}
    pid = launcher.begin(1, python(VICTIM, name=name), name="victim", change=change, **ids)
    assert eventually(lambda: launcher.output("victim").endswith(b"\n"))
    address = int(launcher.output("victim"), 16)
    said = launcher.attack(1, python(ATTACK, pid=pid, address=address, **script), change=change, **how)
    launcher.ask("kill", name="victim")
    launcher.exited("victim", 1)
    return json.loads(said)


@pytest.mark.parametrize("host", (False, True), ids=("neighbour", "host"))
@pytest.mark.parametrize(
    ("mapped", "change"), ((True, without_filter), (False, OPEN)), ids=("own ids", "the host's ids")
)
def test_no_process_outside_is_to_be_had(mapped: bool, change: Change, host: bool, tmp_path: Path) -> None:
    """By its pid and addresses as the host knows them. Nothing but the namespaces is in the way."""
    with Attacking(tmp_path / "real") as real:
        said = attacked(real, change, mapped=mapped, host=host)
    assert said["processes"] == 1
    assert set(said["seen"].values()) <= {"ESRCH", "ENOENT", "ECHILD", "ECONNREFUSED"}, said["seen"]


@pytest.mark.parametrize("host", (False, True), ids=("neighbour", "host"))
def test_without_namespaces_everything_is_to_be_had(host: bool, tmp_path: Path) -> None:
    """The control of the one above: pid and network namespaces are the host's."""
    with Attacking(tmp_path / "weak", "pids shared", "network shared") as weak:
        said = attacked(weak, OPEN, mapped=False, host=host)
    refused = {what: answer for what, answer in said["seen"].items() if answer != "done"}
    assert refused.keys() <= {"move"}, refused
    assert said["processes"] > 10


def test_with_ids_of_its_own_the_hosts_processes_cannot_be_shown(tmp_path: Path) -> None:
    """The second line: a launcher that forgot the pid namespace starts nothing, for the kernel mounts no proc of it."""
    with Attacking(tmp_path / "weak", "pids shared") as weak, pytest.raises(Refused, match="mount proc"):
        weak.hold()
        weak.begin(1, ("/bin/true",), change=without_filter)
