"""The labels of Linux security modules that the program is executed under: AppArmor's profile, SELinux's context."""

import errno
from typing import NamedTuple

from runtime import procfs, text_file
from runtime.world import World

UNCONFINED = "unconfined"


def apparmor_enabled(text: str | None = None) -> bool:
    """Whether this kernel confines by AppArmor, from the text of /sys/module/apparmor/parameters/enabled."""
    if text is None:
        try:
            text = text_file.read("/sys/module/apparmor/parameters/enabled")
        except OSError:  # no such module
            return False
    return text.startswith("Y")


def selinux_enabled(text: str | None = None) -> bool:
    """Whether SELinux has a policy in this kernel, from the text of /proc/self/mounts (selinux(8))."""
    if text is None:
        text = text_file.read("/proc/self/mounts", "surrogateescape")
    return any(line.split(" ")[2:3] == ["selinuxfs"] for line in text.splitlines())


def _clean(label: str) -> bool:
    return label.isprintable()  # a line's end would end the kernel's reading, or be read as another command


class AppArmor(NamedTuple):
    """The profile that the next execve changes to (aa_change_onexec(2)); nothing to do for an empty one."""

    profile: str

    ADVICE = {
        errno.ENOENT: "load the profile with apparmor_parser on the host, or correct its name",
        errno.EOPNOTSUPP: "leave process.apparmorProfile out, or boot a kernel with AppArmor",
        errno.EACCES: "the profile that the runtime itself runs under does not allow this change",
        errno.EINVAL: "correct the profile's name",
    }

    def describe(self) -> str:
        return f"confine by the AppArmor profile {self.profile!r}"

    def execute(self, world: World) -> None:
        if not self.profile:
            return
        if not _clean(self.profile):
            raise OSError(errno.EINVAL, "is no name of an AppArmor profile", self.profile)
        proc = procfs.of(world)
        try:
            procfs.read(proc, "self/attr/apparmor/current")
        except OSError as error:
            if self.profile == UNCONFINED:
                return  # which everything is where there is no AppArmor
            raise OSError(errno.EOPNOTSUPP, "this kernel has no AppArmor", self.profile) from error
        try:
            procfs.write(proc, "self/attr/apparmor/exec", f"exec {self.profile}")
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.profile) from error


class Selinux(NamedTuple):
    """The context of the next execve, and of the session keyring that is made before (selinux(8))."""

    label: str

    ADVICE = {
        errno.EOPNOTSUPP: "leave process.selinuxLabel out, or boot a kernel with SELinux and a policy",
        errno.EINVAL: "the host's policy has no such context; correct it",
        errno.EACCES: "the host's policy does not allow the runtime's domain to change to it",
        errno.EPERM: "the host's policy does not allow the runtime's domain to change to it",
    }

    def describe(self) -> str:
        return f"label by the SELinux context {self.label!r}"

    def execute(self, world: World) -> None:
        if not self.label:
            return
        if not _clean(self.label):
            raise OSError(errno.EINVAL, "is no SELinux context", self.label)
        proc = procfs.of(world)
        try:
            procfs.read(proc, "self/attr/keycreate")  # which AppArmor has not
        except OSError as error:
            raise OSError(errno.EOPNOTSUPP, "this kernel has no SELinux with a policy", self.label) from error
        for attribute in ("keycreate", "exec"):
            try:
                procfs.write(proc, f"self/attr/{attribute}", self.label)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self.label) from error
