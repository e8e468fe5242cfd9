"""`creche doctor`: what this machine allows: facts read from it, and a judgement of each with what to do."""

import json
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from supervisor.commands.command import Failure, Places, command
from supervisor.commands.tables import show

if TYPE_CHECKING:
    from runtime.cgroups import delegation as delegation_of
    from runtime.cgroups.hierarchy import Layout

Verdict = Literal["ok", "warn", "fail"]
FLOOR = (5, 19)
FEATURES = (
    ((5, 19), "idmapped overlay", "containers with a user namespace of their own do not start"),
    ((6, 3), "idmapped tmpfs", "layers and volumes on a tmpfs: `userns = 'auto'` runs with the host's ids"),
    ((6, 15), "overlay over detached mounts", "a start attaches its layers in a child first, and takes longer"),
    ((6, 15), "exit status after reaping", "after the launcher died, its containers' exit codes are unknown"),
)  # fmt: skip


_LIMITS = {
    "memory": "limits.memory and limits.swap",
    "cpu": "limits.cpus and limits.cpu_weight",
    "cpuset": "limits.cpuset",
    "pids": "limits.pids",
}


class Check(NamedTuple):
    """One thing that was looked at: a verdict, what was found, and what to do when it is not ok."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def kernel_version(release: str) -> tuple[int, int]:
    """`6.1.0-13-amd64` → (6, 1)."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def kernel(release: str) -> list[Check]:
    """The kernel and what newer ones add."""
    version = kernel_version(release)
    old = version < FLOOR
    checks = [
        Check(
            "kernel",
            "fail" if old else "ok",
            f"Linux {release}",
            f"creche needs Linux {FLOOR[0]}.{FLOOR[1]} or later" if old else "",
        )
    ]
    for since, feature, without in FEATURES:
        there = version >= since
        checks.append(
            Check(
                feature,
                "ok" if there else "warn",
                "yes" if there else "no",
                "" if there else f"{without}; Linux {since[0]}.{since[1]} has it",
            )
        )
    return checks


def user(euid: int) -> Check:
    """Whether creche may do what it needs."""
    if euid == 0:
        return Check("user", "ok", "root")
    return Check("user", "fail", f"user {euid}", "rootless containers are not yet supported: run creche as root")


def filesystems(text: str) -> Check:
    """From /proc/filesystems."""
    if "overlay" in text.split():
        return Check("overlay", "ok", "yes")
    return Check("overlay", "warn", "not registered yet", "modprobe overlay, unless the kernel loads it by itself")


def forwarding(text: str) -> Check:
    """From /proc/sys/net/ipv4/ip_forward."""
    if text.strip() == "1":
        return Check("forwarding", "ok", "net.ipv4.ip_forward = 1")
    advice = "`up` switches it on; to keep it: sysctl -w net.ipv4.ip_forward=1"
    return Check("forwarding", "warn", f"net.ipv4.ip_forward = {text.strip() or 'unreadable'}", advice)


def id_ranges(uid_map: str, limit: str) -> Check:
    """From /proc/self/uid_map and /proc/sys/user/max_user_namespaces: a range of its own for each container."""
    mapped = sum(int(line.split()[2]) for line in uid_map.splitlines() if len(line.split()) == 3)
    if limit.strip() == "0":
        advice = "sysctl -w user.max_user_namespaces=10000"
        return Check("id ranges", "fail", "user namespaces are switched off", advice)
    containers = mapped // 65_536 - 1
    if containers < 1:
        advice = 'map at least 131,072 ids into this user namespace, or set `security.userns = "host"`'
        return Check("id ranges", "warn", f"{mapped} ids are mapped here", advice)
    return Check("id ranges", "ok", f"65,536 ids each for {min(containers, 65_534)} containers")


