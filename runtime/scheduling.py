"""The steps that say what a process gets of the machine: OOM score, I/O priority, scheduling policy, CPU affinity.

Some of it only the host's root may do, and a container's pid 1 is that no more. So these steps have an `early` that
does the same in the process that clones it, before that joins the user namespace: pid 1 inherits what was set there,
and its `execute` then finds nothing left to do.
"""

import errno
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime import procfs, syscalls
from runtime.world import World

IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
"""OCI's policies by their numbers (sched(7)); no kernel of kernel.org has SCHED_ISO, and answers EINVAL."""
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
"""sched_setattr(2); OCI has no field for a clamp's value, so it is 0."""

_MAX_CPUS = 8192  # CONFIG_NR_CPUS of the largest kernels
_HOST_PRIVILEGE = "only a process with CAP_SYS_{0} on the host may; {1}"

NOWHERE = World(None, -1, -1)
"""For steps that are about the calling process alone."""


class OomScore(NamedTuple):
    """How much sooner or later than others the OOM killer chooses the process (oom_score_adj in proc(5))."""

    adjustment: int  # -1000 to 1000

    ADVICE = {
        errno.EACCES: _HOST_PRIVILEGE.format("RESOURCE", "ask for no lower oomScoreAdj than the runtime itself has"),
        errno.EINVAL: "oomScoreAdj goes from -1000 to 1000",
    }

    def describe(self) -> str:
        return f"set the OOM score adjustment {self.adjustment}"

    def execute(self, world: World) -> None:
        _set_oom_score(procfs.of(world), self.adjustment)

    def early(self) -> None:
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # the host's: nobody else was here before
        try:
            _set_oom_score(proc, self.adjustment)
        finally:
            os.close(proc)


def _set_oom_score(proc: int, adjustment: int) -> None:
    """Set it through the procfs `proc`. In a user namespace a process that is not dumpable may not, only read it."""
    if int(procfs.read(proc, "self/oom_score_adj")) != adjustment:
        procfs.write(proc, "self/oom_score_adj", str(adjustment))


class IoPriority(NamedTuple):
    """The class and priority of the process's I/O (ioPriority in config.md, ioprio_set(2))."""

    io_class: str
    priority: int  # 0, the highest, to 7

    ADVICE = {
        errno.EPERM: _HOST_PRIVILEGE.format("NICE", "use IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE"),
        errno.EINVAL: "the classes are IOPRIO_CLASS_RT, _BE and _IDLE, the priorities 0 to 7",
    }

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "IoPriority":
        """Return the step for OCI's `process.ioPriority`; raise ValueError naming the field."""
        io_class, priority = fields.get("class"), fields.get("priority", 0)
        if io_class not in IO_CLASSES:
            known = ", ".join(IO_CLASSES)
            raise ValueError(f"process.ioPriority.class: {io_class!r} is not one of {known}")
        if not isinstance(priority, int) or not 0 <= priority <= 7:
            raise ValueError(f"process.ioPriority.priority: {priority!r} is not from 0 to 7")
        return cls(io_class, priority)

    def describe(self) -> str:
        return f"set the I/O priority {self.io_class} {self.priority}"

    def execute(self, world: World) -> None:
        if self.io_class not in IO_CLASSES or not 0 <= self.priority <= 7:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), f"{self.io_class} {self.priority}")
        wanted = IO_CLASSES[self.io_class] << 13 | self.priority
        if syscalls.ioprio_get() != wanted:
            syscalls.ioprio_set(wanted)

    def early(self) -> None:
        self.execute(NOWHERE)


