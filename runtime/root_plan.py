"""What a config's root, mounts and devices ask for, as steps of both sides: the host's root and pid 1. Pure.

The layered root of an app's container and an OCI bundle's directory, which is used as it is, differ in who may make
what: see `_Mounts._target`.
"""

import json
import os
import posixpath
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime import devices, fields, mount_options, syscalls
from runtime.devices import Devices, Node, Nodes
from runtime.fields import PlanError
from runtime.mount_options import Options
from runtime.mounts import (
    Attach,
    ControlGroups,
    Filesystem,
    NewMount,
    OpenRoot,
    OpenTree,
    Reconfigure,
    Target,
)
from runtime.mounts import Mapping as IdMapping
from runtime.overlay import MemoryLayer, Overlay
from runtime.world import Operation

Maps = tuple[tuple[int, int, int], ...]

OWN_FILES = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"})
"""Mounted files that replace a symbolic link of the root: they are the container's own, wherever an image points."""
_INSIDE = (
    "proc sysfs tmpfs ramfs devpts mqueue cgroup cgroup2 hugetlbfs bpf binfmt_misc securityfs debugfs tracefs configfs "
    "fusectl pstore efivarfs"
)
"""Filesystems without a device or a path of the host's: pid 1 mounts them in its own namespaces, as the kernel lets."""
_LABELLED = frozenset({"tmpfs", "devpts", "mqueue", "ramfs"})
"""Those that take `context=` for linux.mountLabel."""
_IN_DEV = ("pts", "shm", "mqueue")
"""Directories that a fresh /dev is made with, where something is mounted on them."""
_MAX_ID = (1 << 32) - 2


class Place(NamedTuple):
    """Where a container's root comes from: what OCI leaves to the runtime."""

    layers: tuple[str, ...]  # host directories, the topmost first
    idmapped: bool  # whether the layers' owners are the container's ids (never for the host's own root)
    writable: str  # host directory that holds `upper` and `work`; empty with `memory`
    memory: int = 0  # size in bytes of a writable layer in memory
    hierarchies: tuple[tuple[str, str], ...] = ()  # as mounts.ControlGroups has them
    init: bool = True
    last_capability: int = 40
    root: str = ""  # an OCI bundle's root directory, used as it is; then layers and writable are empty
    state: str = ""  # the container's OCI state as JSON, for hooks that it runs itself; empty: hooks are refused


class Ids(NamedTuple):
    """The container's user namespace."""

    mapped: bool  # whether it has one of its own
    uid_mappings: Maps = ()  # containerID, hostID, size; empty and mapped: joined by path, read when it is there
    gid_mappings: Maps = ()


class Root(NamedTuple):
    """The steps that make a root."""

    prepare: list[Operation]
    enter: list[Operation]  # before the pivot
    late: list[Operation]  # after whatever else is put in place
    warnings: list[str]


def root(config: Mapping[str, Any], place: Place, ids: Ids, cgroup_namespace: bool) -> Root:
    """Return the steps for `root`, `mounts` and `linux.devices`; raise PlanError naming the field."""
    made = _Mounts(config, place, ids, cgroup_namespace)
    made.open_root()
    for where, mount in fields.tables(config, "", "mounts"):
        made.mount(where, mount)
    if place.root:  # where it is missing it is made, as other runtimes do
        made.working_directory(fields.text(fields.table(config, "", "process"), "process.", "cwd"))
    made.devices_of_the_root()
    return made.steps


def propagation(linux: Mapping[str, Any]) -> tuple[int, bool] | None:
    """Return linux.rootfsPropagation as MS_ flag and whether it is recursive; None where nothing is asked."""
    word = fields.text(linux, "linux.", "rootfsPropagation")
    if not word:
        return None
    if word not in mount_options.PROPAGATION:
        raise PlanError(f"linux.rootfsPropagation: {word!r} is none of {', '.join(mount_options.PROPAGATION)}")
    return mount_options.PROPAGATION[word]


