"""creche's own pid 1: reaps whatever is orphaned to it, forwards signals, ends with the program's status.

Used where the host has no static init (runtime.launch.inits); its process is the launcher's child without another
exec, so it is standard library only and allocates next to nothing once it waits.
"""

import contextlib
import os
import signal

_NOT_FORWARDED = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}


def serve(program: int) -> int:
    """Wait as pid 1 until process `program` ends; return its status as a shell shows it (128 + n for signal n)."""
    every = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, every)
    while True:
        status = _reap(program)
        if status is not None:
            return status
        number = signal.sigwait(every)
        if number not in _NOT_FORWARDED:
            # It died this moment, and SIGCHLD comes next; or it became another user and there is no CAP_KILL.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(program, number)


def _reap(program: int) -> int | None:
    """Reap every dead child; return the program's status once it is among them."""
    found: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code
