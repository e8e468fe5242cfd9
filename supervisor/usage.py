"""What the kernel tells about a running container beside its cgroup: processes, traffic, the host's processors.

The readers take the directory of procfs or sysfs; what is in a file becomes numbers in pure functions.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from supervisor.machine import Member, Traffic

_COUNTERS = ("bytes", "packets", "errors", "dropped")
_TICKS: int = os.sysconf("SC_CLK_TCK")
_PAGE: int = os.sysconf("SC_PAGE_SIZE")
NOBODY = 65_534
"""What an id of another user namespace looks like inside (user_namespaces(7))."""


def host_cpu(text: str) -> int:
    """Return the nanoseconds that all processors spent, from /proc/stat's first line without guests (they are in
    user time already)."""
    fields = text.partition("\n")[0].split()[1:9]
    return sum(map(int, fields)) * (1_000_000_000 // _TICKS)


def host_memory(text: str) -> int:
    """Return the bytes of memory that the host has, from /proc/meminfo."""
    line = next(line for line in text.splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) * 1024


def traffic(interface: str, sysfs: Path = Path("/sys/class/net")) -> Traffic | None:
    """Return what a container received and sent, read at the host's end of its link; None when it is gone."""
    directory = sysfs / interface / "statistics"
    try:
        sides = [
            tuple(int((directory / f"{side}_{counter}").read_text()) for counter in _COUNTERS) for side in ("tx", "rx")
        ]
    except OSError:
        return None
    (received, sent) = sides  # what the host transmits, the container receives
    return Traffic((received[0], received[1], received[2], received[3]), (sent[0], sent[1], sent[2], sent[3]))


def members(pids: Iterable[int], proc: Path = Path("/proc")) -> list[Member]:
    """Return the processes that still live, by pid."""
    booted = boot_time((proc / "stat").read_text())
    found: list[Member] = []
    for pid in sorted(pids):
        directory = proc / str(pid)
        try:
            stat, status = (directory / "stat").read_text(errors="replace"), (directory / "status").read_text()
            line, ids = (directory / "cmdline").read_bytes(), (directory / "uid_map").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        found.append(member(pid, stat, status, line, ids, booted))
    return found


def boot_time(text: str) -> float:
    """Return when the host booted, unix seconds, from /proc/stat."""
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("btime ")))


def member(pid: int, stat: str, status: str, line: bytes, id_map: str, booted: float) -> Member:
    """Read proc_pid_stat(5), proc_pid_status(5), proc_pid_cmdline(5) and uid_map of one process.

    Its name may hold anything, parentheses and spaces too: what follows the last one is fields.
    """
    head, _, rest = stat.rpartition(")")
    name = head.partition("(")[2]
    fields = rest.split()
    told = dict(entry.split(":\t", 1) for entry in status.splitlines() if ":\t" in entry)
    command = line.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return Member(
        pid=pid,
        inner=int(told.get("NSpid", str(pid)).split()[-1]),
        parent=int(fields[1]),
        uid=inside(int(told["Uid"].split()[1]), id_map),
        state=fields[0],
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        started=booted + int(fields[19]) / _TICKS,
        memory=int(fields[21]) * _PAGE,
        terminal=int(fields[4]),
        name=name,
        command=command or f"[{name}]",
    )


def inside(uid: int, id_map: str) -> int:
    """Return a host's id as the user namespace with this map has it (user_namespaces(7))."""
    for line in id_map.splitlines():
        inner, outer, size = map(int, line.split())
        if outer <= uid < outer + size:
            return inner + uid - outer
    return NOBODY
