"""The layout is read from the kernel's text alone."""

import pytest

from runtime.cgroups.hierarchy import CgroupError, Layout, MissingController, parse

V2 = (
    """\
22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
31 22 0:26 / /sys/fs/cgroup rw,nosuid,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
""",
    "0::/user.slice/user-1000.slice/session-3.scope\n",
)
V1 = (
    """\
28 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
22 28 0:20 / /sys rw - sysfs sysfs rw
25 22 0:21 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
26 25 0:22 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd
27 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
29 25 0:24 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
30 25 0:25 / /sys/fs/cgroup/my\\040pids rw,relatime - cgroup cgroup rw,pids
""",
    "4:pids:/a\n3:memory:/b\n2:cpu,cpuacct:/c\n1:name=systemd:/init.scope\n",
)
HYBRID = (
    V1[0] + "38 25 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
    V1[1] + "0::/d\n",
)
NESTED_V1 = (
    """\
500 400 0:50 / / rw,relatime - overlay overlay rw
510 500 0:51 / /sys ro - sysfs sysfs ro
511 510 0:52 / /sys/fs/cgroup rw - tmpfs tmpfs rw
512 511 0:24 /docker/5f2a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
513 511 0:25 /docker/5f2a /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
""",
    "4:pids:/docker/5f2a\n3:memory:/docker/5f2a\n",
)


def layout(texts: tuple[str, str], controllers: str = "") -> Layout:
    return parse(*texts, lambda path: controllers)


def test_pure_v2() -> None:
    found = layout(V2, "cpuset cpu io memory pids\n")
    assert (found.mode, sorted(found.controllers)) == ("v2", ["cpu", "cpuset", "io", "memory", "pids"])


def test_v2_knows_where_this_process_lives() -> None:
    found = layout(V2)
    assert found.v2 is not None
    assert found.v2.own == "/user.slice/user-1000.slice/session-3.scope"


def test_v1_controllers_mounted_together_share_a_hierarchy() -> None:
    found = layout(V1)
    assert found.controllers["cpu"] is found.controllers["cpuacct"]
    assert found.controllers["cpu"].mount == "/sys/fs/cgroup/cpu,cpuacct"


def test_v1_named_hierarchies_are_no_controllers() -> None:
    assert sorted(layout(V1).controllers) == ["cpu", "cpuacct", "memory", "pids"]


def test_escaped_mount_points_are_decoded() -> None:
    assert layout(V1).controllers["pids"].mount == "/sys/fs/cgroup/my pids"


def test_hybrid_gives_each_controller_one_home() -> None:
    found = layout(HYBRID, "hugetlb\n")
    assert (found.mode, found.controllers["hugetlb"].version, found.controllers["memory"].version) == ("hybrid", 2, 1)


def test_inside_a_container_the_mount_shows_a_part() -> None:
    place = layout(NESTED_V1).controllers["memory"]
    assert (place.mount, place.root, place.own) == ("/sys/fs/cgroup/memory", "/docker/5f2a", "/docker/5f2a")


def test_a_read_only_hierarchy_is_refused_with_the_limit_it_would_hold() -> None:
    with pytest.raises(CgroupError, match=r"pids\.limit cannot be set.*read-only.*writable cgroup mount"):
        layout(NESTED_V1).of("pids", "pids.limit")


def test_a_read_only_hierarchy_is_passed_over_without_a_limit() -> None:
    assert layout(NESTED_V1).of("pids") is None


def test_a_missing_controller_names_limit_controller_and_way_out() -> None:
    with pytest.raises(MissingController, match=r"cpu\.cpus needs the cgroup controller 'cpuset'.*delegated"):
        layout(V1).of("cpuset", "cpu.cpus")


def test_a_hierarchy_under_another_mount_is_not_seen() -> None:
    covered = V2[0] + "99 22 0:99 / /sys/fs rw - tmpfs tmpfs rw\n"
    with pytest.raises(CgroupError, match="no cgroup hierarchy"):
        parse(covered, V2[1], lambda path: "")


def test_a_root_mounted_later_does_not_hide_what_was_moved_into_it() -> None:
    """After switch_root, `/` may have a higher mount number than `/sys`."""
    assert layout((V2[0].replace("28 1 254:1", "90 1 254:1").replace("22 28", "22 90"), V2[1])).mode == "v2"


def test_the_mount_that_shows_most_wins() -> None:
    twice = V2[0].replace("31 22", "30 28 0:26 /some/part /mnt rw - cgroup2 none rw\n31 22")
    found = layout((twice, V2[1]))
    assert found.v2 is not None
    assert found.v2.mount == "/sys/fs/cgroup"


def test_no_hierarchy_at_all() -> None:
    with pytest.raises(CgroupError, match="mount one"):
        parse("28 1 254:1 / / rw - ext4 /dev/vda1 rw\n", "", lambda path: "")
