"""The same attacks through the whole of creche: what `creche up` makes of an app is as closed as its launcher."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.driver import PYTHON, Creche, busybox_root, until

OVER = ("completed", "failed")


def box(name: str, rootfs: object, command: list[str], more: str = "") -> str:
    return f'[containers.{name}]\nrootfs = "{rootfs}"\ncommand = {json.dumps(command)}\nrestart = "never"\n{more}\n'


def run(creche: Creche, app: str, *boxes: str) -> None:
    """Start an app and wait until every container of it is over."""
    creche.up(app, "".join(boxes), wait=False)
    until(lambda: all(each["state"] in OVER for each in creche.ps().values()), 20, "the end of every container")


@pytest.fixture
def canary(creche: Creche) -> Iterator[Path]:
    """A directory of the host that everybody may write: that nobody does is not for lack of permission."""
    place = creche.directory / "canary"
    (place / "below").mkdir(parents=True)
    for name in ("passwd", "group", "hosts", "null", "below/file"):
        (place / name).write_text("planted:x:7:7::/:/bin/sh\n")
        (place / name).chmod(0o666)
    for directory in (place, place / "below"):
        directory.chmod(0o777)
    before = state(place)
    yield place
    assert state(place) == before, "the host was changed"


def state(place: Path) -> dict[str, tuple[int, int, int, bytes]]:
    return {
        str(path): (info.st_mode, info.st_uid, info.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (place, *place.rglob("*"))
        for info in (path.lstat(),)
    }


def linked(path: str, to: Callable[[Path], str]) -> Callable[[Path, Path], None]:
    """In a root filesystem, `path` becomes a symbolic link."""

    def make(root: Path, canary: Path) -> None:
        there = root / path
        if there.is_dir():
            shutil.rmtree(there)
        there.unlink(missing_ok=True)
        there.symlink_to(to(canary))

    return make


def fifo(path: str) -> Callable[[Path, Path], None]:
    def make(root: Path, _: Path) -> None:
        (root / path).unlink(missing_ok=True)
        os.mkfifo(root / path, 0o666)

    return make


def passwd(content: bytes) -> Callable[[Path, Path], None]:
    def make(root: Path, _: Path) -> None:
        (root / "etc/passwd").write_bytes(content)

    return make


def plain(_: Path, __: Path) -> None:
    """An honest root filesystem: the control."""


USER = 'user = "planted"'
ROOTS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "plain": (plain, ""),
    "dev": (linked("dev", str), ""),
    "dev-up": (linked("dev", lambda canary: "../../../../../../.." + str(canary)), ""),
    "proc": (linked("proc", str), ""),
    "proc-on-dev": (linked("proc", lambda _: "dev"), ""),
    "sys": (linked("sys", str), ""),
    "etc": (linked("etc", str), ""),
    "etc-magic": (linked("etc", lambda _: "/proc/1/root/etc"), ""),
    "hosts": (linked("etc/hosts", lambda canary: f"{canary}/hosts"), ""),
    "hosts-fifo": (fifo("etc/hosts"), ""),
    "target": (linked("data", str), ""),
    "target-below": (linked("data", lambda canary: f"{canary}/below"), ""),
    "target-magic": (linked("data", lambda _: "/proc/self/fd/3"), ""),
    "file-target": (linked("file", lambda canary: f"{canary}/below/file"), ""),
    "passwd": (linked("etc/passwd", lambda canary: f"{canary}/passwd"), USER),
    "passwd-magic": (linked("etc/passwd", lambda _: "/proc/self/fd/0"), USER),
    "passwd-fifo": (fifo("etc/passwd"), USER),
    "passwd-huge": (passwd(b"planted:x:0:0::/:/bin/sh\n" * 200_000), USER),
    "passwd-negative": (passwd(b"planted:x:-1:4294967295::/:/bin/sh\nplanted:x:0x0:0::/:\n"), USER),
    "passwd-endless": (passwd(b"p" * 100_000), USER),
}
"""How a root filesystem is made hostile, and what its container has besides."""

WRITES = (
    "for at in /dev /proc /sys /etc /data /file; do echo pwned > $at/null; echo pwned > $at/hosts; done 2>/dev/null"
)


def test_hostile_roots_lead_nowhere(creche: Creche, canary: Path) -> None:
    """Each either runs in its own root or does not start; none hangs and none touches what its links name."""
    (creche.directory / "bound").write_text("bound")
    boxes: list[str] = []
    for name, (spoil, more) in ROOTS.items():
        root = busybox_root(creche.directory / "fs" / name)
        spoil(root, canary)
        mounts = f'volumes = ["{name}:/data", "./bound:/file:ro"]\n{more}'
        boxes.append(box(name, root, ["sh", "-c", f"{WRITES}; touch /data/mine; echo ran"], mounts))
    run(creche, "hostile", *boxes)
    seen = creche.ps()
    assert seen["plain"]["exit_code"] == 0
    assert (creche.root / "volumes/hostile/plain/mine").exists()
    assert {name: seen[name]["exit_code"] for name in seen if name.startswith("passwd")} == {
        name: 125 for name in ROOTS if name.startswith("passwd")
    }, "a user that only the host's file has, or a file that is none, was believed"
    assert (creche.directory / "bound").read_text() == "bound"


def test_an_honest_passwd_is_believed(creche: Creche) -> None:
    """The control of the one above: the user starts where the root filesystem's own file has it."""
    root = busybox_root(creche.directory / "fs")
    (root / "etc/passwd").write_text("planted:x:7:7::/:/bin/sh\n")
    run(creche, "honest", box("box", root, ["id", "-u"], USER))
    assert creche.logs("box") == b"7\n"


