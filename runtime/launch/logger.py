"""The logger: the one process that moves every container's output to disk, by splice, and loses nothing when killed.

    source pipe ──splice──▶ staging pipe ──splice──▶ NNNNNN.out / .err,  then one record to NNNNNN.idx

Each arrow is one system call that takes bytes from one place exactly as it puts them into the other, so a SIGKILL at
any point neither loses nor doubles any. The launcher holds both pipes; the next logger adopts what the staging pipe
still holds and goes on at the files' sizes. `runtime.segments` describes the files, `runtime.logs` reads them.

Messages on the SOCK_SEQPACKET channel, JSON, about one container each:

    launcher                                        logger
    {"op": "add", "name": N, "directory": D,
     "max_size": B, "max_files": K}  + 6 fds   ──▶
                                               ◀──  {"added": N}
    {"op": "flush", "name": N}                 ──▶
                                               ◀──  {"flushed": N}     what the pipes held is on disk
    {"op": "remove", "name": N}                ──▶
                                               ◀──  {"removed": N, "left": bytes}   drained; 0 unless in trouble
                                               ◀──  {"trouble": N, "errno": E, "message": M}   once; retried each second
                                               ◀──  {"recovered": N}
    anything refused                           ◀──  {"error": why, "name": N or null}   also a flush while in trouble
    end of the channel                         ──▶  all drained, exit 0

The six fds: stdout's source (read end), its staging pipe (read, write), the same for stderr. Each container's log takes
at most max_size x max_files bytes at any moment, index included; 0 files keep nothing. One file is kept as two halves,
so that rotation never leaves the log empty. While the disk refuses, output waits in the pipes and then holds its
container back, and no other.

Standard library only, and nothing imported once `main` runs: the process is cloned from the launcher.
"""

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import termios
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from runtime.segments import RECORD_SIZE, SUFFIXES, ZERO, Record, file_name, numbers, pack, unpack

CHUNK = 1 << 20
"""Bytes moved for one stream before the others get their turn."""

RETRY_SECONDS = 1.0
SMALLEST_SIZE = 512
"""The least max_size that leaves room for bytes beside their records."""

_EVENTS = 256
_MESSAGE = 1 << 16
_DESCRIPTORS = 253
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)


def _held(pipe: int) -> int:
    """How many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), "little")


class _Segment:
    """The segment that is written: three open files whose sizes say where to go on."""

    def __init__(self, directory: int, number: int) -> None:
        self.number = number
        self._fds: list[int] = []
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            for suffix in SUFFIXES:
                self._fds.append(os.open(file_name(number, suffix), flags, 0o600, dir_fd=directory))
            self.ends = [os.fstat(fd).st_size for fd in self._fds[:2]]
            self._records = os.fstat(self._fds[2]).st_size // RECORD_SIZE
            self.noted = self._last_good()
            os.ftruncate(self._fds[2], self._records * RECORD_SIZE)
        except OSError:
            self.close()
            raise

    def _last_good(self) -> Record:
        """The last record that holds; torn ones, and after a power cut ones that promise too much, are dropped."""
        while self._records:
            record = unpack(os.pread(self._fds[2], RECORD_SIZE, (self._records - 1) * RECORD_SIZE))
            if record and record.out <= self.ends[0] and record.err <= self.ends[1]:
                return record
            self._records -= 1
        return ZERO

    @property
    def size(self) -> int:
        """Bytes used, with room for one record that may still have to be written."""
        return sum(self.ends) + (self._records + 1) * RECORD_SIZE

    def take(self, stream: int, pipe: int, count: int) -> int:
        moved = os.splice(pipe, self._fds[stream], count, offset_dst=self.ends[stream], flags=os.SPLICE_F_NONBLOCK)
        self.ends[stream] += moved
        return moved

    def note(self, last_ns: int) -> int:
        """Write the record of what came since the last one, if anything did. Returns the log's latest time."""
        record = Record(max(time.time_ns(), last_ns), *self.ends)
        if record[1:] == self.noted[1:]:
            return last_ns
        written = os.pwrite(self._fds[2], pack(record), self._records * RECORD_SIZE)
        if written < RECORD_SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file_name(self.number, "idx"))
        self._records += 1
        self.noted = record
        return record.time_ns

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


