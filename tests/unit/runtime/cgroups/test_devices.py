"""The device program for v2, run by a small interpreter of the few instructions it uses."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups.devices import program
from runtime.cgroups.rules import DEFAULT_DEVICES, Device

BLOCK, CHARACTER = 1, 2
MAKE, READ, WRITE = 1, 2, 4


def answer(code: bytes, kind: int, access: int, major: int, minor: int) -> bool:
    context = {0: access << 16 | kind, 4: major, 8: minor}
    registers = [0] * 11
    instructions = list(struct.iter_unpack("=BBhi", code))
    at = 0
    while True:
        operation, both, offset, value = instructions[at]
        target, source = both & 15, both >> 4
        at += 1
        match operation:
            case 0x61:
                registers[target] = context[offset]
            case 0x57:
                registers[target] &= value
            case 0x77:
                registers[target] >>= value
            case 0xBF:
                registers[target] = registers[source]
            case 0xB7:
                registers[target] = value
            case 0x15:
                at += offset if registers[target] == value else 0
            case 0x55:
                at += offset if registers[target] != value else 0
            case 0x5D:
                at += offset if registers[target] != registers[source] else 0
            case 0x95:
                return registers[0] == 1
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


@pytest.mark.parametrize(
    ("kind", "access", "major", "minor", "allowed"),
    [
        (CHARACTER, READ | WRITE, 1, 3, True),
        (CHARACTER, READ, 136, 7, True),
        (CHARACTER, READ, 1, 11, False),
        (CHARACTER, MAKE, 1, 11, True),
        (CHARACTER, MAKE | READ, 1, 11, False),
        (BLOCK, READ, 8, 0, False),
        (BLOCK, READ, 1, 3, False),
        (BLOCK, MAKE, 8, 0, True),
    ],
)
def test_default_devices(kind: int, access: int, major: int, minor: int, allowed: bool) -> None:
    assert answer(program(DEFAULT_DEVICES), kind, access, major, minor) is allowed


def test_no_rule_denies() -> None:
    assert not answer(program(()), CHARACTER, READ, 1, 3)


def test_a_later_rule_takes_back() -> None:
    rules: tuple[Device, ...] = (("c 10:*", "rwm", True), ("c 10:200", "w", False))
    code = program(rules)
    assert [answer(code, CHARACTER, asked, 10, 200) for asked in (READ, WRITE, READ | WRITE)] == [True, False, False]


rule = st.tuples(
    st.builds(
        lambda kind, major, minor: f"{kind} {major}:{minor}",
        st.sampled_from("bc"),
        st.sampled_from(["*", "1", "2"]),
        st.sampled_from(["*", "1", "2"]),
    ),
    st.sampled_from(["r", "w", "m", "rw", "rwm"]),
    st.booleans(),
)


@given(st.lists(rule, max_size=6), st.sampled_from([1, 2]), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3))
def test_the_program_does_what_the_rules_say(
    rules: list[Device], kind: int, asked: int, major: int, minor: int
) -> None:
    expected = False
    for place, access, allow in rules:
        letter, numbers = place.split(" ")
        fits = {"b": 1, "c": 2}[letter] == kind and all(
            text in ("*", str(number)) for text, number in zip(numbers.split(":"), (major, minor), strict=True)
        )
        bits = sum({"m": 1, "r": 2, "w": 4}[each] for each in access)
        if fits and (asked & bits == asked if allow else asked & bits):
            expected = allow
    assert answer(program(tuple(rules)), kind, asked, major, minor) is expected
