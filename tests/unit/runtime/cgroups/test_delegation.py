"""Whether the own cgroup was delegated is read from mounts, memberships and systemd's mark alone."""

import pytest

from runtime.cgroups.delegation import judge, shown, subtree

MOUNT = "/sys/fs/cgroup"
UNIT = "/system.slice/shop.service"


def marked(*paths: str):
    return lambda directory: "1" if directory in {f"{MOUNT}{path}" for path in paths} else None


@pytest.mark.parametrize(
    ("root", "own", "marks", "expected"),
    [
        ("/", UNIT, (UNIT,), UNIT),
        ("/", f"{UNIT}/creche-self", (UNIT,), UNIT),
        ("/", f"{UNIT}/inner", (UNIT, f"{UNIT}/inner"), f"{UNIT}/inner"),
        ("/", UNIT, (), ""),
        ("/", "/", (), ""),
        ("/", UNIT, ("/system.slice/other.service",), ""),
        ("/docker/5f2a", "/docker/5f2a/app", ("/app",), "/app"),
        ("/docker/5f2a", "/elsewhere", ("/elsewhere",), ""),
    ],
)
def test_the_nearest_delegated_cgroup_is_the_base(root: str, own: str, marks: tuple[str, ...], expected: str) -> None:
    assert subtree(MOUNT, root, own, marked(*marks)) == expected


def test_a_mark_of_zero_is_none() -> None:
    assert subtree(MOUNT, "/", UNIT, lambda _: "0") == ""


@pytest.mark.parametrize(
    ("root", "own", "expected"),
    [("/", "/", ""), ("/", "/a", "/a"), ("/a", "/a", ""), ("/a", "/a/b", "/b"), ("/a", "/ab", "")],
)
def test_a_path_below_the_mount(root: str, own: str, expected: str) -> None:
    assert shown(root, own) == expected


@pytest.mark.parametrize(
    ("root", "own", "marks", "held", "good", "words"),
    [
        ("/", UNIT, (UNIT,), 0, True, "is delegated; containers go below it"),
        ("/", UNIT, (UNIT,), 2, False, "delegated to creche, but holds 2 processes itself"),
        ("/", "/user.slice/session-3.scope", (), 5, True, "is not delegated; containers go to the top"),
        ("/", "/", (), 90, True, "no cgroup is delegated and none has to be"),
        ("/docker/5f2a", "/docker/5f2a", (), 3, False, "whose top holds 3 processes"),
        ("/docker/5f2a", "/docker/5f2a/inner", (), 0, True, "containers go to its top"),
    ],
)
def test_the_doctor_says_where_groups_go(
    root: str, own: str, marks: tuple[str, ...], held: int, good: bool, words: str
) -> None:
    verdict = judge(MOUNT, root, own, marked(*marks), lambda _: held, whole=root == "/")
    assert (verdict.good, words in verdict.words) == (good, True)


def test_what_cannot_be_comes_with_advice() -> None:
    verdict = judge(MOUNT, "/", UNIT, marked(UNIT), lambda _: 1)
    assert "DelegateSubgroup=" in (verdict.advice or "")
