"""From an OCI config to a list of operations: pure, so that `inspect --plan` can print what a start would do.

The config has the runtime-spec's own field names (config.md, config-linux.md). What it asks for and this runtime does
not do is refused here, by field; nothing is ignored.
"""

import resource
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from runtime import capabilities, syscalls
from runtime.identity import Credentials, Hostname, Identify, Limit, NoNewPrivileges, Seccomp
from runtime.mounts import (
    Attach,
    AttachRoot,
    ControlGroups,
    Devices,
    Isolate,
    Mask,
    NewMount,
    OpenTree,
    PivotRoot,
    ReadOnlyPaths,
    ReadOnlyRoot,
    Target,
)
from runtime.operations import pack
from runtime.overlay import MemoryLayer, Overlay
from runtime.world import Operation

DEVICE_NODES = (  # config-linux.md, "Default Devices"
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("full", 0o666, 1, 7),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("tty", 0o666, 5, 0),
)
OWN_FILES = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"})
"""Mounted files that replace a symbolic link of the root: they are the container's own, wherever an image points."""
_PLACES = frozenset({"/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"})
"""What the fresh /dev and every sysfs have already."""

_NAMESPACES = frozenset({"user", "network", "pid", "mount", "uts", "ipc", "cgroup"})
_FLAGS = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
}
_SILENT = frozenset({"rw", "bind", "rbind", "idmap", "relatime", "private", "rprivate"})
_DATA = {
    "proc": frozenset[str](),
    "sysfs": frozenset[str](),
    "mqueue": frozenset[str](),
    "devpts": frozenset({"newinstance", "ptmxmode", "mode", "gid", "uid"}),
    "tmpfs": frozenset({"mode", "size", "uid", "gid", "nr_inodes"}),
}


class PlanError(ValueError):
    """The config asks for something that cannot be planned; the text names the field."""


class Place(NamedTuple):
    """Where a container's root comes from: what OCI leaves to the runtime."""

    layers: tuple[str, ...]  # host directories, the topmost first
    idmapped: bool  # whether the layers' owners are the container's ids (never for the host's own root)
    writable: str  # host directory that holds `upper` and `work`; empty with `memory`
    memory: int = 0  # size in bytes of a writable layer in memory
    hierarchies: tuple[tuple[str, str], ...] = ()  # as mounts.ControlGroups has them
    init: bool = True
    last_capability: int = 40


class Plan(NamedTuple):
    """The operations of one run in order, and the program that ends them."""

    prepare: tuple[Operation, ...]
    enter: tuple[Operation, ...]
    program: dict[str, Any]

    def packed(self) -> dict[str, Any]:
        """Return the plan as the launcher takes it."""
        return {
            "prepare": [pack(step) for step in self.prepare],
            "enter": [pack(step) for step in self.enter],
            "program": self.program,
        }

    def describe(self) -> list[str]:
        """Return one line a step."""
        return [step.describe() for step in (*self.prepare, *self.enter)]


def plan(config: Mapping[str, Any], place: Place) -> Plan:
    """Return the operations that make a container of `config` at `place`; raise PlanError naming the field."""
    _only(config, "", {"ociVersion", "process", "root", "hostname", "mounts", "linux", "annotations"})
    process, linux = config["process"], config.get("linux", {})
    _only(process, "process.", {"user", "args", "env", "cwd", "capabilities", "noNewPrivileges", "rlimits", "terminal"})
    _only(
        linux,
        "linux.",
        {
            "namespaces",
            "uidMappings",
            "gidMappings",
            "resources",
            "cgroupsPath",
            "seccomp",
            "maskedPaths",
            "readonlyPaths",
        },
    )
    for number, namespace in enumerate(linux.get("namespaces", [])):
        where = f"linux.namespaces[{number}]"
        if namespace.get("path"):
            raise PlanError(f"{where}.path: joining a namespace is not yet supported")
        if namespace["type"] not in _NAMESPACES:
            raise PlanError(f"{where} ({namespace['type']}): not yet supported")
    if process.get("terminal"):
        raise PlanError("process.terminal: terminals are not yet supported")
    mappings = linux.get("uidMappings") or [{"hostID": 0}]
    prepare, enter = _root(config, place, mappings[0]["hostID"])
    enter.append(PivotRoot())
    enter.append(Hostname(config.get("hostname", "localhost")))
    enter.extend(_limits(process.get("rlimits", [])))
    enter.extend(_identity(process, bool(linux.get("seccomp")), place.last_capability))
    environment = dict(entry.split("=", 1) for entry in process.get("env", []))
    program = {
        "arguments": list(process["args"]),
        "environment": environment,
        "directory": process.get("cwd", "/"),
        "init": place.init,
    }
    if not program["arguments"]:
        raise PlanError("process.args: there is no program to run; give the container a command (a rootfs brings none)")
    return Plan(tuple(prepare), tuple(enter), program)


def _only(table: Mapping[str, Any], where: str, known: Iterable[str]) -> None:
    for key, value in table.items():
        if key not in known and value not in (None, [], {}, ""):
            raise PlanError(f"{where}{key}: not yet supported")


