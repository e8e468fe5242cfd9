"""From an OCI config to a list of operations: pure, so that `inspect --plan` can print what a start would do.

The config has the runtime-spec's own field names (config.md, config-linux.md). What it asks for and this runtime does
not do is refused here, by field; nothing is ignored. Only a bundle's config may have properties that the
specification does not know (config.md, "Extensibility"). docs/oci.md lists every field.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime import fields, hooks, namespaces, process_plan, root_plan, sysctls
from runtime.fields import PlanError
from runtime.hooks import ContainerHooks, RuntimeHooks
from runtime.identity import Domainname, Hostname
from runtime.mounts import (
    PIVOT_PLACE,
    AttachRoot,
    Isolate,
    Mask,
    OpenProcfs,
    PivotRoot,
    Propagate,
    ReadOnlyPaths,
    ReadOnlyRoot,
)
from runtime.operations import pack
from runtime.root_plan import Ids, Place
from runtime.world import Operation

__all__ = ["Place", "Plan", "PlanError", "plan", "plan_exec"]

_VERSION = re.compile(r"1\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")  # semver.org, major 1
_PROPERTIES = "ociVersion process root hostname domainname mounts hooks linux annotations"
_LINUX_PROPERTIES = (
    "namespaces uidMappings gidMappings timeOffsets devices cgroupsPath resources sysctl seccomp rootfsPropagation "
    "maskedPaths readonlyPaths mountLabel personality"
)
_NOT_LINUX = {
    "intelRdt": "no hardware of this kind could be tested; set up resctrl on the host and start the runtime in it",
    "netDevices": "move the interface with `ip link set DEVICE netns`, from a createRuntime hook if need be",
    "memoryPolicy": "use resources.cpu.mems to choose the memory nodes, or numactl in the container",
}
_HOST_KINDS = frozenset({"user", "network", "pid", "mount", "uts", "ipc", "cgroup"})


class Plan(NamedTuple):
    """The operations of one run in order, and the program that ends them."""

    prepare: tuple[Operation, ...]
    enter: tuple[Operation, ...]
    program: dict[str, Any]  # as runtime.launch.program.Program.planned takes it
    warnings: tuple[str, ...] = ()  # what config.md lets a runtime leave out if it says so

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
    oci = bool(place.root)
    if not oci:
        fields.only(config, "", _PROPERTIES.split())
        fields.only(fields.table(config, "", "linux"), "linux.", _LINUX_PROPERTIES.split())
    version = fields.text(config, "", "ociVersion")
    if not _VERSION.fullmatch(version):
        raise PlanError(f"ociVersion: {version!r} is not supported; it must be 1.x.y")
    process, linux = fields.table(config, "", "process"), fields.table(config, "", "linux")
    if not process:
        raise PlanError("process: it is missing, and a container cannot be started without")
    if oci and not fields.text(fields.table(config, "", "root"), "root.", "path"):
        raise PlanError("root.path: it is missing, and Linux needs it")
    fields.refuse(linux, "linux.", _NOT_LINUX)
    _annotations(config)
    ids, kinds, private = _namespaces(linux, oci)
    if not oci and process.get("terminal"):
        raise PlanError("process.terminal is not supported for an app's container: use `creche exec -t`")
    root = root_plan.root(config, place, ids, "cgroup" in kinds)
    asked = process_plan.steps(process, linux, last=place.last_capability, init=place.init, oci=oci)
    before, after = _hooks(config, place)
    attach = AttachRoot("root", place.root) if before and oci else AttachRoot("root", PIVOT_PLACE)
    prepare, enter = root.prepare, [*private, attach, *root.enter]
    enter += _proc(linux, kinds, asked)
    enter += before
    sealed = _sealed(config, linux, place, prepare)
    if oci:  # what follows may want to write to the root
        enter.append(PivotRoot())
        enter += _names(config, kinds, oci)
        enter += asked.steps
        position = next(at for at, step in enumerate(enter) if type(step).__name__ in _BEFORE_LAST)
        enter[position:position] = [*root.late, *sealed, *_propagate(linux)]
    else:
        enter += [*root.late, *sealed, PivotRoot(), *_propagate(linux)]
        enter += _names(config, kinds, oci)
        enter += asked.steps
    enter += after
    return Plan(tuple(prepare), tuple(enter), asked.program, (*root.warnings, *asked.warnings))


def plan_exec(process: Mapping[str, Any], linux: Mapping[str, Any], place: Place) -> Plan:
    """Return what one more process of a running container does; raise PlanError naming the field."""
    asked = process_plan.entering(process, linux, last=place.last_capability, oci=bool(place.root))
    return Plan((), (*asked.early, *asked.steps), asked.program, tuple(asked.warnings))


_BEFORE_LAST = frozenset({"NoNewPrivileges", "Credentials", "Seccomp"})


def _annotations(config: Mapping[str, Any]) -> None:
    for key, value in fields.table(config, "", "annotations").items():
        if not key or not isinstance(value, str):
            raise PlanError(f"annotations: {key!r}: keys must not be empty, and values must be texts")


def _namespaces(linux: Mapping[str, Any], oci: bool) -> tuple[Ids, frozenset[str], list[Operation]]:
    """Return the ids, the kinds of namespaces that are not the host's, and what keeps mounts from the host."""
    if oci:
        try:
            wanted = namespaces.read(linux)
        except ValueError as error:
            raise PlanError(str(error)) from error
        kinds = wanted.new | {kind for kind, _ in wanted.paths}
        ids = Ids("user" in kinds, wanted.uid_mappings, wanted.gid_mappings)
        joined = "mount" not in wanted.new
    else:
        found: set[str] = set()
        for where, namespace in fields.tables(linux, "linux.", "namespaces"):
            kind = fields.text(namespace, f"{where}.", "type")
            if namespace.get("path"):
                raise PlanError(f"{where}.path is not supported: an app's containers have namespaces of their own")
            if kind not in _HOST_KINDS:
                raise PlanError(f"{where} ({kind}) is not supported for an app's container")
            found.add(kind)
        kinds, joined = frozenset(found), False
        ids = Ids("user" in kinds, *(_mappings(linux, key) for key in ("uidMappings", "gidMappings")))
    for key, maps in (("uidMappings", ids.uid_mappings), ("gidMappings", ids.gid_mappings)):
        if maps and not any(inside == 0 for inside, _, _ in maps):
            raise PlanError(f"linux.{key}: id 0 is not mapped; the container is set up by its own root")
    # A mount namespace of another user namespace than its parent's is born a slave: nothing leaves it
    # (mount_namespaces(7), "Restrictions on mount namespaces"), and what is attached here is private.
    return ids, kinds, [] if ids.mapped and not joined else [Isolate()]


