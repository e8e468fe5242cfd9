"""From a container of the app file to its OCI config: pure, the file's words on one side, the spec's on the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from net.hosts import NSSWITCH
from runtime import capabilities, defaults, seccomp_profile
from runtime.cgroups import v2
from supervisor.app_file.spec import Container
from supervisor.machine import Process

CPU_PERIOD = 100_000  # microseconds, the kernel's default (sched-bwc.rst)
OWN_FILES = ("hosts", "hostname", "resolv.conf")
HOST_ROOT = "/"
HOST_ONLY = ("/proc/slabinfo", "/proc/vmallocinfo")
"""Files of the kernel's memory that the root of another user namespace cannot open, and the host's own could."""
COVERED = (("/root", "0700"), ("/home", "0755"), ("/run", "0755"), ("/tmp", "1777"))
"""What of the host's own root is hidden behind an empty tmpfs, with the tmpfs's mode."""


@attrs.frozen
class Surroundings:
    """What a container's config needs besides its own part of the file."""

    base: int | None
    """The first host id of its user namespace; None: it has the host's."""
    own_files: Path
    """The directory of its hosts, hostname, resolv.conf and nsswitch.conf."""
    volumes: Path
    """Where the app's named volumes live."""
    hidden: tuple[Path, ...]
    """Directories of creche itself, out of reach for a container on the host's root."""
    needs_nsswitch: bool
    """Its root filesystem has no nsswitch.conf."""
    cgroup: str
    machine: str
    """As `os.uname().machine` has it."""
    oom_score: int = 0
    """The supervisor's own oom_score_adj, which everything below it inherits (proc_pid_oom_score_adj(5))."""
    seccomp: Mapping[str, Any] | None = None
    """The profile of its own that `security.seccomp` names."""


def config_of(container: Container, around: Surroundings) -> dict[str, Any]:
    """Return the container's OCI config (runtime-spec, config.md). Raises ValueError for capabilities that are none."""
    config = defaults.config()
    process, linux = config["process"], config["linux"]
    security = container.security
    mapped = around.base is not None
    process["args"] = [*(container.entrypoint or ()), *(container.command or ())]
    hostname = container.hostname or container.name
    environment = {"PATH": defaults.PATH, "HOSTNAME": hostname, **container.env}
    process["env"] = [f"{name}={value}" for name, value in environment.items()]
    process["cwd"] = container.workdir or "/"
    process["user"] = {"username": container.user or "", "additionalGids": list(container.group_add)}
    names = capabilities.adjusted(security.capabilities.add, security.capabilities.drop)
    for kind in ("bounding", "effective", "permitted"):
        process["capabilities"][kind] = sorted(names)
    process["noNewPrivileges"] = security.no_new_privileges
    process["rlimits"] = [
        {"type": f"RLIMIT_{name.upper()}", "soft": limit.soft, "hard": limit.hard}
        for name, limit in container.ulimits.items()
    ]
    config["root"] = {"path": container.rootfs, "readonly": container.read_only}
    config["hostname"] = hostname
    config["mounts"] = _mounts(container, around, mapped)
    if mapped:
        mapping = [{"containerID": 0, "hostID": around.base, "size": 65_536}]
        linux["uidMappings"] = linux["gidMappings"] = mapping
    else:
        linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "user"]
    if around.seccomp is not None:
        linux["seccomp"] = dict(around.seccomp)
    elif security.seccomp == "default":
        linux["seccomp"] = seccomp_profile.default(names, around.machine)
    if not security.masked:
        linux["maskedPaths"] = linux["readonlyPaths"] = []
    elif not mapped:
        linux["maskedPaths"] = [*linux["maskedPaths"], *HOST_ONLY]
    if around.oom_score < 0:  # what protects the supervisor must not make a container the last to be killed
        process["oomScoreAdj"] = 0
    if container.sysctls:
        linux["sysctl"] = dict(container.sysctls)
    linux["resources"] = resources_of(container)
    linux["cgroupsPath"] = around.cgroup
    return config


