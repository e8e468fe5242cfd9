"""The system calls that Python's os module lacks, as thin typed functions: the only ctypes in creche.

Processes between clone and exec call these, so nothing here imports at call time, allocates much or takes a lock.
Every function raises OSError(errno, strerror, path) and names what it was about; numbers are those of the generic
system-call table (x86_64 and aarch64 share every number from 424 on).
"""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

# PyDLL keeps the GIL held: there is one thread wherever these run between clone and exec, and letting it go and taking
# it again costs more than most of the calls. Calls that may wait for a device (umount) belong in a worker thread.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_MACHINE = os.uname().machine
_OLD_NUMBERS = {  # pivot_root, capset, seccomp, keyctl, rt_sigaction
    "x86_64": (155, 126, 317, 250, 13),
    "aarch64": (41, 91, 277, 219, 134),
}
if _MACHINE not in _OLD_NUMBERS:
    raise ImportError(f"creche runs on x86_64 and aarch64, not on {_MACHINE}")
_EXECVE, _EXECVEAT = 59, 322  # x86_64: for its machine code alone
_PIVOT_ROOT, _CAPSET, _SECCOMP, _KEYCTL, _RT_SIGACTION = _OLD_NUMBERS[_MACHINE]
_CAPGET, _SCHED_SETATTR, _SCHED_GETATTR, _IOPRIO_SET, _IOPRIO_GET = {
    "x86_64": (125, 314, 315, 251, 252),
    "aarch64": (90, 274, 275, 30, 31),
}[_MACHINE]
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_PIDFD_OPEN, _CLONE3, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 434, 435, 436, 437, 442

# clone(2), unshare(2), setns(2)
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080
CLONE_VM = 0x00000100
CLONE_FILES = 0x00000400
CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_PARENT_SETTID = 0x00100000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

# mount(2), umount2(2)
MS_NODEV = 4
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_UNBINDABLE = 1 << 17
MS_SHARED = 1 << 20
MNT_DETACH = 2

# open_tree(2), move_mount(2), fsopen(2), mount_setattr(2)
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
_FSPICK, _FSPICK_CLOEXEC, _FSPICK_EMPTY_PATH, _FSCONFIG_CMD_RECONFIGURE = 433, 1, 8, 7
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_FD, FSCONFIG_CMD_CREATE = 0, 1, 5, 6
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000
MOUNT_ATTR_IDMAP = 0x00100000

# openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLOSE_RANGE_CLOEXEC = 4

SECCOMP_SET_MODE_FILTER = 1


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _path(path: str | bytes | None) -> bytes | None:
    return os.fsencode(path) if isinstance(path, str) else path


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def _syscall(what: str, number: int, *arguments: object) -> int:
    """Call system call `number`; integers go as 64-bit words, so that no argument is cut."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _failed(what)
    return result


class Told:
    """Where the kernel writes a child's pid before that child first runs (CLONE_PARENT_SETTID in clone(2)).

    A cloner that is killed in the moment after it cloned has told it all the same.
    """

    __slots__ = ("_number",)

    def __init__(self) -> None:
        self._number = ctypes.c_int32(0)

    @property
    def pid(self) -> int:
        """The child's pid as its cloner sees it; 0 while there is none."""
        return self._number.value

    def address(self) -> int:
        """Return the address that the kernel writes to."""
        return ctypes.addressof(self._number)


def clone3(flags: int, *, exit_signal: int = 0, cgroup: int | None = None, told: Told | None = None) -> int:
    """Clone this single-threaded process; return 0 in the child and the child's pid in the parent (clone(2)).

    `cgroup` is a descriptor of a cgroup v2 directory that the child is born in, `told` gets the pid too. The child
    shares nothing but what `flags` say; Python's fork hooks do not run.
    """
    arguments = _CloneArgs(flags=flags, exit_signal=exit_signal)
    if cgroup is not None:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup
    if told is not None:
        arguments.flags |= CLONE_PARENT_SETTID
        arguments.parent_tid = told.address()
    return _syscall("clone3", _CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))


_STACK = 1 << 20  # bytes; an anonymous map, of which only the pages that are used cost anything
_THREAD_STATE = {(3, 11): 360}.get(sys.version_info[:2], 0)
"""Bytes of CPython's PyThreadState, where this file knows them."""

