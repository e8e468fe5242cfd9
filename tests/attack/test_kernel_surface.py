"""The kernel's own doors: system calls, settings and devices that no container may reach.

A container has two lines of defence, so each is attacked alone. The filter: as the host's root with every capability,
where only it refuses. The capabilities: as an ordinary container without a filter, where only the user namespace does.
The control has neither, and its calls reach the kernel: they are made so that even then they change nothing.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.cgroups.group import Group
from runtime.cgroups.hierarchy import find
from tests.attack.attacking import (
    Attacking,
    Change,
    as_it_is,
    every,
    number,
    open_root,
    python,
    without_filter,
    without_userns,
)
from tests.kernel.runtime.launching import BASE

CALLS: dict[str, tuple[int | str, ...]] = {
    "mount": (0, 0, 0, 0, 0),
    "umount2": ("", 0x100),  # an unknown flag
    "pivot_root": ("", ""),
    "fsopen": (0, 0x100),
    "fsmount": (-1, 0, 0),
    "open_tree": (-1, "x", 0x40),
    "move_mount": (-1, "x", -1, "x", 0x80000000),
    "mount_setattr": (-1, "x", 0x40, 0, 0),
    "kexec_load": (0, 0, 0, 0xFFFF),
    "kexec_file_load": (-1, -1, 0, "", 0xFFFF),
    "init_module": (0, 0, ""),
    "finit_module": (-1, "", 0),
    "delete_module": ("", 0),
    "bpf": (999, 0, 0),
    "perf_event_open": (0, 0, -1, -1, 0xFFFF),
    "userfaultfd": (0xFF,),
    "io_uring_setup": (0, 0),
    "io_uring_enter": (-1, 0, 0, 0, 0, 0),
    "io_uring_register": (-1, 0, 0, 0),
    "open_by_handle_at": (-1, 0, 0),
    "unshare": (0x10000000,),
    "setns": (-1, 0),
    "clone": (0x10000000 | 17, 0, 0, 0, 0),
    "swapon": ("", 0x7FFFFFFF),
    "swapoff": ("",),
    "reboot": (0, 0, 0, 0),
    "settimeofday": (1, 0),
    "clock_settime": (0, 1),
    "acct": ("/nonexistent",),
    "quotactl": (-1, "", 0, 0),
    "personality": (0x0040000,),
    "add_key": ("none", "x", 0, 0, -3),
    "request_key": ("none", "x", 0, -3),
    "keyctl": (999, 0, 0, 0, 0),
    "syslog": (99, 0, 0),
    "lookup_dcookie": (0, 0, 0),
    "migrate_pages": (-1, 0, 0, 0),
    "move_pages": (-1, 0, 0, 0, 0, 0xFFFF),
    "kcmp": (-1, -1, 99, 0, 0),
    "pidfd_getfd": (-1, 0, 0xFF),
    "process_madvise": (-1, 0, 0, 0, 0xFF),
    "sethostname": ("", -1),
    "setdomainname": ("", -1),
    "vhangup": (),
    "fanotify_init": (0xFFFFFFFF, 0),
    "nfsservctl": (0, 0, 0),
    "sysfs": (9,),
    "uselib": ("",),
    "ustat": (-1, 0),
}
"""Each with arguments that change nothing where nothing refuses them."""
X86 = {"ioperm": (0, 0, 0), "iopl": (9,)}

MAKE = """
seen = {}
for name, (call, arguments) in calls.items():
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        words = [ctypes.c_char_p(each.encode()) if isinstance(each, str) else ctypes.c_long(each) for each in arguments]
        result = libc.syscall(ctypes.c_long(call), *words, *[ctypes.c_long(0)] * (6 - len(words)))
        os.write(writing, said(result).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    seen[name] = os.read(reading, 99).decode() or "died"
    os.close(reading)
print(json.dumps(seen), flush=True)
"""
UNPRIVILEGED = """
pivot_root fsopen fsmount move_mount swapoff reboot acct syslog sethostname setdomainname vhangup fanotify_init
"""
UNPRIVILEGED_REFUSED = frozenset(UNPRIVILEGED.split())
"""What the kernel itself answers with EPERM, whatever the arguments, to who has no capability over the host."""


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each call answers, by who made it."""
    calls = {**CALLS, **(X86 if os.uname().machine == "x86_64" else {})}
    script = python(MAKE, calls={name: (number(name), arguments) for name, arguments in calls.items()})
    ways: dict[str, Change] = {
        "container": as_it_is,
        "filter alone": open_root,
        "capabilities alone": without_filter,
        "control": every(open_root, without_filter),
    }
    seen: dict[str, dict[str, str]] = {}
    for name, change in ways.items():
        with Attacking(tmp_path_factory.mktemp("surface") / "it") as launcher:
            launcher.hold(userns=None if name in ("filter alone", "control") else [BASE, 65536])
            seen[name] = json.loads(launcher.attack(1, script, change=change))
    return seen


def test_no_call_reaches_the_kernel(surface: dict[str, dict[str, str]]) -> None:
    reached = {name: said for name, said in surface["container"].items() if said not in ("EPERM", "ENOSYS")}
    assert reached == {}


def test_the_filter_alone_refuses_the_hosts_root(surface: dict[str, dict[str, str]]) -> None:
    assert surface["filter alone"] == surface["container"]


def test_without_a_filter_the_capabilities_still_refuse(surface: dict[str, dict[str, str]]) -> None:
    seen = surface["capabilities alone"]
    assert {name for name in UNPRIVILEGED_REFUSED if seen[name] == "EPERM"} == UNPRIVILEGED_REFUSED


def test_without_both_the_kernel_answers(surface: dict[str, dict[str, str]]) -> None:
    """The control: the arguments are looked at, or this kernel has no such call (ENOSYS)."""
    assert "EPERM" not in surface["control"].values(), surface["control"]
    assert surface["control"]["unshare"] == surface["control"]["personality"] == "done"


OPEN = """
seen = {}
for path, flags in paths.items():
    seen[path] = tried(lambda: os.close(os.open(path, flags | os.O_NONBLOCK)))
for name, kind in dict(disk=(0o060666, 254, 0), memory=(0o020666, 1, 1), kmsg=(0o020666, 1, 11)).items():
    def make():
        os.mknod(f"/dev/{name}", kind[0], os.makedev(*kind[1:]))
        os.close(os.open(f"/dev/{name}", os.O_RDONLY))
    seen[f"mknod {name}"] = tried(make)
print(json.dumps(seen), flush=True)
"""
READ, WRITE = os.O_RDONLY, os.O_WRONLY
PATHS = {
    "/proc/sys/kernel/core_pattern": WRITE,
    "/proc/sys/kernel/modprobe": WRITE,
    "/proc/sys/kernel/sysrq": WRITE,
    "/proc/sys/kernel/hostname": WRITE,
    "/proc/sys/fs/suid_dumpable": WRITE,
    "/proc/sys/vm/overcommit_memory": WRITE,
    "/proc/sys/net/ipv4/ip_forward": WRITE,
    "/proc/sysrq-trigger": WRITE,
    "/proc/kcore": READ,
    "/proc/keys": READ,
    "/proc/timer_list": READ,
    "/proc/interrupts": READ,
    "/sys/kernel/uevent_helper": WRITE,
    "/sys/power/state": WRITE,
    "/sys/kernel/mm/ksm/run": WRITE,
    "/sys/module/overlay/parameters/metacopy": WRITE,
    "/sys/class/net/lo/ifalias": WRITE,
}


def opened(place: Path, change: Change, *weaknesses: str, userns: list[int] | None = None) -> dict[str, str]:
    with Attacking(place, *weaknesses) as launcher:
        launcher.hold(userns=userns)
        return json.loads(launcher.attack(1, python(OPEN, paths=PATHS), change=change))


def nowhere(said: dict[str, str]) -> set[str]:
    """The refused ones: masked files are empty /dev/null, whose reading gives nothing."""
    return {path for path, answer in said.items() if answer == "done"}


def writable_sysfs(config: dict[str, Any]) -> None:
    for mount in config["mounts"]:
        if mount["type"] == "sysfs":
            mount["options"].remove("ro")


def test_no_setting_or_device_of_the_host_is_to_be_had(tmp_path: Path) -> None:
    """Without a user namespace, where only mounts and the devices cgroup are in the way.

    The masked ones may be opened: they are the null device. The control has no masks, a writable /sys and everything
    of a root but the devices, for which the cgroup's rules are the only wall.
    """
    masked = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"}
    real = opened(tmp_path / "real", every(open_root, without_filter))
    assert nowhere(real) <= masked, real
    assert {real[f"mknod {name}"] for name in ("disk", "memory", "kmsg")} == {"EPERM"}, real
    weak = opened(tmp_path / "weak", every(open_root, without_filter, writable_sysfs), "no masks")
    there = {path for path, flags in PATHS.items() if os.access(path, os.W_OK if flags == WRITE else os.R_OK)}
    there -= {"/sys/class/net/lo/ifalias"}  # the host's answer is not that of another network namespace
    assert there <= nowhere(weak), {path: weak[path] for path in there - nowhere(weak)}


def test_masked_files_are_empty(tmp_path: Path) -> None:
    """The control reads the kernel's own."""
    script = python("print(len(open('/proc/interrupts').read()), len(open('/proc/keys').read()))")
    seen: list[list[int]] = []
    for weakness in ((), ("no masks",)):
        with Attacking(tmp_path / f"it-{len(weakness)}", *weakness) as launcher:
            launcher.hold(userns=None)
            seen.append([int(word) for word in launcher.attack(1, script, change=without_userns).split()])
    assert seen[0] == [0, 0] and all(seen[1]), seen


GROUPS = """
seen = {"agents": 0, "writable": []}
for top, _, files in os.walk("/sys/fs/cgroup"):
    for file in files:
        seen["agents"] += file == "release_agent"
        if file in ("release_agent", "notify_on_release", "cgroup.procs", "tasks", "pids.max", "devices.allow"):
            if tried(lambda: os.close(os.open(f"{top}/{file}", os.O_WRONLY))) == "done":
                seen["writable"].append(file)
print(json.dumps(seen), flush=True)
"""


def test_no_cgroup_is_writable_and_no_release_agent_in_sight(tmp_path: Path) -> None:
    """CVE-2022-0492: whoever writes release_agent has the host's root execute it.

    The control has the same cgroups mounted writable.
    """

    def writable(config: dict[str, Any]) -> None:
        for mount in config["mounts"]:
            if mount["type"] == "cgroup":
                mount["options"].remove("ro")

    seen: list[dict[str, Any]] = []
    for run, change in enumerate((as_it_is, writable)):
        with Attacking(tmp_path / f"it-{run}") as launcher:
            launcher.hold(userns=None)
            places = Group.at(find(), f"{launcher.cgroup}/web", {"pids": {"limit": 100}}).places
            hierarchies = tuple(
                (
                    Path(each.mount).name if len(places) > 1 else "",
                    ",".join(sorted(each.controllers)) * (each.version == 1),
                )
                for each in places
            )
            loose = every(open_root, without_filter, change)
            text = launcher.attack(run, python(GROUPS), change=loose, hierarchies=hierarchies)
            seen.append(json.loads(text))
    assert seen[0] == {"agents": 0, "writable": []}
    assert "cgroup.procs" in seen[1]["writable"]
    assert seen[1]["agents"] == 0, "the cgroup namespace's root is the container's own leaf"
