"""Which hierarchies a container uses, and which paths are ours: no kernel needed."""

import errno
import os
from pathlib import Path

import pytest

from runtime import syscalls
from runtime.cgroups import devices
from runtime.cgroups.group import Group, remove_tree
from runtime.cgroups.hierarchy import CgroupError, Hierarchy, Layout, MissingController


def place(version: int, mount: str, *controllers: str) -> Hierarchy:
    return Hierarchy(2 if version == 2 else 1, mount, "/", "/", frozenset(controllers))


V1 = Layout(tuple(place(1, f"/cg/{name}", name) for name in ("memory", "cpu", "cpuset", "pids", "freezer")), None)
HYBRID = Layout(V1.v1, place(2, "/cg/unified", "hugetlb"))
V2 = Layout((), place(2, "/cg", "memory", "cpu", "cpuset", "pids", "io"))


def mounts(layout: Layout, **oci: object) -> list[str]:
    return sorted(each.mount for each in Group.at(layout, "creche/app/web", oci).places)


def test_v1_uses_what_counts_and_the_freezer_that_kills() -> None:
    assert mounts(V1) == ["/cg/freezer", "/cg/memory", "/cg/pids"]


def test_hybrid_uses_the_unified_tree_to_kill() -> None:
    assert mounts(HYBRID) == ["/cg/memory", "/cg/pids", "/cg/unified"]


def test_v2_is_one_place() -> None:
    assert mounts(V2, cpu={"cpus": "0"}) == ["/cg"]


def test_a_limit_brings_its_hierarchy() -> None:
    assert "/cg/cpu" in mounts(HYBRID, cpu={"quota": 1000})


def test_a_limit_without_its_controller_is_refused() -> None:
    with pytest.raises(MissingController, match=r"memory\.limit needs"):
        Group.at(Layout((), place(2, "/cg", "pids")), "creche/a/b", {"memory": {"limit": 1}})


def test_a_v2_file_of_a_v1_controller_is_refused() -> None:
    with pytest.raises(MissingController, match=r"unified\.memory\.high needs"):
        Group.at(HYBRID, "creche/a/b", {"unified": {"memory.high": "1"}})


@pytest.mark.parametrize("path", ["creche", "user.slice/x", "creche/../x", "creche//x", "/creche/x", "", "creche/."])
def test_only_paths_of_ours(path: str) -> None:
    with pytest.raises(ValueError, match="no cgroup of ours"):
        remove_tree(V2, path)


def test_controllers_are_passed_down_to_the_leaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain files: from the root on, every level hands on what the leaf needs."""
    chain = [tmp_path, tmp_path / "creche", tmp_path / "creche/app", tmp_path / "creche/app/web"]
    for directory in chain:
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.subtree_control").write_text("")
    for file in ("memory.max", "pids.max"):
        (chain[-1] / file).write_text("")
    layout = Layout((), place(2, str(tmp_path), "memory", "pids", "io"))
    oci = {"memory": {"limit": 4096}}
    monkeypatch.setattr(devices, "limit", lambda directory, rules, again: None)  # pyright: ignore
    Group.at(layout, "creche/app/web", oci).create(oci)
    assert {(each / "cgroup.subtree_control").read_text() for each in chain} == {"+memory +pids"}


def test_a_missing_swap_file_is_a_warning(tmp_path: Path) -> None:
    directory = tmp_path / "creche/app/web"
    directory.mkdir(parents=True)
    (directory / "memory.limit_in_bytes").write_text("")
    oci = {"memory": {"limit": 4096, "swap": 4096}}
    warnings = Group.at(Layout((place(1, str(tmp_path), "memory"),), None), "creche/app/web", oci).create(oci)
    assert [warning.partition(":")[0] for warning in warnings] == ["swap is not limited"]


def test_a_failed_write_names_file_and_value(tmp_path: Path) -> None:
    directory = tmp_path / "creche/app/web"
    directory.mkdir(parents=True)
    oci = {"memory": {"limit": 4096}}
    with pytest.raises(CgroupError) as caught:
        Group.at(Layout((place(1, str(tmp_path), "memory"),), None), "creche/app/web", oci).create(oci)
    assert (os.strerror(2) in str(caught.value), "'4096'" in str(caught.value)) == (True, True)
    assert caught.value.filename == f"{directory}/memory.limit_in_bytes"


def test_a_kernel_without_device_programs_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> list[int]:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), "bpf query")

    monkeypatch.setattr(syscalls, "bpf_device_programs", refuse)
    warning = devices.limit(str(tmp_path), ())
    assert warning is not None
    assert warning.startswith("devices are not limited by cgroup")