def _mappings(linux: Mapping[str, Any], key: str) -> tuple[tuple[int, int, int], ...]:
    found: list[tuple[int, int, int]] = []
    for where, each in fields.tables(linux, "linux.", key):
        inside = fields.number(each, f"{where}.", "containerID", 0, 1 << 32, 0)
        host = fields.number(each, f"{where}.", "hostID", 0, 1 << 32)
        found.append((inside, host, fields.number(each, f"{where}.", "size", 1, 1 << 32, 1)))
    return tuple(found)


def _hooks(config: Mapping[str, Any], place: Place) -> tuple[list[Operation], list[Operation]]:
    """Return the hooks that pid 1 stops for or runs: those before the pivot, those before its program."""
    try:
        found = hooks.read(config)
    except ValueError as error:
        raise PlanError(str(error)) from error
    if not any(found.values()):
        return [], []
    if not place.state:
        raise PlanError("hooks are not supported for an app's container: probes and restart policies watch over it")
    before: list[Operation] = []
    if found["prestart"] or found["createRuntime"]:
        before.append(RuntimeHooks())
    steps = {
        stage: [ContainerHooks(stage, tuple(map(tuple, found[stage])), place.state)] if found[stage] else []
        for stage in ("createContainer", "startContainer")
    }
    return [*before, *steps["createContainer"]], [*steps["startContainer"]]


def _proc(linux: Mapping[str, Any], kinds: frozenset[str], asked: process_plan.Steps) -> list[Operation]:
    """Return what writes to /proc, while the kernel still gives a procfs for it (runtime.procfs)."""
    made: list[Operation] = []
    if values := fields.table(linux, "linux.", "sysctl"):
        try:
            made.append(sysctls.Sysctls(sysctls.check(values, kinds)))
        except ValueError as error:
            raise PlanError(str(error)) from error
    made += asked.early
    if not made and any(type(step).__name__ in ("AppArmor", "Selinux") for step in asked.steps):
        made.append(OpenProcfs())
    return made


def _sealed(
    config: Mapping[str, Any], linux: Mapping[str, Any], place: Place, prepare: list[Operation]
) -> list[Operation]:
    """Return what takes away: the root's being writable, and paths; only the host's ids take the first of its root."""
    made: list[Operation] = []
    if fields.flag(fields.table(config, "", "root"), "root.", "readonly"):
        (made if place.idmapped or place.root else prepare).append(ReadOnlyRoot())
    if paths := _paths(linux, "readonlyPaths"):
        made.append(ReadOnlyPaths(paths))
    if paths := _paths(linux, "maskedPaths"):
        made.append(Mask(paths))
    return made


def _paths(linux: Mapping[str, Any], key: str) -> tuple[str, ...]:
    paths = fields.texts(linux, "linux.", key)
    for path in paths:
        if not path.startswith("/"):
            raise PlanError(f"linux.{key}: {path!r} is not an absolute path")
    return paths


def _propagate(linux: Mapping[str, Any]) -> list[Operation]:
    asked = root_plan.propagation(linux)
    return [] if asked is None else [Propagate(*asked)]


def _names(config: Mapping[str, Any], kinds: frozenset[str], oci: bool) -> list[Operation]:
    made: list[Operation] = []
    hostname = fields.text(config, "", "hostname", "" if oci else "localhost")
    domainname = fields.text(config, "", "domainname")
    for key, name in (("hostname", hostname), ("domainname", domainname)):
        if name and "uts" not in kinds:
            raise PlanError(f"{key}: without a uts namespace of its own the container would rename the host")
    if hostname:
        made.append(Hostname(hostname))
    if domainname:
        made.append(Domainname(domainname))
    return made
