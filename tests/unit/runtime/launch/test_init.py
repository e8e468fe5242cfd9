"""creche's own init: reaps orphans, forwards signals, ends as its program ended.

Each runs in a process of its own: pid 1 of a pid namespace where the tests run as root, a subreaper elsewhere.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SUBREAPER = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n" if os.geteuid() else ""
PREFIX = [] if os.geteuid() else ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
INIT = """
import os, signal, sys
from runtime.launch import init
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # as a birth does: none is lost before `serve`
pid = os.fork()
if pid == 0:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execv("/bin/sh", ["sh", "-c", sys.argv[1]])
os._exit(init.serve(pid))
"""


def start(script: str) -> "subprocess.Popen[str]":
    command = [*PREFIX, sys.executable, "-c", SUBREAPER + INIT, script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(script: str) -> tuple[int, str]:
    with start(script) as process:
        out, err = process.communicate(timeout=20)
    assert err == ""
    return process.returncode, out


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("kill -USR1 $$", 128 + signal.SIGUSR1),
    ],
)
def test_it_ends_as_its_program_ended(script: str, status: int) -> None:
    assert run(script)[0] == status


def test_orphans_are_reaped_and_none_ends_it() -> None:
    script = """
    for n in 1 2 3 4 5 6 7 8; do (sh -c 'exit 5' &); done
    until [ "$(grep -ls '^State:.Z' /proc/[0-9]*/status | wc -l)" = 0 ]; do sleep 0.02; done
    exit 3"""
    assert run(script)[0] == 3


def test_the_programs_status_counts_though_orphans_die_with_it() -> None:
    assert run("(sleep 0.01; exit 9) & exit 4")[0] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH])
def test_signals_are_forwarded(number: signal.Signals) -> None:
    script = f"trap 'exit 42' {int(number)}; echo $PPID; while :; do sleep 0.02; done"
    with start(script) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(pid_of_init(process.pid), number)
        process.communicate(timeout=20)
    assert process.returncode == 42


def pid_of_init(pid: int) -> int:
    """The init as this namespace sees it: unshare's child, or the process itself."""
    if not PREFIX:
        return pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_a_program_that_became_another_user_cannot_be_signalled_and_lives_on() -> None:
    """Its init, with no capability to do it, must not end for that: the program is not told, and ends by itself."""
    if os.geteuid():
        pytest.skip("only root has other users")
    drop = "import os; os.setuid(65533)"
    script = f"""
import os, signal, sys, time
from runtime.launch import init
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
pid = os.fork()
if pid == 0:
    {drop}
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execv("/bin/sh", ["sh", "-c", "sleep 0.3; exit 42"])
os.setuid(65534)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
os._exit(init.serve(pid))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (42, "")
