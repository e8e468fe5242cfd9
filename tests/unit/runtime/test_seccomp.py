"""Profiles compiled by the installed libseccomp, and the cache of programs."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from runtime import capabilities, seccomp, seccomp_profile, syscalls
from runtime.seccomp_ranges import Reader

SMALL: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "syscalls": [{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}],
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("caps", [capabilities.DEFAULT, frozenset(capabilities.NAMES)])
def test_the_default_profile_compiles(machine: str, caps: frozenset[str]) -> None:
    code = seccomp.compile(seccomp_profile.default(caps, machine)).code
    assert 0 < len(code) // 8 <= seccomp.MAX_INSTRUCTIONS


def test_names_libseccomp_does_not_know_are_recorded() -> None:
    assert seccomp.compile(SMALL).skipped == ("no_such_call",)


def test_several_comparisons_of_one_argument_are_alternatives() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (0, 8)]
    rule = {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args}
    apart = [{**rule, "args": [arg]} for arg in args]
    assert seccomp.compile({**SMALL, "syscalls": [rule]}).code == seccomp.compile({**SMALL, "syscalls": apart}).code


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"defaultAction": "ALLOW"}, r"seccomp\.defaultAction: 'ALLOW' is not supported"),
        ({"defaultErrnoRet": 5000}, "5000 is no error number"),
        ({"architectures": ["SCMP_ARCH_PDP11"]}, "SCMP_ARCH_PDP11"),
        ({"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, r"seccomp\.flags: .* is not supported"),
        (
            {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]},
            r"seccomp\.syscalls\[0\]: SCMP_ACT_NOTIFY is not supported: .*SCMP_ACT_ERRNO",
        ),
        ({"listenerPath": "/run/agent.sock"}, r"seccomp\.listenerPath is not supported"),
        ({"listenerMetadata": "x"}, r"seccomp\.listenerMetadata is not supported"),
        (
            {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}]},
            r"seccomp\.syscalls\[0\]: SCMP_ACT_ALLOW has no error number",
        ),
        (
            {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 0x10000}]},
            "65536 is no error number from 0 to 65535",
        ),
        *(
            (
                {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, **arg}]}]},
                r"seccomp\.syscalls\[0\].*at most 64 bits",
            )
            for arg in (
                {"value": -1, "op": "SCMP_CMP_EQ"},
                {"value": 1 << 64, "op": "SCMP_CMP_EQ"},
                {"value": True, "op": "SCMP_CMP_EQ"},
                {"value": 1, "valueTwo": 1 << 64, "op": "SCMP_CMP_MASKED_EQ"},
            )
        ),
        (
            {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 9, "value": 1}]}]},
            r"seccomp\.syscalls\[0\].*index from 0 to 5",
        ),
    ],
)
def test_a_bad_profile_names_the_place(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        seccomp.compile({**SMALL, **change})


def test_without_libseccomp_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise FileNotFoundError(2, "No such file or directory", "libseccomp.so.2")

    monkeypatch.setattr(syscalls, "libseccomp", missing)
    with pytest.raises(seccomp.SeccompError, match="install the package libseccomp2"):
        seccomp.compile(SMALL)


def test_the_cache_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = seccomp.cached(SMALL, tmp_path / "cache")
    monkeypatch.setattr(seccomp, "compile", lambda profile: pytest.fail("compiled again"))  # pyright: ignore
    assert seccomp.cached(SMALL, tmp_path / "cache") == first


def test_the_cache_tells_profiles_apart(tmp_path: Path) -> None:
    assert seccomp.cached(SMALL, tmp_path) != seccomp.cached({**SMALL, "defaultErrnoRet": 1}, tmp_path)


def test_the_cache_tells_libseccomps_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seccomp.cached(SMALL, tmp_path)
    monkeypatch.setattr(syscalls, "libseccomp_version", lambda: "99.0.0")
    seccomp.cached(SMALL, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-8], lambda data: b"", lambda data: data[:-1] + b"x"])
def test_a_damaged_program_is_compiled_anew(tmp_path: Path, damage: Any) -> None:
    code = seccomp.cached(SMALL, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert seccomp.cached(SMALL, tmp_path) == code


def test_a_program_others_could_have_written_is_compiled_anew(tmp_path: Path) -> None:
    code = seccomp.cached(SMALL, tmp_path)
    (file,) = tmp_path.iterdir()
    lax = seccomp.compile({"defaultAction": "SCMP_ACT_ALLOW"}).code
    file.write_bytes(hashlib.sha256(lax).digest() + lax)
    file.chmod(0o622)
    assert seccomp.cached(SMALL, tmp_path) == code


X86_64 = 0xC000003E


@pytest.mark.parametrize(
    ("action", "value"),
    [
        ({"action": "SCMP_ACT_KILL"}, 0),
        ({"action": "SCMP_ACT_KILL_THREAD"}, 0),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, 0x80000000),
        ({"action": "SCMP_ACT_TRAP"}, 0x00030000),
        ({"action": "SCMP_ACT_ERRNO"}, 0x00050001),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 99}, 0x00050063),
        ({"action": "SCMP_ACT_TRACE"}, 0x7FF00001),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 0xFFFF}, 0x7FF0FFFF),
        ({"action": "SCMP_ACT_LOG"}, 0x7FFC0000),
        ({"action": "SCMP_ACT_ALLOW"}, 0x7FFF0000),
    ],
)
def test_every_action(action: dict[str, Any], value: int) -> None:
    code = seccomp.compile({**SMALL, "syscalls": [{"names": ["getpid"], **action}]}).code
    assert Reader(code).answer(39, X86_64) == value


MANY = 0x1234_5678_9ABC_DEF0


@pytest.mark.parametrize(
    ("operator", "value", "second", "true", "false"),
    [
        ("NE", MANY, 0, [0, MANY + 1, MANY & 0xFFFFFFFF, MANY + (1 << 32)], [MANY]),
        ("EQ", MANY, 0, [MANY], [0, MANY + 1, MANY & 0xFFFFFFFF, MANY + (1 << 32)]),
        ("LT", MANY, 0, [MANY - 1, 0xFFFFFFFF], [MANY, MANY + 1, MANY + (1 << 32)]),
        ("LE", MANY, 0, [MANY, MANY - (1 << 32)], [MANY + 1, (1 << 64) - 1]),
        ("GE", MANY, 0, [MANY, MANY + (1 << 32)], [MANY - 1, 0xFFFFFFFF]),
        ("GT", MANY, 0, [MANY + 1, (1 << 64) - 1], [MANY, 0xFFFFFFFF]),
        ("MASKED_EQ", 0xFF000000000000FF, 0x12000000000000F0, [MANY, 0x12FFFFFFFFFFFFF0], [MANY + 1, MANY >> 8]),
    ],
)
def test_every_operator_compares_64_bits(
    operator: str, value: int, second: int, true: list[int], false: list[int]
) -> None:
    arg = {"index": 5, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}
    rule = {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "args": [arg]}
    reader = Reader(seccomp.compile({**SMALL, "syscalls": [rule]}).code)
    allowed = [each for each in (*true, *false) if reader.answer(39, X86_64, (0, 0, 0, 0, 0, each)) == 0x7FFF0000]
    assert allowed == true


@pytest.mark.parametrize(
    "name",
    "X86 X86_64 X32 ARM AARCH64 MIPSEL MIPSEL64 MIPSEL64N32 PPC64LE RISCV64".split(),  # noqa: SIM905
)
def test_every_architecture_of_this_byte_order(name: str) -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
    code = seccomp.compile({**SMALL, "architectures": [f"SCMP_ARCH_{name}"], "syscalls": [rule]}).code
    assert len(code) > len(seccomp.compile({**SMALL, "syscalls": [rule]}).code) or name == "X86_64"


@pytest.mark.parametrize("name", ["S390X", "PPC", "MIPS"])
def test_an_architecture_of_the_other_byte_order_is_named(name: str) -> None:
    with pytest.raises(seccomp.SeccompError, match=f"cannot add SCMP_ARCH_{name} .*leave it out"):
        seccomp.compile({**SMALL, "architectures": [f"SCMP_ARCH_{name}"]})


def test_rules_that_only_repeat_the_default_are_passed_over() -> None:
    rule = {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    assert seccomp.compile({**SMALL, "syscalls": [rule]}).code == seccomp.compile({**SMALL, "syscalls": []}).code


@pytest.mark.parametrize(
    ("names", "flags"),
    [
        ([], 0),
        (["TSYNC"], 1),
        (["LOG"], 2),
        (["SPEC_ALLOW"], 4),
        (["TSYNC", "LOG", "SPEC_ALLOW"], 7),
        (["WAIT_KILLABLE_RECV"], 0),  # there is no listener that could be waited for
    ],
)
def test_flags(names: list[str], flags: int) -> None:
    assert seccomp.flags_of({"flags": [f"SECCOMP_FILTER_FLAG_{name}" for name in names]}) == flags


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"defaultErrnoRet": 1}, 0x00050026),
        ({"defaultErrnoRet": 38}, 0x00050026),
        ({"defaultErrnoRet": None, "defaultAction": "SCMP_ACT_KILL_PROCESS"}, 0x80000000),
        ({"defaultErrnoRet": None, "defaultAction": "SCMP_ACT_LOG"}, 0x7FFC0000),
    ],
)
def test_what_is_newer_than_the_profile_is_not_implemented(change: dict[str, Any], answer: int) -> None:
    assert Reader(seccomp.compile({**SMALL, **change}).code).answer(450, X86_64) == answer


def test_what_is_older_meets_the_default() -> None:
    rule = {"names": ["close_range"], "action": "SCMP_ACT_ALLOW"}
    reader = Reader(seccomp.compile({**SMALL, "defaultErrnoRet": 1, "syscalls": [rule]}).code)
    assert [reader.answer(number, X86_64) for number in (435, 436)] == [0x00050001, 0x7FFF0000]
