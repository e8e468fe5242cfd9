"""What somebody with a modern system does with creche, on pure cgroup v2: run inside the machine, not outside."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import capabilities, seccomp_profile
from runtime.cgroups.hierarchy import find
from tests import leaks
from tests.kernel.runtime.launching import BASE, Launching, eventually
from tests.system.driver import Creche, busybox_root, driven

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_left(leak_scope: leaks.Scope) -> Iterator[None]:
    """The tests of this file lie outside the directories that are always looked at."""
    with leaks.checked(leak_scope):
        yield


@pytest.fixture
def creche(leak_scope: leaks.Scope, nothing_left: None) -> Iterator[Creche]:
    """The command line, as tests/system has it."""
    with driven(leak_scope) as made:
        yield made


def cgroup_of(pid: int) -> Path:
    """The directory of a process's cgroup: a run's, whose parent is the container's."""
    return Path("/sys/fs/cgroup" + Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::"))


def said(file: Path) -> str:
    return file.read_text().strip()


def test_the_machine_has_pure_v2() -> None:
    layout = find()
    assert (layout.mode, layout.v1) == ("v2", ())


def test_an_app_starts_is_limited_frozen_restarted_and_goes(creche: Creche) -> None:
    root = busybox_root(creche.directory / "rootfs")
    text = f"""
[containers.box]
rootfs = "{root}"
command = ["sh", "-c", "echo started; exec sleep 1000"]
restart = {{ policy = "always", delay = "100ms" }}
limits = {{ memory = "64M", pids = 50, cpus = 0.5 }}
"""
    creche.up("smoke", text, timeout=110)
    first: int = creche.status("box")["pid"]
    limits = cgroup_of(first).parent
    assert said(limits / "memory.max") == str(64 * MIB)
    assert said(limits / "pids.max") == "50"
    assert said(limits / "cpu.max").split()[0] == "50000"
    creche("pause", "box", timeout=60)
    assert "frozen 1" in said(cgroup_of(first) / "cgroup.events")
    creche("unpause", "box", timeout=60)
    assert "frozen 0" in said(cgroup_of(first) / "cgroup.events")
    creche.sigkill(first)
    creche.wait_for("box", lambda seen: seen["state"] == "running" and seen["pid"] != first, timeout=60)
    assert creche.logs("box").splitlines() == [b"started", b"started"]
    creche("down", timeout=110)
    creche.nothing_left()


def test_a_container_over_its_memory_is_told_so_and_starts_again(tmp_path: Path) -> None:
    with Launching(tmp_path) as launcher:
        launcher.hold(resources={"memory": {"limit": 32 * MIB, "swap": 32 * MIB}, "pids": {"limit": 100}})
        for run in (1, 2):
            launcher.run(run, "/usr/bin/tail", "/dev/zero")  # it waits for the end of a line
            code, number, oom = launcher.exited("web", run)
            assert oom, (code, number)


def test_the_next_run_is_not_born_killed(tmp_path: Path) -> None:
    """A write to cgroup.kill poisons a cgroup for children cloned into it: a run's leaf is a new one."""
    with Launching(tmp_path) as launcher:
        launcher.hold()
        pid = launcher.run(1, "/bin/sh", "-c", "trap '' TERM; sleep 1000 & wait")
        (cgroup_of(pid) / "cgroup.kill").write_text("1")
        assert launcher.exited("web", 1)[1] == 9
        launcher.run(2, "/bin/true")
        assert launcher.exited("web", 2) == (0, None, False)


class Oci:
    """`creche-oci` on a bundle of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        busybox_root(self.bundle / "rootfs")
        self("spec", "--bundle", str(self.bundle))

    def __call__(self, *words: str, code: int = 0) -> str:
        command = [Path(sys.executable).with_name("creche-oci"), "--root", self.directory / "state", *words]
        output = self.directory / "output"
        with output.open("w+b") as stream:  # no pipe: a container that lives on would hold it
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=100, check=False
            )
        text = output.read_text()
        assert done.returncode == code, text
        return text

    def configure(self, *args: str, **resources: Any) -> None:
        path = self.bundle / "config.json"
        config = json.loads(path.read_text())
        config["process"] |= {"args": list(args), "terminal": False}
        config["linux"]["resources"] = resources
        config["linux"]["cgroupsPath"] = f"/creche-machine/{self.directory.name}"
        config["linux"]["seccomp"] = seccomp_profile.default(capabilities.DEFAULT, "x86_64")
        path.write_text(json.dumps(config))


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Oci]:
    made = Oci(tmp_path)
    yield made
    assert not Path("/sys/fs/cgroup/creche-machine").exists()


def test_the_oci_commands_run_a_bundle(oci: Oci) -> None:
    oci.configure("sh", "-c", "echo from inside; exit 3", memory={"limit": 32 * MIB}, pids={"limit": 20})
    assert "from inside" in oci("run", "--bundle", str(oci.bundle), "once", code=3)
    assert oci("list", "--quiet").split() == []


def test_the_oci_commands_create_start_pause_update_kill_and_delete(oci: Oci) -> None:
    oci.configure("sleep", "1000", memory={"limit": 32 * MIB}, pids={"limit": 20})
    oci("create", "--bundle", str(oci.bundle), "life")
    state = json.loads(oci("state", "life"))
    assert state["status"] == "created"
    oci("start", "life")
    place = cgroup_of(state["pid"])
    assert (place / "memory.max").read_text().strip() == str(32 * MIB)
    oci("pause", "life")
    assert json.loads(oci("state", "life"))["status"] == "paused"
    assert "frozen 1" in (place / "cgroup.events").read_text()
    oci("resume", "life")
    oci("update", "--memory", str(48 * MIB), "life")
    assert (place / "memory.max").read_text().strip() == str(48 * MIB)
    assert "inside" in oci("exec", "life", "echo", "inside")
    oci("kill", "life", "KILL")
    assert eventually(lambda: json.loads(oci("state", "life"))["status"] == "stopped", 60)
    oci("delete", "life")
    assert not place.exists()


def test_ids_of_the_container_own_nothing_outside(tmp_path: Path) -> None:
    """Idmapped layers on ext4 below an overlay of attached layers, as 6.1 needs it."""
    root = busybox_root(tmp_path / "rootfs")

    def layered(config: dict[str, Any]) -> None:
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": BASE, "size": 65536}]

    with Launching(tmp_path) as launcher:
        launcher.hold(idmapped=[str(root)])
        launcher.run(1, "/bin/sh", "-c", "cat /proc/self/uid_map", change=layered)
        assert launcher.exited("web", 1) == (0, None, False)
        assert launcher.output().split() == [b"0", str(BASE).encode(), b"65536"]