def process_of(config: Mapping[str, Any], asked: Process) -> dict[str, Any]:
    """Return OCI's `process` for one more process in the container of `config`: what is not asked for is its own."""
    own = config["process"]
    process = {**own, "args": list(asked.arguments), "terminal": asked.terminal}
    process.pop("consoleSize", None)
    environment = dict(entry.split("=", 1) for entry in own["env"])
    if asked.terminal:
        environment.setdefault("TERM", "xterm")
    process["env"] = [f"{name}={value}" for name, value in {**environment, **asked.env}.items()]
    if asked.directory is not None:
        process["cwd"] = asked.directory
    if asked.user is not None:
        process["user"] = {**own["user"], "username": asked.user}
    if asked.terminal and asked.size is not None:
        process["consoleSize"] = {"height": asked.size[0], "width": asked.size[1]}
    return process


def resources_of(container: Container) -> dict[str, Any]:
    """Return the container's limits as OCI's `linux.resources` (config-linux.md, "Control groups")."""
    limits = container.limits
    resources: dict[str, Any] = {"pids": {"limit": limits.pids}}
    if limits.memory is not None:  # OCI's swap is memory and swap together
        resources["memory"] = {"limit": limits.memory, "swap": limits.memory + limits.swap}
    cpu: dict[str, Any] = {}
    if limits.cpus is not None:
        cpu |= {"quota": round(limits.cpus * CPU_PERIOD), "period": CPU_PERIOD}
    if limits.cpu_weight is not None:
        cpu["shares"] = v2.shares_of(limits.cpu_weight)
    if limits.cpuset is not None:
        cpu["cpus"] = limits.cpuset
    if cpu:
        resources["cpu"] = cpu
    return resources


def _mounts(container: Container, around: Surroundings, mapped: bool) -> list[dict[str, Any]]:
    idmap = ["idmap"] if mapped else []
    mounts = defaults.mounts(container.shm_size or defaults.SHM_SIZE)
    quiet = ["nosuid", "nodev"]
    if container.rootfs == HOST_ROOT:
        covers = dict(COVERED)
        for path in around.hidden:
            if not any(path.is_relative_to(cover) for cover in covers):
                covers[str(path)] = "0555"
        for path, mode in covers.items():
            mounts.append(_tmpfs(path, [*quiet, f"mode={mode}"]))
    for name in OWN_FILES:
        mounts.append(_bind(f"/etc/{name}", around.own_files / name, [*quiet, *idmap]))
    if around.needs_nsswitch:
        mounts.append(_bind("/etc/nsswitch.conf", around.own_files / "nsswitch.conf", [*quiet, "ro", *idmap]))
    for mount in sorted(container.volumes, key=lambda each: each.target):  # a parent before what is mounted in it
        read_only = ["ro"] if mount.read_only else []
        if mount.kind == "tmpfs":
            size = [f"size={mount.size}"] if mount.size is not None else []
            mounts.append(_tmpfs(mount.target, [*quiet, "mode=1777", *size, *read_only]))
        else:
            source = around.volumes / (mount.source or "")  # a bind's absolute path stays what it is
            mounts.append(_bind(mount.target, source, ["rbind", *quiet, *idmap, *read_only]))
    return mounts


def _tmpfs(path: str, options: list[str]) -> dict[str, Any]:
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}


def _bind(path: str, source: Path, options: list[str]) -> dict[str, Any]:
    return {"destination": path, "type": "bind", "source": str(source), "options": options}


def own_files(hosts: str, hostname: str, resolver: str) -> dict[str, str]:
    """Return the files that a container gets, by name."""
    return {"hosts": hosts, "hostname": f"{hostname}\n", "resolv.conf": resolver, "nsswitch.conf": NSSWITCH}