class _Mounts:
    """One root as it is planned."""

    def __init__(self, config: Mapping[str, Any], place: Place, ids: Ids, cgroup_namespace: bool) -> None:
        self.linux = fields.table(config, "", "linux")
        self.place = place
        self.ids = ids
        self.cgroup_namespace = cgroup_namespace
        self.label = fields.text(self.linux, "linux.", "mountLabel")
        self.steps = Root([], [], [], [])
        self.covered: list[str] = []
        self.listed = [(where, _path(where, mount)) for where, mount in fields.tables(config, "", "mounts")]
        self.fresh_dev = False
        self.foreign_dev = False  # something else than a tmpfs was mounted there: it brings its devices
        self.nodes = self._nodes()

    def open_root(self) -> None:
        """Open what the root is made of."""
        place, prepare = self.place, self.steps.prepare
        if place.root:
            asked = propagation(self.linux)
            slave = asked is not None and asked[0] == syscalls.MS_SLAVE
            prepare.append(
                OpenRoot("root", place.root, place.idmapped, syscalls.MS_SLAVE if slave else syscalls.MS_PRIVATE)
            )
            return
        keys = tuple(f"layer {number}" for number in range(len(place.layers)))
        for key, layer in zip(keys, place.layers, strict=True):
            prepare.append(OpenTree(key, layer, place.idmapped, False, 0))
        if place.memory:
            prepare.append(MemoryLayer("writable", place.memory))
        else:
            prepare.append(OpenTree("writable", place.writable, False, False, 0))
        owner = devices.outside(self.ids.uid_mappings, 0) if place.idmapped and self.ids.uid_mappings else 0
        prepare.append(Overlay("root", keys, "writable", owner))

    def mount(self, where: str, mount: Mapping[str, Any]) -> None:
        """Plan one of `mounts`."""
        path = _path(where, mount)
        asked = mount_options.parse(fields.texts(mount, f"{where}.", "options"))
        kind = fields.text(mount, f"{where}.", "type")
        if not self.place.root:
            fields.only(mount, f"{where}.", {"destination", "source", "type", "options"})
        where = f"{where} ({path})"
        if asked.copy_up and kind != "tmpfs":
            raise PlanError(f"{where}: the option 'tmpcopyup' is for a tmpfs, not for {kind or 'bind'!r}")
        if asked.remount:
            self._reconfigure(where, path, asked)
        elif asked.bind or kind == "bind" or not (kind or self.place.root):
            self._bind(where, path, mount, asked)
        elif kind in ("", "none"):
            if not asked.propagation:
                raise PlanError(f"{where}: neither a type nor the option 'bind' says what is to be mounted")
            self._reconfigure(where, path, asked)
        else:
            self._filesystem(where, path, kind, mount, asked)
        self.covered.append(posixpath.normpath(path))

    def working_directory(self, path: str) -> None:
        """Plan the making of process.cwd."""
        if path.startswith("/") and path.strip("/"):
            self._target(path.rstrip("/"))

    # Binds

    def _bind(self, where: str, path: str, mount: Mapping[str, Any], asked: Options) -> None:
        if asked.data:
            key, value = asked.data[0]
            word = f"{key}={value}" if value else key
            raise PlanError(f"{where}: the option {word!r} is none of a bind mount")
        if asked.superblock:
            message = f"{where}: {asked.superblock[0]!r} belongs to the whole filesystem, which a bind does not change"
            if not self.place.root:
                raise PlanError(message)
            self.steps.warnings.append(message)
        source = self._source(where, mount)
        idmap, mapping = self._idmap(where, mount, asked)
        top, deep = asked.top, asked.deep
        idmap_top = idmap and asked.recursive and not asked.idmap_deep
        if not self.place.root and asked.recursive:  # what an app's file says of a volume holds for all of it
            top, deep, idmap_top = mount_options.Attributes(), deep.both(top), False
        key = f"mount {path}"
        self.steps.prepare.append(
            OpenTree(
                key,
                source,
                idmap,
                asked.recursive,
                top.set,
                top.clear,
                deep.set,
                deep.clear,
                idmap_top,
                mapping,
                asked.propagation or syscalls.MS_PRIVATE,
                asked.propagation_deep or not asked.propagation,
            )
        )
        self._target(path, key)
        self.steps.enter.append(Attach(key, path))
        if path == "/dev":
            self.foreign_dev = True

    def _source(self, where: str, mount: Mapping[str, Any]) -> str:
        source = fields.text(mount, f"{where}.", "source")
        if not source:
            raise PlanError(f"{where}: a bind mount needs a source")
        if source.startswith("/"):
            return source
        if not self.place.state:
            raise PlanError(f"{where}: the source {source!r} is not an absolute path")
        bundle: str = json.loads(self.place.state)["bundle"]
        return posixpath.join(bundle, source)  # config.md: relative to the bundle

    def _idmap(self, where: str, mount: Mapping[str, Any], asked: Options) -> tuple[bool, str]:
        """Return whether the mount is idmapped, and the key of a mapping of its own."""
        maps = tuple(_maps(where, mount, key) for key in ("uidMappings", "gidMappings"))
        if not any(maps):
            if asked.idmap and not self.ids.mapped and self.place.root:
                raise PlanError(f"{where}: 'idmap' without mappings needs a user namespace, and there is none")
            return asked.idmap, ""
        if not all(maps):
            raise PlanError(f"{where}: uidMappings and gidMappings are there together or not at all")
        key = f"mapping of {where}"
        self.steps.prepare.append(IdMapping(key, *maps))
        return True, key

    # New filesystems

    def _filesystem(self, where: str, path: str, kind: str, mount: Mapping[str, Any], asked: Options) -> None:
        attributes = asked.deep.both(asked.top).set
        options = dict(asked.data)
        if self.label and kind in _LABELLED:
            options["context"] = self.label
        if kind == "cgroup" and self.place.hierarchies:
            if asked.data:
                raise PlanError(f"{where}: the option {asked.data[0][0]!r} is none of a cgroup mount")
            self._target(path)
            shared = not self.cgroup_namespace
            self.steps.enter.append(ControlGroups(path, self.place.hierarchies, attributes, shared))
        elif kind == "cgroup":  # an app's container whose group is in no hierarchy has nothing to see
            if self.place.root:
                raise PlanError(f"{where}: the container is in no cgroup that could be shown")
        elif kind == "cgroup2" and not self.cgroup_namespace:
            self._target(path)
            self.steps.enter.append(ControlGroups(path, (("", ""),), attributes, True))
        elif path == "/dev" and kind == "tmpfs":
            self._dev(attributes, options)
        elif kind in _INSIDE.split():
            self._inside(where, path, kind, mount, asked, attributes, options)
        else:
            self._outside(where, path, kind, mount, asked, attributes, options)

    def _dev(self, attributes: int, options: dict[str, str]) -> None:
        self._target("/dev")
        self.fresh_dev = True
        after = {path for _, path in self.listed[len(self.covered) + 1 :]}
        nodes = tuple(node._replace(path=path[5:]) for path, node in self.nodes.items() if path.startswith("/dev/"))
        directories = tuple(name for name in _IN_DEV if f"/dev/{name}" in after)
        maps = (self.ids.uid_mappings, self.ids.gid_mappings) if self.ids.mapped else ((), ())
        self.steps.prepare.append(Devices("devices", nodes, directories, tuple(options.items()), attributes, *maps))
        self.steps.enter.append(Attach("devices", "/dev"))
        if attributes & syscalls.MOUNT_ATTR_RDONLY:  # once everything is in it
            self.steps.late.append(Reconfigure("/dev", syscalls.MOUNT_ATTR_RDONLY, 0, 0, 0, 0, False))

    def _inside(
        self,
        where: str,
        path: str,
        kind: str,
        mount: Mapping[str, Any],
        asked: Options,
        attributes: int,
        options: dict[str, str],
    ) -> None:
        if self._idmap(where, mount, asked)[0]:
            raise PlanError(f"{where}: a new {kind} has the container's ids already; leave 'idmap' out")
        if self.place.root and (source := fields.text(mount, f"{where}.", "source")):
            options = {"source": source, **options}
        options |= dict.fromkeys((word for word in asked.superblock if word not in ("acl", "noacl", "i_version")), "")
        if not self._made_with_dev(path):
            self._target(path)
        kept = asked.propagation if asked.propagation != syscalls.MS_PRIVATE else 0
        self.steps.enter.append(NewMount(kind, path, tuple(options.items()), attributes, kept, asked.copy_up))
        if path == "/dev":
            self.foreign_dev = True

    def _outside(
        self,
        where: str,
        path: str,
        kind: str,
        mount: Mapping[str, Any],
        asked: Options,
        attributes: int,
        options: dict[str, str],
    ) -> None:
        idmap, mapping = self._idmap(where, mount, asked)
        key = f"mount {path}"
        flags = dict.fromkeys(asked.superblock, "")
        if attributes & syscalls.MOUNT_ATTR_RDONLY:
            flags["ro"] = ""  # the filesystem too, or its device would be opened for writing
        source = fields.text(mount, f"{where}.", "source")
        options = {**({"source": source} if source else {}), **options, **flags}
        kept = asked.propagation or syscalls.MS_PRIVATE
        self.steps.prepare.append(Filesystem(key, kind, tuple(options.items()), attributes, idmap, mapping, kept))
        self._target(path)
        self.steps.enter.append(Attach(key, path))
        if path == "/dev":
            self.foreign_dev = True

    def _reconfigure(self, where: str, path: str, asked: Options) -> None:
        if asked.idmap:
            raise PlanError(f"{where}: a mount that is there already cannot be idmapped; say it where it is made")
        options = dict(asked.data) | dict.fromkeys(asked.superblock, "")
        if options and asked.bind:
            raise PlanError(f"{where}: the option {next(iter(options))!r} is none of a bind mount")
        self.steps.enter.append(
            Reconfigure(
                path, *asked.top, *asked.deep, asked.propagation, asked.propagation_deep, tuple(options.items())
            )
        )

    # Places

    def _made_with_dev(self, path: str) -> bool:
        """Whether the fresh /dev was made with this place."""
        return self.fresh_dev and path.startswith("/dev/") and path[5:] in _IN_DEV

    def _target(self, path: str, key: str = "") -> None:
        """Plan the making of a place.

        The host's own root, and a bundle's, belong to ids that a container with a user namespace does not have: only
        the host's root can make a place in them. On top of another mount of the list, which may be where a symbolic
        link of the root leads, it exists only inside.
        """
        if path == "/sys/fs/cgroup" and "/sys" in self.covered:
            return  # every sysfs has it
        target = Target(path, key, path in OWN_FILES and not self.place.root)
        above = posixpath.normpath(path)
        covered = any(above.startswith(f"{each}/") for each in self.covered if each != "/")
        place = self.place
        if not place.root:
            (self.steps.enter if place.idmapped or covered else self.steps.prepare).append(target)
            return
        if self.ids.mapped and not place.idmapped and not covered:
            maps = self.ids.uid_mappings, self.ids.gid_mappings
            owner, group = (devices.outside(each, 0) if each else 0 for each in maps)
            self.steps.prepare.append(target._replace(owner=owner, group=group))
        self.steps.enter.append(target)

    # Devices

    def _nodes(self) -> dict[str, Node]:
        """Return the default devices and those of linux.devices by path; the config's own win."""
        found = {
            f"/dev/{name}": Node(f"/dev/{name}", "c", mode, major, minor, 0, 0)
            for name, mode, major, minor in devices.DEFAULT
        }
        for where, device in fields.tables(self.linux, "linux.", "devices"):
            path = fields.text(device, f"{where}.", "path")
            if not path.startswith("/") or posixpath.normpath(path) != path or path == "/":
                raise PlanError(f"{where}.path: {path!r} is not a clean absolute path")
            kind = fields.text(device, f"{where}.", "type")
            if kind not in devices.KINDS:
                raise PlanError(f"{where}.type: {kind!r} is none of {', '.join(devices.KINDS)}")
            least = None if kind != "p" else 0
            major, minor = (
                fields.number(device, f"{where}.", key, 0, most, least)
                for key, most in (("major", 0xFFF), ("minor", 0xFFFFF))
            )
            mode = fields.number(device, f"{where}.", "fileMode", 0, 0xFFFFFFFF, 0o666) & 0o7777
            uid, gid = (fields.number(device, f"{where}.", key, 0, _MAX_ID, 0) for key in ("uid", "gid"))
            for maps, number, key in ((self.ids.uid_mappings, uid, "uid"), (self.ids.gid_mappings, gid, "gid")):
                if maps and self.ids.mapped and not any(first <= number < first + size for first, _, size in maps):
                    raise PlanError(f"{where}.{key}: the container's user namespace has no id {number}")
            if path == "/dev/ptmx":
                continue  # the container's own devpts has it (config-linux.md, "Default Devices")
            found[path] = Node(path, kind, mode, major, minor, uid, gid)
        return found

    def devices_of_the_root(self) -> None:
        """Plan the nodes that a fresh /dev does not have: of a root without one, or outside of it."""
        inside = self.fresh_dev or self.foreign_dev
        nodes = [node for path, node in self.nodes.items() if not (inside and path.startswith("/dev/"))]
        if not nodes:
            return
        if not self.place.root:
            raise PlanError(f"linux.devices: {nodes[0].path}: an app's container has its devices below /dev only")
        maps = (self.ids.uid_mappings, self.ids.gid_mappings) if self.ids.mapped else ((), ())
        covered = [node for node in nodes if any(node.path.startswith(f"{each}/") for each in self.covered)]
        plain = tuple(node for node in nodes if node not in covered)
        if plain or not inside:
            self.steps.prepare.append(Nodes(plain, not inside, *maps))
        if covered and self.ids.mapped:
            path = covered[0].path
            raise PlanError(
                f"linux.devices: {path}: no device can be made on a mount of a user namespace; put it below /dev"
            )
        if covered:
            self.steps.enter.append(Nodes(tuple(covered), False))


def _path(where: str, mount: Mapping[str, Any]) -> str:
    path = fields.text(mount, f"{where}.", "destination")
    if not path:
        raise PlanError(f"{where}.destination: there must be a path")
    # A relative one is deprecated, and means the same below the root (config.md, "Mounts").
    return os.path.join("/", path).rstrip("/") or "/"


def _maps(where: str, mount: Mapping[str, Any], key: str) -> Maps:
    found: list[tuple[int, int, int]] = []
    for place, each in fields.tables(mount, f"{where}.", key):
        inside, outside, size = (
            fields.number(each, f"{place}.", name, 0, _MAX_ID) for name in ("containerID", "hostID", "size")
        )
        found.append((inside, outside, size))
    return tuple(found)
