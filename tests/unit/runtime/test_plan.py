"""From an OCI config to operations: what is planned, in which order, on which side, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from runtime import defaults, syscalls
from runtime.mounts import NewMount, OpenTree, ReadOnlyRoot, Target
from runtime.operations import unpack
from runtime.plan import Place, PlanError, plan

HOST = Place(("/",), False, "/state/writable", hierarchies=(("memory", "memory"), ("unified", "")))
IMAGE = Place(("/layers/b", "/layers/a"), True, "/state/writable")


def config(**process: Any) -> dict[str, Any]:
    made = defaults.config()
    made["process"] |= {"args": ["run"], **process}
    made["linux"]["uidMappings"] = made["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 600000, "size": 65536}]
    return made


def bind(target: str, source: str = "/src", *options: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": source, "options": list(options)}


def tmpfs(target: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def test_the_default_config_on_the_hosts_root() -> None:
    made = plan(config(), HOST)
    assert [step.describe() for step in made.prepare] == [
        "open /",
        "open /state/writable",
        "make the root of 1 layer(s)",
        "make the mount target /proc",
        "make the mount target /dev",
        "make /dev with null, zero, full, random, urandom, tty",
        "make the mount target /sys",
    ]
    assert [step.describe() for step in made.enter] == [
        "attach the root",
        "mount proc on /proc",
        "attach devices on /dev",
        "mount devpts on /dev/pts",
        "mount tmpfs on /dev/shm",
        "mount mqueue on /dev/mqueue",
        "mount sysfs on /sys",
        "mount the cgroups memory, unified on /sys/fs/cgroup",
        f"make read-only {', '.join(defaults.READ_ONLY_PATHS)}",
        f"mask {', '.join(defaults.MASKED_PATHS)}",
        "pivot into the root",
        "set the host name localhost",
        "look up the user '0:0'",
        "set no_new_privs",
        "take the user's ids and the capabilities 0x800405fb",
    ]
    assert made.describe() == [step.describe() for step in (*made.prepare, *made.enter)]


def test_only_without_a_user_namespace_mounts_must_be_made_private() -> None:
    """With one of its own a mount namespace is born a slave (mount_namespaces(7))."""
    made = config()
    made["linux"]["namespaces"] = [each for each in made["linux"]["namespaces"] if each["type"] != "user"]
    assert [plan(each, HOST).enter[0].describe() for each in (made, config())] == [
        "make every mount private",
        "attach the root",
    ]


def test_the_program() -> None:
    made = plan(config(args=["a", "b"], env=["K=v=w", "EMPTY="], cwd="/srv"), HOST)
    environment = {"K": "v=w", "EMPTY": ""}
    assert made.program == {"arguments": ["a", "b"], "environment": environment, "directory": "/srv", "init": True}


def test_packed_it_is_what_the_launcher_unpacks() -> None:
    made = plan(config(), IMAGE)
    packed = made.packed()
    assert [*map(unpack, packed["prepare"])] == [*made.prepare]
    assert [*map(unpack, packed["enter"])] == [*made.enter]


def test_layers_are_opened_topmost_first_and_idmapped_as_the_place_says() -> None:
    opened = [step for step in plan(config(), IMAGE).prepare if isinstance(step, OpenTree)]
    assert [(each.path, each.idmap) for each in opened] == [
        ("/layers/b", True),
        ("/layers/a", True),
        ("/state/writable", False),  # overlayfs can work in no idmapped one
    ]
    opened = [step for step in plan(config(), HOST).prepare if isinstance(step, OpenTree)]
    assert not any(each.idmap for each in opened)


def test_a_writable_layer_in_memory() -> None:
    words = [step.describe() for step in plan(config(), HOST._replace(memory=1 << 20)).prepare]
    assert "make a writable layer of 1048576 bytes in memory" in words
    assert "open /state/writable" not in words


@pytest.mark.parametrize(("place", "side"), [(HOST, "prepare"), (IMAGE, "enter")])
def test_who_makes_a_target(place: Place, side: str) -> None:
    """The host's root belongs to ids that the container does not have; an image's to the container's own."""
    made = config()
    made["mounts"].append(tmpfs("/data"))
    steps = getattr(plan(made, place), side)
    assert Target("/data") in steps


def test_a_target_on_top_of_another_mount_is_made_inside() -> None:
    made = config()
    made["mounts"] += [tmpfs("/data"), bind("/data/inner"), bind("/database")]
    planned = plan(made, HOST)
    assert Target("/data/inner", "mount /data/inner") in planned.enter
    assert Target("/database", "mount /database") in planned.prepare


def test_mounts_keep_their_order() -> None:
    made = config()
    made["mounts"] += [tmpfs("/a"), bind("/a/b"), tmpfs("/a/b/c")]
    words = plan(made, HOST).describe()
    order = ["mount tmpfs on /a", "attach mount /a/b on /a/b", "mount tmpfs on /a/b/c"]
    assert [word for word in words if word in order] == order
    assert words.index("make the mount target /a/b") < words.index(order[1])


