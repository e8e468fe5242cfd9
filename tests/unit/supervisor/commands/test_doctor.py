"""doctor: each judgement from the text of the kernel's own files."""

import json

import pytest

from runtime.cgroups.delegation import Verdict
from supervisor.commands import doctor


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-13-amd64", (6, 1)), ("5.15", (5, 15)), ("6.18.44-fc", (6, 18)), ("odd", (0, 0))]
)
def test_kernel_versions(release, version):
    assert doctor.kernel_version(release) == version


@pytest.mark.parametrize(
    ("release", "verdict", "missing"),
    [("5.15.0", "fail", 4), ("5.19.1", "ok", 3), ("6.1.0", "ok", 3), ("6.15.0", "ok", 0), ("6.18", "ok", 0)],
)
def test_the_kernel_and_its_features(release, verdict, missing):
    floor, *features = doctor.kernel(release)
    assert floor.verdict == verdict
    assert sum(check.verdict == "warn" for check in features) == missing


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (doctor.user(0), "ok"),
        (doctor.user(1000), "fail"),
        (doctor.filesystems("nodev\ttmpfs\nnodev\toverlay\n"), "ok"),
        (doctor.filesystems("nodev\ttmpfs\n"), "warn"),
        (doctor.forwarding("1\n"), "ok"),
        (doctor.forwarding("0\n"), "warn"),
        (doctor.forwarding(""), "warn"),
        (doctor.id_ranges("0 0 4294967295\n", "31000\n"), "ok"),
        (doctor.id_ranges("0 100000 65536\n", "31000\n"), "warn"),
        (doctor.id_ranges("0 0 4294967295\n", "0\n"), "fail"),
        (doctor.seccomp("kill errno allow\n", "libseccomp 2.5.4"), "ok"),
        (doctor.seccomp("", "libseccomp 2.5.4"), "fail"),
        (doctor.seccomp("kill errno allow\n", None), "fail"),
        (doctor.init("/usr/bin/catatonit"), "ok"),
        (doctor.init(None), "warn"),
        (doctor.nftables(None), "ok"),
        (doctor.nftables("not permitted"), "fail"),
    ],
)
def test_verdicts(check, verdict):
    assert check.verdict == verdict
    assert bool(check.advice) == (verdict != "ok")


def test_cgroups_say_where_each_controller_is():
    from runtime.cgroups.hierarchy import Hierarchy, Layout

    v1 = Hierarchy(1, "/sys/fs/cgroup/memory", "/", "/", frozenset({"memory"}))
    v2 = Hierarchy(2, "/sys/fs/cgroup/unified", "/", "/", frozenset({"cpu"}))
    layout, *controllers = doctor.cgroups(Layout((v1,), v2))
    assert layout.found.startswith("hybrid")
    assert {check.name: check.verdict for check in controllers} == {
        "cgroup memory": "ok",
        "cgroup cpu": "ok",
        "cgroup cpuset": "warn",
        "cgroup pids": "warn",
    }


@pytest.mark.parametrize(
    ("verdict", "judged"),
    [(Verdict(True, "below /unit"), "ok"), (Verdict(False, "holds processes", "Delegate=yes"), "warn")],
)
def test_delegation_is_told(verdict, judged):
    check = doctor.delegation(verdict)
    assert (check.verdict, check.found, check.advice) == (judged, verdict.words, verdict.advice or "")


def test_the_command_judges_by_its_exit_status(creche, monkeypatch):
    checks = [doctor.Check("kernel", "ok", "Linux 6"), doctor.Check("user", "fail", "user 1", "be root")]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    result = creche("doctor")
    assert result.code == 1
    assert "be root" in result.out
    assert "user" in result.err
    assert [check["verdict"] for check in json.loads(creche("doctor", "--json").out)] == ["ok", "fail"]


def test_this_machine_can_be_examined():
    assert {"kernel", "user", "cgroups", "forwarding"} <= {check.name for check in doctor.examine()}
