"""What a container sees and may do, told by a program inside: on the host's own root, with each kind of pid 1."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import attrs
import pytest

from runtime.defaults import MASKED_PATHS
from runtime.launch import inits
from tests.system.driver import PYTHON, REPOSITORY, Creche, checked_driver

KINDS = ("static-init", "own-init", "no-init")
DEVICES = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"}
DEVICES |= {"stdout", "tty", "urandom", "zero"}


@attrs.frozen
class Seen:
    """Reports of two containers of one app."""

    creche: Creche
    kind: str
    first: dict[str, Any]
    second: dict[str, Any]

    @property
    def program(self) -> str:
        """The pid of the probe in its own namespace."""
        return "1" if self.kind == "no-init" else "2"


def container(name: str, init: bool, argument: str = "report", more: str = "", **env: str) -> str:
    shown = ", ".join(f"{key} = {json.dumps(value)}" for key, value in env.items())
    return f"""
[containers.{name}]
rootfs = "/"
init = {str(init).lower()}
command = ["{PYTHON}", "-B", "/probe.py", "{argument}"]
volumes = ["./probe.py:/probe.py:ro"]
env = {{ {shown} }}
stop = {{ timeout = "1s" }}
{more}
"""


@pytest.fixture(scope="module", params=KINDS)
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """One app a kind of pid 1; below /var/tmp, where no cover of /tmp hides creche's own state."""
    with checked_driver("/var/tmp") as creche:
        shutil.copy(REPOSITORY / "tests/system/probe.py", creche.directory / "probe.py")
        secret = creche.root / "apps/inside/containers/second/writable/upper/tmp-of-second"
        around = {
            "MASKED": json.dumps(MASKED_PATHS),
            "STATE": f"{creche.root}:{creche.run}:{creche.root}/apps/inside",
            "SECRET": str(secret),
        }
        init = request.param != "no-init"
        text = container("second", init) + container("first", init, **around, more='links = ["second"]')
        with creche.without_static_inits() if request.param == "own-init" else nullcontext():
            creche.up("inside", text)
        yield Seen(creche, request.param, creche.last_word("first"), creche.last_word("second"))
        creche("down")
        creche.nothing_left()


def test_only_its_own_processes_are_there(seen: Seen) -> None:
    assert set(seen.first["commands"]) == {"1", seen.program}
    assert seen.first["commands"][seen.program] == f"{PYTHON} -B /probe.py report"


def test_pid_1_is_what_was_asked_for(seen: Seen) -> None:
    expected = {
        "static-init": f"init -- {PYTHON} -B /probe.py report",
        "no-init": f"{PYTHON} -B /probe.py report",
    }
    if seen.kind in expected:
        assert seen.first["commands"]["1"] == expected[seen.kind]
    else:
        assert not seen.first["commands"]["1"].startswith("init --")


def test_the_hostname_is_its_own(seen: Seen) -> None:
    assert (seen.first["hostname"], seen.second["hostname"]) == (["first"] * 2, ["second"] * 2)
    assert os.uname().nodename not in seen.first["hostname"]


@pytest.mark.parametrize("path", ("/root", "/home", "/run", "/tmp"))
def test_the_hosts_own_directories_are_empty(seen: Seen, path: str) -> None:
    assert seen.first["listings"][path] in ([], "EACCES")


def test_creches_own_state_is_out_of_reach(seen: Seen) -> None:
    root, run, app = seen.first["state"].values()
    assert (root, run, app) == ([], [], "ENOENT")


def test_another_containers_files_are_out_of_reach(seen: Seen) -> None:
    assert seen.first["secret"] == "ENOENT"


def test_files_that_only_the_hosts_root_may_read_stay_unreadable(seen: Seen) -> None:
    assert seen.first["shadow"] == "EACCES"


def test_the_hosts_programs_cannot_be_written(seen: Seen) -> None:
    assert seen.first["system_write"] == "EACCES"
    assert not Path("/usr/bin/planted").exists()


@pytest.mark.parametrize("ids", ("uid_map", "gid_map"))
def test_its_ids_are_a_range_of_its_own(seen: Seen, ids: str) -> None:
    (inside, base, size), (_, other, _) = (list(map(int, each[ids])) for each in (seen.first, seen.second))
    assert (inside, size) == (0, 65_536)
    assert base >= 65_536
    assert abs(base - other) >= 65_536
    status = Path(f"/proc/{seen.creche.status('first')['pid']}/{ids}").read_text().split()
    assert status == ["0", str(base), "65536"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("CapEff", "00000000800405fb"),
        ("CapPrm", "00000000800405fb"),
        ("CapBnd", "00000000800405fb"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Uid", "0\t0\t0\t0"),
        ("Gid", "0\t0\t0\t0"),
        ("Umask", "0022"),
    ],
)
def test_its_process_has_no_more_than_documented(seen: Seen, field: str, value: str) -> None:
    assert seen.first["status"][field] == value


def test_no_signal_is_blocked(seen: Seen) -> None:
    of_catatonit = 1 << 19 | 1 << 20 | 1 << 21  # SIGTSTP, SIGTTIN, SIGTTOU: its children inherit them from it anywhere
    allowed = of_catatonit if seen.kind == "static-init" else 0
    assert int(seen.first["status"]["SigBlk"], 16) & ~allowed == 0


