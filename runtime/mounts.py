"""The steps that make a container's root: layers and volumes opened outside, everything put in its place inside.

Mounts are moved from descriptor to descriptor (open_tree(2), fsopen(2), move_mount(2)); no path of the root is ever
looked up twice (CVE-2021-30465, CVE-2025-31133).
"""

import errno
import os
import re
import signal
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from runtime import procfs, syscalls
from runtime.copy_up import copy_up
from runtime.launch import helper
from runtime.paths import make_directory, make_file, open_below
from runtime.world import World

PIVOT_PLACE = "/dev"


class OpenTree(NamedTuple):
    """A detached copy of a host directory's or file's mount, idmapped for the container where asked.

    A copy stays in the peer group of what it was copied from, so that a mount below it would appear on the host
    (mount_namespaces(7)): unless `propagation` says otherwise it becomes private, with all that is below.
    """

    key: str
    path: str
    idmap: bool
    recursive: bool
    attributes: int  # MOUNT_ATTR_* that the mount itself gets
    clear: int = 0  # and loses
    deep: int = 0  # the same of it and of all mounts below
    deep_clear: int = 0
    idmap_top: bool = False  # the mount itself is idmapped, those below are not
    mapping: str = ""  # the key of the user namespace to idmap by; empty: the container's
    propagation: int = syscalls.MS_PRIVATE  # MS_*
    propagation_deep: bool = True

    ADVICE = {
        errno.ENOENT: "create it, or correct the path",
        errno.EINVAL: "this filesystem cannot be idmapped; put it on ext4, xfs, btrfs or tmpfs, "
        'or set security.userns = "host"',
    }

    def describe(self) -> str:
        return f"open {self.path}{' idmapped' if self.idmap else ''}"

    def execute(self, world: World) -> None:
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if self.recursive else 0)
        tree = syscalls.open_tree(self.path, flags=flags)
        world.keep(self.key, tree)
        userns = world.descriptors[self.mapping] if self.mapping else world.userns
        try:
            self._change(tree, userns if self.idmap else None)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error

    def _change(self, tree: int, userns: int | None) -> None:
        """One call for all that is below, or two where the mount itself is to differ (mount_setattr(2))."""
        deep_propagation = self.propagation if self.propagation_deep else syscalls.MS_PRIVATE
        differs = self.attributes | self.clear or self.idmap_top or not self.propagation_deep
        if self.recursive:
            syscalls.mount_setattr(
                tree,
                set_flags=self.deep,
                clear=self.deep_clear,
                recursive=True,
                userns=None if self.idmap_top else userns,
                propagation=deep_propagation,
            )
            if differs:
                syscalls.mount_setattr(
                    tree,
                    set_flags=self.attributes,
                    clear=self.clear,
                    userns=userns if self.idmap_top else None,
                    propagation=self.propagation,
                )
            return
        syscalls.mount_setattr(
            tree,
            set_flags=(self.deep & ~self.clear) | self.attributes,
            clear=(self.deep_clear & ~self.attributes) | self.clear,
            userns=userns,
            propagation=self.propagation,
        )


class OpenRoot(NamedTuple):
    """A directory of the host as the container's root, just as it is, with all that is mounted below it."""

    key: str
    path: str
    idmap: bool
    propagation: int = syscalls.MS_PRIVATE

    ADVICE = OpenTree.ADVICE

    def describe(self) -> str:
        return f"open the root {self.path}{' idmapped' if self.idmap else ''}"

    def execute(self, world: World) -> None:
        OpenTree(self.key, self.path, self.idmap, True, 0, propagation=self.propagation).execute(world)
        tree = world.descriptors[self.key]
        if not stat.S_ISDIR(os.fstat(tree).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path)
        world.root = tree


class Mapping(NamedTuple):
    """A user namespace that is there for its id maps alone: a mount is idmapped by it."""

    key: str
    uid_mappings: tuple[tuple[int, int, int], ...]  # id on the filesystem, id that it is seen as, size
    gid_mappings: tuple[tuple[int, int, int], ...]

    def describe(self) -> str:
        return f"make a mapping of {len(self.uid_mappings)} and {len(self.gid_mappings)} range(s) of ids"

    def execute(self, world: World) -> None:
        made, _ = helper.make(self.uid_mappings, self.gid_mappings, False)
        assert made.user is not None
        world.keep(self.key, made.user)


