"""Runs inside a container on the host's root: one line of JSON on what it sees and what it may do."""

import ctypes
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
MASKED = json.loads(os.environ.get("MASKED", "[]"))
CLONE_NEWUSER = 0x10000000


def attempt(action: Callable[[], Any]) -> str:
    """`done`, or the name of the error."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def call(name: str, *arguments: Any) -> str:
    """A system call through the C library: `done`, or the name of its error."""
    if getattr(LIBC, name)(*arguments) == -1:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def listing(path: str) -> list[str] | str:
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def descriptors(pid: str) -> list[str] | str:
    """What a process holds open; the listing's own descriptor is none."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return sorted(number for number in numbers if os.path.lexists(f"/proc/{pid}/fd/{number}"))


def exe() -> str:
    """What pid 1's executable leads to: an error, or `device:inode` of the file behind it."""
    try:
        with Path("/proc/1/exe").open("rb") as file:
            found = os.fstat(file.fileno())
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return f"{found.st_dev}:{found.st_ino}"


def content(path: str) -> str | None:
    """`empty`, `full`, or None where it is not there."""
    if not os.path.exists(path):
        return None
    if os.path.isdir(path):
        return "full" if os.listdir(path) else "empty"
    with Path(path).open("rb") as file:
        return "full" if file.read(1) else "empty"


def commands() -> dict[str, str]:
    found = {}
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def write(path: str) -> Callable[[], None]:
    """Open for writing and write nothing."""

    def go() -> None:
        os.close(os.open(path, os.O_WRONLY))

    return go


def report() -> dict[str, Any]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    secret = os.environ.get("SECRET", "")
    return {
        "commands": commands(),
        "hostname": [socket.gethostname(), Path("/etc/hostname").read_text().strip()],
        "listings": {path: listing(path) for path in ("/root", "/home", "/run", "/tmp")},
        "state": {path: listing(path) for path in os.environ.get("STATE", "").split(":") if path},
        "secret": attempt(lambda: os.stat(secret)) if secret else None,
        "shadow": attempt(lambda: os.close(os.open("/etc/shadow", os.O_RDONLY))),
        "uid_map": Path("/proc/self/uid_map").read_text().split(),
        "gid_map": Path("/proc/self/gid_map").read_text().split(),
        "status": status,
        "own": descriptors("self"),
        "init": descriptors("1"),
        "exe": exe(),
        "cwd": os.getcwd(),
        "sysctl": attempt(write("/proc/sys/kernel/hostname")),
        "sysrq": attempt(write("/proc/sysrq-trigger")),
        "cgroup": Path("/proc/self/cgroup").read_text().splitlines(),
        "hierarchies": {name: listing(f"/sys/fs/cgroup/{name}") for name in os.listdir("/sys/fs/cgroup")},
        "cgroup_write": {
            name: attempt(lambda name=name: os.mkdir(f"/sys/fs/cgroup/{name}/escape"))
            for name in os.listdir("/sys/fs/cgroup")
            if os.path.isdir(f"/sys/fs/cgroup/{name}")
        },
        "masked": {path: content(path) for path in MASKED},
        "devices": listing("/dev"),
        "mount": call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "unshare": call("unshare", CLONE_NEWUSER),
        "setuid_root": attempt(lambda: os.setuid(0)),
        "mknod": attempt(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))),
        "system_write": attempt(lambda: os.close(os.open("/usr/bin/planted", os.O_CREAT | os.O_WRONLY))),
        "oom_score": attempt(lambda: Path("/proc/self/oom_score_adj").write_text("-1000")),
        "interfaces": sorted(os.listdir("/sys/class/net")),
    }


def fork_until_refused() -> dict[str, Any]:
    """How many processes there are when fork fails, and how it fails."""
    while True:
        try:
            pid = os.fork()
        except OSError as error:
            return {"error": errno.errorcode[error.errno or 0], "processes": len(commands())}
        if pid == 0:
            time.sleep(60)
            os._exit(0)


if __name__ == "__main__":
    kind = sys.argv[1] if len(sys.argv) > 1 else "report"
    if kind == "memory":
        print(json.dumps({"size": len(bytearray(b"x") * (200 << 20))}), flush=True)
    else:
        print(json.dumps(fork_until_refused() if kind == "fork" else report()), flush=True)
    time.sleep(3600)
