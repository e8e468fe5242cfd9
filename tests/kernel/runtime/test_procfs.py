"""A procfs of the process's own, whatever else stands on /proc (CVE-2019-16884, CVE-2025-52881)."""

import errno

import pytest

from runtime import syscalls
from tests.kernel.runtime.inside import NAMESPACES, inside

# A tmpfs with everything in it that a runtime would write to.
HOSTILE = """
cover("/proc")
for path in ("self/attr/apparmor", "sys/net/ipv4", f"{os.getpid()}"):
    os.makedirs(f"/proc/{path}")
for path in ("self/attr/exec", "self/oom_score_adj", "sys/net/ipv4/ip_default_ttl"):
    Path(f"/proc/{path}").write_text("untouched")
"""
SETTING = 'sysctls.Sysctls((("net/ipv4/ip_default_ttl", "42"),)).execute(world)'
REAL = 'procfs.read(procfs.of(world), "sys/net/ipv4/ip_default_ttl").strip()'
FAKE = 'Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()'


def test_a_write_reaches_the_kernel_whatever_is_on_proc() -> None:
    assert inside(f"{HOSTILE}\n{SETTING}\nsay([{REAL}, {FAKE}])") == ["42", "untouched"]


def test_a_write_by_path_would_not() -> None:
    """The negative control: what was on /proc would have had it."""
    write = 'Path("/proc/sys/net/ipv4/ip_default_ttl").write_text("42")'
    assert inside(f"{HOSTILE}\n{write}\nsay([{REAL}, {FAKE}])") == ["64", "42"]


@pytest.mark.parametrize("flags", [NAMESPACES, NAMESPACES & ~syscalls.CLONE_NEWUSER])
def test_it_is_of_the_callers_pid_namespace(flags: int) -> None:
    assert inside('say([os.readlink("self", dir_fd=procfs.fresh()), os.getpid()])', flags=flags) == ["1", 1]


def test_it_is_attached_to_no_path() -> None:
    code = 'before = Path("/proc/mounts").read_text(); procfs.fresh(); say(Path("/proc/mounts").read_text() == before)'
    assert inside(code) is True


def test_a_world_keeps_it() -> None:
    assert inside("say([procfs.of(world) == procfs.of(world), list(world.descriptors)])") == [True, ["procfs"]]


UNCOVERED = """
def refuse(): raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "proc")
tree = mounts.new_filesystem("proc", {}, 0); syscalls.move_mount_to(tree, "/proc")
empty = mounts.new_filesystem("tmpfs", {}, 0); syscalls.move_mount_to(empty, "/proc/sys/net")
procfs._mounted = refuse
"""


def test_a_copy_has_nothing_of_what_covers_it() -> None:
    """Where the kernel gives no new one."""
    assert inside(f'{UNCOVERED}\nsay([{REAL}, os.listdir("/proc/sys/net")])') == ["64", []]


def test_what_is_no_procfs_is_not_copied() -> None:
    with pytest.raises(OSError, match="is not the root of a procfs") as caught:
        inside(f'{UNCOVERED}\ncover("/proc")\nprocfs.fresh()')
    assert caught.value.errno == errno.EXDEV


def test_a_directory_of_a_procfs_is_not_copied() -> None:
    bound = 'syscalls.move_mount_to(syscalls.open_tree("/proc/1"), "/proc")'
    with pytest.raises(OSError, match="is not the root of a procfs"):
        inside(f"{UNCOVERED}\n{bound}\nprocfs.fresh()")


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("../etc/passwd", errno.EXDEV),
        ("/etc/passwd", errno.EXDEV),
        ("self/root/etc/passwd", errno.ELOOP),
        ("self/fd/0", errno.ELOOP),
        ("mounts", errno.ELOOP),
        ("self/no_such", errno.ENOENT),
    ],
)
def test_nothing_leads_out_of_it(path: str, number: int) -> None:
    with pytest.raises(OSError, match=f"/proc/{path}") as caught:
        inside(f"procfs.read(procfs.fresh(), {path!r})")
    assert caught.value.errno == number


def test_a_refused_write_says_what_and_where() -> None:
    with pytest.raises(OSError, match=r"cannot write 'rubbish': Invalid argument: '/proc/sys/kernel/shmmni'"):
        inside('procfs.write(procfs.fresh(), "sys/kernel/shmmni", "rubbish")')


PIVOTED = """
root = mounts.new_filesystem("tmpfs", {}, 0)
syscalls.move_mount_to(root, "/mnt")
os.mkdir("/mnt/dev"), os.mkdir("/mnt/proc"), open("/mnt/dev/null", "w").close()
syscalls.move_mount_to(syscalls.open_tree("/dev/null"), "/mnt/dev/null")
world.root = root
mounts.NewMount("proc", "/proc", (), 0).execute(world)
mounts.ReadOnlyPaths(("/proc/sys", "/proc/bus")).execute(world)
mounts.Mask(("/proc/kcore", "/proc/acpi", "/proc/scsi", "/proc/keys")).execute(world)
mounts.PivotRoot().execute(world)
"""


def test_it_is_there_after_a_pivot_too_whatever_is_masked() -> None:
    """The masks of this very user namespace are not locked, so they do not count."""
    assert inside(f"{PIVOTED}\n{SETTING}\nsay({REAL})") == "42"


def test_without_a_whole_procfs_in_sight_there_is_none() -> None:
    hidden = 'syscalls.umount2("/proc/sys", 2), syscalls.umount2("/proc", 2)'
    with pytest.raises(OSError, match="is not the root of a procfs") as caught:  # but a directory of the root
        inside(f"{PIVOTED}\n{hidden}\nprocfs.fresh()")
    assert caught.value.errno == errno.EXDEV
