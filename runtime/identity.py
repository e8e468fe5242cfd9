"""The steps that make a process what it may be: host name, limits, ids, capabilities, no_new_privs, seccomp."""

import errno
import os
import resource
import stat
from typing import NamedTuple

from runtime import syscalls
from runtime.accounts import MAX_FILE, resolve
from runtime.paths import IN_ROOT
from runtime.world import World


class Hostname(NamedTuple):
    """The UTS namespace's host name."""

    name: str

    def describe(self) -> str:
        return f"set the host name {self.name}"

    def execute(self, world: World) -> None:
        syscalls.sethostname(self.name)


class Limit(NamedTuple):
    """One resource limit of the process (setrlimit(2))."""

    name: str  # as OCI has it: RLIMIT_NOFILE
    soft: int
    hard: int

    ADVICE = {errno.EPERM: "only a host with CAP_SYS_RESOURCE can raise a hard limit: lower it"}

    def describe(self) -> str:
        return f"limit {self.name} to {self.soft}:{self.hard}"

    def execute(self, world: World) -> None:
        number: int = getattr(resource, self.name)
        try:
            resource.setrlimit(number, (self.soft, self.hard))
        except ValueError as error:  # CPython's word for EPERM here
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), self.name) from error


class Identify(NamedTuple):
    """Who the process will be: the names are looked up in the container's own passwd and group, read as hostile."""

    user: str
    additional: tuple[str, ...]

    ADVICE = {errno.ENOENT: "use a number, or a name that the root filesystem's /etc/passwd has"}

    def describe(self) -> str:
        return f"look up the user {self.user!r}"

    def execute(self, world: World) -> None:
        if self.user == "0:0" and not self.additional:
            return  # what a world starts with: most containers, and no file to read
        try:
            passwd = _account_file(world.root, "/etc/passwd")
            group = _account_file(world.root, "/etc/group")
            world.account = resolve(self.user, passwd, group, self.additional)
        except ValueError as error:
            raise OSError(errno.ENOENT, str(error), self.user) from error
        for stream in (world.stdout, world.stderr):  # or /dev/stdout could not be opened again
            os.fchown(stream, world.account.uid, world.account.gid)


def _account_file(root: int, path: str) -> bytes:
    """Return a passwd or group file's content, empty where there is no regular file; bounded."""
    try:
        descriptor = syscalls.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, resolve=IN_ROOT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO):
            return b""
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.read(descriptor, MAX_FILE + 1)
    finally:
        os.close(descriptor)


class Credentials(NamedTuple):
    """Ids and the five capability sets (capabilities(7)); what is not in the bounding set is gone for good."""

    bounding: int
    permitted: int
    effective: int
    inheritable: int
    ambient: int
    last: int  # the highest capability this kernel knows
    root_only: bool  # a user other than root gets the bounding set alone, as Docker has it

    def describe(self) -> str:
        return f"take the user's ids and the capabilities {self.effective:#x}"

    def execute(self, world: World) -> None:
        account = world.account
        for capability in range(self.last + 1):
            if not self.bounding >> capability & 1:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        keep = account.uid == 0 or not self.root_only
        if account.uid and keep:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        os.setresuid(account.uid, account.uid, account.uid)
        if keep:
            syscalls.capset(self.effective, self.permitted, self.inheritable)
            for capability in range(self.last + 1):
                if self.ambient >> capability & 1:
                    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, capability)
        else:
            syscalls.capset(0, 0, 0)


class NoNewPrivileges(NamedTuple):
    """execve can grant nothing from here on: setuid and file capabilities do nothing (PR_SET_NO_NEW_PRIVS)."""

    def describe(self) -> str:
        return "set no_new_privs"

    def execute(self, world: World) -> None:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


class Seccomp(NamedTuple):
    """The compiled system-call filter, read from the descriptor that came with the plan."""

    key: str

    def describe(self) -> str:
        return "load the seccomp filter"

    def execute(self, world: World) -> None:
        descriptor = world.descriptors[self.key]
        syscalls.seccomp_filter(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
