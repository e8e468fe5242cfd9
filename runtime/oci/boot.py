"""The way into `creche-oci`: the console script does nothing but choose the interpreter that goes on.

What puts a process into a container is seen from inside as /proc/self/exe until it executes the program: it must not
be the host's writable interpreter (CVE-2019-5736). So those commands go on in a read-only mount of it, with -I and -S:
no environment, no user site and no .pth file decides what is imported.
"""

import os
import sys
from pathlib import Path

VERSION = "0.1.0"
SPEC = "1.2.0"

_ENTERING = frozenset({"create", "run", "exec"})
# Collecting garbage while modules are loaded costs milliseconds and finds none.
_BOOT = (
    "import gc; gc.disable(); import sys; sys.path.append(sys.argv.pop(1)); from runtime.oci.main import main; main()"
)
_TREE = str(Path(__file__).resolve().parents[2])


def main() -> None:
    """Run the command line of `sys.argv`; never returns normally."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-v"]):
        try:
            print(version(), flush=True)
        except OSError as error:
            sys.exit(f"creche-oci: cannot write the version: {error.strerror}")
        return
    if not _ENTERING.isdisjoint(arguments) and os.geteuid() == 0:  # an id of that name costs some milliseconds
        _again(arguments)
    from runtime.oci.main import main as run

    run()


def version() -> str:
    """Return what `--version` prints."""
    return f"creche-oci version {VERSION}\nspec: {SPEC}\npython: {sys.version.split()[0]}"


def _again(arguments: list[str]) -> None:
    """Go on in the read-only interpreter; it is detached from every mount namespace, so nobody can remount it."""
    from runtime import syscalls

    tree = syscalls.open_tree(sys.executable)
    syscalls.mount_setattr(tree, set_flags=syscalls.MOUNT_ATTR_RDONLY)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        # a libpython that is looked for beside $ORIGIN: that mount has only the one file
        "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
    }
    command = [sys.executable, "-I", "-S", "-c", _BOOT, _TREE, *arguments]
    os.execve(f"/proc/self/fd/{tree}", command, environment)
