"""The operations by name: how a plan's steps travel to the launcher and become steps again.

A plan (runtime.plan) is a list of them; the launcher runs the first part as the host's root (*prepare*: what needs the
host's view, handed on as descriptors), pid 1 of the container the second (*enter*), then it becomes the program.
"""

from typing import Any

from runtime import devices, hooks, identity, labels, mounts, overlay, scheduling, sysctls, terminal
from runtime.world import Operation

KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        mounts.OpenTree,
        mounts.OpenRoot,
        mounts.Mapping,
        mounts.Filesystem,
        overlay.MemoryLayer,
        overlay.Overlay,
        devices.Devices,
        devices.Nodes,
        mounts.Target,
        mounts.ReadOnlyRoot,
        mounts.ControlGroups,
        mounts.Isolate,
        mounts.AttachRoot,
        mounts.NewMount,
        mounts.Reconfigure,
        mounts.Attach,
        mounts.Mask,
        mounts.ReadOnlyPaths,
        mounts.PivotRoot,
        mounts.Propagate,
        mounts.OpenProcfs,
        hooks.RuntimeHooks,
        hooks.ContainerHooks,
        sysctls.Sysctls,
        scheduling.OomScore,
        scheduling.IoPriority,
        scheduling.Scheduler,
        scheduling.Affinity,
        labels.AppArmor,
        labels.Selinux,
        terminal.Terminal,
        identity.Hostname,
        identity.Domainname,
        identity.Personality,
        identity.Limit,
        identity.Identify,
        identity.Credentials,
        identity.NoNewPrivileges,
        identity.Seccomp,
    )
}


def pack(operation: Any) -> list[Any]:
    """Return an operation as JSON carries it: its class's name, then its fields."""
    return [type(operation).__name__, *operation]


def unpack(packed: list[Any]) -> Operation:
    """Return the operation that `pack` made a list of; lists inside become tuples again."""
    name, *fields = packed
    operation: Operation = KINDS[name](*(_tuples(field) for field in fields))
    return operation


def _tuples(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
    return tuple(_tuples(item) for item in items)
