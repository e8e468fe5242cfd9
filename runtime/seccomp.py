"""Seccomp filters: an OCI profile compiled by libseccomp to BPF, kept in a cache, loaded before exec."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runtime import syscalls

MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS: the kernel refuses longer programs."""

_BINARY_TREE = 2
_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_OPERATORS = {
    f"SCMP_CMP_{name}": number for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), start=1)
}
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
    is in `skipped`. Raises ValueError for a profile that says nothing valid, SeccompError when libseccomp is missing
    or refuses a rule.
    """
    for key in ("flags", "listenerPath", "listenerMetadata"):
        if profile.get(key):
            raise ValueError(f"seccomp.{key} is not yet supported")
    default = _action(profile.get("defaultAction"), profile.get("defaultErrnoRet"), "seccomp.defaultAction")
    skipped: list[str] = []
    with _filter(default) as program:
        program.attribute(syscalls.SCMP_FLTATR_CTL_OPTIMIZE, _BINARY_TREE)
        if profile.get("defaultAction") == "SCMP_ACT_ERRNO":
            # Else libseccomp kills: too hard on a program that only tries another system-call table.
            program.attribute(syscalls.SCMP_FLTATR_ACT_BADARCH, default)
        architectures: list[str] = profile.get("architectures") or []
        for name in architectures:
            program.architecture(_known(_ARCHITECTURES, name, "seccomp.architectures"))
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
        code = program.export()
    if len(code) // 8 > MAX_INSTRUCTIONS:
        raise SeccompError(
            errno.E2BIG,
            f"the seccomp profile compiles to {len(code) // 8} instructions; the kernel takes {MAX_INSTRUCTIONS}: "
            "use fewer architectures or rules",
        )
    return Program(code, tuple(dict.fromkeys(skipped)))


def cached(profile: Mapping[str, Any], directory: Path) -> bytes:
    """Return the program for `profile`, compiled at most once per libseccomp version and kept in `directory`.

    A damaged file is compiled anew. Raises as `compile` does, and OSError where the directory cannot be written.
    """
    version = _version()
    text = json.dumps([profile, version, os.uname().machine], sort_keys=True, separators=(",", ":"))
    path = directory / f"seccomp-{hashlib.sha256(text.encode()).hexdigest()}.bpf"
    code = _kept(path)
    if code is None:
        code = compile(profile).code
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep(path, code)
    return code


def load(code: bytes) -> None:
    """Put the calling thread under `code` for good; needs no_new_privs or CAP_SYS_ADMIN (seccomp(2))."""
    syscalls.seccomp_filter(code)


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
    value = _known(_ACTIONS, name, where)
    if name == "SCMP_ACT_ERRNO":
        number = errno.EPERM if error is None else error
        if not isinstance(number, int) or not 0 <= number <= 4095:
            raise ValueError(f"{where}: {error!r} is no error number from 0 to 4095")
        return value | number
    return value


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
        index, value = arg.get("index"), arg.get("value")
        if not isinstance(index, int) or not 0 <= index <= 5 or not isinstance(value, int):
            raise ValueError(f"{where}: {dict(arg)!r} needs an index from 0 to 5 and a value")
        found.append((index, _known(_OPERATORS, arg.get("op"), where), value, arg.get("valueTwo") or 0))
    if len({index for index, *_ in found}) < len(found):
        return [[comparison] for comparison in found]
    return [found]


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
