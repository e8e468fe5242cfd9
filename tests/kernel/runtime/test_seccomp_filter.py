"""The default profile on a real kernel: what it forbids, with which error, and that programs run under it. x86_64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import capabilities, seccomp, seccomp_profile

# Loads the filter, drops to Podman's capabilities only in name: the filter itself must say no to a real root.
_LOADER = """
import ctypes, json, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from runtime import seccomp, syscalls
code = Path({program!r}).read_bytes()
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
seccomp.load(code)
"""
_TRY = """
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
answers = []
for number, *arguments in {calls!r}:
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
    if result == 0 and number in (56, 57, 58): os._exit(0)
    answers.append(ctypes.get_errno() if result < 0 else 0)
print(json.dumps(answers))
"""
EPERM, ENOSYS, EAFNOSUPPORT, EBADF, EINVAL, EFAULT = 1, 38, 97, 9, 22, 14
_CLONE = 56
_SIGCHLD = 17

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers below are x86_64's")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seccomp") / "default.bpf"
    path.write_bytes(seccomp.compile(seccomp_profile.default(capabilities.DEFAULT, "x86_64")).code)
    return path


def under(program: Path, code: str) -> subprocess.CompletedProcess[str]:
    text = _LOADER.format(root=str(Path(seccomp.__file__).parents[1]), program=str(program)) + code
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


# name, number, arguments, the error expected. Arguments are harmless even where the filter would let them through.
CALLS: list[tuple[str, list[int], int]] = [
    ("mount", [165, 0, 0, 0, 0, 0], EPERM),
    ("umount2", [166, 0, 0], EPERM),
    ("pivot_root", [155, 0, 0], EPERM),
    ("setns", [308, -1, 0], EPERM),
    ("unshare user", [272, 0x10000000], EPERM),
    ("fsopen", [430, 0, 0], EPERM),
    ("open_tree", [428, -1, 0, 0], EPERM),
    ("move_mount", [429, -1, 0, -1, 0, 0], EPERM),
    ("mount_setattr", [442, -1, 0, 0, 0, 0], EPERM),
    ("kexec_load", [246, 0, 0, 0, 0], EPERM),
    ("kexec_file_load", [320, -1, -1, 0, 0, 0], EPERM),
    ("bpf", [321, 0, 0, 0], EPERM),
    ("perf_event_open", [298, 0, 0, 0, -1, 0], EPERM),
    ("userfaultfd", [323, 0xFFFF], EPERM),
    ("io_uring_setup", [425, 0, 0], EPERM),
    ("io_uring_enter", [426, -1, 0, 0, 0, 0, 0], EPERM),
    ("init_module", [175, 0, 0, 0], EPERM),
    ("finit_module", [313, -1, 0, 0], EPERM),
    ("delete_module", [176, 0, 0], EPERM),
    ("keyctl", [250, 0, 0], EPERM),
    ("add_key", [248, 0, 0, 0, 0, 0], EPERM),
    ("request_key", [249, 0, 0, 0, 0], EPERM),
    ("reboot", [169, 0, 0, 0, 0], EPERM),
    ("swapon", [167, 0, 0], EPERM),
    ("settimeofday", [164, 0, 0], EPERM),
    ("open_by_handle_at", [304, -1, 0, 0], EPERM),
    ("syslog", [103, 99, 0, 0], EPERM),
    ("iopl", [172, 99], EPERM),
    ("sethostname", [170, 0, -1], EPERM),
    ("clone into a user namespace", [_CLONE, 0x10000000 | _SIGCHLD, 0, 0, 0, 0], EPERM),
    ("clone into a mount namespace", [_CLONE, 0x00020000 | _SIGCHLD, 0, 0, 0, 0], EPERM),
    ("clone into several", [_CLONE, 0x7E020000 | _SIGCHLD, 0, 0, 0, 0], EPERM),
    ("clone with rubbish above the flags", [_CLONE, 0x1_10000000 | _SIGCHLD, 0, 0, 0, 0], EPERM),
    ("clone3", [435, 0, 0], ENOSYS),
    ("a call of the future", [999], ENOSYS),
    ("a call of x32", [0x40000000 | 39], ENOSYS),
    ("socket AF_ALG", [41, 38, 5, 0], EPERM),
    ("socket AF_VSOCK", [41, 40, 1, 0], EPERM),
    ("socket of a future family", [41, 77, 1, 0], EAFNOSUPPORT),
    ("socket AF_ALG with rubbish above", [41, 0x1_00000026, 5, 0], EAFNOSUPPORT),
    ("socket AF_INET", [41, 2, 1, 0], 0),
    ("socket AF_UNIX", [41, 1, 1, 0], 0),
    ("socket AF_NETLINK", [41, 16, 3, 0], 0),
    ("clone as fork", [_CLONE, _SIGCHLD, 0, 0, 0, 0], 0),
    ("personality ask", [135, 0xFFFFFFFF], 0),
    ("personality without ASLR", [135, 0x0040000], ENOSYS),
    ("read", [0, -1, 0, 0], EBADF),
    ("ptrace", [101, 99999, 0, 0, 0], 3),
    ("chroot", [161, 0], EFAULT),
]


@pytest.fixture(scope="module")
def answers(program: Path) -> dict[str, int]:
    result = under(program, _TRY.format(calls=[call for _, call, _ in CALLS]))
    assert result.returncode == 0, result.stderr
    return dict(zip((name for name, _, _ in CALLS), json.loads(result.stdout), strict=True))


@pytest.mark.parametrize(("name", "error"), [(name, error) for name, _, error in CALLS])
def test_answer(answers: dict[str, int], name: str, error: int) -> None:
    assert answers[name] == error


def test_without_the_filter_root_may_unshare() -> None:
    """The negative control: the errors above are the filter's, not the kernel's."""
    code = "import ctypes; print(ctypes.CDLL(None).unshare(0x04000000))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "0"


_LIFE = """
import socket, subprocess, threading, tempfile, asyncio, time, signal, select, mmap, multiprocessing
total = []
threads = [threading.Thread(target=total.append, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
client.sendall(b"hello"); assert accepted.recv(9) == b"hello"
assert subprocess.run(["/bin/sh", "-c", "echo $((6*7)) | cat"], capture_output=True, text=True).stdout == "42\\n"
with tempfile.TemporaryDirectory() as directory:
    path = Path(directory, "a"); path.write_text("x"); os.chmod(path, 0o600); os.rename(path, path.with_name("b"))
asyncio.run(asyncio.sleep(0.001))
assert os.urandom(4) and os.waitpid(os.fork() or os._exit(0), 0)[1] == 0
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(sorted(total), open("/proc/self/status").read().split("Seccomp:")[1].split()[0])
"""


def test_python_lives_under_it(program: Path) -> None:
    result = under(program, _LIFE)
    assert (result.stdout, result.stderr) == ("[0, 1, 2, 3, 4, 5, 6, 7] 2\n", "")


def test_an_executed_program_stays_under_it(program: Path) -> None:
    code = 'os.execv("/usr/bin/unshare", ["unshare", "--uts", "true"])'
    result = under(program, code)
    assert (result.returncode, "Operation not permitted" in result.stderr) == (1, True)


ATTACKS = Path(__file__).with_name("attacks.c")
REFUSED = {  # what attacks.c tries and a container may not, by the answer
    EPERM: "keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register userfaultfd bpf perf_event_open "
    "kexec_load reboot init_module finit_module delete_module mount umount2 pivot_root open_tree move_mount fsopen "
    "fsmount mount_setattr setns unshare open_by_handle_at swapon syslog quotactl acct iopl clone_newuser "
    "clone_newuser_high kexec_file_load",
    ENOSYS: "clone3 personality",
    EAFNOSUPPORT: "",
}
_64_BITS_ONLY = {"clone_newuser_high", "kexec_file_load", "ptrace_other", "socket"}


@pytest.fixture(scope="module", params=[64, 32])
def attacks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attacking program, static, for the machine's own system calls and for those of 32-bit programs."""
    path = tmp_path_factory.mktemp("attacks") / f"attacks{request.param}"
    how = ["-static", "-nostdlib", "-fno-stack-protector", "-O1", "-I/usr/include/x86_64-linux-gnu"]
    subprocess.run(["gcc", f"-m{request.param}", *how, "-o", str(path), str(ATTACKS)], check=True, timeout=60)
    return path


def said(output: str) -> dict[str, int]:
    return {name: int(error) for name, error in (line.split() for line in output.splitlines())}


def test_no_program_of_either_size_gets_at_the_host(program: Path, attacks: Path) -> None:
    result = under(program, f"os.execv({str(attacks)!r}, ['attacks'])")
    found = said(result.stdout)
    assert found.pop("getpid") == 0, result.stderr
    others = {"ptrace_other": 3, "socket": EPERM}
    expected = {name: error for error, names in REFUSED.items() for name in names.split()} | others
    if attacks.name.endswith("32"):
        expected = {name: error for name, error in expected.items() if name not in _64_BITS_ONLY}
    assert found == expected


def test_without_the_filter_the_same_program_gets_further(attacks: Path) -> None:
    """The negative control: these answers are the kernel's to its arguments, not a refusal."""
    result = subprocess.run([attacks], capture_output=True, text=True, check=True, timeout=60)
    open_doors = {name for name, error in said(result.stdout).items() if error not in (EPERM, ENOSYS)}
    assert open_doors >= set(OPEN_TO_ROOT.split())


OPEN_TO_ROOT = """
keyctl add_key request_key io_uring_setup io_uring_enter userfaultfd bpf perf_event_open mount umount2 pivot_root
open_tree move_mount fsopen fsmount mount_setattr setns unshare open_by_handle_at clone3 personality clone_newuser
"""


def test_a_filter_loads_with_every_flag_of_oci(program: Path) -> None:
    names = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")]
    code = f"flags = seccomp.flags_of({{'flags': {names!r}}}); seccomp.load(code, flags); print(flags)"
    assert under(program, code).stdout == "7\n"


@pytest.mark.parametrize(
    ("action", "end"),
    [
        ({"action": "SCMP_ACT_KILL"}, -31),
        ({"action": "SCMP_ACT_KILL_THREAD"}, -31),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, -31),
        ({"action": "SCMP_ACT_TRAP"}, -31),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 7}, ENOSYS),  # nobody traces
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 42}, 42),
        ({"action": "SCMP_ACT_LOG"}, 0),
        ({"action": "SCMP_ACT_ALLOW"}, 0),
    ],
)
def test_every_action_does_what_it_says(tmp_path: Path, action: dict[str, object], end: int) -> None:
    rule = {"names": ["getppid"], **action}
    default = "SCMP_ACT_LOG" if action["action"] == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
    path = tmp_path / "action.bpf"
    path.write_bytes(seccomp.compile({"defaultAction": default, "syscalls": [rule]}).code)
    call = "libc = ctypes.CDLL(None, use_errno=True)\n"
    code = call + "os._exit(ctypes.get_errno() if libc.syscall(110) < 0 else 0)"
    assert under(path, code).returncode == end