def test_ignored_signals_are_not_inherited(seen: Seen) -> None:
    python_ignores = 1 << 12 | 1 << 24  # SIGPIPE and SIGXFSZ, by the interpreter inside
    assert int(seen.first["status"]["SigIgn"], 16) & ~python_ignores == 0


def test_no_descriptor_leaked(seen: Seen) -> None:
    assert seen.first["own"] == ["0", "1", "2"]


def test_no_descriptor_leaked_into_pid_1(seen: Seen) -> None:
    if seen.kind == "static-init":
        # catatonit's own: an epoll, a signalfd, and the like, all made after exec.
        assert isinstance(seen.first["init"], list)
        pid = seen.creche.status("first")["pid"]
        held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        assert all(target.startswith(("pipe:", "/dev/null", "anon_inode:", "/memfd:creche-init")) for target in held), (
            held
        )
    elif seen.kind == "no-init":
        assert seen.first["init"] == ["0", "1", "2"]
    else:
        pid = seen.creche.status("first")["pid"]
        assert {entry.name for entry in os.scandir(f"/proc/{pid}/fd")} <= {"0", "1", "2"}


def test_pid_1s_executable_is_not_the_hosts_interpreter(seen: Seen) -> None:
    host = [os.stat(path) for path in {os.path.realpath(sys.executable), os.path.realpath(PYTHON)}]
    assert seen.first["exe"] not in {f"{each.st_dev}:{each.st_ino}" for each in host}


def test_it_starts_in_its_root(seen: Seen) -> None:
    assert seen.first["cwd"] == "/"


def test_the_kernels_settings_cannot_be_written(seen: Seen) -> None:
    assert seen.first["sysctl"] in ("EROFS", "EACCES")
    assert seen.first["sysrq"] in ("EROFS", "EACCES", "ENOENT")


def test_its_cgroup_is_the_root_that_it_sees(seen: Seen) -> None:
    limited = [line for line in seen.first["cgroup"] if "name=" not in line]
    assert {line.split(":", 2)[2] for line in limited} == {"/"}


def test_the_hosts_cgroup_tree_is_not_there(seen: Seen) -> None:
    shown = {name for names in seen.first["hierarchies"].values() if isinstance(names, list) for name in names}
    assert shown
    assert not {"creche", "system.slice", "user.slice", "init.scope"} & shown


def test_its_cgroups_cannot_be_written(seen: Seen) -> None:
    assert set(seen.first["cgroup_write"].values()) <= {"EROFS", "EACCES"}


def test_masked_paths_are_empty(seen: Seen) -> None:
    there = {path: content for path, content in seen.first["masked"].items() if content is not None}
    assert there
    assert set(there.values()) == {"empty"}, there


def test_dev_holds_no_device_of_the_host(seen: Seen) -> None:
    assert set(seen.first["devices"]) <= DEVICES
    assert {"null", "zero", "urandom", "pts", "shm"} <= set(seen.first["devices"])


def test_it_has_its_own_interfaces(seen: Seen) -> None:
    assert len(seen.first["interfaces"]) == 2
    assert "lo" in seen.first["interfaces"]


@pytest.mark.parametrize("what", ("mount", "unshare", "mknod"))
def test_it_may_not_go_further(seen: Seen, what: str) -> None:
    assert seen.first[what] == "EPERM"


def test_it_cannot_save_itself_from_the_oom_killer(seen: Seen) -> None:
    assert seen.first["oom_score"] == "EACCES"


@pytest.fixture
def probed(creche: Creche) -> Creche:
    """A Creche whose directory has the probe."""
    shutil.copy(REPOSITORY / "tests/system/probe.py", creche.directory / "probe.py")
    return creche


@pytest.mark.parametrize("init", (True, False))
def test_the_21st_process_is_refused(probed: Creche, init: bool) -> None:
    probed.up("forks", container("bomb", init, "fork", "limits = { pids = 20 }"))
    assert probed.last_word("bomb") == {"error": "EAGAIN", "processes": 20}


@pytest.mark.parametrize("init", (True, False))
def test_200_megabytes_in_64_are_killed_and_told_as_oom(probed: Creche, init: bool) -> None:
    probed.up(
        "hungry", container("glutton", init, "memory", 'limits = { memory = "64M" }\nrestart = "never"'), wait=False
    )
    status = probed.wait_for("glutton", lambda seen: seen["state"] == "failed")
    assert (status["oom_killed"], status["last_reason"], status["exit_code"]) == (True, "oom", 137)
    died = probed.events(name="glutton", event="died")
    assert [each["reason"] for each in died] == ["oom"]
    assert probed.events(name="glutton", event="oom")


def test_60_megabytes_in_64_are_not_killed(probed: Creche) -> None:
    """The negative control of the one above: a limit that is not reached kills nobody."""
    small = f'command = ["{PYTHON}", "-c", "x = bytearray(b\'x\') * (40 << 20); print(len(x), flush=True)"]'
    text = f'[containers.modest]\nrootfs = "/"\n{small}\nlimits = {{ memory = "64M" }}\nrestart = "never"\n'
    probed.up("modest", text, wait=False)
    status = probed.wait_for("modest", lambda seen: seen["state"] in ("completed", "failed"))
    assert (status["state"], status["oom_killed"]) == ("completed", False)


def test_the_static_init_of_this_host_is_found() -> None:
    """Without one the three kinds above would be two."""
    found = inits.find()
    assert found is not None
    os.close(found[1])
