"""What the virtual machine is made of: two archives, a small one to start from and the whole system."""

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.vm import archive
from tests.vm.archive import Entry
from tests.vm.kernel import Kernel

CHECKOUT = Path(__file__).resolve().parents[2]
BUSYBOX = "/bin/busybox"
BASE = (  # merged /usr, as Debian has it
    *(archive.link(f"/{name}", f"usr/{name}") for name in ("bin", "sbin", "lib", "lib64")),
    *(archive.directory(f"/{name}") for name in ("proc", "sys", "dev", "run", "root", "home", "etc", "var/lib", "mnt")),
    archive.directory("/tmp", 0o1777),
    archive.directory("/var/tmp", 0o1777),
    archive.link("/etc/mtab", "/proc/self/mounts"),
)
PROGRAMS = (  # the host's own: a test sees inside what it sees outside
    *("sh", "dash", "bash", "cat", "cp", "ls", "mkdir", "rm", "rmdir", "ln", "mv", "chmod", "chown", "touch", "head"),
    *("tail", "sleep", "true", "false", "echo", "env", "id", "seq", "yes", "dd", "wc", "sort", "tr", "cut", "tee"),
    *("stat", "readlink", "realpath", "mknod", "mkfifo", "uname", "nproc", "timeout", "basename", "dirname", "test"),
    *("printf", "stty", "tty", "whoami", "grep", "sed", "awk", "mawk", "find", "xargs", "ps", "kill", "pgrep"),
    *("mount", "umount", "unshare", "nsenter", "setpriv", "taskset", "chrt", "ionice", "prlimit", "hostname", "df"),
    *("ip", "nft", "curl", "runc", "catatonit", "tini", "tini-static", "busybox", "ldd", "getent", "setsid", "script"),
)
LIBRARIES = ("libseccomp.so.2", "libnss_files.so.2", "libgcc_s.so.1")  # loaded at run time: nothing links them
DISTRIBUTIONS = ("creche", "pytest", "pytest-timeout", "hypothesis")
NOT_INSIDE = {"basedpyright", "ruff", "jsonschema"}  # of the tests' requirements: the laws and styles are read outside
DEVELOPMENT = ("libc6-dev", "linux-libc-dev")  # Debian's packages of headers and static libraries
CHECKED_OUT = ("creche.py", "pyproject.toml", "runtime", "supervisor", "net", "tests", "configs")
STANDARD_LIBRARY_WITHOUT = {"test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages"}
STANDARD_LIBRARY_WITHOUT |= {"dist-packages", "pydoc_data", "config-3.11-x86_64-linux-gnu"}
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


class Missing(RuntimeError):
    """Something of the host's that the machine is made of is not there."""


def initial(kernel: Kernel) -> list[Entry]:
    """What the kernel starts from: busybox, the modules, and a script that mounts the disk."""
    busybox = Path(BUSYBOX)
    if not busybox.exists() or _needed(str(busybox)):
        raise Missing(f"{BUSYBOX} is missing or not static: install busybox-static")
    modules = [
        archive.file(f"/modules/{number:03}-{path.name}", path.read_bytes())
        for number, path in enumerate(kernel.modules)
    ]
    script = Path(__file__).with_name("first.sh").read_bytes()
    return [
        archive.file("/init", script, 0o755),
        archive.file("/bin/busybox", busybox.read_bytes(), 0o755),
        *modules,
        *(archive.directory(f"/{name}") for name in ("dev", "proc", "new")),
    ]


def system(more: Iterable[Entry] = ()) -> Iterator[Entry]:
    """The whole system: programs, the Python that runs this with what the tests import, and this checkout."""
    yield from BASE
    yield from _programs(PROGRAMS)
    for name in LIBRARIES:
        yield from _program_file(_library(name))
    yield from _accounts()
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3")):
        yield from _python(python)
    yield from _site_packages()
    yield from _compiler()
    for name in CHECKED_OUT:
        yield from _tree(CHECKOUT / name)
    yield archive.file("/usr/sbin/second", Path(__file__).with_name("second.sh").read_bytes(), 0o755)
    yield from more


def _accounts() -> Iterator[Entry]:
    for path in ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf"):
        yield archive.file(path, Path(path).read_bytes())
    yield archive.file("/etc/hosts", b"127.0.0.1 localhost\n")
    yield archive.file("/etc/hostname", b"machine\n")
    yield archive.file("/etc/resolv.conf", b"")
    yield archive.file("/etc/os-release", b'ID=creche\nNAME="creche tests"\n')


def _programs(names: Iterable[str]) -> Iterator[Entry]:
    path = os.pathsep.join(("/usr/bin", "/usr/sbin", "/bin", "/sbin"))
    for name in names:
        found = shutil.which(name, path=path)
        if found is not None:
            yield from _program_file(found)


def _program_file(path: str) -> Iterator[Entry]:
    """A program or library at its own path, with the links that lead to it and the libraries that it needs."""
    yield from _as_it_is(path)
    for library in _needed(os.path.realpath(path)):
        yield from _as_it_is(library)