# The machine code of shared births, x86_64; rdi, rsi: clone_args and its size; rdx: a _Shared. The child's part may not
# return into frames that its parent, whose memory it is, has yet to return through. The parent's part puts back what a
# child leaves torn that was killed inside Python: the thread's state, and the lock that a system call lets go of.
_SHARED_BIRTH = bytes.fromhex(
    "b8b3010000"  #        mov eax, 0x1b3           clone3
    "0f05"  #        syscall
    "4885c0"  #        test rax, rax
    "743e"  #        je child
    "783b"  #        js back
    "48837a4000"  #        cmp [rdx+0x40], 0x0      finished
    "7534"  #        jne back
    "53"  #        push rbx
    "4154"  #        push r12
    "4883ec08"  #        sub rsp, 0x8
    "4889d3"  #        mov rbx, rdx
    "4989c4"  #        mov r12, rax
    "488b7b48"  #        mov rdi, [rbx+0x48]      state
    "488b7350"  #        mov rsi, [rbx+0x50]      copy
    "488b4b58"  #        mov rcx, [rbx+0x58]      size
    "f3a4"  #        rep movsb
    "ff5360"  #        call [rbx+0x60]          _PyThreadState_UncheckedGet
    "4885c0"  #        test rax, rax
    "7507"  #        jne whole
    "488b7b48"  #        mov rdi, [rbx+0x48]
    "ff5368"  #        call [rbx+0x68]          PyEval_RestoreThread
    "4c89e0"  # whole: mov rax, r12
    "4883c408"  #        add rsp, 0x8
    "415c"  #        pop r12
    "5b"  #        pop rbx
    "c3"  # back:  ret
    "4889d3"  # child: mov rbx, rdx
    "31ed"  #        xor ebp, ebp
    "ff13"  #        call [rbx]               enter
    "85c0"  #        test eax, eax
    "751f"  #        jne leave
    "488b4310"  #        mov rax, [rbx+0x10]      execve or execveat
    "488b7b18"  #        mov rdi, [rbx+0x18]      and its arguments
    "488b7320"  #        mov rsi, [rbx+0x20]
    "488b5328"  #        mov rdx, [rbx+0x28]
    "4c8b5330"  #        mov r10, [rbx+0x30]
    "4c8b4338"  #        mov r8, [rbx+0x38]
    "0f05"  #        syscall
    "89c7"  #        mov edi, eax
    "ff5308"  #        call [rbx+0x8]           failed(-errno)
    "89c7"  # leave: mov edi, eax
    "b8e7000000"  #        mov eax, 0xe7            exit_group
    "0f05"  #        syscall
    "0f0b"  #        ud2
)


