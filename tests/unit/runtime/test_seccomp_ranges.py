"""A shortened filter answers everything as the one that libseccomp made."""

import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import capabilities, seccomp, seccomp_profile, seccomp_ranges
from runtime.seccomp_ranges import Reader

X86_64, X86, ARM = 0xC000003E, 0x40000003, 0x40000028
ARCHITECTURES = (X86_64, X86, ARM, 0, 0xFFFFFFFF, X86_64 - 1, X86_64 + 1, X86 + 1)
ARGUMENTS = (0, 1, 8, 37, 38, 39, 40, 41, 46, 0x11, 0x10000000, 0x7E020000, 0x1_00000026, 0xFFFFFFFF, (1 << 64) - 1)
EDGES = (0x3FFFFFFF, 0x40000000, 0x40000001, 0x40000027, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def long_and_short(profile: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes]:
    """What libseccomp makes of a profile, and what becomes of it."""
    with monkeypatch.context() as patch:
        patch.setattr(seccomp_ranges, "shortened", lambda program, newest: program)  # pyright: ignore[reportUnknownLambdaType]
        long = seccomp.compile(profile).code
    return long, seccomp_ranges.shortened(long)


@pytest.mark.parametrize("caps", [capabilities.DEFAULT, frozenset(capabilities.NAMES)])
def test_the_default_profile_says_the_same_of_every_call(caps: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = long_and_short(seccomp_profile.default(caps, "x86_64"), monkeypatch)
    choose = random.Random(1)
    before, after = Reader(long), Reader(short)
    for architecture in ARCHITECTURES:
        for number in (*range(520), *EDGES):
            arguments = choose.choice(ARGUMENTS), choose.choice(ARGUMENTS)
            call = number, architecture, arguments
            assert after.answer(*call) == before.answer(*call), call


@pytest.mark.parametrize(
    "number", [41, 56, 135, 102, 120, 136, 359]
)  # socket, clone, personality; the last three x86's
def test_calls_with_arguments_say_the_same_of_every_argument(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = long_and_short(seccomp_profile.default(capabilities.DEFAULT, "x86_64"), monkeypatch)
    before, after = Reader(long), Reader(short)
    for architecture in (X86_64, X86):
        for first in (*ARGUMENTS, *range(64), *seccomp_profile.PERSONALITIES):
            call = number, architecture, (first, first, first)
            assert after.answer(*call) == before.answer(*call), call


def test_the_default_profile_is_a_third_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = long_and_short(seccomp_profile.default(capabilities.DEFAULT, "x86_64"), monkeypatch)
    assert len(short) * 3 < len(long)


_NAMES = "read write open clone socket personality ptrace mount ioctl openat clone3 kexec_load socketcall ipc"
NAMES = _NAMES.split()
ARGUMENT = st.fixed_dictionaries(
    {
        "index": st.integers(0, 5),
        "value": st.sampled_from(ARGUMENTS),
        "valueTwo": st.sampled_from(ARGUMENTS),
        "op": st.sampled_from([f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")]),
    }
)
RULE = st.fixed_dictionaries(
    {
        "names": st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True),
        "action": st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]),
        "args": st.lists(ARGUMENT, max_size=2),
    }
)
CALL = st.tuples(
    st.one_of(st.integers(0, 460), st.sampled_from(EDGES)),
    st.sampled_from(ARCHITECTURES),
    st.tuples(*[st.sampled_from(ARGUMENTS)] * 6),
)


@settings(max_examples=40, deadline=None)
@given(
    rules=st.lists(RULE, max_size=8),
    default=st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL"]),
    architectures=st.lists(st.sampled_from(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]), unique=True),
    calls=st.lists(CALL, min_size=40, max_size=40),
)
def test_any_profile_says_the_same(
    rules: list[dict[str, Any]], default: str, architectures: list[str], calls: list[Any]
) -> None:
    profile = {"defaultAction": default, "architectures": architectures, "syscalls": rules}
    with pytest.MonkeyPatch.context() as patch:
        try:
            long, short = long_and_short(profile, patch)
        except seccomp.SeccompError:
            return  # rules that contradict each other
    before, after = Reader(long), Reader(short)
    assert [after.answer(*call) for call in calls] == [before.answer(*call) for call in calls]


def test_a_comparison_would_find_a_lost_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: one border moved by one is another program."""
    long, short = long_and_short(seccomp_profile.default(capabilities.DEFAULT, "x86_64"), monkeypatch)
    at = next(at for at in range(0, len(short), 8) if struct.unpack_from("=H", short, at)[0] == 0x35)
    broken = bytearray(short)
    struct.pack_into("=I", broken, at + 4, struct.unpack_from("=I", short, at + 4)[0] + 1)
    calls = [(number, architecture) for architecture in (X86_64, X86) for number in range(520)]
    before, after = Reader(long), Reader(bytes(broken))
    assert any(after.answer(*call) != before.answer(*call) for call in calls)


def test_distant_answers_are_reached() -> None:
    """More ranges than a conditional jump can skip, each with an answer of its own."""
    steps = b"".join(
        struct.pack("=HBBI", 0x15, 0, 1, number) + struct.pack("=HBBI", 0x06, 0, 0, 0x50000 + number)
        for number in range(1, 1500, 2)
    )
    long = struct.pack("=HBBI", 0x20, 0, 0, 0) + steps + struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    rebuilt = seccomp_ranges._encoded(seccomp_ranges._rebuilt(seccomp_ranges._decoded(long), {}))
    before, after = Reader(long), Reader(rebuilt)
    assert all(after.answer(number, X86_64) == before.answer(number, X86_64) for number in range(1600))


@pytest.mark.parametrize("code", [b"", struct.pack("=HBBI", 0x87, 0, 0, 0), struct.pack("=HBBI", 0x20, 0, 0, 0)])
def test_what_is_not_understood_stays_what_it_is(code: bytes) -> None:
    assert seccomp_ranges.shortened(code) == code


def test_what_is_newer_than_the_newest_is_not_implemented(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else changes: not what is older, not other architectures, not x32."""
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["read", "openat", "close_range"], "action": "SCMP_ACT_ALLOW"}],
    }
    long, _ = long_and_short(profile, monkeypatch)
    before, after = Reader(long), Reader(seccomp_ranges.shortened(long, {X86_64: 436}))
    for architecture in ARCHITECTURES:
        for number in (*range(520), *EDGES):
            newer = architecture == X86_64 and 436 < number < 0x40000000
            expected = 0x00050026 if newer else before.answer(number, architecture)
            assert after.answer(number, architecture) == expected, (number, architecture)
