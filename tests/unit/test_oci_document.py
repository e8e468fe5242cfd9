"""docs/oci.md has every property of the specification, and its tests exist."""

import re
from pathlib import Path

import pytest

from runtime import mount_options, syscalls

TREE = Path(__file__).parents[2]
PAGE = (TREE / "docs/oci.md").read_text()

PROPERTIES = """
ociVersion root root.path root.readonly hostname domainname annotations
hooks hooks.prestart hooks.createRuntime hooks.createContainer hooks.startContainer hooks.poststart hooks.poststop
mounts mounts.destination mounts.source mounts.type mounts.options mounts.uidMappings mounts.gidMappings
process process.terminal process.consoleSize process.cwd process.env process.args process.commandLine
process.user process.user.uid process.user.gid process.user.umask process.user.additionalGids
process.rlimits process.apparmorProfile process.capabilities process.capabilities.effective
process.capabilities.bounding process.capabilities.inheritable process.capabilities.permitted
process.capabilities.ambient process.noNewPrivileges process.oomScoreAdj process.scheduler process.selinuxLabel
process.ioPriority process.execCPUAffinity
linux.namespaces linux.uidMappings linux.gidMappings linux.timeOffsets linux.devices linux.netDevices linux.cgroupsPath
linux.resources linux.resources.devices linux.resources.memory linux.resources.cpu linux.resources.blockIO
linux.resources.hugepageLimits linux.resources.network linux.resources.pids linux.resources.rdma
linux.resources.unified linux.intelRdt linux.memoryPolicy linux.sysctl
linux.seccomp linux.seccomp.defaultAction linux.seccomp.defaultErrnoRet linux.seccomp.architectures linux.seccomp.flags
linux.seccomp.listenerPath linux.seccomp.listenerMetadata linux.seccomp.syscalls
linux.rootfsPropagation linux.maskedPaths linux.readonlyPaths linux.mountLabel linux.personality
"""
"""config.md and config-linux.md, 1.2, with those of 1.3 that are refused."""

OPTIONS = """
async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec
noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime
remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime
rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync
tmpcopyup unbindable idmap ridmap acl noacl
"""
"""config.md, "Linux mount options"."""


def rows(first: str) -> dict[str, str]:
    """What stands in the rows of the tables whose first column is called `first`, by that column's words."""
    found: dict[str, str] = {}
    inside = False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {first} "):
            inside = True
        elif inside and not line.startswith("|---"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            for word in re.findall(r"`([^`]+)`", cells[0]):
                assert word not in found, word
                found[word] = cells[-1]
    return found


@pytest.mark.parametrize(("first", "all_of_them"), [("property", PROPERTIES), ("words", OPTIONS)])
def test_everything_has_a_row_with_a_test(first: str, all_of_them: str) -> None:
    found = rows(first)
    assert set(found) == set(all_of_them.split())
    assert all("::test_" in cell for cell in found.values())


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)
    assert named
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (TREE / file).read_text()]
    assert not missing


def test_every_word_is_an_option() -> None:
    """None of them is taken for data of the filesystem."""
    assert [word for word in OPTIONS.split() if mount_options.parse([word]).data] == []
    assert mount_options.parse(["rro"]).deep.set == syscalls.MOUNT_ATTR_RDONLY
