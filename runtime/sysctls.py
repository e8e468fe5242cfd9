"""Kernel parameters that belong to one of a container's namespaces, and to nobody else (sysctl in config-linux.md)."""

import errno
from collections.abc import Mapping, Set
from typing import NamedTuple

from runtime import procfs
from runtime.world import World

_SYSTEM_V = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
_IPC = frozenset(f"kernel.{name}" for name in _SYSTEM_V.split())
_FIELDS = {"kernel.hostname": "hostname", "kernel.domainname": "domainname"}
MAX_VALUE = 4096
"""Bytes of one value: the kernel takes a page."""


def components(name: str) -> tuple[str, ...]:
    """Return a name's parts; the first separator tells which of sysctl(8)'s two forms it has.

    `net.ipv4.conf.eth0/1.forwarding` and `net/ipv4/conf/eth0.1/forwarding` are the same: the other character is a dot
    of a part. Raises ValueError for a name without parts or with one that leads elsewhere.
    """
    at = next((index for index, character in enumerate(name) if character in "./"), -1)
    if at >= 0 and name[at] == ".":
        parts = tuple(part.replace("/", ".") for part in name.split("."))
    else:
        parts = tuple(name.split("/"))
    if len(parts) < 2 or any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise ValueError(f"{name!r} is no kernel parameter; write it as sysctl(8) does: net.ipv4.ip_forward")
    return parts


def check(values: Mapping[str, object], namespaces: Set[str]) -> tuple[tuple[str, str], ...]:
    """Return `values` as `Sysctls` takes them: in order, each by its path below /proc/sys.

    `namespaces` are the OCI names of those that the container does not share with the host. Raises ValueError naming
    the parameter where it belongs to no namespace of the container's own, has a field of its own or is said twice.
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        try:
            parts = components(name)
        except ValueError as error:
            raise ValueError(f"linux.sysctl {error}") from error
        dotted = ".".join(parts)
        if dotted in _FIELDS:
            raise ValueError(f"linux.sysctl {name!r} is not supported: the field {_FIELDS[dotted]!r} says it")
        needed = _namespace(parts, dotted)
        if needed is None:
            raise ValueError(
                f"linux.sysctl {name!r} is not supported: it belongs to no namespace, and would change the host; "
                "set it on the host"
            )
        if needed not in namespaces:
            raise ValueError(
                f"linux.sysctl {name!r}: the container shares the host's {needed} namespace; give it one of its own"
            )
        if not isinstance(value, str) or "\0" in value or len(value.encode("utf-8", "surrogateescape")) > MAX_VALUE:
            raise ValueError(f"linux.sysctl {name!r}: {value!r} is no text of at most {MAX_VALUE} bytes")
        path = "/".join(parts)
        if path in found:
            raise ValueError(f"linux.sysctl {name!r} is there twice, in two forms; name it once")
        found[path] = value
    return tuple(found.items())


def _namespace(parts: tuple[str, ...], dotted: str) -> str | None:
    if parts[0] == "net":
        return "network"
    if dotted in _IPC or (parts[:2] == ("fs", "mqueue") and len(parts) == 3):
        return "ipc"
    return None


class Sysctls(NamedTuple):
    """Parameters of the container's namespaces, written through a procfs of its own."""

    values: tuple[tuple[str, str], ...]  # as `check` returns them

    ADVICE = {
        errno.ENOENT: "this kernel, or this network namespace, has no such parameter; see sysctl -a there",
        errno.EINVAL: "the kernel takes no such value for it",
        errno.EACCES: "this kernel keeps it from user namespaces; leave it out, or use the host's user namespace",
        errno.EPERM: "the namespace belongs to another user namespace; leave it out, or let the container make its own",
    }

    def describe(self) -> str:
        return f"set {', '.join(path.replace('/', '.') for path, _ in self.values)}"

    def execute(self, world: World) -> None:
        proc = procfs.of(world)
        for name, value in self.values:
            procfs.write(proc, "sys/" + "/".join(components(name)), value)