def _root(config: Mapping[str, Any], place: Place, owner: int) -> tuple[list[Operation], list[Operation]]:
    prepare: list[Operation] = []
    keys = tuple(f"layer {number}" for number in range(len(place.layers)))
    for key, layer in zip(keys, place.layers, strict=True):
        prepare.append(OpenTree(key, layer, place.idmapped, False, 0))
    if place.memory:
        prepare.append(MemoryLayer("writable", place.memory))
    else:
        prepare.append(OpenTree("writable", place.writable, False, False, 0))
    prepare.append(Overlay("root", keys, "writable", owner if place.idmapped else 0))
    # A mount namespace of another user namespace than its parent's is born a slave: nothing leaves it
    # (mount_namespaces(7), "Restrictions on mount namespaces"), and what is attached here is private.
    mapped = any(each["type"] == "user" for each in config.get("linux", {}).get("namespaces", []))
    enter: list[Operation] = [AttachRoot("root")] if mapped else [Isolate(), AttachRoot("root")]
    covered: list[str] = []
    for number, mount in enumerate(config.get("mounts", [])):
        _mount(f"mounts[{number}]", mount, place, owner, covered, prepare, enter)
        covered.append(mount["destination"].rstrip("/") or "/")
    if config.get("root", {}).get("readonly"):
        (enter if place.idmapped else prepare).append(ReadOnlyRoot())
    linux = config.get("linux", {})
    if linux.get("readonlyPaths"):
        enter.append(ReadOnlyPaths(tuple(linux["readonlyPaths"])))
    if linux.get("maskedPaths"):
        enter.append(Mask(tuple(linux["maskedPaths"])))
    return prepare, enter


def _mount(
    where: str,
    mount: Mapping[str, Any],
    place: Place,
    owner: int,
    covered: list[str],
    prepare: list[Operation],
    enter: list[Operation],
) -> None:
    path: str = mount["destination"]
    kind: str = mount.get("type", "bind")
    options: list[str] = mount.get("options", [])
    attributes = 0
    data: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if option in _FLAGS:
            attributes |= _FLAGS[option]
        elif name in _DATA.get(kind, frozenset()):
            data[name] = value
        elif option not in _SILENT:
            raise PlanError(f"{where} ({path}): the option {option!r} of a {kind} mount is not yet supported")
    # The host's own root belongs to ids that the container does not have: only the launcher can make a target in it.
    # A target on top of another mount of the list exists only inside.
    inside = place.idmapped or any(path.startswith(f"{above}/") for above in covered if above != "/")
    if kind == "bind" or "bind" in options or "rbind" in options:
        key = f"mount {path}"
        prepare.append(OpenTree(key, mount["source"], "idmap" in options, "rbind" in options, attributes))
        (enter if inside else prepare).append(Target(path, key, path in OWN_FILES))
        enter.append(Attach(key, path))
        return
    if kind not in (*_DATA, "cgroup"):
        raise PlanError(f"{where} ({path}): mounts of type {kind!r} are not yet supported")
    if path not in _PLACES:
        (enter if inside else prepare).append(Target(path))
    if path == "/dev" and kind == "tmpfs":
        prepare.append(Devices("devices", DEVICE_NODES, owner))
        enter.append(Attach("devices", path))
    elif kind == "cgroup":
        if place.hierarchies:
            enter.append(ControlGroups(path, place.hierarchies, attributes))
    else:
        enter.append(NewMount(kind, path, tuple(data.items()), attributes))


def _limits(rlimits: list[Mapping[str, Any]]) -> list[Operation]:
    for number, limit in enumerate(rlimits):
        if not limit["type"].startswith("RLIMIT_") or not hasattr(resource, limit["type"]):
            raise PlanError(f"process.rlimits[{number}]: Linux has no limit {limit['type']!r}")
    return [Limit(limit["type"], limit["soft"], limit["hard"]) for limit in rlimits]


def _identity(process: Mapping[str, Any], seccomp: bool, last: int) -> list[Operation]:
    user = process.get("user", {})
    _only(user, "process.user.", {"uid", "gid", "additionalGids", "username"})
    name = user.get("username") or f"{user.get('uid', 0)}:{user.get('gid', 0)}"
    sets = process.get("capabilities", {})
    masks = {key: capabilities.mask(sets.get(key, ())) for key in ("bounding", "permitted", "effective")}
    credentials = Credentials(
        **masks,
        inheritable=capabilities.mask(sets.get("inheritable", ())),
        ambient=capabilities.mask(sets.get("ambient", ())),
        last=last,
        root_only=True,
    )
    no_new_privileges = bool(process.get("noNewPrivileges"))
    steps: list[Operation] = [Identify(name, tuple(str(each) for each in user.get("additionalGids", ())))]
    if no_new_privileges:
        steps.append(NoNewPrivileges())
    elif seccomp:  # without no_new_privs only CAP_SYS_ADMIN may load a filter, and the credentials give that up
        steps.append(Seccomp("seccomp"))
    steps.append(credentials)
    if no_new_privileges and seccomp:
        steps.append(Seccomp("seccomp"))
    return steps