def _as_it_is(path: str) -> Iterator[Entry]:
    """A file with every symbolic link on the way to it, at its place under a merged /usr."""
    while True:
        place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        state = os.lstat(place)
        if not stat.S_ISLNK(state.st_mode):
            yield _entry(Path(place), state)
            return
        target = os.readlink(place)
        yield archive.link(place, target)
        path = os.path.join(os.path.dirname(place), target)


def _entry(path: Path, state: os.stat_result) -> Entry:
    return Entry(str(path), stat.S_IFREG | stat.S_IMODE(state.st_mode), path.read_bytes(), int(state.st_mtime))


@cache
def _needed(path: str) -> tuple[str, ...]:
    """The libraries, the loader among them, that an ELF file is run with; none for scripts and static programs."""
    with Path(path).open("rb") as opened:
        if opened.read(4) != b"\x7fELF":
            return ()
    done = subprocess.run(["ldd", path], capture_output=True, text=True, timeout=30, check=False)
    return tuple(_LIBRARY.findall(done.stdout))


def _library(name: str) -> str:
    done = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=30, check=True)
    found = re.search(rf"^\s*{re.escape(name)} \([^)]*x86-64[^)]*\) => (\S+)", done.stdout, re.MULTILINE)
    if found is None:
        raise Missing(f"{name} is not installed: .ci/run installs what the machine is made of")
    return found[1]


def _python(executable: str) -> Iterator[Entry]:
    """An interpreter with its standard library, at the same paths; a virtual environment's links lead to it."""
    yield from _program_file(executable)
    if os.path.realpath(executable) == os.path.realpath(sys.executable):
        home = Path(sysconfig.get_path("stdlib"))
        settings = Path(sys.prefix, "pyvenv.cfg")
        if settings.exists():
            yield from _as_it_is(str(settings))
    else:
        command = [executable, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]
        home = Path(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip())
    for entry in _tree(home, STANDARD_LIBRARY_WITHOUT):
        yield entry
        if entry.path.endswith(".so"):
            for library in _needed(entry.path):
                yield from _as_it_is(library)


def _site_packages() -> Iterator[Entry]:
    """The files of the distributions that the tests need, and of those that these need."""
    waiting = list(DISTRIBUTIONS)
    seen = set(NOT_INSIDE)
    while waiting:
        name = _plain(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        found = _installed(name)
        if found is None:
            continue  # for another system or version of Python, or an extra that nobody asked for
        if name != "creche":
            waiting += [requirement for requirement in found.requires or () if "extra ==" not in requirement]
        else:
            waiting += found.requires or ()
        for path in found.files or ():
            real = Path(str(path.locate())).resolve()
            if real.is_file() and not real.name.startswith("__editable__"):
                yield from _program_file(str(real))
                for compiled in real.parent.glob(f"__pycache__/{real.stem}.*-pytest-*.pyc"):  # in no package's list
                    yield from _as_it_is(str(compiled))
    yield archive.file(f"{sysconfig.get_path('purelib')}/checkout.pth", f"{CHECKOUT}\n".encode())


def _installed(name: str) -> importlib.metadata.Distribution | None:
    """What this Python has installed: not what a build left in the working directory, which knows no commands."""
    places = list(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    return next(iter(importlib.metadata.distributions(name=name, path=places)), None)


def _plain(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0]).lower() if name else requirement


def _compiler() -> Iterator[Entry]:
    """gcc for C, statically linked: what tests compile outside they compile inside, too."""
    wanted = [shutil.which(name) for name in ("gcc", "as", "ld")]
    for name in ("cc1", "collect2"):
        wanted.append(_asked(f"-print-prog-name={name}"))
    for path in wanted:
        if path is None or not os.path.isabs(path):
            raise Missing("gcc is missing or not whole: install gcc and libc6-dev")
        yield from _program_file(path)
    own = Path(_asked("-print-libgcc-file-name")).parent
    parts = [*own.glob("*.o"), *own.glob("libgcc*.a"), own / "liblto_plugin.so"]
    listed = subprocess.run(["dpkg", "-L", *DEVELOPMENT], capture_output=True, text=True, timeout=30, check=True)
    parts += [Path(path) for path in listed.stdout.split("\n") if path.startswith(("/usr/include/", "/usr/lib/"))]
    for part in parts:
        if part.is_file() and part.suffix != ".gz":
            yield from _program_file(str(part)) if part.suffix == ".so" else _as_it_is(str(part))
    yield from _tree(own / "include")


def _asked(question: str) -> str:
    done = subprocess.run(["gcc", question], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def _tree(top: Path, without: Iterable[str] = ()) -> Iterator[Entry]:
    """All below a directory, or one file; compiled Python too, which would take long inside."""
    if top.is_file():
        yield _entry(top, top.stat())
        return
    left_out = {*without, ".hypothesis", ".pytest_cache"}
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if name not in left_out]
        yield archive.directory(directory)
        for name in files:
            path = Path(directory, name)
            try:
                state = path.lstat()
                if stat.S_ISLNK(state.st_mode):
                    yield archive.link(str(path), os.readlink(path))
                elif stat.S_ISREG(state.st_mode) and not name.endswith((".a", ".opt-1.pyc", ".opt-2.pyc")):
                    yield _entry(path, state)
            except FileNotFoundError:
                continue  # somebody's temporary file
