"""What a config says of namespaces, and what is wrong with it by field."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import syscalls
from runtime.namespaces import KINDS, Entered, flags, open_path, read

MAPS = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]


def asking(*namespaces: dict[str, Any], **linux: Any) -> dict[str, Any]:
    return {"namespaces": [{"type": "mount"}, *namespaces], **linux}


def test_new_ones_and_paths_are_told_apart_and_user_comes_first() -> None:
    wanted = read(asking({"type": "network", "path": "/net"}, {"type": "pid"}, {"type": "user", "path": "/user"}))
    assert wanted.new == {"mount", "pid"}
    assert wanted.paths == (("user", "/user"), ("network", "/net"))


def test_an_empty_path_is_none() -> None:
    assert read(asking({"type": "pid", "path": ""}, {"type": "uts", "path": None})).new == {"mount", "pid", "uts"}


def test_mappings_are_triples() -> None:
    wanted = read(asking({"type": "user"}, uidMappings=MAPS, gidMappings=[*MAPS, {**MAPS[0], "containerID": 65_536}]))
    assert wanted.uid_mappings == ((0, 100_000, 65_536),)
    assert wanted.gid_mappings == ((0, 100_000, 65_536), (65_536, 100_000, 65_536))


def test_a_path_may_come_with_the_mappings_that_it_has() -> None:
    assert read(asking({"type": "user", "path": "/user"}, uidMappings=MAPS, gidMappings=MAPS)).new == {"mount"}


def test_all_ids_but_the_last_can_be_mapped() -> None:
    whole = [{"containerID": 0, "hostID": 0, "size": 4_294_967_295}]
    assert read(asking({"type": "user"}, uidMappings=whole, gidMappings=whole)).uid_mappings[0][2] == 4_294_967_295


def test_offsets() -> None:
    offsets = {"boottime": {"secs": -5, "nanosecs": 999_999_999}, "monotonic": {"secs": 7}}
    assert set(read(asking({"type": "time"}, timeOffsets=offsets)).time_offsets) == {
        ("boottime", -5, 999_999_999),
        ("monotonic", 7, 0),
    }


@pytest.mark.parametrize(
    ("linux", "field"),
    [
        ({}, "linux.namespaces: without a mount namespace"),
        ({"namespaces": {}}, "linux.namespaces: without"),
        ({"namespaces": "pid"}, "linux.namespaces: 'pid' is not a list"),
        ({"namespaces": ["pid"]}, r"linux.namespaces\[0\].type"),
        (asking({"type": "net"}), r"linux.namespaces\[1\].type: 'net' is none of user, network"),
        (asking({"type": ["pid"]}), r"linux.namespaces\[1\].type"),
        (asking({"path": "/x"}), r"linux.namespaces\[1\].type: None"),
        (asking({"type": "pid"}, {"type": "pid"}), r"linux.namespaces\[2\].type: a second pid"),
        (asking({"type": "pid"}, {"type": "pid", "path": "/x"}), r"linux.namespaces\[2\].type: a second pid"),
        (asking({"type": "pid", "path": "x"}), r"linux.namespaces\[1\].path: 'x' is not an absolute"),
        (asking({"type": "pid", "path": 7}), r"linux.namespaces\[1\].path"),
        (asking(uidMappings=MAPS), "linux.uidMappings: there is no user namespace"),
        (asking(gidMappings=MAPS), "linux.gidMappings: there is no user namespace"),
        (asking({"type": "user"}), "linux.uidMappings: a new user namespace needs"),
        (asking({"type": "user"}, uidMappings=MAPS), "linux.gidMappings: a new user namespace needs"),
        (asking({"type": "user"}, uidMappings=[{}], gidMappings=MAPS), r"linux.uidMappings\[0\].containerID: None"),
        (asking({"type": "user"}, uidMappings=MAPS[0]), "linux.uidMappings: .* is not a list"),
        (asking({"type": "user"}, uidMappings=[{**MAPS[0], "size": 0}]), r"linux.uidMappings\[0\].size: 0 ids"),
        (asking({"type": "user"}, uidMappings=[{**MAPS[0], "size": True}]), r"linux.uidMappings\[0\].size: True"),
        (asking({"type": "user"}, uidMappings=[{**MAPS[0], "hostID": -1}]), r"linux.uidMappings\[0\].hostID: -1"),
        (
            asking({"type": "user"}, uidMappings=[{**MAPS[0], "size": 4_294_967_295}]),
            r"linux.uidMappings\[0\].size: .* not within 32 bits",
        ),
        (asking({"type": "user"}, uidMappings=MAPS * 341), "linux.uidMappings: 341 mappings; the kernel takes 340"),
        (asking(timeOffsets={"boottime": {"secs": 1}}), "linux.timeOffsets: only a new time namespace"),
        (
            asking({"type": "time", "path": "/x"}, timeOffsets={"boottime": {"secs": 1}}),
            "linux.timeOffsets: only a new time namespace",
        ),
        (asking({"type": "time"}, timeOffsets=[1]), "linux.timeOffsets: .* is not an object"),
        (asking({"type": "time"}, timeOffsets={"realtime": {}}), "linux.timeOffsets.realtime: only monotonic and"),
        (asking({"type": "time"}, timeOffsets={"boottime": 7}), "linux.timeOffsets.boottime: secs"),
        (asking({"type": "time"}, timeOffsets={"boottime": {"secs": 1.5}}), "linux.timeOffsets.boottime: secs"),
        (asking({"type": "time"}, timeOffsets={"boottime": {"secs": 1 << 63}}), "linux.timeOffsets.boottime: secs"),
        (
            asking({"type": "time"}, timeOffsets={"boottime": {"nanosecs": 1_000_000_000}}),
            "linux.timeOffsets.boottime: secs",
        ),
    ],
)
def test_what_makes_no_sense_is_named(linux: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        read(linux)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*KINDS, "/x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "path", "containerID", "hostID", "size", "secs", "boottime"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["namespaces", "uidMappings", "gidMappings", "timeOffsets"]), json, max_size=4))
def test_nothing_but_a_value_error_comes_of_any_json(linux: dict[str, Any]) -> None:
    try:
        wanted = read(linux)
    except ValueError:
        return
    assert "mount" in wanted.new | {kind for kind, _ in wanted.paths}


def test_kinds_of_an_entry_are_all_that_is_not_the_runtimes() -> None:
    assert Entered((("user", 3), ("network", 4)), frozenset({"pid", "mount"})).kinds() == {
        "user",
        "network",
        "pid",
        "mount",
    }


def test_flags_are_the_kernels() -> None:
    assert flags(frozenset({"pid", "time"})) == syscalls.CLONE_NEWPID | syscalls.CLONE_NEWTIME
    assert flags(frozenset()) == 0
    assert len(KINDS) == 8


# Paths


@pytest.mark.parametrize("kind", KINDS)
def test_a_namespace_is_opened_by_its_path(kind: str) -> None:
    file = {"network": "net", "mount": "mnt"}.get(kind, kind)
    descriptor = open_path(kind, f"/proc/self/ns/{file}")
    try:
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/proc/self/ns/net", "this is a network namespace and not a uts namespace"),
        ("/dev/null", "this is no namespace"),
        ("/proc/self/status", "this is no namespace"),
        ("/nonexistent", "No such file"),
    ],
)
def test_a_path_that_leads_to_none_is_refused(path: str, words: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=words) as caught:
        open_path("uts", path)
    assert caught.value.filename == path
    assert os.listdir("/proc/self/fd") == before
