"""The launcher's part, for tests of the logger: it holds the pipes, starts and kills loggers, talks to them."""

import fcntl
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from runtime import logs, segments
from runtime.launch import logger


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def flooding(fd: int) -> Iterator[None]:
    """A child that writes numbered lines as fast as it can."""
    pid = os.fork()
    if not pid:
        try:
            for count in range(1 << 60):
                write_all(fd, b"".join(b"%d\n" % (count * 500 + line) for line in range(500)))
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Output:
    """One container's pipes, both ends of each; `out` and `err` are what the container writes to."""

    def __init__(self, name: str, directory: Path, max_size: int, max_files: int, pipe_size: int) -> None:
        self.request = {
            "op": "add",
            "name": name,
            "directory": str(directory),
            "max_size": max_size,
            "max_files": max_files,
        }
        self.name = name
        self.directory = directory
        self.writers: list[int] = []
        self.fds: list[int] = []
        for _ in logs.STREAMS:
            source, writer = os.pipe()
            staging = os.pipe()
            for pipe in (writer, staging[1]):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, pipe_size)
            self.writers.append(writer)
            self.fds += [source, *staging]
        self.out, self.err = self.writers

    def close(self) -> None:
        for fd in self.fds + self.writers:
            os.close(fd)

    def kept(self, stream: int) -> bytes:
        """What the disk holds of one stream."""
        suffix = segments.SUFFIXES[stream]
        files = (self.directory / segments.file_name(n, suffix) for n in segments.numbers(self.directory))
        return b"".join(file.read_bytes() for file in files)

    def records(self) -> list[segments.Record | None]:
        """Every record of the index, None for a damaged one."""
        found: list[segments.Record | None] = []
        for number in segments.numbers(self.directory):
            raw = (self.directory / segments.file_name(number, "idx")).read_bytes()
            found += [
                segments.unpack(raw[at : at + segments.RECORD_SIZE]) for at in range(0, len(raw), segments.RECORD_SIZE)
            ]
        return found

    def unindexed(self) -> int:
        """Bytes that no record covers."""
        missing = 0
        for segment in logs.segments(self.directory):
            raw = (self.directory / segments.file_name(segment.number, "idx")).read_bytes()
            last = segments.unpack(raw[-segments.RECORD_SIZE :]) if raw else segments.ZERO
            missing += segment.out + segment.err - (last.out + last.err if last else 0)
        return missing


class Rig:
    """Starts one logger at a time; leaving the block ends it and closes all pipes."""

    def __init__(self, root: Path, main: Callable[[int], int] = logger.main) -> None:
        self.root = root
        self.outputs: list[Output] = []
        self.pid = 0
        self._main = main
        self._channel: socket.socket | None = None

    @property
    def channel(self) -> socket.socket:
        assert self._channel, "no logger runs"
        return self._channel

    def output(self, name: str = "web", max_size: int = 64 << 20, max_files: int = 4, pipe_size: int = 65536) -> Output:
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        self.outputs.append(Output(name, directory, max_size, max_files, pipe_size))
        return self.outputs[-1]

    def start(self, before: Callable[[], None] | None = None, wait: bool = True) -> None:
        """Start a logger and give it every container."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(20)
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                if before:
                    before()
                status = self._main(theirs.fileno())
            except BaseException:  # noqa: BLE001  a forked child must not return into pytest
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(status)
        theirs.close()
        for output in self.outputs:
            self.send(output.request, output.fds)
            if wait:
                assert self.receive() == {"added": output.name}

    def send(self, request: object, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.channel, [json.dumps(request).encode()], fds)

    def receive(self) -> dict[str, Any]:
        return json.loads(self.channel.recv(65536))

    def ask(self, request: object, fds: Sequence[int] = ()) -> dict[str, Any]:
        self.send(request, fds)
        return self.receive()

    def add(self, output: Output) -> dict[str, Any]:
        return self.ask(output.request, output.fds)

    def flush(self, output: Output) -> None:
        assert self.ask({"op": "flush", "name": output.name}) == {"flushed": output.name}

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def end(self) -> int:
        """Close the channel; the logger's exit status."""
        self.channel.close()
        return self._reap()

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self.channel.close()
        self._channel = None
        return os.waitstatus_to_exitcode(status)

    def __enter__(self) -> "Rig":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            self.kill()
        for output in self.outputs:
            output.close()
