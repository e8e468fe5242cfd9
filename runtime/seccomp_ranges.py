"""A seccomp program made shorter: one decision a range of system calls where libseccomp makes one a system call.

The kernel converts and compiles a filter at every start, in time that grows with its instructions (kernel/seccomp.c,
bpf_prog_create_from_user). The default profile's numbers lie in a few dozen ranges a machine; its own list of them,
which libseccomp writes out, is four times as long. Pure.

It is not compiled anew from the rules, so nothing of libseccomp's knowledge is repeated here. The program is asked:
what it compares system calls and architectures with are the only places where its answer can change, so running it once
between each two of them tells everything that it says before it looks at an argument. What comes then is copied.
"""

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT = 0x15, 0x25, 0x35, 0x45
_CONDITIONS: dict[int, Callable[[int, int], bool]] = {
    _EQUAL: lambda a, k: a == k,
    _GREATER: lambda a, k: a > k,
    _AT_LEAST: lambda a, k: a >= k,
    _ANY_BIT: lambda a, k: bool(a & k),
}
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data (seccomp(2))
_X32 = 0x40000000  # __X32_SYSCALL_BIT
_NOT_IMPLEMENTED = 0x00050026  # SECCOMP_RET_ERRNO with ENOSYS
_REACH = 255  # instructions that a conditional jump can skip
_instruction = struct.Struct("=HBBI")


class _Step(NamedTuple):
    code: int
    value: int
    then: int  # where it goes on, and where if its condition does not hold
    otherwise: int


class _UnknownShape(Exception):
    """The program does something that this module does not follow."""


def shortened(program: bytes, newest: Mapping[int, int] | None = None) -> bytes:
    """Return a classic BPF program with the same answer to everything, `program` itself where none is shorter.

    But with the `newest` system call of an architecture, by AUDIT_ARCH_* token, whatever is newer answers ENOSYS.
    """
    try:
        result = _encoded(_rebuilt(_decoded(program), newest or {}))
    except _UnknownShape:
        return program
    return result if newest or len(result) < len(program) else program


