"""What the default profile lets through, and with which error the rest is answered."""

from typing import Any

import pytest

from runtime import capabilities, seccomp_profile


def rules(caps: frozenset[str] = capabilities.DEFAULT, machine: str = "x86_64") -> list[dict[str, Any]]:
    return seccomp_profile.default(caps, machine)["syscalls"]


def outcome(name: str, caps: frozenset[str] = capabilities.DEFAULT, machine: str = "x86_64") -> str | int | None:
    """Return ALLOW, an errno, or None where only the default action applies; unconditional rules only."""
    for rule in rules(caps, machine):
        if name in rule["names"] and not rule.get("args"):
            return "ALLOW" if rule["action"] == "SCMP_ACT_ALLOW" else rule["errnoRet"]
    return None


def test_what_is_unknown_is_not_implemented() -> None:
    profile = seccomp_profile.default(capabilities.DEFAULT, "x86_64")
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)


@pytest.mark.parametrize("name", ["read", "openat", "execve", "futex", "ptrace", "chroot", "statx", "clock_gettime"])
def test_allowed(name: str) -> None:
    assert outcome(name) == "ALLOW"


DANGEROUS = (
    "mount umount2 move_mount open_tree fsopen fsmount mount_setattr pivot_root setns unshare kexec_load "
    "kexec_file_load bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register init_module "
    "finit_module delete_module keyctl add_key request_key reboot swapon settimeofday open_by_handle_at acct iopl "
    "sethostname syslog quotactl process_madvise kcmp pidfd_getfd"
)


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_dangerous(name: str) -> None:
    assert outcome(name) == seccomp_profile.EPERM


def test_clone3_is_unknown_so_that_the_c_library_uses_clone() -> None:
    assert outcome("clone3") == seccomp_profile.ENOSYS


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ("SYS_ADMIN", "mount"),
        ("SYS_ADMIN", "clone3"),
        ("SYS_PTRACE", "kcmp"),
        ("SYS_TIME", "clock_settime"),
        ("SYS_MODULE", "finit_module"),
        ("SYS_BOOT", "reboot"),
        ("SYSLOG", "syslog"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
        ("SYS_NICE", "mbind"),
    ],
)
def test_a_capability_opens_its_calls(capability: str, name: str) -> None:
    assert (outcome(name), outcome(name, capabilities.adjusted([capability]))) != ("ALLOW", "ALLOW")
    assert outcome(name, capabilities.adjusted([capability])) == "ALLOW"


def test_dropping_chroot_closes_it() -> None:
    assert outcome("chroot", capabilities.adjusted(drop=["SYS_CHROOT"])) == seccomp_profile.EPERM


@pytest.mark.parametrize("name", ["kexec_load", "userfaultfd", "io_uring_setup", "pivot_root", "keyctl"])
def test_no_capability_opens_the_worst(name: str) -> None:
    assert outcome(name, frozenset(capabilities.NAMES)) == seccomp_profile.EPERM


@pytest.mark.parametrize("caps", [capabilities.DEFAULT, frozenset(capabilities.NAMES), frozenset[str]()])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_call_has_two_unconditional_answers(caps: frozenset[str], machine: str) -> None:
    names = [name for rule in rules(caps, machine) if not rule.get("args") for name in rule["names"]]
    assert len(names) == len(set(names))


def test_every_namespace_flag_is_refused() -> None:
    masks = [rule["args"][0]["value"] for rule in rules() if rule["names"] == ["clone"] and rule.get("errnoRet") == 1]
    assert sum(masks) == 0x7E020000


def test_machines_differ() -> None:
    assert (outcome("arch_prctl"), outcome("arch_prctl", machine="aarch64")) == ("ALLOW", None)


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="no seccomp profile for sparc"):
        seccomp_profile.default(capabilities.DEFAULT, "sparc")
