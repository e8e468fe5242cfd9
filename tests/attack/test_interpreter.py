"""What of the host's programs a container can have the kernel execute, it must not be able to change: CVE-2019-5736."""

import contextlib
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.launch import client
from tests.attack.attacking import PREAMBLE, Attacking, Change, every, install, open_root, python, without_filter
from tests.kernel.runtime.launching import Refused

CHANGE = """
def reopened():
    number = os.open(target, os.O_PATH)
    os.close(os.open(f"/proc/self/fd/{number}", os.O_RDWR))
def remounted():
    if libc.mount(None, target.encode(), None, 0x1020, None) == -1:  # MS_REMOUNT | MS_BIND: writable
        raise OSError(ctypes.get_errno(), "mount")
answers = dict(
    write=tried(lambda: os.open(target, os.O_WRONLY)),
    reopen=tried(reopened),
    truncate=tried(lambda: os.truncate(target, 0)),
    remount=tried(remounted),
    chmod=tried(lambda: os.chmod(target, 0o600)),
    chown=tried(lambda: os.chown(target, 7, 7)),
    utime=tried(lambda: os.utime(target, (0, 0))),
    setxattr=tried(lambda: os.setxattr(target, "user.planted", b"1")),
)
print(*(f"{what}={said}" for what, said in answers.items()), flush=True)
"""
LOOSEST = every(open_root, without_filter)
"""The host's root with every capability and system call: nothing but the file's own mount is in its way."""


def bound(*paths: Path) -> Change:
    def change(config: dict[str, Any]) -> None:
        for path in paths:
            target = f"/attack/{path.name}"
            config["mounts"].append({"destination": target, "type": "bind", "source": str(path), "options": ["bind"]})

    return change


def answers(text: str) -> dict[str, str]:
    return dict(word.split("=") for word in text.split())


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the interpreter, from which launchers run: a control that succeeds changes nothing of the host's."""
    copy = tmp_path / "interpreter"
    shutil.copy(os.path.realpath(sys.executable), copy)
    copy.chmod(0o755)
    real = client._interpreter

    def interpreter() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(copy))
            return real()

    monkeypatch.setattr(client, "_interpreter", interpreter)
    return copy


@pytest.fixture
def script(tmp_path: Path) -> Path:
    script = tmp_path / "script"
    script.write_text(f"#!/proc/self/exe\n{PREAMBLE}\ntarget = '/proc/self/exe'\n{CHANGE}")
    script.chmod(0o755)
    return script


def state(path: Path) -> tuple[int, int, int, bytes]:
    info = path.stat()
    return info.st_mode, info.st_uid, info.st_mtime_ns, path.read_bytes()


def test_a_script_of_proc_self_exe_cannot_change_it(copy: Path, script: Path, tmp_path: Path) -> None:
    before = state(copy)
    with Attacking(tmp_path / "real") as real:
        real.hold(userns=None)
        said = answers(real.attack(1, ("/attack/script",), change=every(LOOSEST, bound(script))))
    said.pop("remount")  # of its own view it may change what it likes; the file's mount has no place in it
    assert set(said.values()) <= {"EROFS", "ETXTBSY"} and said["chmod"] == said["chown"] == "EROFS", said
    assert state(copy) == before


def test_a_launcher_that_runs_from_the_file_itself_would_give_it_away(
    copy: Path, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the one above. The kernel keeps the text of what runs; everything else of it is changed."""
    monkeypatch.setattr(client, "_interpreter", lambda: os.open(copy, os.O_RDONLY))
    with Attacking(tmp_path / "weak") as weak:
        weak.hold(userns=None)
        said = answers(weak.attack(1, ("/attack/script",), change=every(LOOSEST, bound(script))))
    assert said["chmod"] == said["chown"] == said["utime"] == "done", said
    assert copy.stat().st_mode & 0o7777 == 0o600


def test_links_to_and_loaders_of_proc_self_exe_change_nothing(copy: Path, tmp_path: Path) -> None:
    """An entrypoint that is a symbolic link to it, and a program whose loader it is. Each ends, whatever it does."""
    link = tmp_path / "link"
    link.symlink_to("/proc/self/exe")
    loaded = install("hello.c", tmp_path / "loaded")
    loaded.write_bytes(as_loader(loaded.read_bytes()))
    before = state(copy)
    root = tmp_path / "root"
    for directory in ("proc", "dev", "sys", "tmp"):
        (root / directory).mkdir(parents=True)
    shutil.copy(loaded, root / "loaded")
    (root / "link").symlink_to("/proc/self/exe")
    with Attacking(tmp_path / "real") as real:
        real.hold(userns=None)
        for run, entry in enumerate(("/link", "/loaded")):
            number = real.send_attack(run, (entry, "-c", "print(1)"), root=root, change=every(LOOSEST))
            real.answer(number)
            with contextlib.suppress(Refused):  # running or refused, it is over; the words are the kernel's
                real.ask("start", name="web", run=run)
            real.exited("web", run)
    assert state(copy) == before


def as_loader(program: bytes) -> bytes:
    """Give a static program's first note segment the type PT_INTERP and a path to /proc/self/exe (elf(5))."""
    image = bytearray(program)
    (offset,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    path = b"/proc/self/exe\0"
    place = len(image)
    image += path
    for index in range(count):
        at = offset + index * size
        if struct.unpack_from("<I", image, at)[0] == 4:  # PT_NOTE
            struct.pack_into("<IIQQQQQQ", image, at, 3, 4, place, 0, 0, len(path), len(path), 1)
            return bytes(image)
    raise AssertionError("the compiler made no note segment")


def test_the_static_init_is_no_file_of_the_host(tmp_path: Path) -> None:
    """It is a sealed copy in memory, that all containers of an app execute: none may change it for the others.

    The weakened launcher executes the file itself, a copy of the host's.
    """
    copy = install("hello.c", tmp_path / "init")  # any static program serves: what counts is whose file it is
    script = python(CHANGE, target="/proc/1/exe")
    with Attacking(tmp_path / "real") as real:
        assert real.hello["init"]
        real.hold(userns=None)
        said = answers(real.attack(1, script, init=True, change=LOOSEST))
        assert said["write"] in ("ETXTBSY", "EPERM") and said["truncate"] in ("ETXTBSY", "EPERM")
        real.hold("neighbour", userns=None)
        assert real.attack(1, ("/bin/echo", "well"), name="neighbour", init=True, change=LOOSEST) == "well\n"
    boot = f"import os\nfrom runtime.launch import inits\ninits.find = lambda: ('x', os.open({str(copy)!r}, 0))\n"
    shutil.copy("/usr/bin/catatonit", copy)
    with Attacking(tmp_path / "weak", boot=boot) as weak:
        weak.hold(userns=None)
        said = answers(weak.attack(1, script, init=True, change=LOOSEST))
        assert said["chmod"] == said["chown"] == "done"
    assert copy.stat().st_mode & 0o7777 == 0o600
