"""Keys of the app file whose effect only the kernel shows: sysctls, seccomp profiles, groups."""

import json
from pathlib import Path

from tests.system.driver import Creche

SLEEPS = 'rootfs = "/"\ncommand = ["sleep", "1000"]\n'


def says(creche: Creche, *words: str) -> str:
    return creche("exec", "web", *words).out.strip()


def test_sysctls_are_the_containers_own(creche: Creche) -> None:
    before = Path("/proc/sys/kernel/shm_rmid_forced").read_text()
    sysctls = 'sysctls = { "net.ipv4.ip_unprivileged_port_start" = 42, "kernel.shm_rmid_forced" = 1 }\n'
    creche.up("sysctls", f"[containers.web]\n{SLEEPS}{sysctls}")
    assert says(creche, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "42"
    assert says(creche, "cat", "/proc/sys/kernel/shm_rmid_forced") == "1"
    assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == before


def test_a_sysctl_of_the_host_is_refused(creche: Creche) -> None:
    creche.up("host", f'[containers.web]\n{SLEEPS}sysctls = {{ "vm.swappiness" = 1 }}\n', wait=False)
    status = creche.wait_for("web", lambda seen: seen["state"] in ("failed", "backing-off"))
    assert status["last_reason"] == "start-error"
    assert "vm.swappiness" in creche.story()


def test_a_seccomp_profile_of_ones_own(creche: Creche) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}],
    }
    path = creche.directory / "profile.json"
    path.write_text(json.dumps(profile))
    creche.up("profile", f'[containers.web]\n{SLEEPS}security = {{ seccomp = "./profile.json" }}\n')
    script = "import os\ntry: os.mkdir('/tmp/x')\nexcept OSError as error: print(error.errno)"
    assert says(creche, "python3", "-c", script) == "71"


def test_a_profile_that_is_none_is_a_clear_error(creche: Creche) -> None:
    (creche.directory / "profile.json").write_text("{}")
    creche.up("none", f'[containers.web]\n{SLEEPS}security = {{ seccomp = "./profile.json" }}\n', wait=False)
    creche.wait_for("web", lambda seen: seen["state"] in ("failed", "backing-off"))
    assert "is no seccomp profile" in creche.story()


def test_groups_by_name_and_by_number(creche: Creche) -> None:
    creche.up("groups", f'[containers.web]\n{SLEEPS}user = "1000"\ngroup_add = ["adm", 4242]\n')
    assert {"4", "4242"} <= set(says(creche, "id", "-G").split())  # adm is 4 in Debian
