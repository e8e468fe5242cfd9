"""The default seccomp profile, as OCI's `linux.seccomp`: what a container may ask of the kernel. Pure.

It lets through what Docker's and Podman's current defaults let through for the same capabilities. What is known and
refused answers EPERM, so that a program learns that it may not; what is unknown answers ENOSYS, so that the C library
falls back as on an older kernel. A list of what is allowed, never of what is not: the refused names below only choose
the error.
"""

from collections.abc import Set
from typing import Any

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

ARCHITECTURES: dict[str, list[str]] = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
"""The machine's own system-call table and that of the 32-bit programs it still runs.

x32, which distributions' kernels leave off, is not among them and answers ENOSYS: a third of the filter, and of the
time to load it, would serve nobody but an attacker.
"""

NAMESPACE_FLAGS = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
AF_ALG, AF_VSOCK, AF_LIMIT = 38, 40, 46
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, each with UNAME26, and "tell me": none of them weakens a process."""

_FILES = """
access cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
ioctl lchown lchown32 lgetxattr link linkat listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek
lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64
preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename
renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statmount statx
symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat
utimensat_time64 utimes vmsplice write writev fanotify_mark
"""
_MEMORY = """
brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect
mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages
shmat shmctl shmdt shmget
"""
_PROCESSES = """
alarm capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv
futex_wake getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid
getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid
get_thread_area gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self pause pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace
restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setfsgid setfsgid32 setfsuid
setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid set_thread_area set_tid_address setuid setuid32
sigaltstack signalfd signalfd4 sigprocmask sigreturn tgkill tkill ugetrlimit uretprobe vfork
wait4 waitid waitpid
"""
_TALK = """
accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 getpeername getsockname getsockopt io_cancel io_destroy io_getevents io_pgetevents
io_pgetevents_time64 io_setup io_submit ipc listen mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd _newselect poll ppoll
ppoll_time64 pselect6 pselect6_time64 recv recvfrom recvmmsg recvmmsg_time64 recvmsg select semctl semget semop
semtimedop semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
_TIME_AND_SYSTEM = """
adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
clock_nanosleep_time64 getitimer getrandom gettimeofday nanosleep setitimer sysinfo time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64 times uname
"""
_OF_A_MACHINE = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
}

_WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr "
    "lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd "
    "setdomainname sethostname setns syslog umount umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
"""What a capability added to a container opens; without it these answer EPERM."""

_NEVER = """
add_key bdflush create_module get_kernel_syms io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load
keyctl migrate_pages move_pages nfsservctl open_tree_attr pivot_root query_module request_key swapoff swapon sysfs
_sysctl uselib userfaultfd ustat vm86 vm86old
"""


def default(capabilities: Set[str], machine: str) -> dict[str, Any]:
    """Return the profile for a container with `capabilities` (full names) on `machine` (as `os.uname().machine`).

    Raises ValueError for a machine without a list.
    """
    if machine not in ARCHITECTURES:
        raise ValueError(f"there is no seccomp profile for {machine}; known: {', '.join(ARCHITECTURES)}")
    lists = (_FILES, _MEMORY, _PROCESSES, _TALK, _TIME_AND_SYSTEM, _OF_A_MACHINE[machine])
    allowed: set[str] = {name for text in lists for name in text.split()}
    refused: set[str] = set(_NEVER.split())
    for capability, text in _WITH_CAPABILITY.items():
        (allowed if capability in capabilities else refused).update(text.split())
    refused -= allowed | {"clone", "clone3"}
    rules = [_rule("SCMP_ACT_ALLOW", sorted(allowed)), _rule("SCMP_ACT_ERRNO", sorted(refused), EPERM)]
    if "CAP_SYS_ADMIN" not in capabilities:
        rules += _clone()
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": ARCHITECTURES[machine],
        "syscalls": [*rules, *_socket(), *_personality()],
    }


def _rule(action: str, names: list[str], error: int | None = None, *args: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": action}
    if error is not None:
        rule["errnoRet"] = error
    if args:
        rule["args"] = list(args)
    return rule


def _argument(operator: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": 0, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}


def _clone() -> list[dict[str, Any]]:
    """No new namespaces: a user namespace would give back every capability, and the kernel's holes with them.

    clone3 has its flags in memory, where a filter cannot look; without it the C library uses clone.
    """
    every = sum(NAMESPACE_FLAGS.values())
    return [
        _rule("SCMP_ACT_ALLOW", ["clone"], None, _argument("MASKED_EQ", every, 0)),
        *(
            _rule("SCMP_ACT_ERRNO", ["clone"], EPERM, _argument("MASKED_EQ", flag, flag))
            for flag in NAMESPACE_FLAGS.values()
        ),
        _rule("SCMP_ACT_ERRNO", ["clone3"], ENOSYS),
    ]


def _socket() -> list[dict[str, Any]]:
    """Every family but the kernel's crypto interface and virtual machines' sockets, which know no namespaces."""
    return [
        _rule("SCMP_ACT_ALLOW", ["socket"], None, _argument("LT", AF_ALG)),
        _rule("SCMP_ACT_ALLOW", ["socket"], None, _argument("EQ", AF_ALG + 1)),
        *(
            _rule("SCMP_ACT_ALLOW", ["socket"], None, _argument("EQ", family))
            for family in range(AF_VSOCK + 1, AF_LIMIT)
        ),
        *(_rule("SCMP_ACT_ERRNO", ["socket"], EPERM, _argument("EQ", family)) for family in (AF_ALG, AF_VSOCK)),
        _rule("SCMP_ACT_ERRNO", ["socket"], EAFNOSUPPORT, _argument("GE", AF_LIMIT)),
    ]


def _personality() -> list[dict[str, Any]]:
    return [_rule("SCMP_ACT_ALLOW", ["personality"], None, _argument("EQ", value)) for value in PERSONALITIES]