class _Sink(Protocol):
    def take(self, stream: int, pipe: int, count: int) -> int: ...
    def settle(self) -> None: ...
    def close(self) -> None: ...


class _Log:
    """One container's log within its cap. Every OSError leaves it as it was, to be tried again."""

    def __init__(self, directory: int, max_size: int, max_files: int) -> None:
        if max_files == 1:
            max_size, max_files = max_size // 2, 2
        self._directory = directory
        self._max_size = max_size
        self._max_files = max_files
        # Room for three half-filled blocks, so that the cap holds for blocks too unless it is tiny.
        self._limit = max_size - min(3 * 4096, max_size // 8)
        self._segment: _Segment | None = None
        self._last_ns = 0
        self._adopted = False

    def take(self, stream: int, pipe: int, count: int) -> int:
        """Move up to `count` bytes; less where the segment ends, where the disk is full, or at a signal."""
        segment = self._ready()
        moved = segment.take(stream, pipe, min(count, self._limit - segment.size))
        self._last_ns = segment.note(self._last_ns)
        return moved

    def settle(self) -> None:
        """Write the record that an earlier logger, or a full disk, has left out."""
        segment = self._segment or self._ready()
        self._last_ns = segment.note(self._last_ns)

    def close(self) -> None:
        if self._segment:
            self._segment.close()
        os.close(self._directory)

    def _ready(self) -> _Segment:
        """A segment with room for a worthwhile piece."""
        if not self._adopted:
            self._adopt()
        if self._segment:
            self._last_ns = self._segment.note(self._last_ns)
            if self._limit - self._segment.size > self._limit // 64:
                return self._segment
        found = numbers(self._directory, SUFFIXES)
        self._make_room(found)
        segment = _Segment(self._directory, found[-1] + 1 if found else 1)
        if self._segment:
            self._segment.close()
        self._segment = segment
        return segment

    def _adopt(self) -> None:
        """Go on with the newest segment; its times go on from the last one in the log.

        A logger whose launcher died may still be draining into the same log: waiting for its lock is trouble like any.
        """
        fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, whole = numbers(self._directory, SUFFIXES), numbers(self._directory)
        for number in [n for n in found[:-1] if n not in whole]:
            _delete(self._directory, number)
            found.remove(number)
        for number in reversed(found):
            segment = _Segment(self._directory, number)
            self._last_ns = segment.noted.time_ns
            if number == found[-1]:
                self._segment = segment
            else:
                segment.close()
            if self._last_ns:
                break
        self._adopted = True
        if len(found) > 1:
            self._make_room(found[:-1], keep=self._max_files - 1)

    def _make_room(self, found: Sequence[int], keep: int | None = None) -> None:
        """Delete the oldest segments until those that stay leave a whole segment of the cap free."""
        stay = self._max_files - 1 if keep is None else keep
        sizes = [self._bytes(number) for number in found]
        while len(sizes) > stay or sum(sizes) > stay * self._max_size:
            _delete(self._directory, found[-len(sizes)])
            del sizes[0]

    def _bytes(self, number: int) -> int:
        total = 0
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(file_name(number, suffix), dir_fd=self._directory).st_size
        return total


class _Nothing:
    """The log of a container that keeps none: bytes are taken and dropped."""

    def __init__(self, directory: int) -> None:
        try:
            for number in numbers(directory, SUFFIXES):
                _delete(directory, number)
        finally:
            os.close(directory)
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def take(self, stream: int, pipe: int, count: int) -> int:
        return os.splice(pipe, self._null, count, flags=os.SPLICE_F_NONBLOCK)

    def settle(self) -> None:
        """Nothing is ever owed."""

    def close(self) -> None:
        os.close(self._null)


def _delete(directory: int, number: int) -> None:
    """Delete a segment, its index first: without one it is none for any reader."""
    for suffix in reversed(SUFFIXES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file_name(number, suffix), dir_fd=directory)


class _Stream(NamedTuple):
    """One output of a container: the read end of its pipe and both ends of the staging pipe."""

    number: int
    source: int
    staging_read: int
    staging_write: int

    def fill(self) -> int | None:
        """Take a chunk of what waits into the staging pipe. None: nothing waits; 0: the end, nobody can write."""
        try:
            return os.splice(self.source, self.staging_write, CHUNK, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal's way to say the end
                return 0
            raise


class _Container:
    """One container's two streams and its log."""

    def __init__(self, name: str, log: _Sink, fds: Sequence[int]) -> None:
        self.name = name
        self.streams = (_Stream(0, *fds[:3]), _Stream(1, *fds[3:]))
        self.open = list(self.streams)
        self._log = log

    def store(self) -> None:
        """Move all that the staging pipes hold to disk. OSError where the disk refuses; nothing is lost by it."""
        for stream in self.streams:
            while held := _held(stream.staging_read):
                self._log.take(stream.number, stream.staging_read, held)
        self._log.settle()

    def left(self) -> int:
        return sum(_held(pipe) for stream in self.streams for pipe in (stream.source, stream.staging_read))

    def close(self) -> None:
        self._log.close()
        for stream in self.streams:
            for fd in stream[1:]:
                os.close(fd)


class Refused(Exception):
    """A message that is not carried out; the text says why."""


class _Logger:
    """The loop: one epoll over the channel and every source pipe, asleep while nothing is written."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._ended = False
        self._answers: deque[bytes] = deque()
        self._answers_wait = False
        self._containers: dict[str, _Container] = {}
        self._sources: dict[int, tuple[_Container, _Stream]] = {}
        self._troubled: set[_Container] = set()
        self._retry_at = 0.0
        self._epoll = select.epoll()
        self._epoll.register(channel, select.EPOLLIN)

    def run(self) -> None:
        channel = self._channel.fileno()
        while not self._ended:
            patience = max(0.0, self._retry_at - time.monotonic()) if self._troubled else None
            # The kernel hands out ready descriptors in turn, so that a flood never starves the quiet ones.
            for fd, events in self._epoll.poll(patience, _EVENTS):
                if fd == channel:
                    if events & select.EPOLLOUT:
                        self._send()
                    if events & ~select.EPOLLOUT:
                        self._receive()
                elif place := self._sources.get(fd):
                    self._move(*place)
            if self._troubled and time.monotonic() >= self._retry_at:
                for container in tuple(self._troubled):
                    self._retry(container)
                self._retry_at = time.monotonic() + RETRY_SECONDS
        for container in tuple(self._containers.values()):
            self._drain(container)

    # Bytes

    def _move(self, container: _Container, stream: _Stream) -> int:
        """Move one chunk; returns its bytes, 0 when there is nothing, no more, or trouble."""
        try:
            moved = stream.fill()
            if moved:
                container.store()
        except OSError as error:
            self._trouble(container, error)
            return 0
        if moved == 0:
            self._unwatch(stream)
            container.open.remove(stream)
        return moved or 0

    def _drain(self, container: _Container) -> None:
        """Move what the pipes hold at this moment, and not what a busy writer adds meanwhile."""
        if container in self._troubled:
            self._retry(container)
        for stream in tuple(container.open):
            due = _held(stream.source)
            while due > 0 and container not in self._troubled and (moved := self._move(container, stream)):
                due -= moved

    def _trouble(self, container: _Container, error: OSError) -> None:
        """Leave the container's output in its pipes until the disk takes it again."""
        for stream in container.open:
            self._unwatch(stream)
        if not self._troubled:
            self._retry_at = time.monotonic() + RETRY_SECONDS
        self._troubled.add(container)
        self._answer({"trouble": container.name, "errno": error.errno, "message": str(error)})

    def _retry(self, container: _Container) -> None:
        try:
            container.store()
        except OSError:
            return  # told when it began; the next try is a second away
        self._troubled.remove(container)
        for stream in container.open:
            self._watch(container, stream)
        self._answer({"recovered": container.name})

    def _watch(self, container: _Container, stream: _Stream) -> None:
        self._epoll.register(stream.source, select.EPOLLIN)
        self._sources[stream.source] = container, stream

    def _unwatch(self, stream: _Stream) -> None:
        # Never left to close(): the launcher holds the same pipe, and epoll would go on telling about it.
        if self._sources.pop(stream.source, None):
            self._epoll.unregister(stream.source)

    # Messages

    def _receive(self) -> None:
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            message, fds, flags, _ = socket.recv_fds(self._channel, _MESSAGE, _DESCRIPTORS, flags)
        except BlockingIOError:
            return
        except ConnectionResetError:
            message, fds, flags = b"", [], 0
        if not message and not fds:
            self._ended = True
            return
        name: object = None
        refusal: str | None = None
        try:
            request = _request(message, flags)
            name = request.get("name")
            if flags & socket.MSG_CTRUNC:
                raise Refused("descriptors were lost on the way: the logger may not open more (RLIMIT_NOFILE)")
            self._carry_out(request, fds)
        except (Refused, OSError) as error:
            refusal = str(error)
        for fd in fds:
            os.close(fd)
        if refusal is not None:
            self._answer({"error": refusal, "name": name})

    def _carry_out(self, request: Mapping[str, Any], fds: list[int]) -> None:
        match request:
            case {
                "op": "add",
                "name": str(name),
                "directory": str(directory),
                "max_size": int(max_size),
                "max_files": int(max_files),
            }:
                self._add(name, directory, max_size, max_files, fds)
            case {"op": "flush", "name": str(name)}:
                container = self._find(name)
                self._drain(container)
                if container in self._troubled:
                    raise Refused(f"the log of {name} cannot be written now")
                self._answer({"flushed": name})
            case {"op": "remove", "name": str(name)}:
                self._remove(self._find(name))
            case _:
                raise Refused(f"not a message for the logger: {json.dumps(request)[:200]}")

    def _find(self, name: str) -> _Container:
        if name not in self._containers:
            raise Refused(f"no container {name} here")
        return self._containers[name]

    def _add(self, name: str, directory: str, max_size: int, max_files: int, fds: list[int]) -> None:
        if name in self._containers:
            raise Refused(f"container {name} is here already")
        if len(fds) != 6:
            raise Refused(f"container {name} came with {len(fds)} descriptors instead of 6")
        if not all(stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) for mode in (os.fstat(fd).st_mode for fd in fds)):
            raise Refused(f"container {name} came with descriptors that are neither pipes nor terminals")
        if max_files < 0 or (max_files and max_size < SMALLEST_SIZE):
            raise Refused(f"a log of {max_files} files of {max_size} bytes: the least is {SMALLEST_SIZE} bytes")
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        log = _Log(place, max_size, max_files) if max_files else _Nothing(place)
        container = _Container(name, log, tuple(fds))
        fds.clear()
        self._containers[name] = container
        for stream in container.streams:
            self._watch(container, stream)
        try:
            container.store()
        except OSError as error:
            self._answer({"added": name})
            self._trouble(container, error)
        else:
            self._answer({"added": name})

    def _remove(self, container: _Container) -> None:
        self._drain(container)
        left = container.left()
        for stream in container.open:
            self._unwatch(stream)
        self._troubled.discard(container)
        del self._containers[container.name]
        container.close()
        self._answer({"removed": container.name, "left": left})

    def _answer(self, fields: Mapping[str, Any]) -> None:
        self._answers.append(json.dumps(fields).encode())
        self._send()

    def _send(self) -> None:
        """Send what the launcher takes now; it must never hold the logger up."""
        try:
            while self._answers:
                self._channel.send(self._answers[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._answers.popleft()
        except BlockingIOError:
            pass  # the rest goes when epoll says so
        except (BrokenPipeError, ConnectionResetError):
            self._answers.clear()  # nobody is left to read them, which the next receive finds too
        if self._answers_wait != bool(self._answers):
            self._answers_wait = bool(self._answers)
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._answers_wait else 0)
            self._epoll.modify(self._channel, wanted)


def _request(message: bytes, flags: int) -> Mapping[str, Any]:
    if flags & socket.MSG_TRUNC:
        raise Refused(f"a message of more than {_MESSAGE} bytes")
    try:
        request: object = json.loads(message.decode())
    except ValueError as error:
        raise Refused(f"a message that is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise Refused("a message that is not a JSON object")
    return cast("Mapping[str, Any]", request)


def main(channel: int) -> int:
    """Serve the channel until its other end is closed; returns the exit status.

    For a process of its own: closes every other descriptor above 2, ignores the signals that a terminal or a service
    manager sends to everybody (it ends after the containers, by its channel), and may open as many files as it can.
    """
    os.closerange(3, channel)
    os.closerange(channel + 1, 1 << 30)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with socket.socket(fileno=channel) as connection:
        _Logger(connection).run()
    return 0
