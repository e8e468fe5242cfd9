"""Profiles compiled by the installed libseccomp, and the cache of programs."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from runtime import capabilities, seccomp, seccomp_profile, syscalls

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
        ({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}, r"seccomp\.flags is not yet supported"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}, r"seccomp\.syscalls\[0\]"),
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
    lax = seccomp.compile({**SMALL, "defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}).code
    file.write_bytes(hashlib.sha256(lax).digest() + lax)
    file.chmod(0o622)
    assert seccomp.cached(SMALL, tmp_path) == code