class Scheduler(NamedTuple):
    """The process's scheduling policy and its parameters (scheduler in config.md, sched_setattr(2))."""

    policy: str
    nice: int
    priority: int
    flags: tuple[str, ...]
    runtime: int  # nanoseconds, as the next two, for SCHED_DEADLINE
    deadline: int
    period: int

    ADVICE = {
        errno.EPERM: _HOST_PRIVILEGE.format(
            "NICE",
            "use SCHED_OTHER, SCHED_BATCH or SCHED_IDLE without a lower nice value; on cgroup v1 real-time policies "
            "also need cpu.rt_runtime_us",
        ),
        errno.EINVAL: "this kernel has no such policy, or its parameters do not fit; see sched(7)",
        errno.EBUSY: "the deadline cannot be kept beside those that were promised before; ask for less",
        errno.EOPNOTSUPP: "this kernel has no utilization clamping; leave the flag out",
    }

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "Scheduler":
        """Return the step for OCI's `process.scheduler`; raise ValueError naming the field."""
        where = "process.scheduler"
        policy: Any = fields.get("policy")
        if policy not in POLICIES:
            raise ValueError(f"{where}.policy: {policy!r} is not one of {', '.join(POLICIES)}")
        flags: Any = fields.get("flags") or ()
        for flag in flags:
            if flag not in FLAGS:
                raise ValueError(f"{where}.flags: {flag!r} is not one of {', '.join(FLAGS)}")
        numbers: dict[str, int] = {}
        for name, low, high in (
            ("nice", -20, 19),
            ("priority", 0, 99),
            *((name, 0, (1 << 63) - 1) for name in ("runtime", "deadline", "period")),
        ):
            value = fields.get(name) or 0
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{where}.{name}: {value!r} is not from {low} to {high}")
            numbers[name] = value
        real_time = policy in ("SCHED_FIFO", "SCHED_RR")
        if numbers["priority"] and not real_time:
            raise ValueError(f"{where}.priority is for SCHED_FIFO and SCHED_RR, not for {policy}")
        if real_time and not numbers["priority"]:
            raise ValueError(f"{where}.priority: {policy} needs one from 1 to 99")
        for name in ("runtime", "deadline", "period"):
            if numbers[name] and policy != "SCHED_DEADLINE":
                raise ValueError(f"{where}.{name} is for SCHED_DEADLINE, not for {policy}")
        return cls(policy, flags=tuple(flags), **numbers)

    def describe(self) -> str:
        return f"schedule by {self.policy}"

    def execute(self, world: World) -> None:
        bits = 0
        for flag in self.flags:
            if flag not in FLAGS:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), flag)
            bits |= FLAGS[flag]
        if self.policy not in POLICIES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.policy)
        times = self.runtime, self.deadline, self.period
        wanted = POLICIES[self.policy], bits, self.nice, self.priority, times
        try:
            if syscalls.sched_getattr() != wanted:
                syscalls.sched_setattr(*wanted)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.policy) from error

    def early(self) -> None:
        # Who has a deadline cannot clone, and what is reset on fork is not inherited.
        if self.policy != "SCHED_DEADLINE" and "SCHED_FLAG_RESET_ON_FORK" not in self.flags:
            self.execute(NOWHERE)


class Affinity(NamedTuple):
    """The CPUs that the process may run on (execCPUAffinity in config.md, sched_setaffinity(2))."""

    cpus: str  # as a cpuset has them: 0-3,7

    ADVICE = {errno.EINVAL: "none of these CPUs is there and in the container's cpuset; name some that are"}

    def describe(self) -> str:
        return f"run on the CPUs {self.cpus}"

    def execute(self, world: World) -> None:
        try:
            os.sched_setaffinity(0, cpus(self.cpus))
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), self.cpus) from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.cpus) from error


def cpus(text: str) -> frozenset[int]:
    """Return the CPUs of a list such as `0-3,7` (cpuset(7), "List format"); raise ValueError with what is wrong."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not all(each.isascii() and each.isdigit() and len(each) < 6 for each in (first, last if dash else first)):
            raise ValueError(f"{text!r} is no list of CPUs such as 0-3,7")
        low, high = int(first), int(last if dash else first)
        if low > high or high >= _MAX_CPUS:
            raise ValueError(f"{text!r}: {part.strip()!r} is no range of CPUs below {_MAX_CPUS}")
        found.update(range(low, high + 1))
    return frozenset(found)
