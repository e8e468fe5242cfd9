"""From an OCI config to operations: what is planned, in which order, on which side, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from runtime import defaults, syscalls
from runtime.devices import Devices
from runtime.hooks import STAGES, ContainerHooks
from runtime.identity import Credentials, Domainname, Identify, Limit, Personality, Seccomp
from runtime.labels import AppArmor, Selinux
from runtime.mounts import AttachRoot, Filesystem, NewMount, OpenRoot, OpenTree, ReadOnlyRoot, Target
from runtime.operations import unpack
from runtime.plan import Place, PlanError, plan, plan_exec
from runtime.scheduling import Affinity, IoPriority, OomScore, Scheduler
from runtime.sysctls import Sysctls
from runtime.terminal import Terminal

BUNDLE = Place(
    (),
    False,
    "",
    hierarchies=(("", ""),),
    init=False,
    root="/bundle/rootfs",
    state='{"ociVersion": "1.2.0", "id": "x", "status": "creating", "bundle": "/bundle"}',
)
HOST = Place(("/",), False, "/state/writable", hierarchies=(("memory", "memory"), ("unified", "")))
IMAGE = Place(("/layers/b", "/layers/a"), True, "/state/writable")


def config(**process: Any) -> dict[str, Any]:
    made = defaults.config()
    made["process"] |= {"args": ["run"], **process}
    made["linux"]["uidMappings"] = made["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 600000, "size": 65536}]
    return made


def oci(**process: Any) -> dict[str, Any]:
    made = config(**process)
    made["root"] = {"path": "rootfs", "readonly": False}
    return made


def bind(target: str, source: str = "/src", *options: str, **more: Any) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": source, "options": list(options), **more}


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
    ("options", "attributes", "clear"),
    [
        ([], 0, 0),
        (["ro"], syscalls.MOUNT_ATTR_RDONLY, 0),
        (["rw", "relatime", "rprivate"], 0, syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR__ATIME),
        (["nosuid", "nodev", "noexec"], 0x0E, 0),
    ],
)
def test_options_of_a_bind(options: list[str], attributes: int, clear: int) -> None:
    made = config()
    made["mounts"].append(bind("/data", "/src", *options))
    assert OpenTree("mount /data", "/src", False, False, attributes, clear) in plan(made, HOST).prepare


def test_an_apps_volume_is_read_only_with_all_that_is_mounted_in_it() -> None:
    """An app's file says `read_only` of a volume; of a bundle's bind `ro` is the one mount, and `rro` all of them."""
    mount = bind("/data", "/src", "rbind", "ro")
    made = config()
    made["mounts"].append(mount)
    assert OpenTree("mount /data", "/src", False, True, 0, deep=1) in plan(made, HOST).prepare
    made = oci()
    made["mounts"].append(mount)
    assert OpenTree("mount /data", "/src", False, True, 1) in plan(made, BUNDLE).prepare


@pytest.mark.parametrize(
    ("words", "kind", "deep"),
    [
        ([], syscalls.MS_PRIVATE, True),
        (["rslave"], syscalls.MS_SLAVE, True),
        (["shared"], syscalls.MS_SHARED, False),
    ],
)
def test_a_bind_is_private_unless_the_config_says_otherwise(words: list[str], kind: int, deep: bool) -> None:
    made = oci()
    made["mounts"].append(bind("/data", "/src", "rbind", *words))
    step = next(step for step in plan(made, BUNDLE).prepare if isinstance(step, OpenTree))
    assert (step.propagation, step.propagation_deep) == (kind, deep)


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


ID = {"containerID": 0, "hostID": 0, "size": 1}
LIMIT = {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}
REFUSED = [  # of a bundle as of an app
    (put("linux", "intelRdt", value={"closID": "x"}), r"^linux\.intelRdt is not supported"),
    (put("linux", "netDevices", value={"eth0": {}}), r"^linux\.netDevices is not supported"),
    (put("linux", "memoryPolicy", value={"mode": "MPOL_BIND"}), r"^linux\.memoryPolicy is not supported"),
    (put("linux", "personality", value={"domain": "BSD"}), r"^linux\.personality\.domain: 'BSD'"),
    (put("linux", "personality", value={"domain": "LINUX", "flags": ["X"]}), r"^linux\.personality\.flags"),
    (put("linux", "seccomp", value={"defaultAction": "A", "listenerPath": "/x"}), r"^linux\.seccomp\.listenerPath"),
    (put("linux", "seccomp", value={"defaultAction": "A", "flags": ["X"]}), r"^linux\.seccomp"),
    (put("linux", "sysctl", value={"kernel.panic": "1"}), r"^linux\.sysctl 'kernel\.panic' is not supported"),
    (put("linux", "maskedPaths", value=["proc"]), r"^linux\.maskedPaths: 'proc'"),
    (put("linux", "readonlyPaths", value="/proc"), r"^linux\.readonlyPaths: '/proc' is no list"),
    (put("linux", "devices", value=[{"path": "/dev/../x", "type": "p"}]), r"^linux\.devices\[0\]\.path"),
    (put("linux", "devices", value=[{"path": "/dev/x", "type": "c"}]), r"^linux\.devices\[0\]\.major"),
    (put("linux", "devices", value=[{"path": "/dev/x", "type": "p", "uid": -1}]), r"^linux\.devices\[0\]\.uid"),
    (put("annotations", value={"": "x"}), "^annotations: ''"),
    (put("annotations", value={"x": 1}), "^annotations: 'x'"),
    (put("process", value={}), "^process: it is missing"),
    (put("process", "args", value=["a\0"]), r"^process\.args\[0\]"),
    (put("process", "env", value=["=x"]), r"^process\.env\[0\]"),
    (put("process", "env", value=["x"]), r"^process\.env\[0\]"),
    (put("process", "cwd", value="srv"), r"^process\.cwd: 'srv' is not an absolute path"),
    (put("process", "user", "uid", value=(1 << 32) - 1), r"^process\.user\.uid"),
    (put("process", "user", "gid", value="0"), r"^process\.user\.gid"),
    (put("process", "user", "umask", value=0o1000), r"^process\.user\.umask"),
    (put("process", "rlimits", value=[LIMIT, LIMIT]), r"^process\.rlimits\[1\]: RLIMIT_CPU is there twice"),
    (put("process", "rlimits", value=[{**LIMIT, "soft": 2}]), r"^process\.rlimits\[0\]: the soft limit 2 is above"),
    (put("process", "oomScoreAdj", value=1001), r"^process\.oomScoreAdj: 1001"),
    (put("process", "ioPriority", value={"class": "X"}), r"^process\.ioPriority\.class"),
    (put("process", "scheduler", value={"policy": "X"}), r"^process\.scheduler\.policy"),
    (put("process", "execCPUAffinity", value={"final": "x"}), r"^process\.execCPUAffinity\.final"),
    (put("process", "consoleSize", value={"height": -1}), r"^process\.consoleSize\.height"),
    (put("process", "noNewPrivileges", value="yes"), r"^process\.noNewPrivileges"),
    (more_mounts({"type": "tmpfs"}), r"^mounts\[7\]\.destination"),
    (more_mounts(bind("/x", "")), r"^mounts\[7\] \(/x\): a bind mount needs a source"),
    (more_mounts(bind("/x", "/y", "tmpcopyup")), r"^mounts\[7\] \(/x\): the option 'tmpcopyup'"),
    (more_mounts(bind("/x", "/y", "remount", "idmap")), r"^mounts\[7\] \(/x\): a mount that is there already"),
    (more_mounts({**tmpfs("/x"), "type": "cgroup", "options": ["a=b"]}), r"^mounts\[7\] \(/x\): the option 'a'"),
    (put("root", value=["x"]), r"^root: \['x'\] is no object"),
    (put("mounts", value={}), "^mounts: {} is no list"),
]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("ociVersion", value="2.0.0"), r"^ociVersion: '2\.0\.0'"),
        (put("ociVersion", value=None), "^ociVersion"),
        (put("windows", value={"a": 1}), "^windows is not supported"),
        (put("hooks", value={"prestart": [{"path": "/x"}]}), "^hooks are not supported"),
        (put("process", "commandLine", value="x"), r"^process\.commandLine"),
        (put("process", "terminal", value=True), r"^process\.terminal"),
        (put("process", "user", "shell", value="x"), r"^process\.user\.shell"),
        (put("process", "args", value=[]), r"^process\.args: there is no program to run; give the container a command"),
        (put("linux", "devices", value=[{"path": "/dev/fuse"}]), r"^linux\.devices\[0\]\.type"),
        (
            put("linux", "devices", value=[{"path": "/opt/x", "type": "p"}]),
            r"^linux\.devices: /opt/x: an app's container has its devices below /dev only",
        ),
        (put("linux", "rootfsPropagation", value="upwards"), r"^linux\.rootfsPropagation: 'upwards'"),
        (
            put("linux", "namespaces", value=[{"type": "network", "path": "/proc/1/ns/net"}]),
            r"^linux\.namespaces\[0\]\.path",
        ),
        (put("linux", "namespaces", value=[{"type": "time"}]), r"^linux\.namespaces\[0\] \(time\)"),
        (put("process", "rlimits", value=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), r"^process\.rlimits.*RLIMIT_X"),
        (more_mounts(bind("/x", "/y", "mode=5")), r"^mounts\[7\] \(/x\): the option 'mode=5' is none of a bind"),
        (more_mounts(bind("/x", "/y", "sync")), r"^mounts\[7\] \(/x\): 'sync' belongs to the whole filesystem"),
        (more_mounts({**bind("/x", "/y"), "uidMappings": [{}]}), r"^mounts\[7\]\.uidMappings"),
        (more_mounts(bind("/x", "y")), r"^mounts\[7\] \(/x\): the source 'y' is not an absolute path"),
        *REFUSED,
    ],
)
def test_what_is_not_done_is_refused_by_field(change: Callable[[dict[str, Any]], None], words: str) -> None:
    made = config()
    change(made)
    with pytest.raises(PlanError, match=words):
        plan(made, HOST)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *REFUSED[:-4],
        (put("root", "path", value=""), r"^root\.path"),
        (put("process", "user", "additionalGids", value=[-1]), r"^process\.user\.additionalGids\[0\]"),
        (put("root", value=["x"]), r"^root: \['x'\] is no object"),
        (put("linux", "namespaces", value=[{"type": "pid"}]), r"^linux\.namespaces: without a mount namespace"),
        (put("linux", "namespaces", value=[{"type": "mount"}, {"type": "user"}]), "^hostname: without a uts namespace"),
        (put("linux", "uidMappings", value=[{"containerID": 1, "hostID": 0, "size": 1}]), r"^linux\.uidMappings: id 0"),
        (put("linux", "uidMappings", value=[]), r"^linux\.uidMappings"),
        (put("linux", "devices", value=[{"path": "/dev/x", "type": "p", "gid": 70000}]), r"^linux\.devices\[0\]\.gid"),
        (put("hooks", value={"poststop": [{"path": "x"}]}), r"^hooks\.poststop\[0\]\.path"),
        (more_mounts({"destination": "/x", "options": ["ro"]}), r"^mounts\[7\] \(/x\): neither a type nor"),
        (more_mounts(bind("/x", "/y", uidMappings=[ID])), r"^mounts\[7\] \(/x\): uidMappings and gidMappings"),
        (more_mounts(tmpfs("/x", "idmap")), r"^mounts\[7\] \(/x\): a new tmpfs has the container's ids already"),
    ],
)
def test_what_a_bundle_is_refused(change: Callable[[dict[str, Any]], None], words: str) -> None:
    made = oci()
    change(made)
    with pytest.raises(PlanError, match=words):
        plan(made, BUNDLE)


def test_a_bundles_unknown_properties_are_ignored() -> None:
    """config.md, "Extensibility"; what other systems' sections say is not for Linux."""
    made = oci(commandLine="dir")
    made |= {"windows": {"x": 1}, "org.example.new": True}
    made["linux"]["newer"] = {"x": 1}
    assert plan(made, BUNDLE) == plan(oci(), BUNDLE)


