"""The steps that make a process what it may be: names, limits, persona, ids, capabilities, no_new_privs, seccomp."""

import errno
import os
import resource
import stat
from collections.abc import Callable
from typing import NamedTuple

from runtime import syscalls
from runtime.accounts import MAX_FILE, MAX_ID, resolve
from runtime.paths import IN_ROOT
from runtime.world import World


class Hostname(NamedTuple):
    """The UTS namespace's host name."""

    name: str

    def describe(self) -> str:
        return f"set the host name {self.name}"

    def execute(self, world: World) -> None:
        syscalls.sethostname(self.name)


class Domainname(NamedTuple):
    """The UTS namespace's NIS domain name."""

    name: str

    def describe(self) -> str:
        return f"set the domain name {self.name}"

    def execute(self, world: World) -> None:
        syscalls.setdomainname(self.name)


PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
"""personality in config-linux.md; PER_LINUX32 makes uname(2) answer as a 32-bit machine does."""


class Personality(NamedTuple):
    """The execution domain of the process (personality(2)); OCI defines no flags, so there can be none."""

    domain: str
    flags: tuple[str, ...]

    ADVICE = {errno.EINVAL: f"the domains are {' and '.join(PERSONALITIES)}, without flags"}

    def describe(self) -> str:
        return f"take the personality {self.domain}"

    def execute(self, world: World) -> None:
        if self.domain not in PERSONALITIES or self.flags:
            said = " ".join((self.domain, *self.flags))
            raise OSError(errno.EINVAL, "is no personality of the OCI specification", said)
        syscalls.personality(PERSONALITIES[self.domain])


_RLIMITS = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
RLIMITS = {f"RLIMIT_{name}": number for number, name in enumerate(_RLIMITS.split())}
"""Every limit of Linux by its number, the same on x86_64 and aarch64 (getrlimit(2), asm-generic/resource.h)."""
UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY as OCI's unsigned 64-bit fields have it."""


class Limit(NamedTuple):
    """One resource limit of the process (setrlimit(2)); -1 and 2⁶⁴-1 are no limit."""

    name: str  # as OCI has it: RLIMIT_NOFILE
    soft: int
    hard: int

    ADVICE = {
        errno.EPERM: "only a process with CAP_SYS_RESOURCE on the host can raise a hard limit, and RLIMIT_NOFILE never "
        "above fs.nr_open: lower it, or raise that of the runtime",
        errno.EINVAL: "the soft limit is at most the hard one, both from 0 to 2⁶⁴-1",
    }

    def describe(self) -> str:
        return f"limit {self.name} to {self.soft}:{self.hard}"

    def execute(self, world: World) -> None:
        soft, hard = (UNLIMITED if each == -1 else each for each in (self.soft, self.hard))
        if self.name not in RLIMITS or not 0 <= soft <= hard <= UNLIMITED:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), f"{self.name} {self.soft}:{self.hard}")
        try:
            resource.setrlimit(RLIMITS[self.name], (_signed(soft), _signed(hard)))
        except ValueError as error:  # CPython's word for EPERM here; EINVAL was ruled out above
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), f"{self.name} {self.soft}:{self.hard}") from error

    def early(self) -> None:
        """Raise the hard limit, where that is needed, in the process that clones pid 1 (see runtime.scheduling)."""
        number = RLIMITS.get(self.name)
        wanted = UNLIMITED if self.hard == -1 else self.hard
        if number is None or not 0 <= wanted <= UNLIMITED:
            return  # `execute` says it
        soft, hard = resource.getrlimit(number)
        if hard % (1 << 64) < wanted:
            try:
                resource.setrlimit(number, (soft, _signed(wanted)))
            except ValueError as error:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM), f"{self.name} {self.soft}:{self.hard}") from error


def _signed(value: int) -> int:
    """Return the 64 bits of `value` as CPython takes an rlim_t."""
    return value - (1 << 64) if value >> 63 else value


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
        for stream in {world.stdin, world.stdout, world.stderr}:
            if stream is not None:
                _give(stream, world)