class _Shared(ctypes.Structure):
    _fields_ = [
        ("enter", ctypes.c_void_p),
        ("failed", ctypes.c_void_p),
        ("number", ctypes.c_long),
        ("arguments", ctypes.c_long * 5),
        ("finished", ctypes.c_long),
        ("state", ctypes.c_void_p),
        ("copy", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("current", ctypes.c_void_p),
        ("restore", ctypes.c_void_p),
    ]


class Execution(NamedTuple):
    """What execve(2) is to be called with."""

    path: str
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    """KEY=value each."""
    descriptor: int | None = None
    """Of the program, instead of the path (AT_EMPTY_PATH in execveat(2))."""


def _executable(code: bytes) -> Callable[[int, int, int], int] | None:
    """Return machine code as a function, None on another machine and where memory may not be made executable."""
    if _MACHINE != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(code)
    prototype = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    function = prototype(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page  # pyright: ignore[reportAttributeAccessIssue] -- lives as long as the function
    return function


_shared_birth = _executable(_SHARED_BIRTH)
CAN_SHARE_UNTIL_EXEC = _shared_birth is not None and _THREAD_STATE > 0
"""Whether `clone_and_exec` works here, and a child that is killed on the way does no harm."""


class _Sharing:
    """One kind of child on this process's memory, at most one at a time: its stack, and its work made into C once."""

    def __init__(self) -> None:
        self._stack = mmap.mmap(-1, _STACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._stack_start = ctypes.addressof(ctypes.c_char.from_buffer(self._stack))
        self._copy = ctypes.create_string_buffer(_THREAD_STATE)
        self._enter: Callable[[], Execution | int] | None = None
        self._failed: Callable[[int], int] | None = None
        self._kept: tuple[object, ...] = ()
        find = ctypes.pythonapi.PyThreadState_Get
        find.restype = ctypes.c_void_p
        enter, failed = ctypes.CFUNCTYPE(ctypes.c_int), ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
        self._callbacks = enter(self._run), failed(self._refuse)
        current, restore = ctypes.pythonapi._PyThreadState_UncheckedGet, ctypes.pythonapi.PyEval_RestoreThread
        # Not ctypes.cast, whose results refer to themselves: nobody collects cycles in a launcher.
        pointers = (ctypes.c_void_p.from_buffer_copy(each).value for each in (*self._callbacks, current, restore))
        self._shared = _Shared(state=find(), copy=ctypes.addressof(self._copy), size=_THREAD_STATE)
        self._shared.enter, self._shared.failed, self._shared.current, self._shared.restore = pointers

    def clone(
        self,
        flags: int,
        enter: Callable[[], Execution | int],
        failed: Callable[[int], int],
        *,
        exit_signal: int = 0,
        cgroup: int | None = None,
        told: Told | None = None,
    ) -> tuple[int, bool]:
        """Clone the child and wait until it executes or ends; return its pid, and whether it was not killed on the way.

        `enter` returns what to execute, or the status to exit with: not 0, but 0x100 ends it with 0.
        """
        assert _shared_birth is not None, "CAN_SHARE_UNTIL_EXEC"
        self._enter, self._failed = enter, failed
        shared = self._shared
        shared.finished = 0
        arguments = _CloneArgs(flags=flags | CLONE_VM | CLONE_VFORK, stack=self._stack_start, stack_size=_STACK)
        arguments.exit_signal = exit_signal
        if cgroup is not None:
            arguments.flags |= CLONE_INTO_CGROUP
            arguments.cgroup = cgroup
        if told is not None:
            arguments.flags |= CLONE_PARENT_SETTID
            arguments.parent_tid = told.address()
        places = ctypes.addressof(arguments), ctypes.sizeof(arguments), ctypes.addressof(shared)
        ctypes.memmove(self._copy, shared.state, _THREAD_STATE)
        pid = _shared_birth(*places)
        self._enter = self._failed = None
        self._kept = ()
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid), "clone3")
        return pid, bool(shared.finished)

    def _run(self) -> int:
        assert self._enter is not None
        result = self._enter()
        shared = self._shared
        if not isinstance(result, int):
            path = ctypes.create_string_buffer(b"" if result.descriptor is not None else os.fsencode(result.path))
            tables = _strings(result.arguments), _strings(result.environment)
            self._kept = (path, *tables)
            places = ctypes.addressof(path), *map(ctypes.addressof, tables)
            if result.descriptor is None:
                shared.number, words = _EXECVE, (*places, 0, 0)
            else:
                shared.number, words = _EXECVEAT, (result.descriptor, *places, AT_EMPTY_PATH)
            for index, word in enumerate(words):
                shared.arguments[index] = word
            result = 0
        shared.finished = 1
        return result

    def _refuse(self, number: int) -> int:
        assert self._failed is not None
        return self._failed(-number)


def _strings(texts: tuple[str, ...]) -> ctypes.Array[ctypes.c_char_p]:
    """Return a NULL-terminated array of C strings."""
    return (ctypes.c_char_p * (len(texts) + 1))(*map(os.fsencode, texts), None)


_between, _executing = _Sharing(), _Sharing()
_Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def clone_shared(function: Callable[[], None]) -> bool:
    """Run `function` in a child that shares this process's memory, and wait for its end (CLONE_VM in clone(2)).

    This process stands still meanwhile (CLONE_VFORK), so that what the child stores is simply there afterwards; nothing
    is copied and nothing has to be copied on write. The child has descriptors, namespaces, credentials and cgroups of
    its own. `function` must not raise. Returns whether it came to its end; False: the child was killed.
    """
    finished: list[bool] = []

    def run(_: object = None) -> int:
        function()
        finished.append(True)
        return 0

    if CAN_SHARE_UNTIL_EXEC:
        pid, _ = _between.clone(0, lambda: run() | 0x100, lambda number: number, exit_signal=signal.SIGCHLD)
    else:
        stack = mmap.mmap(-1, _STACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        top = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(stack)) + _STACK)  # page aligned
        pid = _libc.clone(_Function(run), top, CLONE_VM | CLONE_VFORK | signal.SIGCHLD, None)
        if pid < 0:
            raise _failed("clone")
    os.waitpid(pid, 0)
    return bool(finished)