class Reader:
    """Answers as the kernel does that runs a program (seccomp(2)): to look at one without loading it."""

    def __init__(self, program: bytes) -> None:
        self._steps = _decoded(program)

    def answer(self, number: int, architecture: int, arguments: tuple[int, ...] = ()) -> int:
        """Return the SECCOMP_RET_* value, with its data, for one system call."""
        words = [number, architecture, 0, 0]
        for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]:
            words += (argument & 0xFFFFFFFF, argument >> 32)
        accumulator = at = 0
        while True:
            step = self._steps[at]
            if step.code == _RETURN:
                return step.value
            if step.code == _LOAD:
                accumulator = words[step.value // 4]
            elif step.code == _AND:
                accumulator &= step.value
            holds = step.code not in _CONDITIONS or _CONDITIONS[step.code](accumulator, step.value)
            at = step.then if holds else step.otherwise


def _decoded(program: bytes) -> list[_Step]:
    steps: list[_Step] = []
    for at, (code, then, otherwise, value) in enumerate(_instruction.iter_unpack(program)):
        if code in _CONDITIONS:
            steps.append(_Step(code, value, at + 1 + then, at + 1 + otherwise))
        elif code == _JUMP:
            steps.append(_Step(code, value, at + 1 + value, at))
        elif code in (_LOAD, _AND, _RETURN):
            steps.append(_Step(code, value, at + 1, at))
        else:
            raise _UnknownShape
    if not steps or any(step.code != _RETURN and max(step.then, step.otherwise) >= len(steps) for step in steps):
        raise _UnknownShape  # no program that a kernel takes
    return steps


def _leaf(steps: list[_Step], number: int, architecture: int) -> int:
    """Return the step at which the program answers, or looks at an argument; all before depends on these two alone."""
    at = 0
    known: int | None = None
    while True:
        step = steps[at]
        if step.code == _RETURN or (step.code == _LOAD and step.value not in (_NUMBER, _ARCHITECTURE)):
            return at
        if step.code == _LOAD:
            known = number if step.value == _NUMBER else architecture
        elif step.code in (_AND, _ANY_BIT) or (known is None and step.code != _JUMP):
            raise _UnknownShape  # not the same for all numbers between two that it compares with
        holds = step.code not in _CONDITIONS or _CONDITIONS[step.code](known or 0, step.value)
        at = step.then if holds else step.otherwise


def _ranges(steps: list[_Step], architecture: int, borders: list[int]) -> list[tuple[int, int]]:
    """Return (first number, leaf) of each range of system calls with one leaf, in order."""
    found: list[tuple[int, int]] = []
    for first in borders:
        leaf = _leaf(steps, first, architecture)
        if not found or not _same(steps, found[-1][1], leaf):
            found.append((first, leaf))
    return found


def _aged(steps: list[_Step], ranges: list[tuple[int, int]], newest: int) -> list[tuple[int, int]]:
    """Return `ranges` with the last step's answer for what is newer; x32's numbers are no newer ones."""
    after = next(leaf for first, leaf in reversed(ranges) if first <= _X32)
    changed = [
        *((first, leaf) for first, leaf in ranges if first <= newest),
        (newest + 1, len(steps) - 1),
        *([] if any(first == _X32 for first, _ in ranges) else [(_X32, after)]),
        *((first, leaf) for first, leaf in ranges if first >= _X32),
    ]
    return [each for at, each in enumerate(changed) if not at or not _same(steps, changed[at - 1][1], each[1])]


def _same(steps: list[_Step], one: int, other: int) -> bool:
    return one == other or (steps[one][:2] == steps[other][:2] and steps[one].code == _RETURN)


def _rebuilt(steps: list[_Step], newest: Mapping[int, int]) -> list[_Step]:
    numbers, architectures = _compared(steps)
    borders = _borders(numbers)
    everywhere = [(first, _ranges(steps, first, borders)) for first in _borders(architectures)]
    if newest:
        steps = [*steps, _Step(_RETURN, _NOT_IMPLEMENTED, 0, 0)]
        everywhere = [
            (first, _aged(steps, ranges, newest[first]) if first in newest else ranges) for first, ranges in everywhere
        ]
    common = everywhere[0][1]
    new = [_Step(_LOAD, _ARCHITECTURE, 1, 0)]
    special = [(architecture, ranges) for architecture, ranges in everywhere if ranges != common]
    if any(architecture not in architectures for architecture, _ in special):
        raise _UnknownShape  # a range of architectures
    for architecture, ranges in special:
        at = len(new)
        new.append(_Step(_EQUAL, architecture, at + 1, 0))
        new.append(_Step(_LOAD, _NUMBER, at + 2, 0))
        _grow(new, steps, ranges)
        new[at] = new[at]._replace(otherwise=len(new))
    if len(common) > 1:
        new.append(_Step(_LOAD, _NUMBER, len(new) + 1, 0))
    _grow(new, steps, common)
    return _shared(new)


def _compared(steps: list[_Step]) -> tuple[set[int], set[int]]:
    """Return what the program compares system calls' numbers with, and what architectures."""
    compared: dict[int, set[int]] = {_NUMBER: set(), _ARCHITECTURE: set()}
    held: list[set[int]] = [set() for _ in steps]  # what was loaded last, on one way or another, before each step
    for at, step in enumerate(steps):  # every jump leads forward
        if step.code == _RETURN:
            continue
        after = {step.value} if step.code == _LOAD else held[at]
        held[step.then] |= after
        if step.code in _CONDITIONS:
            held[step.otherwise] |= after
            for offset in after & compared.keys():
                compared[offset].add(step.value)
    return compared[_NUMBER], compared[_ARCHITECTURE]


def _borders(compared: set[int]) -> list[int]:
    """Return the first value of each range in which every comparison has one result."""
    return sorted({0, *compared, *(value + 1 for value in compared if value < 0xFFFFFFFF)})


def _grow(new: list[_Step], steps: list[_Step], ranges: list[tuple[int, int]]) -> None:
    """Append a balanced tree of decisions about `ranges`, its leaves in place."""
    if len(ranges) == 1:
        _copy(new, steps, ranges[0][1])
    elif len(ranges) == 3 and ranges[1][0] + 1 == ranges[2][0] and _same(steps, ranges[0][1], ranges[2][1]):
        at = len(new)
        new.append(_Step(_EQUAL, ranges[1][0], at + 1, 0))
        _grow(new, steps, ranges[1:2])
        new[at] = new[at]._replace(otherwise=len(new))
        _grow(new, steps, ranges[:1])
    else:
        middle, at = len(ranges) // 2, len(new)
        new.append(_Step(_AT_LEAST, ranges[middle][0], 0, at + 1))
        _grow(new, steps, ranges[:middle])
        new[at] = new[at]._replace(then=len(new))
        _grow(new, steps, ranges[middle:])


def _copy(new: list[_Step], steps: list[_Step], leaf: int) -> None:
    """Append everything that can be reached from `leaf`; jumps lead forward, so the order stays right."""
    reached = {leaf}
    for at in range(leaf, len(steps)):
        if at in reached and steps[at].code != _RETURN:
            reached.add(steps[at].then)
            if steps[at].code in _CONDITIONS:
                reached.add(steps[at].otherwise)
    place = {at: len(new) + index for index, at in enumerate(sorted(reached))}
    for at in sorted(reached):
        step = steps[at]
        new.append(step._replace(then=place.get(step.then, 0), otherwise=place.get(step.otherwise, 0)))


def _shared(steps: list[_Step]) -> list[_Step]:
    """Return the program with equal answers as one instruction where jumps reach it, and without what none reaches."""
    steps = list(steps)
    answers: dict[int, int] = {}

    def shared(at: int, target: int) -> int:
        step = steps[target]
        if step.code != _RETURN:
            return target
        known = answers.get(step.value)
        if known is None or known - at - 1 > _REACH:
            answers[step.value] = known = target
        return known

    for at in reversed(range(len(steps))):
        step = steps[at]
        if step.code in _CONDITIONS:
            otherwise = shared(at, step.otherwise)
            steps[at] = step._replace(then=shared(at, step.then), otherwise=otherwise)
    reached = {0}
    for at, step in enumerate(steps):
        if at in reached and step.code != _RETURN:
            reached.add(step.then)
            if step.code in _CONDITIONS:
                reached.add(step.otherwise)
    place = {at: index for index, at in enumerate(sorted(reached))}
    return [
        steps[at]._replace(then=place.get(steps[at].then, 0), otherwise=place.get(steps[at].otherwise, 0))
        for at in sorted(reached)
    ]


def _encoded(steps: list[_Step]) -> bytes:
    steps = _bridged(steps)
    program = bytearray()
    for at, step in enumerate(steps):
        if step.code in _CONDITIONS:
            program += _instruction.pack(step.code, step.then - at - 1, step.otherwise - at - 1, step.value)
        elif step.code == _JUMP:
            program += _instruction.pack(step.code, 0, 0, step.then - at - 1)
        else:
            program += _instruction.pack(step.code, 0, 0, step.value)
    return bytes(program)


def _bridged(steps: list[_Step]) -> list[_Step]:
    """Return the program with an unconditional jump behind each condition whose target is out of its reach."""
    at = 0
    while at < len(steps):
        step = steps[at]
        if step.code in _CONDITIONS:
            for field in ("then", "otherwise"):
                target: int = getattr(step, field)
                if target - at - 1 > _REACH - 2:
                    moved = [each._replace(**_moved(each, at)) for each in steps]
                    bridge = _Step(_JUMP, 0, target + 1, 0)
                    steps = [*moved[: at + 1], bridge, *moved[at + 1 :]]
                    steps[at] = step = steps[at]._replace(**{field: at + 1})
        at += 1
    return steps


def _moved(step: _Step, at: int) -> dict[str, int]:
    return {field: place + (place > at) for field, place in (("then", step.then), ("otherwise", step.otherwise))}