class Filesystem(NamedTuple):
    """A mount of a filesystem that needs the host's view: its device, its server or the directories that it names."""

    key: str
    kind: str
    options: tuple[tuple[str, str], ...]  # an empty value is a flag
    attributes: int
    idmap: bool = False
    mapping: str = ""  # as OpenTree has it
    propagation: int = syscalls.MS_PRIVATE

    ADVICE = {errno.ENODEV: "this kernel has no such filesystem; load its module", **OpenTree.ADVICE}

    def describe(self) -> str:
        return f"make a mount of {self.kind}{' idmapped' if self.idmap else ''}"

    def execute(self, world: World) -> None:
        tree = new_filesystem(self.kind, dict(self.options), self.attributes)
        world.keep(self.key, tree)
        userns = world.descriptors[self.mapping] if self.mapping else world.userns
        try:
            syscalls.mount_setattr(tree, userns=userns if self.idmap else None, propagation=self.propagation)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.key) from error


def unmappable(paths: tuple[str, ...], userns: int) -> str | None:
    """Return the first of `paths` whose filesystem cannot be idmapped (mount_setattr(2)); what is missing can."""
    world = World(userns, -1, -1)
    for path in paths:
        try:
            OpenTree("probe", path, True, False, 0).execute(world)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.EINVAL:
                return path
            raise
        finally:
            world.close()
    return None


class Target(NamedTuple):
    """A place inside the root that something will be mounted on, made where it is missing.

    With a `key` it is what that tree is, a directory or a file; without one a directory. `replace_link` as in
    `runtime.paths.make_file`.
    """

    path: str
    key: str = ""
    replace_link: bool = False
    owner: int = 0  # of what is made
    group: int = 0

    ADVICE = {
        errno.EROFS: "the root is read-only: create this path in it, or mount elsewhere",
        errno.EACCES: "create this path in the root filesystem, or mount elsewhere",
        errno.EPERM: "create this path in the root filesystem, or mount elsewhere",
    }

    def describe(self) -> str:
        return f"make the mount target {self.path}"

    def execute(self, world: World) -> None:
        if not self.key or stat.S_ISDIR(os.fstat(world.descriptors[self.key]).st_mode):
            os.close(make_directory(world.root, self.path, (self.owner, self.group)))
        else:
            owner = self.owner, self.group
            os.close(make_file(world.root, self.path, replace_link=self.replace_link, owner=owner))


class ReadOnlyRoot(NamedTuple):
    """The root becomes read-only, after what is mounted on it has found its targets."""

    def describe(self) -> str:
        return "make the root read-only"

    def execute(self, world: World) -> None:
        syscalls.mount_setattr(world.root, set_flags=syscalls.MOUNT_ATTR_RDONLY)


class ControlGroups(NamedTuple):
    """The container's own cgroups below one read-only directory: the hierarchies in which it has a leaf, no others.

    In a hierarchy without a leaf the cgroup namespace's root would be the launcher's, and the host's tree in sight. It
    is without a cgroup namespace, too: then the mounts are made in one that ends at once.
    """

    path: str
    hierarchies: tuple[tuple[str, str], ...]  # directory, v1 controllers with commas; no controllers mean cgroup v2
    attributes: int
    shared: bool = False  # the container has no cgroup namespace of its own

    def describe(self) -> str:
        return f"mount the cgroups {', '.join(name or 'v2' for name, _ in self.hierarchies)} on {self.path}"

    def execute(self, world: World) -> None:
        trees = _in_own_cgroups(self._trees) if self.shared else self._trees()
        try:
            if self.hierarchies == (("", ""),):
                attach(world.root, trees[0], self.path)
            else:
                self._assemble(world.root, trees)
        finally:
            for tree in trees:
                os.close(tree)

    def _trees(self) -> list[int]:
        found: list[int] = []
        try:
            for _, controllers in self.hierarchies:
                options = dict.fromkeys(controllers.split(","), "") if controllers else {}
                found.append(new_filesystem("cgroup" if controllers else "cgroup2", options, self.attributes))
        except OSError:
            for tree in found:
                os.close(tree)
            raise
        return found

    def _assemble(self, root: int, trees: list[int]) -> None:
        quiet = self.attributes & ~syscalls.MOUNT_ATTR_RDONLY
        above = new_filesystem("tmpfs", {"size": "0", "mode": "755"}, quiet)
        try:
            for name, _ in self.hierarchies:
                os.mkdir(name, 0o755, dir_fd=above)
            attach(root, above, self.path)
            for (name, _), tree in zip(self.hierarchies, trees, strict=True):
                attach(above, tree, name)
            syscalls.mount_setattr(above, set_flags=self.attributes)
        finally:
            os.close(above)


_NUMBER = struct.Struct("=i")


