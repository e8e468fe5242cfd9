"""The steps that make a container's root: layers and volumes opened outside, everything put in its place inside.

Mounts are moved from descriptor to descriptor (open_tree(2), fsopen(2), move_mount(2)); no path of the root is ever
looked up twice (CVE-2021-30465, CVE-2025-31133).
"""

import errno
import os
import stat
from typing import NamedTuple

from runtime import syscalls
from runtime.paths import make_directory, make_file, open_below
from runtime.world import World

PIVOT_PLACE = "/dev"


class OpenTree(NamedTuple):
    """A detached copy of a host directory's or file's mount, idmapped for the container where asked."""

    key: str
    path: str
    idmap: bool
    recursive: bool
    attributes: int  # MOUNT_ATTR_*

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
        try:
            if self.idmap and world.userns is not None:
                syscalls.mount_setattr(tree, userns=world.userns, recursive=self.recursive)
            if self.attributes:
                syscalls.mount_setattr(tree, set_flags=self.attributes, recursive=self.recursive)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error


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


class Devices(NamedTuple):
    """A fresh /dev: made by the host's root, so that its nodes work, before anything of the image is looked at."""

    key: str
    nodes: tuple[tuple[str, int, int, int], ...]  # name, mode, major, minor
    owner: int  # the container's root, as a host id

    def describe(self) -> str:
        return f"make /dev with {', '.join(node[0] for node in self.nodes)}"

    def execute(self, world: World) -> None:
        options = {"size": "65536k", "mode": "755", "uid": str(self.owner), "gid": str(self.owner)}
        tree = new_filesystem("tmpfs", options, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC)
        world.keep(self.key, tree)
        made: list[str] = []
        for name, mode, major, minor in self.nodes:
            os.mknod(name, stat.S_IFCHR | mode, os.makedev(major, minor), dir_fd=tree)
            made.append(name)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=tree)
            made.append(name)
        for name, target in _DEVICE_LINKS:
            os.symlink(target, name, dir_fd=tree)
            made.append(name)
        if self.owner:
            for name in made:
                os.chown(name, self.owner, self.owner, dir_fd=tree, follow_symlinks=False)


_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


class Target(NamedTuple):
    """A place inside the root that something will be mounted on, made where it is missing.

    With a `key` it is what that tree is, a directory or a file; without one a directory. `replace_link` as in
    `runtime.paths.make_file`.
    """

    path: str
    key: str = ""
    replace_link: bool = False

    ADVICE = {
        errno.EROFS: "the root is read-only: create this path in it, or mount elsewhere",
        errno.EACCES: "create this path in the root filesystem, or mount elsewhere",
        errno.EPERM: "create this path in the root filesystem, or mount elsewhere",
    }

    def describe(self) -> str:
        return f"make the mount target {self.path}"

    def execute(self, world: World) -> None:
        if not self.key or stat.S_ISDIR(os.fstat(world.descriptors[self.key]).st_mode):
            os.close(make_directory(world.root, self.path))
        else:
            os.close(make_file(world.root, self.path, replace_link=self.replace_link))


class ReadOnlyRoot(NamedTuple):
    """The root becomes read-only, after what is mounted on it has found its targets."""

    def describe(self) -> str:
        return "make the root read-only"

    def execute(self, world: World) -> None:
        syscalls.mount_setattr(world.root, set_flags=syscalls.MOUNT_ATTR_RDONLY)


class ControlGroups(NamedTuple):
    """The container's own cgroups below one read-only directory: the hierarchies in which it has a leaf, no others.

    In a hierarchy without a leaf the cgroup namespace's root would be the launcher's, and the host's tree in sight.
    """

    path: str
    hierarchies: tuple[tuple[str, str], ...]  # directory, v1 controllers with commas; no controllers mean cgroup v2
    attributes: int

    def describe(self) -> str:
        return f"mount the cgroups {', '.join(name or 'v2' for name, _ in self.hierarchies)} on {self.path}"

    def execute(self, world: World) -> None:
        if self.hierarchies == (("", ""),):
            NewMount("cgroup2", self.path, (), self.attributes).execute(world)
            return
        quiet = self.attributes & ~syscalls.MOUNT_ATTR_RDONLY
        above = new_filesystem("tmpfs", {"size": "0", "mode": "755"}, quiet)
        try:
            for name, _ in self.hierarchies:
                os.mkdir(name, 0o755, dir_fd=above)
            attach(world.root, above, self.path)
            for name, controllers in self.hierarchies:
                options = dict.fromkeys(controllers.split(","), "") if controllers else {}
                tree = new_filesystem("cgroup" if controllers else "cgroup2", options, self.attributes)
                try:
                    attach(above, tree, name)
                finally:
                    os.close(tree)
            syscalls.mount_setattr(above, set_flags=self.attributes)
        finally:
            os.close(above)


class Isolate(NamedTuple):
    """No mount of this namespace reaches another one from here on."""

    def describe(self) -> str:
        return "make every mount private"

    def execute(self, world: World) -> None:
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


class AttachRoot(NamedTuple):
    """The new root gets a place in the mount namespace, from which it will be pivoted to `/`.

    The place is covered by it for good, exists everywhere, and can be reached by ids that may enter nothing of ours.
    """

    key: str

    def describe(self) -> str:
        return "attach the root"

    def execute(self, world: World) -> None:
        world.root = world.descriptors[self.key]
        syscalls.move_mount_to(world.root, PIVOT_PLACE)


class NewMount(NamedTuple):
    """A filesystem of the container's own: proc, sysfs, devpts, mqueue, tmpfs, cgroup."""

    kind: str
    path: str
    options: tuple[tuple[str, str], ...]  # an empty value is a flag
    attributes: int

    def describe(self) -> str:
        return f"mount {self.kind} on {self.path}"

    def execute(self, world: World) -> None:
        tree = new_filesystem(self.kind, dict(self.options), self.attributes)
        try:
            attach(world.root, tree, self.path)
        finally:
            os.close(tree)


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


def new_filesystem(kind: str, options: dict[str, str], attributes: int) -> int:
    """Return a detached mount of a new filesystem (fsopen(2), fsmount(2)); an empty option value is a flag."""
    context = syscalls.fsopen(kind)
    try:
        for key, value in options.items():
            if value:
                syscalls.fsconfig_string(context, key, value)
            else:
                syscalls.fsconfig_flag(context, key)
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, attributes)
    finally:
        os.close(context)


def attach(root: int, tree: int, path: str) -> None:
    """Attach the detached mount `tree` on `path` below `root`; the error names the path."""
    target = open_below(root, path)
    try:
        syscalls.move_mount(tree, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(target)