def _give(stream: int, world: World) -> None:
    """Make a pipe or the container's terminal the user's, or /dev/stdout could not be opened again.

    A file or device of the caller's stays what it is.
    """
    try:
        if world.terminal:
            os.fchown(stream, world.account.uid, -1)
        elif stat.S_ISFIFO(os.fstat(stream).st_mode):
            os.fchown(stream, world.account.uid, world.account.gid)
    except OSError as error:
        # A pipe of an owner whom the user namespace does not know stays the owner's; the program has it open anyway.
        if world.terminal or error.errno not in (errno.EPERM, errno.EINVAL):
            raise


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
    """Ids and the five capability sets (capabilities(7)); what is not in the bounding set is gone for good.

    What the process itself has not, it cannot give: it is left out, as config.md asks for ("process.capabilities").
    `runtime.capabilities.beyond` tells a plan beforehand.
    """

    bounding: int
    permitted: int
    effective: int
    inheritable: int
    ambient: int
    last: int  # the highest capability this kernel knows
    root_only: bool  # a user other than root gets the bounding set alone, as Docker has it

    ADVICE = {
        errno.EINVAL: "map the id in the user namespace (linux.uidMappings, linux.gidMappings), or use another",
        errno.EOVERFLOW: f"ids go from 0 to {MAX_ID}",
        errno.EACCES: "leave additionalGids out, or let the user namespace be made by a process with CAP_SETGID",
        errno.EPERM: "the runtime needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP where the container is made",
    }

    def describe(self) -> str:
        return f"take the user's ids and the capabilities {self.effective:#x}"

    def execute(self, world: World) -> None:
        account = world.account
        for what, number in (("uid", account.uid), ("gid", account.gid), *(("gid", each) for each in account.groups)):
            if not 0 <= number <= MAX_ID:  # -1 is "no change" to the kernel: the process would stay root
                raise OSError(errno.EOVERFLOW, "uid overflow: no id" if what == "uid" else "gid overflow", str(number))
        keep = account.uid == 0 or not self.root_only
        wanted = (self.effective, self.permitted, self.inheritable) if keep else (0, 0, 0)
        if wanted[2] & ~self.bounding:
            held = syscalls.capget()  # only before the bounding set loses it can it be made inheritable
            syscalls.capset(held[0], held[1], held[2] | wanted[2] & held[1])
        for capability in range(self.last + 1):
            if not self.bounding >> capability & 1:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        _set_groups(account.groups, account.gid)
        _set_ids(os.setresgid, "gid", account.gid)
        if account.uid and keep:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        _set_ids(os.setresuid, "uid", account.uid)
        permitted = wanted[1] & syscalls.capget()[1] if wanted[1] else 0
        inheritable = wanted[2] & (permitted | syscalls.capget()[2] | self.bounding) if wanted[2] else 0
        syscalls.capset(wanted[0] & permitted, permitted, inheritable)
        for capability in range(self.last + 1 if keep else 0):
            if self.ambient & permitted & inheritable & 1 << capability:
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, capability)


def _set_ids(call: Callable[[int, int, int], None], what: str, number: int) -> None:
    try:
        call(number, number, number)
    except OSError as error:
        message = f"the {what} is not mapped in the user namespace" if error.errno == errno.EINVAL else error.strerror
        raise OSError(error.errno, message, f"{what} {number}") from error


def _set_groups(groups: tuple[int, ...], gid: int) -> None:
    """Set the supplementary groups; where the user namespace denies that, what is there must be what is wanted.

    /proc/PID/setgroups says "deny" where an unprivileged user made the map (user_namespaces(7)).
    """
    try:
        os.setgroups(groups)
    except OSError as error:
        if error.errno != errno.EPERM:
            message = "a group is not mapped in the user namespace" if error.errno == errno.EINVAL else error.strerror
            raise OSError(error.errno, message, f"groups {' '.join(map(str, groups))}") from error
        kept = set(os.getgroups()) - {gid, _NOBODY}
        if kept == set(groups):
            return
        if groups:
            message = "the user namespace denies setgroups, so there can be no additional groups"
            raise OSError(errno.EACCES, message, f"groups {' '.join(map(str, groups))}") from error
        message = f"setgroups is denied, and the process would keep the groups {' '.join(map(str, sorted(kept)))}"
        raise OSError(errno.EACCES, message, "setgroups") from error


_NOBODY = 65534  # the overflow gid: what an unmapped group looks like


class NoNewPrivileges(NamedTuple):
    """execve can grant nothing from here on: setuid and file capabilities do nothing (PR_SET_NO_NEW_PRIVS)."""

    def describe(self) -> str:
        return "set no_new_privs"

    def execute(self, world: World) -> None:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


class Seccomp(NamedTuple):
    """The compiled system-call filter, read from the descriptor that came with the plan."""

    key: str
    flags: int = 0  # SECCOMP_FILTER_FLAG_*, as runtime.seccomp.flags_of returns them

    ADVICE = {
        errno.EINVAL: "the kernel refuses the program or a flag; see seccomp(2), and linux.seccomp.flags",
        errno.EACCES: "a filter needs process.noNewPrivileges, or CAP_SYS_ADMIN in the container's user namespace",
        errno.ENOMEM: "all filters of a process have at most 32,768 instructions; use fewer rules",
    }

    def describe(self) -> str:
        return "load the seccomp filter"

    def execute(self, world: World) -> None:
        descriptor = world.descriptors[self.key]
        syscalls.seccomp_filter(os.pread(descriptor, os.fstat(descriptor).st_size, 0), self.flags)