@pytest.mark.parametrize(
    ("place", "expected"), [(HOST, ("prepare", -1)), (IMAGE, ("enter", None))], ids=["host", "image"]
)
def test_a_read_only_root_comes_after_its_targets(place: Place, expected: tuple[str, int | None]) -> None:
    made = config()
    made["root"]["readonly"] = True
    made["mounts"].append(bind("/data"))
    side, position = expected
    steps = list(getattr(plan(made, place), side))
    at = steps.index(ReadOnlyRoot())
    assert position is None or at == len(steps) - 1
    assert not any(isinstance(step, Target) for step in steps[at:])


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ([], 0),
        (["ro"], syscalls.MOUNT_ATTR_RDONLY),
        (["rw", "relatime", "rprivate"], 0),
        (["nosuid", "nodev", "noexec"], 0x0E),
    ],
)
def test_options_of_a_bind(options: list[str], attributes: int) -> None:
    made = config()
    made["mounts"].append(bind("/data", "/src", *options))
    assert OpenTree("mount /data", "/src", False, False, attributes) in plan(made, HOST).prepare


def test_a_recursive_idmapped_bind() -> None:
    made = config()
    made["mounts"].append(bind("/data", "/src", "rbind", "idmap"))
    assert OpenTree("mount /data", "/src", True, True, 0) in plan(made, HOST).prepare


def test_options_of_a_tmpfs() -> None:
    made = config()
    made["mounts"].append(tmpfs("/data", "nosuid", "mode=1777", "size=5"))
    expected = NewMount("tmpfs", "/data", (("mode", "1777"), ("size", "5")), syscalls.MOUNT_ATTR_NOSUID)
    assert expected in plan(made, HOST).enter


def test_only_the_containers_own_files_replace_a_link() -> None:
    made = config()
    made["mounts"] += [bind("/etc/hosts"), bind("/etc/passwd")]
    steps = plan(made, HOST).prepare
    assert Target("/etc/hosts", "mount /etc/hosts", True) in steps
    assert Target("/etc/passwd", "mount /etc/passwd", False) in steps


def test_a_tmpfs_in_the_fresh_dev_gets_a_target() -> None:
    """/dev/shm and its like are there; anything else must be made, on top of the /dev that only exists inside."""
    made = config()
    made["mounts"].append(tmpfs("/dev/hugepages"))
    assert Target("/dev/hugepages") in plan(made, HOST).enter


@pytest.mark.parametrize(
    ("no_new_privileges", "seccomp", "order"),
    [
        (True, True, ["NoNewPrivileges", "Credentials", "Seccomp"]),
        (False, True, ["Seccomp", "Credentials"]),
        (True, False, ["NoNewPrivileges", "Credentials"]),
        (False, False, ["Credentials"]),
    ],
)
def test_when_the_filter_is_loaded(no_new_privileges: bool, seccomp: bool, order: list[str]) -> None:
    """Without no_new_privs only CAP_SYS_ADMIN may load one, which the credentials give up (seccomp(2))."""
    made = config(noNewPrivileges=no_new_privileges)
    if seccomp:
        made["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
    names = [type(step).__name__ for step in plan(made, HOST).enter]
    assert [name for name in names if name in ("NoNewPrivileges", "Credentials", "Seccomp")] == order
    assert names.index("Identify") < names.index(order[0])


def test_nothing_is_masked_where_nothing_shall_be() -> None:
    made = config()
    made["linux"]["maskedPaths"] = made["linux"]["readonlyPaths"] = []
    assert not any(word.startswith(("mask", "make read-only")) for word in plan(made, HOST).describe())


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in path[:-1]:
            config = config.setdefault(key, {})
        config[path[-1]] = value

    return change


def more_mounts(*mounts: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["mounts"].extend(mounts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("hooks", value={"prestart": []}), "^hooks: not yet supported"),
        (put("process", "oomScoreAdj", value=5), r"^process\.oomScoreAdj: not yet"),
        (put("process", "apparmorProfile", value="x"), r"^process\.apparmorProfile"),
        (put("process", "terminal", value=True), r"^process\.terminal"),
        (put("process", "user", "umask", value=18), r"^process\.user\.umask"),
        (put("process", "args", value=[]), r"^process\.args: there is no program to run; give the container a command"),
        (put("linux", "devices", value=[{"path": "/dev/fuse"}]), r"^linux\.devices"),
        (put("linux", "sysctl", value={"a": "b"}), r"^linux\.sysctl"),
        (put("linux", "rootfsPropagation", value="shared"), r"^linux\.rootfsPropagation"),
        (
            put("linux", "namespaces", value=[{"type": "network", "path": "/proc/1/ns/net"}]),
            r"^linux\.namespaces\[0\]\.path",
        ),
        (put("linux", "namespaces", value=[{"type": "time"}]), r"^linux\.namespaces\[0\] \(time\)"),
        (put("process", "rlimits", value=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), r"^process\.rlimits.*RLIMIT_X"),
        (more_mounts({"destination": "/x", "type": "nfs"}), r"^mounts\[7\] \(/x\): mounts of type 'nfs'"),
        (more_mounts(bind("/x", "/y", "mode=5")), r"^mounts\[7\] \(/x\): the option 'mode=5' of a bind"),
        (more_mounts(tmpfs("/x", "huge=always")), r"^mounts\[7\] \(/x\): the option 'huge=always'"),
    ],
)
def test_what_is_not_done_is_refused_by_field(change: Callable[[dict[str, Any]], None], words: str) -> None:
    made = config()
    change(made)
    with pytest.raises(PlanError, match=words):
        plan(made, HOST)


def test_empty_fields_ask_for_nothing() -> None:
    made = config()
    made["hooks"], made["linux"]["devices"], made["process"]["apparmorProfile"] = {}, [], ""
    plan(made, HOST)


def test_a_plan_changes_nothing_of_its_config() -> None:
    made = config()
    plan(made, HOST)
    assert made == config()
