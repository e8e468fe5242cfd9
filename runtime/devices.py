"""The steps that give a container its devices: a fresh /dev, or nodes made where the root has a /dev of its own."""

import contextlib
import errno
import os
import signal
import stat
from typing import NamedTuple

from runtime import syscalls
from runtime.mounts import new_filesystem
from runtime.paths import make_directory
from runtime.world import World

Maps = tuple[tuple[int, int, int], ...]

DEFAULT = (  # config-linux.md, "Default Devices"
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("full", 0o666, 1, 7),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("tty", 0o666, 5, 0),
)
LINKS = (  # runtime-linux.md, "Dev symbolic links", and config-linux.md's ptmx
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
"""config-linux.md, "Devices": `u` is a character device without a buffer, which Linux knows no difference of."""


class Node(NamedTuple):
    """A device or FIFO."""

    path: str  # below the directory that it is made in
    kind: str  # a key of KINDS
    mode: int
    major: int
    minor: int
    uid: int  # as the container has them
    gid: int


def own(world: World, uid_mappings: Maps, gid_mappings: Maps) -> tuple[Maps, Maps]:
    """Return the id maps of the world's user namespace: those of the config, or those that one joined by path has."""
    if world.userns is None:
        return ((0, 0, 1 << 32),), ((0, 0, 1 << 32),)
    if uid_mappings:
        return uid_mappings, gid_mappings or uid_mappings
    return _maps_of(world.userns)


def outside(mappings: Maps, number: int) -> int:
    """Return the host's id of the container's id `number`; raise OSError where it has none."""
    for inside, host, size in mappings:
        if inside <= number < inside + size:
            return host + number - inside
    raise OSError(errno.EINVAL, f"the id {number} is not mapped in the user namespace", "id mappings")


def _maps_of(userns: int) -> tuple[Maps, Maps]:
    """Read a user namespace's maps at a child that joins it and waits (user_namespaces(7))."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    joined, say = os.pipe2(os.O_CLOEXEC)
    pid = syscalls.clone3(syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
    if pid == 0:
        with contextlib.suppress(OSError):
            os.close(theirs)
            syscalls.setns(userns, syscalls.CLONE_NEWUSER)
            os.write(say, b"1")
            os.read(ours, 1)  # until the parent has seen enough, or is gone
        os._exit(0)
    try:
        os.close(say)
        say = -1
        if not os.read(joined, 1):
            raise OSError(errno.EPERM, "cannot be joined to read its id maps", "user namespace")
        uids, gids = _maps(f"/proc/{pid}/uid_map"), _maps(f"/proc/{pid}/gid_map")
    finally:
        for descriptor in (ours, theirs, joined, say):
            if descriptor >= 0:
                os.close(descriptor)
        os.waitpid(pid, 0)
    return uids, gids


def _maps(path: str) -> Maps:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)
    found: list[tuple[int, int, int]] = []
    for line in text.splitlines():
        inside, host, size = map(int, line.split())
        found.append((inside, host, size))
    return tuple(found)


class Devices(NamedTuple):
    """A fresh /dev: made by the host's root, so that its nodes work, before anything of the image is looked at."""

    key: str
    nodes: tuple[tuple[str, str, int, int, int, int, int], ...]  # Node each
    directories: tuple[str, ...]  # for what is mounted in it
    options: tuple[tuple[str, str], ...]
    attributes: int
    uid_mappings: Maps = ()
    gid_mappings: Maps = ()

    def describe(self) -> str:
        return f"make /dev with {', '.join(node[0] for node in self.nodes)}"

    def execute(self, world: World) -> None:
        uids, gids = own(world, self.uid_mappings, self.gid_mappings)
        owner, group = outside(uids, 0), outside(gids, 0)
        options = {"uid": str(owner), "gid": str(group), "mode": "755"}
        for key, value in self.options:
            options[key] = str(outside(uids if key == "uid" else gids, int(value))) if key in ("uid", "gid") else value
        tree = new_filesystem("tmpfs", options, self.attributes & ~syscalls.MOUNT_ATTR_RDONLY)
        world.keep(self.key, tree)
        before = os.umask(0)
        try:
            self._fill(tree, uids, gids)
        finally:
            os.umask(before)

    def _fill(self, tree: int, uids: Maps, gids: Maps) -> None:
        owner, group = outside(uids, 0), outside(gids, 0)
        for fields in self.nodes:
            _make(tree, Node(*fields), uids, gids)
        made: list[str] = []
        for name in self.directories:
            os.mkdir(name, 0o755, dir_fd=tree)
            made.append(name)
        for name, target in LINKS:
            os.symlink(target, name, dir_fd=tree)
            made.append(name)
        if owner or group:
            for name in made:
                os.chown(name, owner, group, dir_fd=tree, follow_symlinks=False)


class Nodes(NamedTuple):
    """Devices, and the links beside them, in a root that has no fresh /dev; what is there already must be the same."""

    nodes: tuple[tuple[str, str, int, int, int, int, int], ...]  # Node each, the path below the root
    links: bool
    uid_mappings: Maps = ()
    gid_mappings: Maps = ()

    ADVICE = {
        errno.EEXIST: "remove it from the root filesystem, or leave the device out",
        errno.EROFS: "the root's filesystem is read-only: create the device in it",
        errno.EPERM: "a filesystem in a user namespace takes no devices: put it below a /dev of type tmpfs",
    }

    def describe(self) -> str:
        return f"make the devices {', '.join(node[0] for node in self.nodes)}"

    def execute(self, world: World) -> None:
        uids, gids = own(world, self.uid_mappings, self.gid_mappings)
        before = os.umask(0)
        try:
            self._place(world, uids, gids)
        finally:
            os.umask(before)

    def _place(self, world: World, uids: Maps, gids: Maps) -> None:
        owner = outside(uids, 0), outside(gids, 0)
        for fields in self.nodes:
            node = Node(*fields)
            above, name = os.path.split(node.path)
            directory = make_directory(world.root, above or "/", owner)
            try:
                _make_where_missing(directory, node._replace(path=name), uids, gids, node.path)
            finally:
                os.close(directory)
        if self.links:
            directory = make_directory(world.root, "/dev", owner)
            try:
                for name, target in LINKS:
                    with contextlib.suppress(FileExistsError):
                        os.symlink(target, name, dir_fd=directory)
                        os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
            finally:
                os.close(directory)


def _make_where_missing(directory: int, node: Node, uids: Maps, gids: Maps, path: str) -> None:
    try:
        _make(directory, node, uids, gids)
    except FileExistsError as error:
        there = os.stat(node.path, dir_fd=directory, follow_symlinks=False)
        same = stat.S_IFMT(there.st_mode) == KINDS[node.kind]
        if not same or (node.kind != "p" and there.st_rdev != os.makedev(node.major, node.minor)):
            raise OSError(errno.EEXIST, "is there and is something else", path) from error


def _make(directory: int, node: Node, uids: Maps, gids: Maps) -> None:
    """Make a node; with a path of several parts the directories above are made for it, in what is ours alone."""
    owner = outside(uids, 0), outside(gids, 0)
    above, _, name = node.path.rpartition("/")
    parent = make_directory(directory, f"/{above}", owner) if above else directory
    try:
        number = 0 if node.kind == "p" else os.makedev(node.major, node.minor)
        os.mknod(name, KINDS[node.kind] | node.mode, number, dir_fd=parent)
        ids = outside(uids, node.uid), outside(gids, node.gid)
        if any(ids):
            os.chown(name, *ids, dir_fd=parent, follow_symlinks=False)
    finally:
        if parent != directory:
            os.close(parent)
