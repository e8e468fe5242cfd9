"""Seccomp filters: an OCI profile compiled by libseccomp to BPF, kept in a cache, loaded before exec."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runtime import seccomp_ranges, syscalls

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS: the kernel refuses longer programs."""

_BINARY_TREE = 2
_ARCHITECTURES = {  # AUDIT_ARCH_* in linux/audit.h, by OCI's names
    f"SCMP_ARCH_{name}": token
    for name, token in (
        ("X86", 0x40000003),
        ("X86_64", 0xC000003E),
        ("X32", 0x4000003E),
        ("ARM", 0x40000028),
        ("AARCH64", 0xC00000B7),
        ("LOONGARCH64", 0xC0000102),
        ("M68K", 0x00000004),
        ("MIPS", 0x00000008),
        ("MIPS64", 0x80000008),
        ("MIPS64N32", 0xA0000008),
        ("MIPSEL", 0x40000008),
        ("MIPSEL64", 0xC0000008),
        ("MIPSEL64N32", 0xE0000008),
        ("PARISC", 0x0000000F),
        ("PARISC64", 0x8000000F),
        ("PPC", 0x00000014),
        ("PPC64", 0x80000015),
        ("PPC64LE", 0xC0000015),
        ("S390", 0x00000016),
        ("S390X", 0x80000016),
        ("SHEB", 0x0000002A),
        ("SH", 0x4000002A),
        ("RISCV64", 0xC00000F3),
    )
}
_NATIVE = {"x86_64": _ARCHITECTURES["SCMP_ARCH_X86_64"], "aarch64": _ARCHITECTURES["SCMP_ARCH_AARCH64"]}
_ACTIONS = {  # seccomp(2), "Return values"
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_DATA = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 0xFFFF}
"""The actions that carry a number, and its highest value: an errno, the message that the tracer gets."""
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    # How a listener's answer is waited for; the kernel takes it with a listener only, and there is none.
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0,
}
_OPERATORS = {
    f"SCMP_CMP_{name}": number for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), start=1)
}
_EDITION = 3  # of what this module makes of a profile: programs of another one are not taken from the cache
_DIGEST = hashlib.sha256().digest_size


class Program(NamedTuple):
    """A BPF program, eight bytes an instruction, and the profile's system calls that libseccomp does not know."""

    code: bytes
    skipped: tuple[str, ...]


class SeccompError(OSError):
    """A profile cannot be compiled; the text names the rule and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


def compile(profile: Mapping[str, Any]) -> Program:
    """Compile OCI's `linux.seccomp` (runtime-spec, config-linux.md, "Seccomp").

    A system call unknown to the installed libseccomp gets no rule of its own, so it meets the default action; its name
    is in `skipped`. Where the default is an error, system calls newer than all that the profile names answer ENOSYS,
    as under runc: a C library that tries them first goes on as on an older kernel only then.

    Raises ValueError for a profile that says nothing valid, SeccompError when libseccomp is missing or refuses a rule.
    """
    flags_of(profile)
    for key in ("listenerPath", "listenerMetadata"):
        if profile.get(key):
            raise ValueError(f"seccomp.{key} is not supported: {_NO_LISTENER}")
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"), "seccomp.defaultAction")
    skipped: list[str] = []
    with _filter(default) as program:
        program.attribute(syscalls.SCMP_FLTATR_CTL_OPTIMIZE, _BINARY_TREE)
        if profile.get("defaultAction") == "SCMP_ACT_ERRNO":
            # Else libseccomp kills: too hard on a program that only tries another system-call table.
            program.attribute(syscalls.SCMP_FLTATR_ACT_BADARCH, default)
        architectures: list[str] = profile.get("architectures") or []
        for name in architectures:
            token = _known(_ARCHITECTURES, name, "seccomp.architectures")
            try:
                program.architecture(token)
            except OSError as error:
                raise SeccompError(
                    error.errno or errno.EINVAL,
                    f"libseccomp {_version()} cannot add {name} to a filter of this machine: {error.strerror}; leave "
                    "it out of seccomp.architectures",
                ) from error
        rules: list[Mapping[str, Any]] = profile.get("syscalls") or []
        for index, rule in enumerate(rules):
            where = f"seccomp.syscalls[{index}]"
            action = _action(rule.get("action"), rule.get("errnoRet"), where)
            if action == default:
                continue
            alternatives = _comparisons(rule.get("args") or (), where)
            names: list[str] = rule.get("names") or []
            for name in names:
                number = program.number(name)
                if number is None:
                    skipped.append(name)
                    continue
                for comparisons in alternatives:
                    _add(program, action, number, comparisons, f"{where} ({name})")
        newest: dict[int, int] = {}
        if profile.get("defaultAction") == "SCMP_ACT_ERRNO" and default & 0xFFFF != errno.ENOSYS:
            tokens = {_ARCHITECTURES[name] for name in architectures} | {_NATIVE[os.uname().machine]}
            named: list[list[str]] = [rule.get("names") or [] for rule in rules]
            newest = _newest(program, tokens, [name for names in named for name in names])
        code = seccomp_ranges.shortened(program.export(), newest)
    if len(code) // 8 > MAX_INSTRUCTIONS:
        raise SeccompError(
            errno.E2BIG,
            f"the seccomp profile compiles to {len(code) // 8} instructions; the kernel takes {MAX_INSTRUCTIONS}: "
            "use fewer architectures or rules",
        )
    return Program(code, tuple(dict.fromkeys(skipped)))


def flags_of(profile: Mapping[str, Any]) -> int:
    """Return the profile's `flags` as seccomp(2) takes them; raise ValueError for one that is not OCI's."""
    flags = 0
    for name in profile.get("flags") or ():
        flags |= _known(_FLAGS, name, "seccomp.flags")
    return flags


_NO_LISTENER = (
    'answering system calls from another process is easily raced (seccomp_unotify(2), "NOTES"); allow the call, or '
    "refuse it with SCMP_ACT_ERRNO"
)


def _newest(program: syscalls.SeccompFilter, tokens: set[int], names: list[str]) -> dict[int, int]:
    """Return the highest number that `names` have on each architecture; x32 shares x86_64's token."""
    found: dict[int, int] = {}
    for token in tokens - {_ARCHITECTURES["SCMP_ARCH_X32"]}:
        numbers = [number for name in names if (number := program.number_on(token, name)) is not None]
        if numbers:
            found[token] = max(numbers)
    return found