def clone_and_exec(
    flags: int,
    enter: Callable[[], Execution | int],
    failed: Callable[[int], int],
    *,
    cgroup: int | None = None,
    told: Told | None = None,
) -> tuple[int, bool]:
    """Clone a child that shares this process's memory until it executes; return its pid, and whether `enter` came to
    its end; False: the child was killed (CLONE_VM in clone(2)).

    The child runs `enter`, which returns what to execute or the status to exit with, and then executes it from outside
    the interpreter, whose state is what it was before. `failed` is told the errno of an execve that failed and returns
    the status to exit with. Neither may raise. This process stands still until then (CLONE_VFORK): no page is copied,
    no page fault is taken twice. A child that is killed on the way does it no harm. Raises OSError as `clone3`.
    """
    return _executing.clone(flags, enter, failed, cgroup=cgroup, told=told)


def setns(descriptor: int, kind: int) -> None:
    """Join the namespace behind `descriptor`, which must be of `kind` (setns(2))."""
    if _libc.setns(descriptor, kind) < 0:
        raise _failed(f"setns {kind:#x}")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new ones (unshare(2))."""
    if _libc.unshare(ctypes.c_int(flags)) < 0:
        raise _failed(f"unshare {flags:#x}")


def pidfd_open(pid: int) -> int:
    """Return a close-on-exec pidfd of `pid` (pidfd_open(2))."""
    return _syscall(f"pid {pid}", _PIDFD_OPEN, pid, 0)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2), for the few things the descriptor-based calls cannot say."""
    if _libc.mount(_path(source), _path(target), _path(kind), ctypes.c_ulong(flags), _path(data)) < 0:
        raise _failed(target)