def with_id(root: Path) -> Path:
    """A busybox root with the host's `id`, which does not give up set user ids itself, and all it loads."""
    loads = subprocess.run(["ldd", "/usr/bin/id"], capture_output=True, text=True, check=True).stdout
    for word in [*loads.split(), "/usr/bin/id"]:
        if word.startswith("/"):
            (root / word[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, root / word[1:])
    (root / "usr/bin/id").chmod(0o4755)
    return root


def test_setuid_programs_do_nothing(creche: Creche) -> None:
    """The control has no_new_privileges off, and is root inside."""
    root = with_id(busybox_root(creche.directory / "fs"))
    command, user = ["/usr/bin/id", "-u"], 'user = "1000"\n'
    run(
        creche,
        "setuid",
        box("box", root, command, user),
        box("loose", root, command, f"{user}security = {{ no_new_privileges = false }}"),
    )
    assert (creche.logs("box"), creche.logs("loose")) == (b"1000\n", b"0\n")


CALLS = """
import ctypes, errno, json, os, platform
libc = ctypes.CDLL(None, use_errno=True)
new = dict(time=0x80, mount=0x20000, cgroup=0x2000000, uts=0x4000000, ipc=0x8000000, user=0x10000000, pid=0x20000000,
           net=0x40000000)
def told(result):
    return "done" if result != -1 else errno.errorcode[ctypes.get_errno()]
def child(call):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, told(call()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(reading, 99).decode()
seen = {f"unshare {name}": child(lambda: libc.unshare(flag)) for name, flag in new.items()}
own = os.open("/proc/self/ns/net", os.O_RDONLY)
seen["setns"] = child(lambda: libc.setns(own, 0))
for name, number in dict(open_tree=428, move_mount=429, fsopen=430, fsmount=432, pidfd_getfd=438, clone3=435,
                         mount_setattr=442, io_uring_setup=425).items():
    seen[name] = child(lambda: libc.syscall(number, 0, 0, 0, 0, 0))
seen["ptrace"] = child(lambda: libc.ptrace(0x4206, 1, 0, 0))
seen["terminal"] = child(lambda: libc.ioctl(0, 0x5412, b"x"))
for path in ("environ", "mem", "maps", "root/etc", "cwd"):
    try:
        os.listdir(f"/proc/1/{path}") if "/" in path or path == "cwd" else open(f"/proc/1/{path}").close()
        seen[f"1/{path}"] = "done"
    except OSError as error:
        seen[f"1/{path}"] = errno.errorcode[error.errno]
print(json.dumps(seen), flush=True)
"""


def test_no_namespace_mount_or_other_process_is_to_be_had(creche: Creche) -> None:
    """The control may make a user namespace, without a filter, so the calls are the right ones."""
    root_only = [PYTHON, "-c", CALLS]
    run(
        creche,
        "calls",
        box("box", "/", root_only),
        box("user", "/", root_only, 'user = "1000"'),
        box("loose", "/", root_only, 'security = { seccomp = "unconfined" }'),
    )
    boxed, user, loose = (json.loads(creche.logs(name)) for name in ("box", "user", "loose"))
    assert loose["unshare user"] == loose["ptrace"] == "done"
    for seen in (boxed, user):
        # Its own processes it may trace, a static init of its own users among them.
        refused = {name: said for name, said in seen.items() if name != "ptrace" and not name.startswith("1/")}
        assert set(refused.values()) <= {"EPERM", "ENOSYS", "ENOTTY"}, refused
        assert refused["clone3"] == "ENOSYS", "the C library falls back to clone, whose flags the filter can read"


def test_own_inits_memory_is_nobodys(creche: Creche) -> None:
    """It is a copy of the launcher: plans and environments of the whole app are in it."""
    with creche.without_static_inits():
        run(
            creche,
            "memory",
            box("box", "/", [PYTHON, "-c", CALLS]),
            box("host", "/", [PYTHON, "-c", CALLS], 'security = { userns = "host", seccomp = "unconfined" }'),
        )
    for name in ("box", "host"):
        seen = json.loads(creche.logs(name))
        found = {path: said for path, said in seen.items() if path.startswith("1/")}
        assert set(found.values()) <= {"EACCES", "EPERM"}, (name, found)
        assert seen["ptrace"] == "EPERM"


def test_an_own_file_made_huge_or_garbled_is_written_anew(creche: Creche) -> None:
    """Its root may write /etc/hosts, which lies on the host's disk: it is not read, whatever it became.

    The control is the file's content in the first run.
    """
    root = busybox_root(creche.directory / "fs", "truncate", "wc", "printf")
    spoil = "stat -c %s /etc/hosts; printf '\\377' > /etc/hosts; truncate -s 4096G /etc/hosts; exec sleep 1000"
    creche.up("huge", box("box", root, ["sh", "-c", spoil]).replace('"never"', '"always"'))
    hosts = creche.root / "apps/huge/containers/box/etc/hosts"
    until(lambda: hosts.stat().st_size == 4 << 40, 10, "the huge file")
    creche.sigkill(creche.launcher("huge"))  # whoever comes next makes everything anew
    until(lambda: creche.logs("box").count(b"\n") >= 2, 10, "a second run")
    first, second, *_ = creche.logs("box").split()
    assert first == second
    assert 0 < int(first) < 4096