def cached(profile: Mapping[str, Any], directory: Path) -> bytes:
    """Return the program for `profile`, compiled at most once per libseccomp version and kept in `directory`.

    A damaged file is compiled anew. Raises as `compile` does, and OSError where the directory cannot be written.
    """
    version = _version()
    text = json.dumps([profile, version, os.uname().machine, _EDITION], sort_keys=True, separators=(",", ":"))
    path = directory / f"seccomp-{hashlib.sha256(text.encode()).hexdigest()}.bpf"
    code = _kept(path)
    if code is None:
        code = compile(profile).code
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep(path, code)
    return code


def known() -> dict[str, list[str]]:
    """Return OCI's names of what a profile may use here, as features-linux.md lists them."""
    tables = {"actions": _ACTIONS, "operators": _OPERATORS, "archs": _ARCHITECTURES, "knownFlags": _FLAGS}
    return {key: sorted(table) for key, table in tables.items()}


def load(code: bytes, flags: int = 0) -> None:
    """Put the calling thread under `code` for good; needs no_new_privs or CAP_SYS_ADMIN (seccomp(2))."""
    syscalls.seccomp_filter(code, flags)


def _filter(default: int) -> syscalls.SeccompFilter:
    try:
        return syscalls.SeccompFilter(default)
    except FileNotFoundError as error:
        raise _missing() from error


def _version() -> str:
    try:
        return syscalls.libseccomp_version()
    except FileNotFoundError as error:
        raise _missing() from error


def _missing() -> SeccompError:
    return SeccompError(
        errno.ENOENT,
        "libseccomp.so.2 is not installed, so no seccomp filter can be made: install the package libseccomp2 (Debian, "
        'Ubuntu) or libseccomp (Fedora, Arch), or set security.seccomp = "unconfined"',
    )


def _action(name: object, error: object, where: str) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise ValueError(f"{where}: SCMP_ACT_NOTIFY is not supported: {_NO_LISTENER}")
    value = _known(_ACTIONS, name, where)
    highest = _DATA.get(str(name))
    if highest is None:
        if error is not None:
            raise ValueError(f"{where}: {name} has no error number; leave {error!r} out, or use SCMP_ACT_ERRNO")
        return value
    number = errno.EPERM if error is None else error
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= highest:
        raise ValueError(f"{where}: {error!r} is no error number from 0 to {highest}")
    return value | number


def _known(table: Mapping[str, int], name: object, where: str) -> int:
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{where}: {name!r} is not supported; known are {', '.join(table)}")
    return table[name]


def _comparisons(args: Any, where: str) -> list[list[tuple[int, int, int, int]]]:
    """Return the alternatives of one rule, each a list of comparisons that must all hold.

    libseccomp takes one comparison per argument; several on one argument are alternatives, as runc reads them.
    """
    found: list[tuple[int, int, int, int]] = []
    for arg in args:
        index, value, second = arg.get("index"), arg.get("value"), arg.get("valueTwo") or 0
        if not (_within(index, 5) and _within(value, _MAX) and _within(second, _MAX)):
            raise ValueError(f"{where}: {dict(arg)!r} needs an index from 0 to 5 and values of at most 64 bits")
        found.append((index, _known(_OPERATORS, arg.get("op"), where), value, second))
    if len({index for index, *_ in found}) < len(found):
        return [[comparison] for comparison in found]
    return [found]


_MAX = (1 << 64) - 1


def _within(value: object, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


def _add(
    program: syscalls.SeccompFilter, action: int, number: int, comparisons: list[tuple[int, int, int, int]], what: str
) -> None:
    try:
        program.rule(action, number, comparisons)
    except OSError as error:
        raise SeccompError(
            error.errno or errno.EINVAL,
            f"libseccomp {_version()} refuses the rule {what}: {error.strerror}; does it contradict another one?",
        ) from error


def _kept(path: Path) -> bytes | None:
    """Return the program in `path`, or None when there is none that is whole and nobody else's work."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if about.st_uid != os.geteuid() or about.st_mode & 0o022:
            return None
        data = file.read(_DIGEST + MAX_INSTRUCTIONS * 8 + 1)
    digest, code = data[:_DIGEST], data[_DIGEST:]
    whole = code and len(code) % 8 == 0 and hashlib.sha256(code).digest() == digest
    return code if whole else None


def _keep(path: Path, code: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".seccomp-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