def umount2(target: str, flags: int = 0) -> None:
    """Unmount `target` (umount2(2))."""
    if _libc.umount2(_path(target), flags) < 0:
        raise _failed(target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` this mount namespace's root (pivot_root(2))."""
    _syscall(new_root, _PIVOT_ROOT, ctypes.c_char_p(_path(new_root)), ctypes.c_char_p(_path(put_old)))


def open_tree(path: str, *, directory: int = AT_FDCWD, flags: int = OPEN_TREE_CLONE) -> int:
    """Return a descriptor of the mount at `path`, or with OPEN_TREE_CLONE of a detached copy (open_tree(2)).

    An empty `path` means `directory` itself.
    """
    if not path:
        flags |= AT_EMPTY_PATH
    name = ctypes.c_char_p(_path(path))
    return _syscall(path or f"descriptor {directory}", _OPEN_TREE, directory, name, flags | OPEN_TREE_CLOEXEC)


def move_mount(mount_descriptor: int, target_descriptor: int) -> None:
    """Attach a detached mount on top of what `target_descriptor` names (move_mount(2)): no path is looked up."""
    empty = ctypes.c_char_p(b"")
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _syscall("move_mount", _MOVE_MOUNT, mount_descriptor, empty, target_descriptor, empty, flags)


def move_mount_to(mount_descriptor: int, path: str) -> None:
    """Attach a detached mount at `path` (move_mount(2))."""
    empty, name = ctypes.c_char_p(b""), ctypes.c_char_p(_path(path))
    _syscall(path, _MOVE_MOUNT, mount_descriptor, empty, AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH)


def mount_setattr(
    descriptor: int,
    *,
    set_flags: int = 0,
    clear: int = 0,
    recursive: bool = False,
    userns: int | None = None,
    propagation: int = 0,
) -> None:
    """Change the attributes of the mount behind `descriptor`; `userns` idmaps a detached one (mount_setattr(2)).

    `propagation` is MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; 0 leaves it.
    """
    attributes = _MountAttr(attr_set=set_flags, attr_clr=clear, propagation=propagation)
    if userns is not None:
        attributes.attr_set |= MOUNT_ATTR_IDMAP
        attributes.userns_fd = userns
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    empty = ctypes.c_char_p(b"")
    what = "mount_setattr idmap" if userns is not None else f"mount_setattr {set_flags:#x}"
    size = ctypes.sizeof(attributes)
    _syscall(what, _MOUNT_SETATTR, descriptor, empty, flags, ctypes.byref(attributes), size)


def fspick(descriptor: int) -> int:
    """Return a context in which the filesystem of the mount behind `descriptor` is reconfigured (fspick(2))."""
    flags = _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH
    return _syscall(f"descriptor {descriptor}", _FSPICK, descriptor, ctypes.c_char_p(b""), flags)


def fsconfig_reconfigure(context: int) -> None:
    """Give the filesystem of a context what was configured (FSCONFIG_CMD_RECONFIGURE in fsconfig(2))."""
    _syscall("fsconfig reconfigure", _FSCONFIG, context, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)


def fsopen(kind: str) -> int:
    """Return a context in which a filesystem of `kind` is configured (fsopen(2))."""
    return _syscall(kind, _FSOPEN, ctypes.c_char_p(_path(kind)), FSOPEN_CLOEXEC)


def fsconfig_string(context: int, key: str, value: str) -> None:
    """Set a string option of a filesystem context (fsconfig(2))."""
    name, text = ctypes.c_char_p(_path(key)), ctypes.c_char_p(_path(value))
    _syscall(f"option {key}={value}", _FSCONFIG, context, FSCONFIG_SET_STRING, name, text, 0)


def fsconfig_flag(context: int, key: str) -> None:
    """Set a flag of a filesystem context (fsconfig(2))."""
    name = ctypes.c_char_p(_path(key))
    _syscall(f"option {key}", _FSCONFIG, context, FSCONFIG_SET_FLAG, name, None, 0)


def fsconfig_descriptor(context: int, key: str, descriptor: int) -> None:
    """Give a filesystem context a descriptor as an option (fsconfig(2))."""
    name = ctypes.c_char_p(_path(key))
    _syscall(f"option {key}", _FSCONFIG, context, FSCONFIG_SET_FD, name, None, descriptor)


def fsconfig_create(context: int) -> None:
    """Create the filesystem of a context (fsconfig(2)); the kernel's own words go into the error."""
    try:
        _syscall("fsconfig create", _FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
    except OSError as error:
        said = context_messages(context)
        if said:
            raise OSError(error.errno, f"{error.strerror} ({said})", error.filename) from None
        raise


def context_messages(context: int) -> str:
    """Return what the kernel said about a filesystem context, empty when it said nothing (fsopen(2))."""
    words: list[str] = []
    while len(words) < 8:
        try:
            words.append(os.read(context, 512).decode("utf-8", "replace").strip()[2:])
        except OSError:  # ENODATA: that was all
            break
    return "; ".join(words)


def fsmount(context: int, attributes: int = 0) -> int:
    """Return a descriptor of a detached mount of a created filesystem (fsmount(2))."""
    return _syscall("fsmount", _FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)


def openat2(directory: int, path: str, flags: int, *, resolve: int, mode: int = 0) -> int:
    """Open `path` below `directory` under the rules of `resolve`, close-on-exec (openat2(2))."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    name = ctypes.c_char_p(_path(path))
    return _syscall(path, _OPENAT2, directory, name, ctypes.byref(how), ctypes.sizeof(how))


def default_signals() -> None:
    """Set every signal's disposition to its default (rt_sigaction(2)), those too that the C library keeps for itself.

    Its wrappers refuse the first two real-time signals, and some parents, GNU make among them, leave them ignored.
    """
    default = ctypes.create_string_buffer(32)  # struct sigaction of zeros: SIG_DFL, no flags, no mask
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            _syscall(f"signal {number}", _RT_SIGACTION, number, default, None, 8)


def close_range(first: int, last: int = 0x7FFFFFFF, flags: int = 0) -> None:
    """Close, or with CLOSE_RANGE_CLOEXEC mark, the descriptors first..last (close_range(2))."""
    _syscall(f"descriptors {first}-{last}", _CLOSE_RANGE, first, last, flags)


def prctl(option: int, argument: int = 0, *more: int) -> int:
    """prctl(2) with integer arguments."""
    words = [ctypes.c_ulong(word) for word in (argument, *more, 0, 0, 0)][:4]
    result: int = _libc.prctl(ctypes.c_int(option), *words)
    if result < 0:
        raise _failed(f"prctl {option}")
    return result


def set_name(name: str) -> None:
    """Name this process as ps shows it, at most 15 bytes (PR_SET_NAME in prctl(2))."""
    if _libc.prctl(PR_SET_NAME, ctypes.c_char_p(os.fsencode(name)[:15]), 0, 0, 0) < 0:
        raise _failed(name)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capabilities, each a 64-bit mask (capset(2))."""
    header = struct.pack("=Ii", 0x20080522, 0)
    halves: list[int] = []
    for shift in (0, 32):
        halves += [(mask >> shift) & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    _syscall("capset", _CAPSET, ctypes.c_char_p(header), ctypes.c_char_p(struct.pack("=6I", *halves)))


def sethostname(name: str) -> None:
    """Set the UTS namespace's host name (sethostname(2))."""
    raw = os.fsencode(name)
    if _libc.sethostname(ctypes.c_char_p(raw), ctypes.c_size_t(len(raw))) < 0:
        raise _failed(name)


def setdomainname(name: str) -> None:
    """Set the UTS namespace's NIS domain name (setdomainname(2))."""
    raw = os.fsencode(name)
    if _libc.setdomainname(ctypes.c_char_p(raw), ctypes.c_size_t(len(raw))) < 0:
        raise _failed(name)


def personality(persona: int) -> None:
    """Set this process's execution domain (personality(2))."""
    if _libc.personality(ctypes.c_ulong(persona)) < 0:
        raise _failed(f"personality {persona:#x}")


def capget() -> tuple[int, int, int]:
    """Return this thread's effective, permitted and inheritable capabilities, each a 64-bit mask (capget(2))."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    data = ctypes.create_string_buffer(24)
    _syscall("capget", _CAPGET, header, data)
    low, high = struct.unpack("=3I", data.raw[:12]), struct.unpack("=3I", data.raw[12:])
    effective, permitted, inheritable = (high[number] << 32 | low[number] for number in range(3))
    return effective, permitted, inheritable


_sched_attr = struct.Struct("=IIQiIQQQII")  # SCHED_ATTR_SIZE_VER1: size, the six below, two clamps


def sched_setattr(policy: int, flags: int, nice: int, priority: int, times: tuple[int, int, int]) -> None:
    """Set this thread's scheduling policy; `times` are runtime, deadline and period in ns (sched_setattr(2))."""
    attributes = _sched_attr.pack(_sched_attr.size, policy, flags, nice, priority, *times, 0, 0)
    _syscall(f"scheduling policy {policy}", _SCHED_SETATTR, 0, ctypes.c_char_p(attributes), 0)


def sched_getattr() -> tuple[int, int, int, int, tuple[int, int, int]]:
    """Return this thread's policy, flags, nice value, priority and times, as `sched_setattr` takes them."""
    answer = ctypes.create_string_buffer(_sched_attr.size)
    _syscall("scheduling policy", _SCHED_GETATTR, 0, answer, _sched_attr.size, 0)
    _, policy, flags, nice, priority, *times, _, _ = _sched_attr.unpack(answer.raw)
    return policy, flags, nice, priority, (times[0], times[1], times[2])


def ioprio_set(value: int) -> None:
    """Set this thread's I/O class and priority, as `class << 13 | priority` (ioprio_set(2))."""
    _syscall(f"I/O priority {value:#x}", _IOPRIO_SET, 1, 0, value)


def ioprio_get() -> int:
    """Return this thread's I/O class and priority (ioprio_get(2))."""
    return _syscall("I/O priority", _IOPRIO_GET, 1, 0)


def filesystem_type(descriptor: int) -> int:
    """Return the magic number of the filesystem that `descriptor` is on (f_type in fstatfs(2))."""
    answer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes, f_type first
    if _libc.fstatfs(ctypes.c_int(descriptor), answer) < 0:
        raise _failed(f"descriptor {descriptor}")
    kind: int = struct.unpack_from("=q", answer.raw)[0]
    return kind


def setgroups(groups: tuple[int, ...]) -> None:
    """Set the supplementary group ids (setgroups(2))."""
    os.setgroups(groups)


def seccomp_filter(program: bytes, flags: int = 0) -> None:
    """Load a classic BPF program, eight bytes an instruction, as this thread's filter (seccomp(2)).

    `flags` are SECCOMP_FILTER_FLAG_*; with TSYNC a thread that cannot follow is an error, too.
    """
    code = ctypes.create_string_buffer(program, len(program))
    head = _SockFprog(len=len(program) // 8, filter=ctypes.addressof(code))
    thread = _syscall("seccomp filter", _SECCOMP, SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(head))
    if thread:
        raise OSError(errno.ESRCH, f"the thread {thread} has filters of its own", "seccomp filter")


def give_memory_back() -> None:
    """Return what the C library's heap holds and nobody uses to the kernel (malloc_trim(3)); glibc alone has it."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def join_session_keyring() -> None:
    """Give this process a session keyring of its own (KEYCTL_JOIN_SESSION_KEYRING in keyctl(2))."""
    _syscall("keyctl", _KEYCTL, 1, None)


# PIDFD_GET_INFO (linux/pidfd.h, 6.13; the exit status since 6.15): 64 bytes, "QQ11Ii", the wait status last.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 8
_pidfd_info = struct.Struct("=QQ11Ii")


def pidfd_exit_status(pidfd: int) -> int | None:
    """Return the wait status of a process that was reaped by somebody else, or None where the kernel cannot tell."""
    answer = bytearray(_pidfd_info.size)
    struct.pack_into("=Q", answer, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, answer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ESRCH):
            return None
        raise
    fields = _pidfd_info.unpack(answer)
    return fields[-1] if fields[0] & _PIDFD_INFO_EXIT else None


# inotify(7)
IN_MODIFY = 0x2
IN_CREATE = 0x100
IN_DELETE = 0x200


def inotify_init() -> int:
    """Return a non-blocking, close-on-exec inotify descriptor (inotify_init1(2))."""
    descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise _failed("inotify_init1")
    return descriptor


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    """Watch `path` for the events of `mask`; return the watch's number (inotify_add_watch(2))."""
    watch: int = _libc.inotify_add_watch(descriptor, ctypes.c_char_p(_path(path)), ctypes.c_uint32(mask))
    if watch < 0:
        raise _failed(path)
    return watch


# libseccomp (seccomp.h); its functions return -errno.
SCMP_FLTATR_ACT_BADARCH = 2
SCMP_FLTATR_CTL_OPTIMIZE = 8
_NR_SCMP_ERROR = -1


class _ScmpArgCmp(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


class _ScmpVersion(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]


def libseccomp() -> ctypes.CDLL:
    """Load libseccomp with its prototypes; raises OSError(ENOENT) where it is not installed."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "libseccomp.so.2") from None
    library.seccomp_version.restype = ctypes.POINTER(_ScmpVersion)
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    rule = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_ScmpArgCmp)]
    library.seccomp_rule_add_array.argtypes = rule
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


class SeccompFilter:
    """A filter under construction in libseccomp (seccomp_init(3)); `with` releases it."""

    def __init__(self, default_action: int) -> None:
        self._library = libseccomp()
        self._context: int | None = self._library.seccomp_init(default_action)
        if not self._context:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), f"seccomp_init {default_action:#x}")

    def __enter__(self) -> "SeccompFilter":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.seccomp_release(self._context)
        self._context = None

    def _done(self, what: str, result: int) -> None:
        if result < 0:
            raise OSError(-result, os.strerror(-result), what)

    def attribute(self, attribute: int, value: int) -> None:
        """Set an SCMP_FLTATR_* attribute (seccomp_attr_set(3))."""
        self._done(f"attribute {attribute}", self._library.seccomp_attr_set(self._context, attribute, value))

    def architecture(self, token: int) -> None:
        """Cover the architecture of an AUDIT_ARCH_* token too (seccomp_arch_add(3))."""
        result: int = self._library.seccomp_arch_add(self._context, token)
        if result != -errno.EEXIST:
            self._done(f"architecture {token:#x}", result)

    def number(self, name: str) -> int | None:
        """Return libseccomp's number of a system call, or None when it knows none (seccomp_syscall_resolve_name(3))."""
        number: int = self._library.seccomp_syscall_resolve_name(ctypes.c_char_p(_path(name)))
        return None if number == _NR_SCMP_ERROR else number

    def number_on(self, architecture: int, name: str) -> int | None:
        """Return a system call's number on the architecture of an AUDIT_ARCH_* token, or None where it has none."""
        resolve = self._library.seccomp_syscall_resolve_name_arch
        number: int = resolve(architecture, ctypes.c_char_p(_path(name)))
        return number if number >= 0 else None  # below are libseccomp's own numbers of other architectures' calls

    def rule(self, action: int, number: int, comparisons: list[tuple[int, int, int, int]]) -> None:
        """Add a rule; each comparison is (argument, operator, first value, second value) (seccomp_rule_add(3))."""
        array = (_ScmpArgCmp * len(comparisons))(*(_ScmpArgCmp(*comparison) for comparison in comparisons))
        add = self._library.seccomp_rule_add_array
        self._done(f"system call {number}", add(self._context, action, number, len(comparisons), array))

    def export(self) -> bytes:
        """Return the filter as a classic BPF program (seccomp_export_bpf(3))."""
        # Releases before 2.6 export to a descriptor only.
        descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._done("export", self._library.seccomp_export_bpf(self._context, descriptor))
            return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)


def libseccomp_version() -> str:
    """Return libseccomp's version, such as 2.5.4; raises OSError(ENOENT) where it is not installed."""
    version = libseccomp().seccomp_version().contents
    return f"{version.major}.{version.minor}.{version.micro}"


# bpf(2), for device rules on cgroup v2
_BPF = {"x86_64": 321, "aarch64": 280}[_MACHINE]
_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_DETACH, _BPF_PROG_GET_FD_BY_ID = 5, 8, 9, 13
_BPF_OBJ_GET_INFO_BY_FD, _BPF_PROG_QUERY = 15, 16
_BPF_PROG_TYPE_CGROUP_DEVICE = 15
_BPF_CGROUP_DEVICE = 6
_BPF_F_ALLOW_MULTI, _BPF_F_REPLACE = 2, 4
DEVICE_PROGRAM = b"creche_devices"
"""The name of our device programs (at most 15 letters): others on the same cgroup are not ours to replace."""


def _bpf(what: str, command: int, attributes: bytes) -> tuple[int, bytes]:
    """Call bpf(2); return its result and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _syscall(what, _BPF, command, ctypes.byref(buffer), len(attributes)), buffer.raw


def bpf_load_device_program(code: bytes) -> int:
    """Return a close-on-exec descriptor of a verified BPF program that decides about devices."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"MIT")
    addresses = ctypes.addressof(instructions), ctypes.addressof(licence)
    attributes = struct.pack("=IIQQ24x16s", _BPF_PROG_TYPE_CGROUP_DEVICE, len(code) // 8, *addresses, DEVICE_PROGRAM)
    return _bpf("bpf device program", _BPF_PROG_LOAD, attributes)[0]


def bpf_attach_device_program(cgroup: int, program: int, instead: int | None = None) -> None:
    """Let `program` decide for the cgroup v2 directory `cgroup` and all below, beside those of its ancestors.

    With `instead`, an attached program's descriptor, it takes that one's place in one step (BPF_F_REPLACE).
    """
    flags = _BPF_F_ALLOW_MULTI if instead is None else _BPF_F_ALLOW_MULTI | _BPF_F_REPLACE
    attributes = struct.pack("=IIIII", cgroup, program, _BPF_CGROUP_DEVICE, flags, instead or 0)
    _bpf("bpf attach", _BPF_PROG_ATTACH, attributes)


def bpf_detach_device_program(cgroup: int, program: int) -> None:
    """Take `program` off the cgroup v2 directory `cgroup`."""
    _bpf("bpf detach", _BPF_PROG_DETACH, struct.pack("=III", cgroup, program, _BPF_CGROUP_DEVICE))


def bpf_device_programs(cgroup: int) -> list[int]:
    """Return the ids of the device programs attached to the cgroup v2 directory `cgroup` itself, at most 64."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = struct.pack("=IIIIQI4x", cgroup, _BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    count: int = struct.unpack_from("=I", _bpf("bpf query", _BPF_PROG_QUERY, attributes)[1], 24)[0]
    return list(ids[:count])


def bpf_program(number: int) -> int:
    """Return a close-on-exec descriptor of the loaded program with this id."""
    return _bpf("bpf program by id", _BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))[0]


def bpf_program_name(program: int) -> bytes:
    """Return the name that a loaded program was given (struct bpf_prog_info)."""
    info = ctypes.create_string_buffer(80)
    attributes = struct.pack("=IIQ", program, len(info), ctypes.addressof(info))
    _bpf("bpf program info", _BPF_OBJ_GET_INFO_BY_FD, attributes)
    return info.raw[64:80].rstrip(b"\0")
