"""Runs a few lines in a process with namespaces of its own, as pid 1 of a container does its steps."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from runtime import syscalls

BASE = 0x7FFF0000  # the one range of 65,536 ids below 2³¹ that supervisor.claims never gives to anybody
NAMESPACES = (
    syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUSER
)
_BOOT = """
import errno, fcntl, json, os, resource, signal, socket, stat, struct, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from runtime import identity, labels, mounts, procfs, scheduling, seccomp, syscalls, sysctls, terminal
from runtime.accounts import Account
from runtime.world import World

def say(value):
    print(json.dumps(value), flush=True)

def status():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {{name: value.split() for name, _, value in (line.partition(":") for line in lines)}}

def cover(path, kind="tmpfs", **options):
    "A filesystem on top of path, in this mount namespace alone."
    tree = mounts.new_filesystem(kind, options, 0)
    syscalls.move_mount_to(tree, path)
    os.close(tree)

ready, go = os.pipe()
pid = syscalls.clone3({flags}, exit_signal=signal.SIGCHLD)
if pid == 0:
    try:
        os.read(ready, 1)
        if {flags} & syscalls.CLONE_NEWUSER:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        if {flags} & syscalls.CLONE_NEWNS:
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        world = World(None, 1, 2)
        world.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        exec({code!r})
    except OSError as error:
        say({{"errno": error.errno, "message": error.strerror, "path": error.filename}})
        os._exit(3)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(4)
    os._exit(0)
for kind, text in {maps!r}:
    with open(f"/proc/{{pid}}/{{kind}}", "w") as file:
        file.write(text)
os.write(go, b"1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
MAPS = (("uid_map", f"0 {BASE} 65536"), ("gid_map", f"0 {BASE} 65536"))


def inside(code: str, *, flags: int = NAMESPACES, maps: tuple[tuple[str, str], ...] = MAPS) -> Any:
    """What `code` gave to `say`; its OSError is raised here, and whatever else it died of."""
    root = str(Path(syscalls.__file__).parents[1])
    used = maps if flags & syscalls.CLONE_NEWUSER else ()
    text = _BOOT.format(root=root, flags=flags, code=code, maps=used)
    result = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, timeout=60)
    if result.returncode == 3:
        error = json.loads(result.stdout.splitlines()[-1])
        raise OSError(error["errno"], error["message"], error["path"])
    assert result.returncode == 0, (result.returncode, result.stderr)
    return json.loads(result.stdout)