def _in_own_cgroups(make: Callable[[], list[int]]) -> list[int]:
    """Return what `make` opens in a child with a cgroup namespace of its own, whose descriptors are this process's."""
    answer, said = os.pipe2(os.O_CLOEXEC)
    try:
        pid = syscalls.clone3(syscalls.CLONE_FILES | syscalls.CLONE_CLEAR_SIGHAND, exit_signal=signal.SIGCHLD)
        if pid == 0:
            code = 70
            try:
                syscalls.unshare(syscalls.CLONE_NEWCGROUP)
                os.write(said, b"".join(map(_NUMBER.pack, make())))
                code = 0
            except OSError as error:
                os.write(said, _NUMBER.pack(-(error.errno or errno.EIO)))
                code = 0
            finally:
                os._exit(code)
        os.waitpid(pid, 0)
        os.set_blocking(answer, False)
        try:
            words = os.read(answer, 4096)
        except BlockingIOError:
            raise OSError(errno.ESRCH, "was killed", "the process that mounts the cgroups") from None
    finally:
        os.close(answer)
        os.close(said)
    numbers: list[int] = [each for (each,) in _NUMBER.iter_unpack(words)]
    if numbers[0] < 0:
        raise OSError(-numbers[0], os.strerror(-numbers[0]), "cgroup")
    return numbers


class Isolate(NamedTuple):
    """No mount of this namespace reaches another one from here on."""

    def describe(self) -> str:
        return "make every mount private"

    def execute(self, world: World) -> None:
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


class AttachRoot(NamedTuple):
    """The new root gets a place in the mount namespace, from which it will be pivoted to `/`.

    /dev is covered by it for good, exists everywhere, and can be reached by ids that may enter nothing of ours. Hooks
    that run before the pivot look for the root at its own path, and want a /dev: it is put there where the
    container's root can reach that.
    """

    key: str
    place: str = PIVOT_PLACE

    def describe(self) -> str:
        return "attach the root"

    def execute(self, world: World) -> None:
        world.root = world.descriptors[self.key]
        try:
            syscalls.move_mount_to(world.root, self.place)
        except PermissionError:
            if self.place == PIVOT_PLACE:
                raise
            syscalls.move_mount_to(world.root, PIVOT_PLACE)


class NewMount(NamedTuple):
    """A filesystem of the container's own: proc, sysfs, devpts, mqueue, tmpfs, cgroup."""

    kind: str
    path: str
    options: tuple[tuple[str, str], ...]  # an empty value is a flag
    attributes: int
    propagation: int = 0  # MS_*; 0: as it is born, private
    copy_up: bool = False  # what is at the path goes into the new filesystem

    ADVICE = {
        errno.EPERM: "the kernel does not let a user namespace mount this",
        errno.ENODEV: "this kernel has no such filesystem; load its module",
    }

    def describe(self) -> str:
        return f"mount {self.kind} on {self.path}"

    def execute(self, world: World) -> None:
        attributes = self.attributes & ~syscalls.MOUNT_ATTR_RDONLY if self.copy_up else self.attributes
        tree = new_filesystem(self.kind, dict(self.options), attributes)
        try:
            if self.copy_up:
                copy_up(world.root, self.path, tree, itself=not any(key == "mode" for key, _ in self.options))
            if self.propagation or attributes != self.attributes:
                syscalls.mount_setattr(tree, set_flags=self.attributes, propagation=self.propagation)
            attach(world.root, tree, self.path)
        finally:
            os.close(tree)


class Reconfigure(NamedTuple):
    """A mount that is there already changes: `remount`, or words about its propagation alone."""

    path: str
    attributes: int
    clear: int
    deep: int
    deep_clear: int
    propagation: int
    propagation_deep: bool
    options: tuple[tuple[str, str], ...] = ()  # for the filesystem itself

    ADVICE = {
        errno.EINVAL: "only a mount can be changed: name the directory or file that something is mounted on",
        errno.EPERM: "the kernel keeps a user namespace from taking this back",
    }

    def describe(self) -> str:
        return f"change the mount on {self.path}"

    def execute(self, world: World) -> None:
        target = open_below(world.root, self.path)
        try:
            if self.deep | self.deep_clear or (self.propagation and self.propagation_deep):
                propagation = self.propagation if self.propagation_deep else 0
                syscalls.mount_setattr(
                    target, set_flags=self.deep, clear=self.deep_clear, propagation=propagation, recursive=True
                )
            propagation = 0 if self.propagation_deep else self.propagation
            syscalls.mount_setattr(target, set_flags=self.attributes, clear=self.clear, propagation=propagation)
            if self.options:
                _reconfigure(target, self.options)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error
        finally:
            os.close(target)


def _reconfigure(target: int, options: tuple[tuple[str, str], ...]) -> None:
    context = syscalls.fspick(target)
    try:
        _configure(context, "", dict(options))
        syscalls.fsconfig_reconfigure(context)
    finally:
        os.close(context)


