"""The commands' end of the control socket: synchronous HTTP by h11 on a plain unix socket; no trio, quick to import."""

import contextlib
import errno
import json
import os
import select
import socket
import struct
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import h11

REPLY_LIMIT = 64 << 20  # bytes of one whole reply
LINE_LIMIT = 16 << 20  # bytes of one line of a stream
_PATH_LIMIT = 107

Query = Mapping[str, str | int | float | bool | Sequence[str] | None]


class ControlError(Exception):
    """The control socket could not be used; the text says what happened and what to do."""


class NoSupervisor(ControlError):
    """Nothing listens on the app's control socket."""


class Refusal(ControlError):
    """The supervisor answered with an error: its status code and its sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def socket_path(run: Path, app: str) -> Path:
    """Where an app's supervisor listens."""
    return run / app / "control.sock"


def running(run: Path) -> list[str]:
    """The names of the apps whose supervisor listens, sorted."""
    try:
        names = sorted(entry.name for entry in os.scandir(run) if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise ControlError(f"{run} may not be read ({error.strerror}); run as its owner, as root for now") from error
    return [name for name in names if listens(run, name)]


def listens(run: Path, app: str) -> bool:
    """Whether the app's supervisor accepts connections."""
    try:
        _connect(socket_path(run, app), 1.0).close()
    except (OSError, NoSupervisor):
        return False
    return True


class Client:
    """A client of one app's supervisor; one connection per request."""

    def __init__(self, run: Path, app: str) -> None:
        self.app: Final = app
        self.path: Final = socket_path(run, app)

    def get(self, path: str, *, patience: float | None = 30.0, **query: Any) -> Any:
        """The JSON answer to a GET; `patience` in seconds bounds each wait for bytes. Raises `ControlError`."""
        return self._whole("GET", path, query, patience)

    def post(self, path: str, *, patience: float | None = None, body: Any = None, **query: Any) -> Any:
        """The JSON answer to a POST, None for an empty one; by default it waits as long as the work takes."""
        return self._whole("POST", path, query, patience, body)

    def hijack(self, path: str, body: Any) -> tuple[socket.socket, bytes]:
        """POST for a connection that becomes a byte stream: the socket, the caller's to close, and its first bytes."""
        http = h11.Connection(h11.CLIENT)
        data = json.dumps(body).encode()
        headers = [
            ("Host", "creche"),
            ("Connection", "Upgrade"),
            ("Upgrade", "tcp"),
            ("Content-Type", "application/json"),
        ]
        request = h11.Request(method="POST", target=quote(path), headers=[*headers, ("Content-Length", str(len(data)))])
        with contextlib.ExitStack() as undo, self._explained():
            peer = undo.enter_context(self._connected(30.0))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # an early refusal is still read below
                peer.sendall(
                    b"".join(http.send(event) or b"" for event in (request, h11.Data(data=data), h11.EndOfMessage()))
                )
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(peer.recv(64 << 10))
            if isinstance(event, h11.Response):
                rest = b"".join(bytes(each.data) for each in _events(http, peer) if isinstance(each, h11.Data))
                raise Refusal(event.status_code, self._sentence(rest, event.status_code))
            if not isinstance(event, h11.InformationalResponse) or event.status_code != 101:
                raise ConnectionResetError(errno.ECONNRESET, "it closed the connection without an answer")
            peer.settimeout(None)
            undo.pop_all()
            return peer, http.trailing_data[0]

    def lines(self, path: str, *, patience: float | None = None, **query: Any) -> Iterator[Any]:
        """The JSON documents of a streamed answer, as they come; a stream that is cut short raises `ControlError`."""
        with self._exchange("GET", path, query, patience) as chunks:
            buffer = bytearray()
            for chunk in chunks:
                buffer += chunk
                *complete, rest = bytes(buffer).split(b"\n")
                buffer = bytearray(rest)
                if len(buffer) > LINE_LIMIT:
                    raise ControlError(f"{self.path} sent a line larger than {LINE_LIMIT} bytes")
                for text in complete:
                    yield self._parsed(text)

    def supervisor(self) -> int:
        """The pid of the process that listens (SO_PEERCRED, unix(7))."""
        with self._connected(5.0) as peer:
            return _peer(peer)

    @contextlib.contextmanager
    def outliving(self) -> Generator["Departure"]:
        """Hold on to the supervisor's process, so that its end can be awaited after it was asked to go."""
        pid = self.supervisor()
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            descriptor = -1
        try:
            yield Departure(pid, descriptor)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _whole(self, method: str, path: str, query: Query, patience: float | None, body: Any = None) -> Any:
        with self._exchange(method, path, query, patience, body) as chunks:
            reply = bytearray()
            for chunk in chunks:
                reply += chunk
                if len(reply) > REPLY_LIMIT:
                    raise ControlError(f"{self.path} sent more than {REPLY_LIMIT} bytes")
        return self._parsed(bytes(reply)) if reply else None

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, query: Query, patience: float | None, body: Any = None
    ) -> Generator[Iterator[bytes]]:
        """Send one request and give the body's pieces; raises `Refusal` for an error status."""
        target = f"{quote(path)}?{urlencode(_plain(query), doseq=True)}".rstrip("?")
        http = h11.Connection(h11.CLIENT)
        data = b"" if body is None else json.dumps(body).encode()
        headers = [("Host", "creche"), ("Connection", "close"), ("Content-Length", str(len(data)))]
        with self._connected(patience) as peer, self._explained():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # an early refusal is still read below
                head = http.send(h11.Request(method=method, target=target, headers=headers)) or b""
                peer.sendall(head + (http.send(h11.Data(data=data)) or b""))
                http.send(h11.EndOfMessage())
            pieces = _events(http, peer)
            response = next(pieces)
            assert isinstance(response, h11.Response)
            parts = (bytes(event.data) for event in pieces if isinstance(event, h11.Data))
            if response.status_code >= 400:
                raise Refusal(response.status_code, self._sentence(b"".join(parts), response.status_code))
            yield parts

    def _connected(self, timeout: float | None) -> socket.socket:
        try:
            return _connect(self.path, timeout)
        except OSError as error:
            raise ControlError(
                f"{self.path} cannot be used: {error.strerror}; run as its owner, as root for now"
            ) from error

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except TimeoutError as error:
            raise ControlError(f"the supervisor of {self.app} did not answer in time ({self.path})") from error
        except (h11.ProtocolError, ConnectionError) as error:
            raise ControlError(
                f"the supervisor of {self.app} ended the connection before its answer was complete ({error}); "
                f"`creche ps {self.app}` shows what is left"
            ) from error

    def _parsed(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise ControlError(f"{self.path} answered with something that is not JSON: {text[:100]!r}") from error

    def _sentence(self, body: bytes, status: int) -> str:
        try:
            document: Any = json.loads(body)
            return str(document["message"])
        except (ValueError, KeyError, TypeError):
            return f"the supervisor of {self.app} answered with status {status}: {body[:200]!r}"


class Departure:
    """A supervisor that was asked to go."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid: Final = pid
        self._descriptor = descriptor

    def wait(self, seconds: float) -> bool:
        """Wait for its process to end; False when it still lives after that many seconds."""
        if self._descriptor < 0:
            return True
        deadline = time.monotonic() + seconds
        return bool(select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))[0])


def _connect(path: Path, timeout: float | None) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(timeout)
        if len(os.fsencode(path)) <= _PATH_LIMIT:
            peer.connect(str(path))
        else:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            try:
                peer.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
    except OSError as error:
        peer.close()
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED):
            raise NoSupervisor(
                f"no supervisor of {path.parent.name} runs (nothing listens on {path}); start it with `creche up`"
            ) from error
        raise
    except BaseException:
        peer.close()
        raise
    return peer


def _peer(peer: socket.socket) -> int:
    pid, _, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid


def _events(http: h11.Connection, peer: socket.socket) -> Iterator[h11.Event]:
    """The response and its data, up to the end of the message; h11 raises when the peer closes before that."""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(peer.recv(64 << 10))
        elif isinstance(event, h11.EndOfMessage):
            return
        elif isinstance(event, h11.Response | h11.Data):
            yield event
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection without an answer")


def _plain(query: Query) -> dict[str, str | list[str]]:
    out: dict[str, str | list[str]] = {}
    for key, value in query.items():
        if isinstance(value, bool):
            out[key] = "1" if value else "0"
        elif isinstance(value, str | int | float):
            out[key] = str(value)
        elif value is not None:
            out[key] = list(value)
    return out
