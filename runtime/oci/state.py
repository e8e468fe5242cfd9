"""What is remembered of a container under --root: a directory with a lock, its record, its config and two FIFOs.

    <root>/<id>/           0700
        lock               flock(2): held by whoever changes the container
        state.json         the record, replaced atomically
        config.json        the config that it was made from
        go, report         FIFOs: pid 1 waits on the one and reports on the other until it executes its program

Only what cannot be seen is remembered: whether pid 1 lives, has executed its program or is frozen is asked of the
kernel.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.oci.boot import SPEC
from runtime.oci.log import OciError

_ID = re.compile(r"[A-Za-z0-9_+.-]{1,1024}")
NOT_THERE = "container does not exist"


class Record(NamedTuple):
    """The remembered part of a container."""

    id: str
    bundle: str
    rootfs: str
    created: str  # RFC 3339
    owner: str
    annotations: dict[str, str]
    cgroup: str  # the path in every hierarchy below `own` or the mount
    own: bool  # whether `cgroup` is below the cgroup that creche-oci ran in
    places: tuple[str, ...]  # the directories, one a hierarchy
    maker: tuple[int, int]  # pid and start time of the `create` that makes it
    pid: int = 0
    born: int = 0  # pid's start time in ticks: with it the pid is nobody else's (proc_pid_stat(5), field 22)
    made: bool = False  # whether `create` came to its end

    def pack(self) -> str:
        """Return the record as its file has it."""
        return json.dumps(self._asdict(), indent=1)

    @classmethod
    def unpack(cls, text: str) -> "Record":
        """Read a record; raise OciError where it is none."""
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["places"], fields["maker"] = tuple(fields["places"]), tuple(fields["maker"])
            return cls(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise OciError(
                f"the container's state.json is damaged ({error}): delete the container with --force"
            ) from error


def checked(identifier: str) -> str:
    """Return the id, or raise OciError where it could be anything but one path component."""
    if _ID.fullmatch(identifier) is None or identifier in (".", ".."):
        raise OciError(
            f"invalid container id {identifier!r}: it may have letters, digits and _ + - . (and not be . or ..)"
        )
    return identifier


class Directory:
    """One container's directory, locked while the block lasts."""

    def __init__(self, root: Path, identifier: str) -> None:
        self.id = checked(identifier)
        self.root = root
        self.path = root / self.id
        self._lock = -1

    def file(self, name: str) -> str:
        """Return a path inside."""
        return f"{self.path}/{name}"

    def make(self) -> None:
        """Make and lock the directory; raise OciError where the id is taken."""
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise OciError(f"container with given ID already exists: {self.id}") from error
        self.lock()

    def lock(self, wait: bool = True) -> bool:
        """Lock it; False where somebody else has it and `wait` is false. Raises OciError where there is none."""
        kind = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        while True:
            try:
                self._lock = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise OciError(f"{NOT_THERE}: {self.id}") from error
            try:
                fcntl.flock(self._lock, kind)
            except BlockingIOError:
                self.unlock()
                return False
            if os.fstat(self._lock).st_nlink:
                return True
            self.unlock()  # it was deleted while we waited, and may have been made anew

    def unlock(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def record(self) -> Record:
        """Return the record; raise OciError where there is none."""
        try:
            return Record.unpack(Path(self.file("state.json")).read_text())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise OciError(f"{NOT_THERE}: {self.id}") from error

    def config(self) -> dict[str, Any]:
        """Return the config that the container was made from."""
        config: dict[str, Any] = json.loads(Path(self.file("config.json")).read_text())
        return config

    def write(self, name: str, text: str) -> None:
        """Replace a file of the directory atomically."""
        replace(self.file(name), text, 0o600)

    def fifos(self) -> None:
        """Make the two FIFOs."""
        for name in ("go", "report"):
            os.mkfifo(self.file(name), 0o600)

    def remove(self) -> None:
        """Remove the directory, its lock last: who waits for that one sees that it is gone."""
        if not self.path.is_dir():
            return
        for entry in os.listdir(self.path):
            if entry != "lock":
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.file(entry)) if not os.path.isdir(self.file(entry)) else shutil.rmtree(
                        self.file(entry)
                    )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file("lock"))
        with contextlib.suppress(FileNotFoundError):
            self.path.rmdir()

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *_: object) -> None:
        self.unlock()


def opened(root: Path, identifier: str) -> Directory:
    """Return the locked directory of a container that exists."""
    directory = Directory(root, identifier)
    if not directory.path.is_dir():
        raise OciError(f"{NOT_THERE}: {identifier}")
    directory.lock()
    return directory


def replace(path: str, text: str, mode: int) -> None:
    """Write a file beside `path` and give it that name: a reader sees the old one or the new one."""
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def identifiers(root: Path) -> Iterator[str]:
    """Yield the ids under `root`, sorted."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        if _ID.fullmatch(name) and (root / name / "state.json").exists():
            yield name


def birth_of(pid: int) -> tuple[int, str] | None:
    """Return a process's start time in ticks and its state's letter, None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19]), fields[0].decode()


def lives(pid: int, born: int) -> bool:
    """Return whether that very process is there and no zombie."""
    found = birth_of(pid) if pid else None
    return found is not None and found[0] == born and found[1] not in "ZX"


def waits(fifo: str) -> bool:
    """Return whether a process still holds the FIFO open for reading: pid 1 does until it executes its program."""
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def frozen(places: tuple[str, ...]) -> bool:
    """Return whether the cgroup is frozen, as the kernel says in one of its directories (v1 freezer, v2)."""
    for place in places:
        for file, words in (("freezer.state", ("FROZEN", "FREEZING")), ("cgroup.freeze", ("1",))):
            try:
                with open(f"{place}/{file}") as opened_file:  # noqa: PTH123
                    if opened_file.read().strip() in words:
                        return True
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTDIR):
                    raise
    return False


def status(directory: Directory, record: Record) -> str:
    """Return the container's status: creating, created, running, paused or stopped (runtime.md, "State")."""
    if not record.made:
        return "creating" if lives(*record.maker) else "stopped"
    if not lives(record.pid, record.born):
        return "stopped"
    if frozen(record.places):
        return "paused"
    return "created" if waits(directory.file("go")) else "running"


def document(record: Record, status: str, pid: int | None = None) -> dict[str, Any]:
    """Return OCI's state (runtime.md, "State")."""
    found: dict[str, Any] = {
        "ociVersion": SPEC,
        "id": record.id,
        "pid": 0 if status == "stopped" else (record.pid if pid is None else pid),
        "status": status,
        "bundle": record.bundle,
    }
    if record.annotations:
        found["annotations"] = record.annotations
    return found


def listed(record: Record, status: str) -> dict[str, Any]:
    """Return the state with the fields that runc adds to it."""
    more = {"rootfs": record.rootfs, "created": record.created, "owner": record.owner}
    return {**document(record, status), **more}
