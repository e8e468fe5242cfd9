"""The foreground of `run` and `exec`: signals are passed on, a terminal is proxied, the end is waited for."""

import array
import contextlib
import errno
import fcntl
import gc
import os
import select
import signal
import socket
import stat
import struct
import sys
import termios
import tty
from typing import Any

from runtime.oci.creation import WALL
from runtime.oci.log import OciError

_KEPT = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGURG,
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),  # a defect of this very process
    }
)
"""What is not passed on."""
_CHUNK = 65536


class Terminal:
    """One end of a socket pair: the container sends its terminal's master over the other one."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def master(self) -> int:
        """Return the master that was sent; raise OciError where there is none."""
        self.theirs.close()
        with self.ours:
            _, ancillary, _, _ = self.ours.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(data) >= 4:
                return array.array("i", data[:4])[0]
        raise OciError("the container sent no terminal")

    def close(self) -> None:
        """Close both ends."""
        self.ours.close()
        self.theirs.close()


def connect(path: str) -> socket.socket:
    """Return a connection to the --console-socket at `path`, however long that is; raise OciError."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        parent, name = os.path.split(os.path.abspath(path))
        directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not stat.S_ISSOCK(os.stat(name, dir_fd=directory).st_mode):
                raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
            channel.connect(f"/proc/self/fd/{directory}/{name}")
        finally:
            os.close(directory)
    except OSError as error:
        channel.close()
        raise OciError(f"cannot connect to the console socket {path}: {error.strerror}") from error
    return channel


def _heard(_: int, __: object) -> None:
    """Do nothing: the interpreter has written the number to its wakeup descriptor."""


class Foreground:
    """Signals of this process are queued from the beginning and passed on once there is somebody to pass them to."""

    def __init__(self) -> None:
        self._heard, self._told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._previous: dict[int, Any] = {}
        for number in signal.valid_signals() - _KEPT:
            with contextlib.suppress(OSError, ValueError):  # the C library's own two
                self._previous[number] = signal.signal(number, _heard)
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _heard)
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._heard)
        os.close(self._told)

    def wait(self, pid: int, pidfd: int, master: int | None) -> int:
        """Return the exit status of this process's child (128 + n for a signal's death), serving it until then."""
        gc.enable()  # which the way to here had no use for (runtime.oci.boot); this may take years
        proxy = None if master is None else _Proxy(master)
        try:
            while True:
                status = _reaped(pid)
                if status is not None:
                    if proxy is not None:
                        proxy.drain()
                    return status
                poll = select.poll()
                poll.register(self._heard, select.POLLIN)
                poll.register(pidfd, select.POLLIN)
                if proxy is not None:
                    proxy.register(poll)
                ready = dict(poll.poll())
                if self._heard in ready:
                    self._pass_on(pidfd, proxy)
                if proxy is not None:
                    proxy.serve(ready)
        finally:
            if proxy is not None:
                proxy.close()

    def _pass_on(self, pidfd: int, proxy: "_Proxy | None") -> None:
        for number in os.read(self._heard, 4096):
            if number == signal.SIGCHLD:
                continue
            if number == signal.SIGWINCH and proxy is not None:
                proxy.resize()
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)


def _reaped(pid: int) -> int | None:
    """Reap whatever has ended; return the status of `pid` if it was among it."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG | WALL)
        except ChildProcessError as error:
            raise OciError(f"process {pid} was reaped by somebody else") from error
        if ended == 0:
            return None
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


class _Proxy:
    """This process's standard streams and a terminal's master, each byte from one to the other."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.input = True
        self.output = True
        self.open = True
        self.pending = b""
        os.set_blocking(master, False)
        self.saved: list[Any] | None = None
        if os.isatty(0):
            self.saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)
            self.resize()

    def resize(self) -> None:
        """Give the terminal the size of ours."""
        with contextlib.suppress(OSError):  # our input is no terminal (any more)
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def register(self, poll: "select.poll") -> None:
        """Wait for what can go on."""
        if self.open:
            poll.register(self.master, select.POLLIN | (select.POLLOUT if self.pending else 0))
        if self.input and not self.pending:
            poll.register(0, select.POLLIN)

    def serve(self, ready: dict[int, int]) -> None:
        """Move what is there."""
        if 0 in ready and self.input:
            try:
                self.pending = os.read(0, _CHUNK)
            except OSError:
                self.pending = b""
            self.input = bool(self.pending)
        if self.pending:
            self._write()
        if self.master in ready and ready[self.master] & ~select.POLLOUT:
            self._read()

    def _write(self) -> None:
        try:
            self.pending = self.pending[os.write(self.master, self.pending) :]
        except BlockingIOError:
            return
        except OSError:  # no one has the terminal open
            self.pending, self.input = b"", False

    def _read(self) -> bool:
        """Take one piece of output; False where there is none."""
        try:
            said = os.read(self.master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.open = False  # no one has the terminal open; where that is a moment's, the process has not begun
            return False
        while said and self.output:
            try:
                said = said[os.write(1, said) :]
            except BlockingIOError:
                select.select([], [1], [])
            except OSError:  # nobody reads it: go on, or the container would wait for ever
                self.output = False
        return True

    def drain(self) -> None:
        """Take what is left after the end."""
        while self._read():
            pass

    def close(self) -> None:
        """Give our terminal back as it was."""
        if self.saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self.saved)
        os.close(self.master)
        sys.stdout.flush()
