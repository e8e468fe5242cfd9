"""The steps' tables and words."""

import resource

import pytest

from runtime.identity import RLIMITS, Domainname, Limit, Personality, Seccomp


@pytest.mark.parametrize("name", [name for name in RLIMITS if hasattr(resource, name)])
def test_the_limits_have_the_kernels_numbers(name: str) -> None:
    assert RLIMITS[name] == getattr(resource, name)


def test_there_are_all_sixteen_limits() -> None:
    assert sorted(RLIMITS.values()) == list(range(16))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Limit("RLIMIT_NOFILE", 1, 2), "limit RLIMIT_NOFILE to 1:2"),
        (Domainname("example.org"), "set the domain name example.org"),
        (Personality("LINUX32", ()), "take the personality LINUX32"),
        (Seccomp("seccomp"), "load the seccomp filter"),
    ],
)
def test_words(step: Limit | Domainname | Personality | Seccomp, words: str) -> None:
    assert step.describe() == words


def test_a_filter_has_no_flags_unless_asked() -> None:
    assert Seccomp("seccomp").flags == 0
