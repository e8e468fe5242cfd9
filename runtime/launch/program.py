"""The program of a container: where it is found, what it starts with, and the exec that a process ends in.

All of it runs between clone and exec, inside the container's root.
"""

import errno
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from runtime.launch.failures import CANNOT_START, NOT_EXECUTABLE, NOT_FOUND, StartFailure
from runtime.syscalls import Execution
from runtime.world import World

OPEN_FILES = 1024
"""The soft limit of open files that a program starts with; the launcher's own is higher (systemd's default, 1024)."""


class Program(NamedTuple):
    """What a process becomes."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    init: int | None  # a descriptor of a static init; None with `own_init` false: the program itself is pid 1
    own_init: bool
    umask: int = 0o022
    keep: int = 0  # so many of the caller's descriptors from 3 on reach the program (`--preserve-fds`)
    soft_files: int | None = OPEN_FILES  # None: the limit stays what it is
    keyring: bool = True  # whether it gets a session keyring of its own

    @classmethod
    def planned(cls, fields: Mapping[str, Any], init: int | None, own_init: bool) -> "Program":
        """Return the program of a plan (runtime.plan), whose own `init` says only whether there is to be one."""
        arguments: list[str] = fields["arguments"]
        return cls(
            tuple(arguments),
            fields["environment"],
            fields["directory"],
            init,
            own_init,
            fields.get("umask", 0o022),
            fields.get("keep", 0),
            fields.get("soft_files", OPEN_FILES),
        )


def enter_directory(path: str) -> None:
    """Enter the working directory as the user, and make sure that it is inside the root (CVE-2024-21626)."""
    what = f"enter the working directory {path}"
    try:
        os.chdir(path)
    except OSError as error:
        advice = "create it in the root filesystem, or correct workdir"
        raise StartFailure(what, error.errno, error.strerror or "", path, advice, CANNOT_START) from error
    try:
        inside = os.getcwd().startswith("/")
    except OSError:  # no path leads there: the C library looks for one where the kernel says so
        inside = False
    if not inside:
        raise StartFailure(what, None, "it is outside the root", path, None, CANNOT_START)


def environment_of(program: Program, world: World) -> dict[str, str]:
    """Return the program's environment, with a HOME in any case."""
    environment = dict(program.environment)
    environment.setdefault("HOME", world.account.home)
    return environment


def find_program(program: Program) -> str:
    """Return the path of the program as execvp finds it; raise StartFailure with 127 or 126 as a shell would say it."""
    name = program.arguments[0]
    what = f"exec {name!r}"
    candidates: list[str]
    if "/" in name:
        candidates, where = [name], "in the root filesystem"
    else:
        search = program.environment.get("PATH", "")
        candidates = [f"{part or '.'}/{name}" for part in search.split(":")]
        where = f"in PATH ({search})"
    refused: str | None = None
    for path in candidates:
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = refused or f"{path}: {error.strerror}"
            continue
        if stat.S_ISREG(mode) and os.access(path, os.X_OK):
            _check_interpreter(what, path)
            return path
        refused = refused or f"{path} is {'not executable' if stat.S_ISREG(mode) else 'not a regular file'}"
    if refused is not None:
        advice = "make it executable for the container's user, or name another program"
        raise StartFailure(what, errno.EACCES, refused, name, advice, NOT_EXECUTABLE)
    advice = "check the command's spelling and that the root filesystem has it"
    raise StartFailure(what, errno.ENOENT, f"no such program {where}", name, advice, NOT_FOUND)


def _check_interpreter(what: str, path: str) -> None:
    """Say it here when a script's interpreter is missing: an init could only end with 127."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return  # executable and not readable is allowed
    try:
        head = os.read(descriptor, 256)
    finally:
        os.close(descriptor)
    if not head.startswith(b"#!"):
        return
    words = head[2:].split(b"\n", 1)[0].split()
    interpreter = os.fsdecode(words[0]) if words else ""
    if interpreter and not os.path.exists(interpreter):
        message = f"the interpreter {interpreter!r} of the script {path} does not exist"
        advice = "install the interpreter in the root filesystem, or correct the script's first line"
        raise StartFailure(what, errno.ENOENT, message, interpreter, advice, NOT_FOUND)


def become(program: Program, path: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Execute the program, through its init where it has one; raise StartFailure with 127 or 126 where that fails."""
    try:
        if program.init is not None:
            os.execve(program.init, [*_INIT, path, *arguments[1:]], environment)
        os.execve(path, arguments, environment)
    except OSError as error:
        raise not_executed(program, path, error) from error


def execution_of(program: Program, path: str, world: World) -> Execution:
    """Return what `become` would execute."""
    environment = tuple(f"{name}={value}" for name, value in environment_of(program, world).items())
    if program.init is not None:
        return Execution("init", (*_INIT, path, *program.arguments[1:]), environment, program.init)
    return Execution(path, program.arguments, environment)


_INIT = ("init", "--")


def not_executed(program: Program, path: str, error: OSError) -> StartFailure:
    """Return what an execve that failed means, with 127 or 126."""
    what = f"exec {program.arguments[0]!r}"
    if error.errno == errno.ENOENT:
        message, code = f"the loader that {path} asks for does not exist", NOT_FOUND
    elif error.errno == errno.ENOEXEC:
        message, code = f"{path} is no program of this machine's kind and has no #! line", NOT_EXECUTABLE
    else:
        message, code = error.strerror or "", NOT_EXECUTABLE
    return StartFailure(what, error.errno, message, path, None, code)