def seccomp(actions: str, library: str | None) -> Check:
    """From /proc/sys/kernel/seccomp/actions_avail, and whether libseccomp was found."""
    if "errno" not in actions.split():
        return Check("seccomp", "fail", "the kernel has none", "use a kernel with CONFIG_SECCOMP_FILTER")
    if library is None:
        return Check("seccomp", "fail", "libseccomp.so.2 was not found", "apt-get install libseccomp2")
    return Check("seccomp", "ok", library)


def init(path: str | None) -> Check:
    """The static init that containers with `init = true` get."""
    if path is not None:
        return Check("init", "ok", path)
    advice = "creche's own is used, at about 0.4 MB per container; apt-get install catatonit"
    return Check("init", "warn", "no static init was found", advice)


def nftables(error: str | None) -> Check:
    """Whether the kernel answered a request to nf_tables, else why not."""
    if error is None:
        return Check("nftables", "ok", "yes")
    return Check("nftables", "fail", error, "run as root; a kernel without nf_tables needs: modprobe nf_tables")


def cgroups(layout: "Layout") -> list[Check]:
    """The layout, and for each limit whether its controller is there."""
    checks = [
        Check("cgroups", "ok", {"v1": "v1", "v2": "v2", "hybrid": "hybrid: v1 with the unified tree"}[layout.mode])
    ]
    for controller, keys in _LIMITS.items():
        place = layout.of(controller)
        found = "missing" if place is None else f"v{place.version} at {place.mount}"
        advice = f"{keys} cannot be set here; enable the controller {controller} (kernel command line, or its mount)"
        checks.append(Check(f"cgroup {controller}", "ok" if place else "warn", found, "" if place else advice))
    return checks


def delegation(verdict: "delegation_of.Verdict") -> Check:
    """Where groups go in a pure v2 hierarchy, and whether systemd or whoever is above lets controllers come down."""
    return Check("cgroup delegation", "ok" if verdict.good else "warn", verdict.words, verdict.advice or "")


def examine() -> list[Check]:
    """Look at this machine."""
    return [
        user(os.geteuid()),
        *kernel(platform.release()),
        *_cgroups(),
        id_ranges(_text("/proc/self/uid_map"), _text("/proc/sys/user/max_user_namespaces")),
        filesystems(_text("/proc/filesystems")),
        seccomp(_text("/proc/sys/kernel/seccomp/actions_avail"), _libseccomp()),
        init(_static_init()),
        forwarding(_text("/proc/sys/net/ipv4/ip_forward")),
        nftables(_nftables_error()),
    ]


def _cgroups() -> list[Check]:
    from runtime.cgroups.hierarchy import CgroupError, find, standing

    try:
        layout = find()
        return [*cgroups(layout), *([] if layout.v2 is None or layout.v1 else [delegation(standing(layout.v2))])]
    except CgroupError as error:
        return [Check("cgroups", "fail", str(error), "mount cgroup2 at /sys/fs/cgroup")]


def _libseccomp() -> str | None:
    from runtime.syscalls import libseccomp_version

    try:
        return f"libseccomp {libseccomp_version()}"
    except FileNotFoundError:
        return None


def _static_init() -> str | None:
    from runtime.launch.inits import find

    found = find()
    if found is None:
        return None
    path, descriptor = found
    os.close(descriptor)
    return path


def _nftables_error() -> str | None:
    from net.firewall import tables

    try:
        tables()
    except OSError as error:
        return str(error)
    return None


def _text(path: str) -> str:
    """A small file of /proc, empty when this kernel has none or it may not be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@command("doctor", "creche doctor\ncreche doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def doctor(_places: Places, as_json: bool) -> None:
    """Say what this machine allows, and for all that is missing what to do. Changes nothing.

    The exit status is 1 when something is missing that creche cannot do without.
    """
    checks = examine()
    if as_json:
        click.echo(json.dumps([check._asdict() for check in checks]))
    else:
        show(("CHECK", "", "FOUND", "WHAT TO DO"), checks)
    failed = [check.name for check in checks if check.verdict == "fail"]
    if failed:
        raise Failure(f"creche cannot run containers here; see {', '.join(failed)} above")
