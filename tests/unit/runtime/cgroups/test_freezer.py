"""What does not stand still is named and let go again; against plain files, which never change by themselves."""

import errno
from pathlib import Path

import pytest

from runtime.cgroups import freezer
from runtime.cgroups.hierarchy import CgroupError, Hierarchy


def unified(directory: Path, frozen: int) -> tuple[Hierarchy, ...]:
    """A v2 cgroup `web` with a process that nobody has."""
    here = directory / "web"
    here.mkdir()
    (here / "cgroup.events").write_text(f"populated 1\nfrozen {frozen}\n")
    (here / "cgroup.freeze").write_text("")
    (here / "cgroup.procs").write_text("4194999\n")
    return (Hierarchy(2, str(directory), "/", "/", frozenset()),)


def old(directory: Path, state: str) -> tuple[Hierarchy, ...]:
    here = directory / "web"
    here.mkdir()
    (here / "freezer.state").write_text(state)
    (here / "freezer.parent_freezing").write_text("1\n")
    return (Hierarchy(1, str(directory), "/", "/", frozenset({"freezer"})),)


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain files cannot be polled."""

    class Poll:
        def register(self, descriptor: int, events: int) -> None:
            pass

        def poll(self, milliseconds: float) -> None:
            pass

    monkeypatch.setattr(freezer.select, "poll", Poll)


@pytest.mark.usefixtures("no_polling")
def test_who_does_not_stand_still_is_named_and_let_go(tmp_path: Path) -> None:
    places = unified(tmp_path, 0)
    with pytest.raises(CgroupError, match=r"processes \[4194999\] did not stand still within 0 s; all run") as caught:
        freezer.freeze(places, "web", 0)
    assert (caught.value.errno, (tmp_path / "web/cgroup.freeze").read_text()) == (errno.ETIMEDOUT, "0")


@pytest.mark.usefixtures("no_polling")
def test_standing_still_is_believed(tmp_path: Path) -> None:
    places = unified(tmp_path, 1)
    freezer.freeze(places, "web", 0)
    assert freezer.frozen(places, "web")


@pytest.mark.usefixtures("no_polling")
def test_what_a_cgroup_above_keeps_frozen_is_told(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="a cgroup above it is frozen"):
        freezer.thaw(unified(tmp_path, 1), "web", 0)


@pytest.mark.parametrize(("state", "expected"), [("FROZEN\n", True), ("FREEZING\n", False), ("THAWED\n", False)])
def test_v1_is_frozen_once_all_of_it_is(tmp_path: Path, state: str, expected: bool) -> None:
    assert freezer.frozen(old(tmp_path, state), "web") is expected


def test_the_unified_tree_goes_first(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = old(tmp_path / "a", "THAWED\n"), unified(tmp_path / "b", 1)
    assert freezer.place_of((*first, *second)) == second[0]


def test_nothing_freezes_without_either() -> None:
    with pytest.raises(CgroupError, match="cannot be frozen"):
        freezer.freeze((), "web")
