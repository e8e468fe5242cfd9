"""From a container of the app file to its OCI config: each key changes what it says, and nothing else."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from runtime import defaults
from supervisor.app_file.spec import Container
from supervisor.container_config import HOST_ONLY, Surroundings, config_of, own_files, process_of, resources_of
from supervisor.machine import Process

AROUND = Surroundings(
    base=1_000_000,
    own_files=Path("/own"),
    volumes=Path("/volumes"),
    hidden=(Path("/var/lib/creche"), Path("/run/creche")),
    needs_nsswitch=False,
    cgroup="creche/shop-x/web",
    machine="x86_64",
)


def made(around: Surroundings = AROUND, **keys: Any) -> dict[str, Any]:
    keys = {"rootfs": "/srv/root", "command": ["run"], **keys}
    return config_of(Container(name="web", **keys), around)


def difference(one: Any, other: Any, where: str = "") -> dict[str, Any]:
    """Each place where `other` has something else than `one`, and what."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, Any] = {}
        for key in one.keys() | other.keys():
            found |= difference(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
        return found
    return {} if one == other else {where: other}


ENVIRONMENT = [f"PATH={defaults.PATH}", "HOSTNAME=web"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {}),
        ({"command": ["a", "b c"]}, {"process.args": ["a", "b c"]}),
        ({"entrypoint": ["sh", "-c"], "command": ["x"]}, {"process.args": ["sh", "-c", "x"]}),
        ({"env": {"A": "1=2"}}, {"process.env": [*ENVIRONMENT, "A=1=2"]}),
        ({"env": {"PATH": "/bin"}}, {"process.env": ["PATH=/bin", "HOSTNAME=web"]}),
        ({"workdir": "/srv"}, {"process.cwd": "/srv"}),
        ({"hostname": "other"}, {"hostname": "other", "process.env": [ENVIRONMENT[0], "HOSTNAME=other"]}),
        ({"user": "web:adm"}, {"process.user.username": "web:adm"}),
        ({"group_add": ["adm", 5]}, {"process.user.additionalGids": ["adm", "5"]}),
        ({"read_only": True}, {"root.readonly": True}),
        ({"ulimits": {"nofile": 5}}, {"process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 5}]}),
        ({"security": {"no_new_privileges": False}}, {"process.noNewPrivileges": False}),
        ({"security": {"seccomp": "unconfined"}}, {"linux.seccomp": None}),
        ({"sysctls": {"net.core.somaxconn": 5}}, {"linux.sysctl": {"net.core.somaxconn": "5"}}),
        ({"security": {"masked": False}}, {"linux.maskedPaths": [], "linux.readonlyPaths": []}),
        ({"limits": {"memory": "64M"}}, {"linux.resources.memory": {"limit": 64 << 20, "swap": 64 << 20}}),
        (
            {"limits": {"memory": "64M", "swap": "1M"}},
            {"linux.resources.memory": {"limit": 64 << 20, "swap": 65 << 20}},
        ),
        ({"limits": {"cpus": 0.5}}, {"linux.resources.cpu": {"quota": 50_000, "period": 100_000}}),
        ({"limits": {"cpuset": "0-1"}}, {"linux.resources.cpu": {"cpus": "0-1"}}),
        ({"limits": {"pids": 20}}, {"linux.resources.pids.limit": 20}),
        # What is not the config's business
        ({"init": False}, {}),
        ({"restart": "always"}, {}),
        ({"stop": {"timeout": "1s"}}, {}),
        ({"ports": ["8080:80"]}, {}),
        ({"labels": {"a": "b"}}, {}),
    ],
)
def test_a_key_and_what_it_changes(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    assert difference(made(), made(**keys)) == expected


def test_a_capability_more_and_one_less() -> None:
    changed = made(security={"capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}})
    for kind in ("bounding", "effective", "permitted"):
        before, after = (set(each["process"]["capabilities"][kind]) for each in (made(), changed))
        assert (after - before, before - after) == ({"CAP_NET_ADMIN"}, {"CAP_CHOWN"})
    assert changed["process"]["capabilities"]["inheritable"] == []


def test_ids_are_mapped_where_there_is_a_range() -> None:
    linux = made()["linux"]
    assert linux["uidMappings"] == linux["gidMappings"] == [{"containerID": 0, "hostID": 1_000_000, "size": 65_536}]
    assert {"type": "user"} in linux["namespaces"]


def test_without_a_range_there_is_no_user_namespace_and_nothing_is_idmapped() -> None:
    config = made(attrs.evolve(AROUND, base=None), volumes=["data:/data"])
    assert config["linux"]["uidMappings"] == []
    assert {"type": "user"} not in config["linux"]["namespaces"]
    assert not any("idmap" in mount["options"] for mount in config["mounts"])


def mounts(around: Surroundings = AROUND, **keys: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    """What is mounted besides the filesystems that every container has, as target, source and options."""
    usual = {mount["destination"] for mount in defaults.mounts()}
    found = made(around, **keys)["mounts"]
    return [
        (each["destination"], each["source"], tuple(each["options"]))
        for each in found
        if each["destination"] not in usual
    ]


OWN = [(f"/etc/{name}", f"/own/{name}", ("nosuid", "nodev", "idmap")) for name in ("hosts", "hostname", "resolv.conf")]


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ("data:/data", ("/data", "/volumes/data", ("rbind", "nosuid", "nodev", "idmap"))),
        ("data:/data:ro", ("/data", "/volumes/data", ("rbind", "nosuid", "nodev", "idmap", "ro"))),
        ("/srv/x:/data", ("/data", "/srv/x", ("rbind", "nosuid", "nodev", "idmap"))),
        ("tmpfs:/scratch", ("/scratch", "tmpfs", ("nosuid", "nodev", "mode=1777"))),
    ],
)
def test_volumes(volume: str, expected: tuple[str, str, tuple[str, ...]]) -> None:
    assert mounts(volumes=[volume]) == [*OWN, expected]


def test_a_parent_is_mounted_before_what_is_in_it() -> None:
    targets = [target for target, _, _ in mounts(volumes=["a:/data/x/y", "b:/data", "c:/data/x"])]
    assert targets[-3:] == ["/data", "/data/x", "/data/x/y"]


def test_names_are_looked_up_in_files_first_where_the_root_does_not_say() -> None:
    found = mounts(attrs.evolve(AROUND, needs_nsswitch=True))
    assert found[-1] == ("/etc/nsswitch.conf", "/own/nsswitch.conf", ("nosuid", "nodev", "ro", "idmap"))


def test_the_hosts_own_root_hides_what_is_not_the_containers() -> None:
    covers = {target: options for target, source, options in mounts(rootfs="/") if source == "tmpfs"}
    assert covers == {
        "/root": ("nosuid", "nodev", "mode=0700"),
        "/home": ("nosuid", "nodev", "mode=0755"),
        "/run": ("nosuid", "nodev", "mode=0755"),  # and with it /run/creche
        "/tmp": ("nosuid", "nodev", "mode=1777"),
        "/var/lib/creche": ("nosuid", "nodev", "mode=0555"),
    }


def test_a_root_of_its_own_hides_nothing() -> None:
    assert mounts() == OWN


def test_volumes_come_on_top_of_what_hides() -> None:
    targets = [target for target, _, _ in mounts(rootfs="/", volumes=["/srv/x:/root/x"])]
    assert targets.index("/root") < targets.index("/root/x")


def test_shared_memory_is_as_large_as_asked() -> None:
    config = made(shm_size="1M")
    options = next(mount["options"] for mount in config["mounts"] if mount["destination"] == "/dev/shm")
    assert f"size={1 << 20}" in options


def test_the_default_filter_follows_the_capabilities() -> None:
    filters = made()["linux"]["seccomp"], made(security={"capabilities": {"add": ["SYS_ADMIN"]}})["linux"]["seccomp"]
    assert filters[0] != filters[1]


def test_two_containers_share_nothing_that_one_could_change() -> None:
    one = made()
    one["linux"]["maskedPaths"].clear()
    one["process"]["env"].clear()
    assert made()["linux"]["maskedPaths"]
    assert made()["process"]["env"] == ENVIRONMENT


def test_a_capability_that_is_none() -> None:
    with pytest.raises(ValueError, match="FLYING"):
        made(security={"capabilities": {"add": ["FLYING"]}})


def test_without_limits_only_processes_are_counted() -> None:
    assert resources_of(Container(name="web")) == {"pids": {"limit": 2048}}


def test_own_files() -> None:
    assert own_files("h", "web", "r").keys() == {"hosts", "hostname", "resolv.conf", "nsswitch.conf"}
    assert own_files("h", "web", "r")["hostname"] == "web\n"


def test_a_profile_of_ones_own_replaces_the_default() -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW"}
    around = attrs.evolve(AROUND, seccomp=profile)
    assert difference(made(), made(around, security={"seccomp": "/x"})) == difference(
        made(), {**made(), "linux": {**made()["linux"], "seccomp": profile}}
    )


@pytest.mark.parametrize(("own", "expected"), [(-900, 0), (0, None), (500, None)])
def test_protection_from_the_oom_killer_is_not_inherited(own: int, expected: int | None) -> None:
    assert made(attrs.evolve(AROUND, oom_score=own))["process"].get("oomScoreAdj") == expected


def test_the_hosts_root_sees_less_of_the_kernels_memory() -> None:
    around = attrs.evolve(AROUND, base=None)
    assert set(made(around)["linux"]["maskedPaths"]) - set(made()["linux"]["maskedPaths"]) == set(HOST_ONLY)
    assert made(around, security={"masked": False})["linux"]["maskedPaths"] == []


PROCESS = {"args": ["run"], "env": ["A=1"], "cwd": "/srv", "user": {"username": "web"}, "noNewPrivileges": True}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {}),
        ({"env": {"A": "2", "B": "3"}}, {"env": ["A=2", "B=3"]}),
        ({"directory": "/"}, {"cwd": "/"}),
        ({"user": "5"}, {"user.username": "5"}),
        ({"terminal": True}, {"terminal": True, "env": ["A=1", "TERM=xterm"]}),
        (
            {"terminal": True, "size": (24, 80)},
            {"terminal": True, "env": ["A=1", "TERM=xterm"], "consoleSize": {"height": 24, "width": 80}},
        ),
    ],
)
def test_one_more_process_is_the_first_one_but_for_what_is_asked(
    keys: dict[str, Any], expected: dict[str, Any]
) -> None:
    plain = {**PROCESS, "args": ["sh"], "terminal": False}
    asked = process_of({"process": PROCESS}, Process(("sh",), **keys))
    assert difference(plain, asked) == expected