class Attach(NamedTuple):
    """A tree that was opened before goes to its place below the root."""

    key: str
    path: str

    def describe(self) -> str:
        return f"attach {self.key} on {self.path}"

    def execute(self, world: World) -> None:
        attach(world.root, world.descriptors[self.key], self.path)


class Mask(NamedTuple):
    """Files vanish behind /dev/null, directories behind one empty read-only tmpfs; missing ones need no mask."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"mask {', '.join(self.paths)}"

    def execute(self, world: World) -> None:
        null = open_below(world.root, "/dev/null")
        empty = -1
        try:
            node = os.stat(null)
            if not stat.S_ISCHR(node.st_mode) or node.st_rdev != os.makedev(1, 3):
                raise OSError(errno.ENODEV, "is not the null device", "/dev/null")
            for path in self.paths:
                try:
                    target = open_below(world.root, path)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                try:
                    if stat.S_ISDIR(os.stat(target).st_mode):
                        if empty < 0:  # a second mask shares the filesystem: it is empty and stays so
                            empty = _empty_directory(target)
                            continue
                        cover = syscalls.open_tree("", directory=empty)
                    else:
                        cover = syscalls.open_tree("", directory=null)
                    try:
                        syscalls.move_mount(cover, target)
                    finally:
                        os.close(cover)
                finally:
                    os.close(target)
        finally:
            os.close(null)
            if empty >= 0:
                os.close(empty)


def _empty_directory(target: int) -> int:
    """Cover `target` with an empty read-only tmpfs; return its descriptor, which later masks copy."""
    attributes = (
        syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    )
    empty = new_filesystem("tmpfs", {"size": "0", "nr_inodes": "1", "mode": "755"}, attributes)
    syscalls.move_mount(empty, target)
    return empty


class ReadOnlyPaths(NamedTuple):
    """These paths become read-only below the root; missing ones need nothing."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return f"make read-only {', '.join(self.paths)}"

    def execute(self, world: World) -> None:
        for path in self.paths:
            try:
                target = open_below(world.root, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
                copy = syscalls.open_tree("", directory=target, flags=flags)
                try:
                    syscalls.mount_setattr(copy, set_flags=syscalls.MOUNT_ATTR_RDONLY, recursive=True)
                    syscalls.move_mount(copy, target)
                finally:
                    os.close(copy)
            finally:
                os.close(target)


class PivotRoot(NamedTuple):
    """The root becomes `/` and the host's tree is gone from this mount namespace (pivot_root(2), its last example)."""

    def describe(self) -> str:
        return "pivot into the root"

    def execute(self, world: World) -> None:
        os.fchdir(world.root)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")


class Propagate(NamedTuple):
    """The propagation type of the root, once it is `/` (linux.rootfsPropagation)."""

    kind: int  # MS_*
    recursive: bool

    def describe(self) -> str:
        return "set how mounts propagate from the root"

    def execute(self, world: World) -> None:
        syscalls.mount(None, "/", None, self.kind | (syscalls.MS_REC if self.recursive else 0))


class OpenProcfs(NamedTuple):
    """A procfs for writing only, opened while the kernel still gives one (runtime.procfs)."""

    def describe(self) -> str:
        return "open a procfs"

    def execute(self, world: World) -> None:
        procfs.of(world)


def new_filesystem(kind: str, options: dict[str, str], attributes: int) -> int:
    """Return a detached mount of a new filesystem (fsopen(2), fsmount(2)); an empty option value is a flag."""
    context = syscalls.fsopen(kind)
    try:
        _configure(context, kind, options)
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, attributes)
    finally:
        os.close(context)


_LONGEST = 255  # bytes of one option, fsconfig(2)


def _configure(context: int, kind: str, options: dict[str, str]) -> None:
    for key, value in options.items():
        if not value:
            syscalls.fsconfig_flag(context, key)
        elif kind == "overlay" and key == "lowerdir" and len(os.fsencode(value)) > _LONGEST:
            for layer in _LAYER.findall(value):  # one after the other, since 6.8
                syscalls.fsconfig_string(context, "lowerdir+", re.sub(r"\\(.)", r"\1", layer))
        elif len(os.fsencode(value)) > _LONGEST:
            raise OSError(errno.ENAMETOOLONG, f"is longer than the {_LONGEST} bytes that fsconfig(2) takes", key)
        else:
            syscalls.fsconfig_string(context, key, value)


_LAYER = re.compile(r"(?:[^:\\]|\\.)+")  # of overlay's colon-separated list, whose escape is a backslash


def attach(root: int, tree: int, path: str) -> None:
    """Attach the detached mount `tree` on `path` below `root`; the error names the path."""
    target = open_below(root, path)
    try:
        syscalls.move_mount(tree, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(target)