def test_a_bundles_root_as_it_is() -> None:
    made = plan(oci(), BUNDLE)
    assert [step.describe() for step in made.prepare] == [
        "open the root /bundle/rootfs",
        *(f"make the mount target {path}" for path in ("/proc", "/dev")),
        "make /dev with null, zero, full, random, urandom, tty",
        "make the mount target /sys",
    ]
    words = [step.describe() for step in made.enter]
    assert words.index("attach the root") == 0
    assert words.index("pivot into the root") < words.index(f"mask {', '.join(defaults.MASKED_PATHS)}")
    assert made.program["soft_files"] is None


def test_a_bundle_without_a_user_namespace() -> None:
    made = oci()
    linux = made["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "user"]
    linux["uidMappings"] = linux["gidMappings"] = []
    planned = plan(made, BUNDLE)
    assert planned.enter[0].describe() == "make every mount private"
    assert [step.describe() for step in planned.prepare] == [
        "open the root /bundle/rootfs",
        "make /dev with null, zero, full, random, urandom, tty",
    ]


def test_a_read_only_bundle_is_so_once_all_is_in_it() -> None:
    made = oci(terminal=True)
    made["root"]["readonly"] = True
    names = [type(step).__name__ for step in plan(made, BUNDLE).enter]
    order = ["PivotRoot", "Identify", "Terminal", "ReadOnlyRoot", "NoNewPrivileges", "Credentials"]
    assert [name for name in names if name in order] == order


def test_hooks_have_their_places() -> None:
    made = oci()
    hook = {"path": "/hook", "args": ["hook", "x"], "env": ["A=b"], "timeout": 3}
    made["hooks"] = {stage: [hook] for stage in STAGES}
    planned = plan(made, BUNDLE)
    names = [type(step).__name__ for step in planned.enter]
    at = names.index("RuntimeHooks")
    assert names[at : at + 3] == ["RuntimeHooks", "ContainerHooks", "PivotRoot"]
    fields = (("/hook", ("hook", "x"), ("A=b",), 3),)
    assert planned.enter[at + 1] == ContainerHooks("createContainer", fields, BUNDLE.state)
    assert planned.enter[-1] == ContainerHooks("startContainer", fields, BUNDLE.state)
    assert AttachRoot("root", "/bundle/rootfs") in planned.enter


def test_hooks_of_the_runtime_alone_are_no_step() -> None:
    made = oci()
    made["hooks"] = {"poststart": [{"path": "/hook"}], "poststop": [{"path": "/hook"}]}
    assert plan(made, BUNDLE) == plan(oci(), BUNDLE)


def test_every_field_of_a_process() -> None:
    made = oci(
        user={"uid": 7, "gid": 8, "umask": 0o077, "additionalGids": [9], "username": "windows"},
        terminal=True,
        consoleSize={"height": 24, "width": 80},
        oomScoreAdj=100,
        ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 0},
        scheduler={"policy": "SCHED_BATCH", "nice": 5},
        execCPUAffinity={"initial": "0", "final": "0"},
        apparmorProfile="profile",
        selinuxLabel="label",
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 5, "hard": (1 << 64) - 1}],
        noNewPrivileges=False,
    )
    made["linux"]["personality"] = {"domain": "LINUX32"}
    made["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    made["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    made["domainname"] = "example"
    planned = plan(made, BUNDLE)
    for step in (
        Identify("7:8", ("9",)),
        Terminal(24, 80, "console", True),
        OomScore(100),
        IoPriority("IOPRIO_CLASS_IDLE", 0),
        Scheduler("SCHED_BATCH", 5, 0, (), 0, 0, 0),
        AppArmor("profile"),
        Selinux("label"),
        Limit("RLIMIT_NOFILE", 5, (1 << 64) - 1),
        Personality("LINUX32", ()),
        Sysctls((("net/ipv4/ip_forward", "1"),)),
        Seccomp("seccomp", 2),
        Domainname("example"),
    ):
        assert any(type(each) is type(step) and each == step for each in planned.enter), step
    assert planned.program["umask"] == 0o077
    names = [type(step).__name__ for step in planned.enter]
    assert "Affinity" not in names  # which is for exec
    assert names.index("Sysctls") < names.index("OomScore") < names.index("PivotRoot")
    assert names[-2:] == ["Seccomp", "Credentials"]


@pytest.mark.parametrize("field", ["apparmorProfile", "selinuxLabel"])
def test_a_label_alone_has_its_procfs_opened_before_the_pivot(field: str) -> None:
    """In a user namespace the kernel gives none afterwards (mount_too_revealing in fs/namespace.c)."""
    names = [type(step).__name__ for step in plan(oci(**{field: "label"}), BUNDLE).enter]
    assert names.index("OpenProcfs") < names.index("PivotRoot")
    assert "OpenProcfs" not in [type(step).__name__ for step in plan(oci(), BUNDLE).enter]


def test_a_bundles_capabilities_are_taken_to_the_letter() -> None:
    sets = {"bounding": ["CAP_CHOWN", "CAP_NEW"], "ambient": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN"]}
    planned = plan(oci(capabilities=sets), BUNDLE)
    step = next(step for step in planned.enter if isinstance(step, Credentials))
    assert step == Credentials(1, 0, 0, 1, 1, last=40, root_only=False)
    assert planned.warnings == ("process.capabilities.bounding: this kernel has no CAP_NEW: it is left out",)
    assert next(step for step in plan(config(), HOST).enter if isinstance(step, Credentials)).root_only


def test_a_terminal_without_one_has_no_size() -> None:
    made = oci(consoleSize={"height": 24, "width": 80})
    assert plan(made, BUNDLE) == plan(oci(), BUNDLE)


def test_one_more_process() -> None:
    process = oci(terminal=True, execCPUAffinity={"initial": "0-1", "final": "1"}, oomScoreAdj=5, apparmorProfile="x")[
        "process"
    ]
    planned = plan_exec(process, {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}, BUNDLE)
    assert planned.prepare == ()
    assert [type(step).__name__ for step in planned.enter] == [
        "OomScore",
        "Identify",
        "Terminal",
        "Affinity",
        "AppArmor",
        "NoNewPrivileges",
        "Credentials",
        "Seccomp",
    ]
    assert Affinity("1") in planned.enter
    assert Terminal(0, 0, "console", False) in planned.enter
    assert planned.program["init"] is False


def test_one_more_process_of_an_app_has_a_user_by_name() -> None:
    process = config(user={"username": "www"})["process"]
    planned = plan_exec(process, {}, HOST)
    assert Identify("www", ()) in planned.enter
    assert next(step for step in planned.enter if isinstance(step, Credentials)).root_only


def test_the_roots_propagation_comes_last_and_a_slave_is_one_from_the_beginning() -> None:
    made = oci()
    made["linux"]["rootfsPropagation"] = "rslave"
    planned = plan(made, BUNDLE)
    assert OpenRoot("root", "/bundle/rootfs", False, syscalls.MS_SLAVE) in planned.prepare
    names = [type(step).__name__ for step in planned.enter]
    assert names.index("Propagate") > names.index("Mask") > names.index("PivotRoot")


def test_the_labels_of_new_mounts() -> None:
    made = oci()
    made["linux"]["mountLabel"] = "system_u:object_r:x:s0"
    planned = plan(made, BUNDLE)
    labelled = {step.path for step in planned.enter if isinstance(step, NewMount) and "context" in dict(step.options)}
    assert labelled == {"/dev/pts", "/dev/shm", "/dev/mqueue"}
    devices = next(step for step in planned.prepare if isinstance(step, Devices))
    assert dict(devices.options)["context"] == "system_u:object_r:x:s0"


def test_a_filesystem_with_a_device_is_made_in_the_hosts_view() -> None:
    made = oci()
    made["mounts"].append(
        {"destination": "/x", "type": "ext4", "source": "/dev/vdb", "options": ["ro", "data=ordered"]}
    )
    options = (("source", "/dev/vdb"), ("data", "ordered"), ("ro", ""))
    assert Filesystem("mount /x", "ext4", options, syscalls.MOUNT_ATTR_RDONLY) in plan(made, BUNDLE).prepare


def test_a_source_relative_to_the_bundle() -> None:
    made = oci()
    made["mounts"].append(bind("/x", "files/x"))
    assert any(isinstance(step, OpenTree) and step.path == "/bundle/files/x" for step in plan(made, BUNDLE).prepare)


def test_a_word_of_the_filesystem_is_a_warning_for_a_bundles_bind() -> None:
    """mount(2) takes such flags with MS_BIND and does nothing about them; other runtimes pass them on."""
    made = oci()
    made["mounts"].append(bind("/x", "/y", "sync"))
    assert plan(made, BUNDLE).warnings == (
        "mounts[7] (/x): 'sync' belongs to the whole filesystem, which a bind does not change",
    )


def test_empty_fields_ask_for_nothing() -> None:
    made = config()
    made["hooks"], made["linux"]["devices"], made["process"]["apparmorProfile"] = {}, [], ""
    made["linux"]["intelRdt"], made["vm"], made["process"]["scheduler"] = {}, None, {}
    plan(made, HOST)


def test_a_plan_changes_nothing_of_its_config() -> None:
    made = config()
    plan(made, HOST)
    assert made == config()
