"""Mounts and devices of an OCI bundle, as the kernel shows them inside and outside. Needs root and a static busybox."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import defaults, syscalls
from runtime.capabilities import DEFAULT, NAMES
from tests.kernel.runtime.launching import BASE, eventually

CRECHE_OCI = Path(sys.executable).parent / "creche-oci"
_MS_REMOUNT, _MS_BIND = 32, 4096  # mount(2)
MAP = [{"containerID": 0, "hostID": BASE, "size": 65536}]
PROGRAMS = "find unshare sh ls cat mount umount stat id sleep mkdir touch grep test rm readlink mknod true".split()  # noqa: SIM905


class Bundle:
    """A bundle with busybox as its root; `run` runs a shell script in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "bundle" / "rootfs"
        (self.root / "bin").mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None, "install busybox-static"
        shutil.copy(busybox, self.root / "bin/busybox")
        for name in PROGRAMS:
            (self.root / "bin" / name).symlink_to("busybox")
        for path in (directory, *directory.parents):  # ids of a user namespace get through
            if path.stat().st_mode & 0o001 == 0 and path.is_relative_to("/tmp"):
                path.chmod(path.stat().st_mode | 0o011)
        config = defaults.config()
        config["process"]["env"] = ["PATH=/bin"]
        sets = config["process"]["capabilities"]
        sets["bounding"] = sets["effective"] = sets["permitted"] = list(NAMES)
        config["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "mount", "uts", "ipc", "cgroup", "network")]
        config["linux"]["cgroupsPath"] = f"/creche-test-{os.getpid()}-{directory.name[-20:]}"
        config["root"] = {"path": "rootfs"}
        self.config: dict[str, Any] = config

    def mapped(self) -> None:
        """Give it a user namespace."""
        linux = self.config["linux"]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = linux["gidMappings"] = MAP

    def mount(self, destination: str, kind: str, source: str | Path, *options: str, **more: Any) -> None:
        entry = {"destination": destination, "type": kind, "source": str(source), "options": list(options), **more}
        self.config["mounts"].append(entry)

    def bind(self, destination: str, source: Path, *options: str, **more: Any) -> None:
        self.mount(destination, "none", source, *(options or ("bind",)), **more)

    def _command(self, script: str) -> list[str | Path]:
        self.config["process"]["args"] = ["sh", "-ec", script]
        (self.directory / "bundle/config.json").write_text(json.dumps(self.config))
        return [
            CRECHE_OCI,
            "--root",
            self.directory / "state",
            "run",
            "--bundle",
            self.directory / "bundle",
            self.config["linux"]["cgroupsPath"][1:],
        ]

    def run(self, script: str) -> str:
        done = subprocess.run(self._command(script), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def fails(self, script: str = "true") -> str:
        done = subprocess.run(self._command(script), capture_output=True, text=True, timeout=60)
        assert done.returncode != 0, done.stdout
        return done.stderr

    @contextlib.contextmanager
    def running(self, script: str) -> Generator["subprocess.Popen[str]"]:
        with subprocess.Popen(self._command(script), stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.wait(30)

    def options_of(self, *paths: str) -> dict[str, set[str]]:
        """The per-mount options, and the propagation, of what is mounted on each path inside."""
        found: dict[str, set[str]] = {}
        for line in self.run("cat /proc/self/mountinfo").splitlines():
            words, _, _ = line.partition(" - ")
            fields = words.split(" ")
            found[fields[4]] = {*fields[5].split(","), *(word.partition(":")[0] for word in fields[6:] if word)}
        return {path: found[path] for path in paths}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host's, with another mount in it."""
    place = tmp_path / "host"
    with contextlib.ExitStack() as undo:
        for path in (place, place / "inner"):
            path.mkdir()
            syscalls.mount("host", str(path), "tmpfs", 0, "mode=755")
            undo.callback(syscalls.umount2, str(path), syscalls.MNT_DETACH)
            syscalls.mount(None, str(path), None, syscalls.MS_SHARED)
        (place / "file").write_text("of the host")
        (place / "sub").mkdir()
        yield place


# Propagation


def mounts_below(bundle: Bundle, host: Path, *options: str) -> bool:
    """Whether what the container mounts below a bind of the host's shared mount appears on the host."""
    bundle.bind("/data", host, *options)
    bundle.run("mount -t tmpfs tmpfs /data/sub && touch /data/sub/mine")
    appeared = (host / "sub/mine").exists()
    if appeared:
        syscalls.umount2(str(host / "sub"), syscalls.MNT_DETACH)
    return appeared


@pytest.mark.parametrize("options", [("bind",), ("rbind",), ("rbind", "rslave"), ("rbind", "runbindable")])
def test_a_mount_below_a_bind_stays_in_the_container(bundle: Bundle, host: Path, options: tuple[str, ...]) -> None:
    """A detached copy of a shared mount is its peer (open_tree(2)): it is made private, whatever the host has."""
    assert not mounts_below(bundle, host, *options)


def test_a_shared_bind_reaches_the_host(bundle: Bundle, host: Path) -> None:
    """The negative control of the one above, and what `rshared` means."""
    assert mounts_below(bundle, host, "rbind", "rshared")


@pytest.mark.parametrize(("word", "arrives"), [("rslave", True), ("rprivate", False)])
def test_what_the_host_mounts_later(bundle: Bundle, host: Path, word: str, arrives: bool) -> None:
    bundle.bind("/data", host, "rbind", word)
    script = "touch /data/ready; while ! test -e /data/go; do sleep 0.01; done; ls /data/sub"
    with bundle.running(script) as process:
        assert eventually((host / "ready").exists)
        syscalls.mount("late", str(host / "sub"), "tmpfs", 0)
        try:
            (host / "sub/late").touch()
            (host / "go").touch()
            output, _ = process.communicate(timeout=30)
        finally:
            syscalls.umount2(str(host / "sub"), syscalls.MNT_DETACH)
    assert ("late" in output) == arrives


@pytest.mark.parametrize(
    ("word", "shown"),
    [("shared", {"shared"}), ("slave", set()), ("rprivate", set()), ("unbindable", {"unbindable"}), (None, set())],
)
def test_the_roots_propagation(bundle: Bundle, word: str | None, shown: set[str]) -> None:
    if word is not None:
        bundle.config["linux"]["rootfsPropagation"] = word
    assert bundle.options_of("/")["/"] & {"shared", "master", "unbindable"} == shown


def test_a_shared_root_is_a_peer_of_nothing_of_the_hosts(bundle: Bundle, host: Path) -> None:
    shutil.copytree(bundle.root, host / "rootfs", symlinks=True)
    bundle.config["root"]["path"] = str(host / "rootfs")
    bundle.config["linux"]["rootfsPropagation"] = "rshared"
    bundle.run("mkdir /here; mount -t tmpfs tmpfs /here; touch /here/mine")
    assert not (host / "rootfs/here/mine").exists()


def test_a_slave_root_follows_the_host(bundle: Bundle, host: Path) -> None:
    shutil.copytree(bundle.root, host / "rootfs", symlinks=True)
    bundle.config["root"]["path"] = str(host / "rootfs")
    bundle.config["linux"]["rootfsPropagation"] = "rslave"
    assert "master" in bundle.options_of("/")["/"]


# Attributes


@pytest.mark.parametrize(
    ("word", "flag", "outer", "inner"),
    [
        ("ro", "ro", True, False),
        ("rro", "ro", True, True),
        ("nosuid", "nosuid", True, False),
        ("rnosuid", "nosuid", True, True),
        ("rnodev", "nodev", True, True),
        ("rnoexec", "noexec", True, True),
        ("rnoatime", "noatime", True, True),
        ("rnodiratime", "nodiratime", True, True),
        ("rnosymfollow", "nosymfollow", True, True),
        ("nosymfollow", "nosymfollow", True, False),
    ],
)
def test_attributes_of_a_recursive_bind(
    bundle: Bundle, host: Path, word: str, flag: str, outer: bool, inner: bool
) -> None:
    bundle.bind("/data", host, "rbind", word)
    found = bundle.options_of("/data", "/data/inner")
    assert (flag in found["/data"], flag in found["/data/inner"]) == (outer, inner)


def test_attributes_are_taken_back(bundle: Bundle, host: Path) -> None:
    """`rw` of the mount itself after `rro` of all of them; `dev` and `suid` where the host has neither."""
    syscalls.mount(None, str(host), None, _MS_REMOUNT | _MS_BIND | syscalls.MS_NODEV)
    bundle.bind("/data", host, "rbind", "rro", "rw", "dev")
    found = bundle.options_of("/data", "/data/inner")
    assert {"rw", "ro"} & found["/data"] == {"rw"}
    assert "nodev" not in found["/data"]
    assert "ro" in found["/data/inner"]


def test_options_of_a_new_filesystem(bundle: Bundle) -> None:
    words = ("ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow", "size=1m", "mode=750", "sync")
    bundle.mount("/data", "tmpfs", "tmpfs", *words)
    expected = {"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"}
    assert bundle.options_of("/data")["/data"] == expected
    assert "750" in bundle.run("stat -c %a /data")


def test_remount_changes_the_mount_that_is_there(bundle: Bundle) -> None:
    bundle.mount("/data", "tmpfs", "tmpfs", "size=1m")
    bundle.mount("/data", "tmpfs", "tmpfs", "remount", "ro", "noexec", "size=2m")
    assert {"ro", "noexec"} <= bundle.options_of("/data")["/data"]
    assert "size=2048k" in bundle.run("grep ' /data ' /proc/self/mounts")


def test_a_read_only_root(bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    bundle.mount("/made/for/it", "tmpfs", "tmpfs")
    assert "refused" in bundle.run("touch /x 2>/dev/null || echo refused; touch /made/for/it/x")
    assert (bundle.root / "made/for/it").is_dir()


@pytest.mark.parametrize("administrator", [False, True])
def test_a_read_only_mount_stays_so_without_cap_sys_admin(bundle: Bundle, host: Path, administrator: bool) -> None:
    """Nor in a user namespace of the container's own making: there the kernel locks it (mount_namespaces(7)).

    With the capability a container administrates its own mounts, in every runtime: the negative control.
    """
    bundle.mapped()
    if not administrator:
        sets = bundle.config["process"]["capabilities"]
        sets["bounding"] = sets["effective"] = sets["permitted"] = sorted(DEFAULT)
    host.joinpath("sub").chmod(0o777)
    bundle.bind("/data", host, "bind", "ro")
    attempt = "mount -o remount,bind,rw /data"
    bundle.run(f"{attempt} || unshare -Urm {attempt} || true; touch /data/sub/mine || true")
    assert (host / "sub/mine").exists() == administrator


# Ids


def owner_inside(bundle: Bundle, path: str) -> str:
    return bundle.run(f"stat -c %u:%g {path}").strip()


def test_a_mapping_of_the_mounts_own(bundle: Bundle, host: Path) -> None:
    maps = {
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 10}],
    }
    bundle.bind("/data", host, "bind", "idmap", **maps)
    assert owner_inside(bundle, "/data/file") == "1000:2000"
    assert bundle.run("touch /data/new 2>&1 || true; stat -c %u /data/file").strip().endswith("1000")


@pytest.mark.parametrize(("word", "inner"), [("idmap", "65534:65534"), ("ridmap", "0:0")])
def test_the_containers_mapping(bundle: Bundle, host: Path, word: str, inner: str) -> None:
    (host / "inner/file").touch()
    bundle.mapped()
    bundle.bind("/data", host, "rbind", word)
    assert owner_inside(bundle, "/data/file /data/inner/file").split() == ["0:0", inner]


def test_without_a_mapping_the_hosts_ids_are_nobody(bundle: Bundle, host: Path) -> None:
    """The negative control: what an idmapped mount changes."""
    bundle.mapped()
    bundle.bind("/data", host)
    assert owner_inside(bundle, "/data/file") == "65534:65534"


def test_places_in_a_bundle_of_other_ids_are_the_containers(bundle: Bundle) -> None:
    bundle.mapped()
    bundle.mount("/made/here", "tmpfs", "tmpfs", "mode=755")
    bundle.run("touch /made/here/x")
    about = (bundle.root / "made/here").stat()
    assert (about.st_uid, about.st_gid) == (BASE, BASE)


def test_an_idmapped_volume_keeps_the_hosts_ids(bundle: Bundle, host: Path) -> None:
    bundle.mapped()
    bundle.bind("/data", host, "bind", "idmap")
    bundle.run("touch /data/mine")
    assert (host / "mine").stat().st_uid == 0


# tmpcopyup


def test_what_lies_beneath_is_copied_up(bundle: Bundle) -> None:
    below = bundle.root / "data"
    (below / "deep/er").mkdir(parents=True)
    (below / "deep/er/file").write_text("content")
    (below / "deep/er/file").chmod(0o640)
    os.chown(below / "deep/er/file", 12, 34)
    (below / "link").symlink_to("/etc/passwd")
    below.chmod(0o1771)
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup", "ro")
    script = "cat /data/deep/er/file; stat -c ' %a %u %g' /data/deep/er/file; readlink /data/link; stat -c %a /data"
    assert bundle.run(script).split() == ["content", "640", "12", "34", "/etc/passwd", "1771"]


def test_what_is_too_deep_is_not_copied_up(bundle: Bundle) -> None:
    (bundle.root / ("data" + "/d" * 200)).mkdir(parents=True)
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup")
    assert "deeper than" in bundle.fails()


def test_what_is_larger_than_the_tmpfs_is_an_error(bundle: Bundle) -> None:
    (bundle.root / "data").mkdir()
    (bundle.root / "data/large").write_bytes(bytes(1 << 20))
    bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup", "size=64k")
    assert "No space" in bundle.fails()


# Kinds


def test_a_file_on_a_file_and_a_directory_on_a_directory(bundle: Bundle, host: Path) -> None:
    bundle.bind("/etc/one", host / "file")
    bundle.bind("/etc/all", host)
    assert bundle.run("cat /etc/one; cat /etc/all/file") == "of the host" * 2


def test_an_overlay_of_the_hosts_directories(bundle: Bundle, host: Path) -> None:
    for name in ("lower", "upper", "work"):
        (host / name).mkdir()
    (host / "lower/below").touch()
    data = f"lowerdir={host}/lower,upperdir={host}/upper,workdir={host}/work"
    bundle.mount("/data", "overlay", "overlay", *data.split(","))
    bundle.run("test -e /data/below; touch /data/above")
    assert (host / "upper/above").exists()


def test_more_layers_than_one_option_takes(bundle: Bundle, host: Path) -> None:
    layers = [host / f"a-layer-with-a-rather-long-name-{number}" for number in range(6)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"of-{number}").touch()
    bundle.mount("/data", "overlay", "overlay", f"lowerdir={':'.join(map(str, layers))}", "ro")
    assert bundle.run("ls /data").split() == [f"of-{number}" for number in range(6)]


def test_a_filesystem_that_there_is_not(bundle: Bundle) -> None:
    bundle.mount("/data", "nosuchfs", "none")
    message = bundle.fails()
    assert "nosuchfs" in message
    assert "No such device" in message


@pytest.mark.parametrize("shared", [True, False])
def test_the_cgroups_shown_are_the_containers_own(bundle: Bundle, shared: bool) -> None:
    if shared:
        namespaces = bundle.config["linux"]["namespaces"]
        bundle.config["linux"]["namespaces"] = [each for each in namespaces if each["type"] != "cgroup"]
    output = bundle.run("grep ' - cgroup' /proc/self/mountinfo; cat $(find /sys/fs/cgroup -name cgroup.procs)")
    lines = output.splitlines()
    assert any(" - cgroup" in line for line in lines)
    assert {line for line in lines if " - cgroup" not in line} <= {"1", *map(str, range(2, 30))}  # its own, none else


# Destinations


def test_a_destination_never_leads_out_of_the_root(bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.root / "way").symlink_to(outside)
    bundle.mount("/way/made", "tmpfs", "tmpfs")
    assert "leads nowhere" in bundle.fails()
    assert list(outside.iterdir()) == []


def test_a_destination_that_climbs_stays_below_the_root(bundle: Bundle) -> None:
    (bundle.root / "up").symlink_to("../../../../../../../..")
    bundle.mount("/up/made", "tmpfs", "tmpfs")
    bundle.run("touch /made/x")
    assert (bundle.root / "made").is_dir()


def test_a_destination_through_a_link_onto_another_mount(bundle: Bundle, host: Path) -> None:
    """As /var/run/docker.sock with a tmpfs on /run: the place is on the tmpfs, which exists only inside."""
    (bundle.root / "var").mkdir()
    (bundle.root / "run").mkdir()
    (bundle.root / "var/run").symlink_to("/run")
    bundle.mount("/run", "tmpfs", "tmpfs")
    bundle.bind("/var/run/file", host / "file")
    assert bundle.run("cat /run/file") == "of the host"
    assert not (bundle.root / "run/file").exists()


def test_a_relative_destination_is_below_the_root(bundle: Bundle) -> None:
    bundle.mount("data", "tmpfs", "tmpfs", "ro")
    assert "ro" in bundle.options_of("/data")["/data"]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_missing_working_directory_is_made(bundle: Bundle, mapped: bool) -> None:
    if mapped:
        bundle.mapped()
    bundle.config["process"]["cwd"] = "/srv/made/here"
    assert bundle.run("pwd; stat -c %u .").split() == ["/srv/made/here", "0"]


@pytest.mark.parametrize("mapped", [True, False])
def test_hooks_before_the_pivot_find_the_root_at_its_own_path(bundle: Bundle, mapped: bool) -> None:
    """With what is mounted in it, from inside the container's mount namespace; the host sees none of that."""
    if mapped:
        bundle.mapped()
    bundle.mount("/data", "tmpfs", "tmpfs", "mode=777")
    seen = f"test -c {bundle.root}/dev/null && touch {bundle.root}/data/by-the-hook && echo x > /dev/null"
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", seen]}]}
    assert bundle.run("ls /data").split() == ["by-the-hook"]
    assert list((bundle.root / "data").iterdir()) == []


def test_hooks_run_where_the_containers_root_may_not_reach_its_own_path(bundle: Bundle) -> None:
    bundle.mapped()
    bundle.directory.chmod(0o700)
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/true"}]}
    assert bundle.run("echo through").strip() == "through"


# Devices


def device(path: str, kind: str, major: int = 1, minor: int = 3, **more: Any) -> dict[str, Any]:
    numbers = {} if kind == "p" else {"major": major, "minor": minor}
    return {"path": path, "type": kind, **numbers, **more}


@pytest.mark.parametrize("mapped", [True, False])
def test_devices_in_dev(bundle: Bundle, mapped: bool) -> None:
    if mapped:
        bundle.mapped()
    bundle.config["linux"]["devices"] = [
        device("/dev/own/null", "c", fileMode=0o602, uid=3, gid=4),
        device("/dev/loop7", "b", 7, 7, fileMode=0o600),
        device("/dev/fifo", "p", fileMode=0o622, uid=5),
        device("/dev/unbuffered", "u", 1, 5),
        device("/dev/null", "c", 1, 3, fileMode=0o444),
    ]
    paths = "/dev/own/null /dev/loop7 /dev/fifo /dev/unbuffered /dev/null /dev/zero"
    said = bundle.run(f"stat -c '%F %a %u %g %t %T' {paths}; echo x > /dev/own/null; stat -c '%u %a' /dev /dev/own")
    assert said.splitlines() == [
        "character special file 602 3 4 1 3",
        "block special file 600 0 0 7 7",
        "fifo 622 5 0 0 0",
        "character special file 666 0 0 1 5",
        "character special file 444 0 0 1 3",
        "character special file 666 0 0 1 5",
        "0 755",
        "0 755",
    ]


def test_a_device_elsewhere_and_a_dev_of_the_root(bundle: Bundle) -> None:
    bundle.config["mounts"] = [each for each in bundle.config["mounts"] if not each["destination"].startswith("/dev")]
    bundle.config["linux"]["devices"] = [device("/opt/null", "c", fileMode=0o620, gid=7)]
    said = bundle.run("stat -c '%a %g %t %T' /opt/null; echo x > /dev/null; readlink /dev/stdin; ls /dev")
    assert said.splitlines()[0] == "620 7 1 3"
    assert {"null", "zero", "full", "random", "urandom", "tty", "fd", "ptmx"} <= set(said.split())
    bundle.run("true")  # once more: what is there is the same


def test_a_device_where_something_else_is(bundle: Bundle) -> None:
    (bundle.root / "opt").mkdir()
    (bundle.root / "opt/null").write_text("mine")
    bundle.config["linux"]["devices"] = [device("/opt/null", "c")]
    assert "is there and is something else" in bundle.fails()
    assert (bundle.root / "opt/null").read_text() == "mine"


def test_a_bound_dev_brings_its_own_devices(bundle: Bundle, host: Path) -> None:
    for name in ("null", "only"):
        os.mknod(host / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    bundle.config["mounts"] = [each for each in bundle.config["mounts"] if not each["destination"].startswith("/dev")]
    bundle.bind("/dev", host, "bind", "dev")
    assert "zero" not in bundle.run("ls /dev").split()


def test_a_read_only_dev_is_so_in_the_end(bundle: Bundle) -> None:
    next(each for each in bundle.config["mounts"] if each["destination"] == "/dev")["options"].append("ro")
    assert "refused" in bundle.run("touch /dev/x 2>/dev/null || echo refused; echo x > /dev/null")


def test_the_devices_of_a_user_namespace_that_is_joined(bundle: Bundle) -> None:
    """Nothing in the config says which ids it has: the kernel does."""
    from runtime.launch import helper

    made, _ = helper.make(((0, BASE, 65536),), ((0, BASE, 65536),), False)
    assert made.user is not None
    try:
        linux = bundle.config["linux"]
        linux["namespaces"].append({"type": "user", "path": f"/proc/{os.getpid()}/fd/{made.user}"})
        linux["devices"] = [device("/dev/own", "c", uid=3)]
        assert bundle.run("stat -c %u /dev/own /dev/zero /dev").split() == ["3", "0", "0"]
    finally:
        os.close(made.user)


def test_masked_and_read_only_paths(bundle: Bundle) -> None:
    (bundle.root / "secret").mkdir()
    (bundle.root / "secret/file").touch()
    (bundle.root / "word").write_text("secret")
    (bundle.root / "fixed").mkdir()
    bundle.config["linux"]["maskedPaths"] = ["/secret", "/word", "/missing"]
    bundle.config["linux"]["readonlyPaths"] = ["/fixed", "/missing"]
    script = "ls /secret; cat /word; touch /fixed/x 2>/dev/null || echo refused; touch /secret/x 2>/dev/null || echo no"
    assert bundle.run(script).split() == ["refused", "no"]
