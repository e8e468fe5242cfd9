"""Device rules on cgroup v2, which has no devices controller: a small BPF program on the container's directory.

The kernel runs it whenever a process in the cgroup opens or makes a device node, with a struct bpf_cgroup_dev_ctx
(linux/bpf.h): access type (the node's kind in the low half, what is asked in the high half), major, minor. It answers
1 to let through. v1's rules are plain writes; see `v1.device_writes`.
"""

import errno
import os
import struct

from runtime import syscalls
from runtime.cgroups.rules import EVERYTHING, Device

NOT_LIMITED = (
    "devices are not limited by cgroup: this kernel takes no BPF device programs (CONFIG_CGROUP_BPF, CAP_BPF); "
    "device nodes are kept out by mount flags and missing capabilities alone"
)

_ACCESS = {"m": 1, "r": 2, "w": 4}
_KIND = {"b": 1, "c": 2}
# Opcodes of linux/bpf_common.h and linux/bpf.h, written as class | size or operation | source.
_LOAD_WORD, _AND, _SHIFT_RIGHT, _COPY, _SET, _EXIT = 0x61, 0x57, 0x77, 0xBF, 0xB7, 0x95
_IF_EQUAL, _IF_NOT_EQUAL, _IF_REGISTERS_DIFFER = 0x15, 0x55, 0x5D
_ANSWER, _CONTEXT, _NODE, _ASKED, _MAJOR, _MINOR, _SCRATCH = 0, 1, 2, 3, 4, 5, 6

_Instruction = tuple[int, int, int, int, int]
"""Opcode, destination register, source register, jump offset, immediate value."""


def program(rules: tuple[Device, ...]) -> bytes:
    """Return the BPF program for `rules`, which come after "deny everything"; the last rule that applies decides.

    An allowing rule applies when it grants all that is asked, a denying one when it takes away any of it.
    """
    code: list[_Instruction] = [
        (_LOAD_WORD, _NODE, _CONTEXT, 0, 0),
        (_COPY, _ASKED, _NODE, 0, 0),
        (_AND, _NODE, 0, 0, 0xFFFF),
        (_SHIFT_RIGHT, _ASKED, 0, 0, 16),
        (_LOAD_WORD, _MAJOR, _CONTEXT, 4, 0),
        (_LOAD_WORD, _MINOR, _CONTEXT, 8, 0),
    ]
    for place, access, allow in reversed(rules):
        if place == EVERYTHING:
            code += [(_SET, _ANSWER, 0, 0, int(allow)), (_EXIT, 0, 0, 0, 0)]
            break
        code += _rule(place, sum(_ACCESS[letter] for letter in set(access)), allow)
    else:
        code += [(_SET, _ANSWER, 0, 0, 0), (_EXIT, 0, 0, 0, 0)]
    return b"".join(
        struct.pack("=BBhi", operation, target | source << 4, jump, value)
        for operation, target, source, jump, value in code
    )


def _rule(place: str, access: int, allow: bool) -> list[_Instruction]:
    kind, _, numbers = place.partition(" ")
    major, _, minor = numbers.partition(":")
    tests: list[_Instruction] = [(_IF_NOT_EQUAL, _NODE, 0, 0, _KIND[kind])]
    for register, number in ((_MAJOR, major), (_MINOR, minor)):
        if number != "*":
            tests.append((_IF_NOT_EQUAL, register, 0, 0, int(number)))
    tests += [(_COPY, _SCRATCH, _ASKED, 0, 0), (_AND, _SCRATCH, 0, 0, access)]
    tests.append((_IF_REGISTERS_DIFFER, _SCRATCH, _ASKED, 0, 0) if allow else (_IF_EQUAL, _SCRATCH, 0, 0, 0))
    whole = [*tests, (_SET, _ANSWER, 0, 0, int(allow)), (_EXIT, 0, 0, 0, 0)]
    jumps = (_IF_NOT_EQUAL, _IF_EQUAL, _IF_REGISTERS_DIFFER)
    # A test that fails jumps behind this rule; offsets count from the next instruction.
    return [
        (op, target, source, len(whole) - index - 1 if op in jumps else 0, value)
        for index, (op, target, source, _, value) in enumerate(whole)
    ]


def limit(directory: str, rules: tuple[Device, ...], *, again: bool = False) -> str | None:
    """Put `rules` on the cgroup v2 `directory`, once, or `again`: in place of those that we put there before.

    The change is one step where one program of ours is attached (BPF_F_REPLACE); else the new one is added before the
    old ones go, so that at no moment more is allowed than by either. Returns a warning where this kernel cannot.
    """
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    ours: list[int] = []
    try:
        attached = syscalls.bpf_device_programs(cgroup)
        for number in attached:
            descriptor = syscalls.bpf_program(number)
            if syscalls.bpf_program_name(descriptor) == syscalls.DEVICE_PROGRAM:
                ours.append(descriptor)
            else:
                os.close(descriptor)
        if ours and not again:
            return None
        loaded = syscalls.bpf_load_device_program(program(rules))
        try:
            syscalls.bpf_attach_device_program(cgroup, loaded, ours[0] if ours else None)
        finally:
            os.close(loaded)
        for descriptor in ours[1:]:
            syscalls.bpf_detach_device_program(cgroup, descriptor)
    except OSError as error:
        if not ours and error.errno in (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP):
            return f"{NOT_LIMITED}: {error.filename}: {error.strerror}"
        raise
    finally:
        for descriptor in (*ours, cgroup):
            os.close(descriptor)
    return None
