"""Whether the kernel has AppArmor or SELinux, from what it says."""

import pytest

from runtime.labels import apparmor_enabled, selinux_enabled


@pytest.mark.parametrize(("text", "enabled"), [("Y\n", True), ("N\n", False), ("", False)])
def test_apparmor(text: str, enabled: bool) -> None:
    assert apparmor_enabled(text) is enabled


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("selinuxfs /sys/fs/selinux selinuxfs rw 0 0\n", True),
        ("tmpfs /run tmpfs rw 0 0\nselinuxfs /sys/fs/selinux selinuxfs rw 0 0\n", True),
        ("selinuxfs /sys/fs/selinux tmpfs rw 0 0\n", False),
        ("tmpfs /selinuxfs tmpfs rw 0 0\n\n", False),
        ("", False),
    ],
)
def test_selinux(text: str, enabled: bool) -> None:
    assert selinux_enabled(text) is enabled
