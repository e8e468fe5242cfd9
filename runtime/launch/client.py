"""The launcher's client side: it is started or found here; what is said afterwards is runtime.launch.messages.

Synchronous and short: the supervisor calls it in a worker thread and then talks over the returned socket itself.
"""

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from runtime import syscalls

SOCKET_NAME = "launcher.sock"
LOG_NAME = "launcher.log"

# -I and -S: no environment, no user site, no .pth file decides what the launcher imports; only the standard library and
# the very tree that this module was loaded from.
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from runtime.launch.launcher import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
_LASTING = "import os; os.fork() and os._exit(0); " + _BOOT
_TREE = str(Path(__file__).resolve().parents[2])


def connect(run_directory: Path) -> socket.socket | None:
    """Return a connection to the launcher that lives in `run_directory`, None where there is none. Raises OSError."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _directory(run_directory) as place:
            channel.connect(f"/proc/self/fd/{place.number}/{SOCKET_NAME}")
    except OSError as error:
        channel.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            return None
        raise
    return channel


def start(
    run_directory: Path, app: str, born: Callable[[int], None] | None = None, *, lasting: bool = False
) -> socket.socket:
    """Start a launcher for `app` in `run_directory`, which exists, and return a connection to it. Raises OSError.

    `born` is told its pid: it is this process's child, to be waited for once it ends. One that is `lasting` is nobody's
    child, for who goes on without the app: it would leave a zombie; `born` is not told, `hello` answers its pid.
    """
    path = run_directory / SOCKET_NAME
    path.unlink(missing_ok=True)
    with contextlib.ExitStack() as opened:
        place = opened.enter_context(_directory(run_directory))
        log = opened.enter_context((run_directory / LOG_NAME).open("ab"))
        listener = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind(f"/proc/self/fd/{place.number}/{SOCKET_NAME}")
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(16)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened.enter_context(theirs)
        numbers = (listener.fileno(), theirs.fileno())
        try:
            interpreter = _interpreter()
            opened.callback(os.close, interpreter)
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _LASTING if lasting else _BOOT,
                    _TREE,
                    *map(str, numbers),
                    "creche-launcher",
                    app,
                ],
                executable=f"/proc/{os.getpid()}/fd/{interpreter}",
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # A libpython that is looked for beside $ORIGIN: that mount has only the one file.
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"},
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    if lasting and process.wait() != 0:
        ours.close()
        raise ChildProcessError(errno.ECHILD, "the launcher could not be started; its words are in", str(log.name))
    process.returncode = 0  # it outlives this object on purpose; whoever was told its pid waits for it
    if born is not None and not lasting:
        born(process.pid)
    return ours


def _interpreter() -> int:
    """Return this interpreter's file in a read-only mount of its own.

    A hostile root can have the kernel execute /proc/self/exe (a `#!` line, an ELF loader, a symbolic link) and then
    holds what the launcher runs from: it must not be the host's writable file (CVE-2019-5736).
    """
    tree = syscalls.open_tree(sys.executable)
    try:
        syscalls.mount_setattr(tree, set_flags=syscalls.MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(tree)
        raise
    return tree


class _directory:
    """An open directory: sun_path holds 108 bytes, and a path through /proc/self/fd always fits (unix(7))."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = -1

    def __enter__(self) -> "_directory":
        self.number = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)
