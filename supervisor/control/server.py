"""The control socket's server: HTTP/1.1 (RFC 9112) by h11 over a unix socket, one trio task per connection.

The socket is 0600 in a 0700 directory and serves its own user and root only (SO_PEERCRED, unix(7)). Requests are
bounded in size and time, connections in number: a slow or hostile client costs one task and a bounded piece of memory.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
import traceback
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

import h11
import trio

from supervisor.actor import NotRunning
from supervisor.app import App
from supervisor.control import creche_api, creche_usage, docker_api
from supervisor.control.exchange import Answer, Hijack, Refused, Reply, Request, Route, Stream, find
from supervisor.execs import NoExec
from supervisor.failures import AppError
from supervisor.machine import OperationFailed

HEAD_LIMIT = 16 << 10  # bytes of a request line and its headers
BODY_LIMIT = 1 << 20  # bytes of a request's body
REQUEST_SECONDS = 10.0  # for a request to arrive, from its first byte
IDLE_SECONDS = 120.0  # between the requests of a kept connection
REPLY_SECONDS = 60.0  # for a client to take a whole reply; a stream may stall, it costs its task only
LAST_SECONDS = 5.0  # the same while the server is being cancelled
CONNECTIONS = 256
_PATH_LIMIT = 107  # sun_path is 108 bytes with its terminating NUL


async def serve(app: App, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve the app on the socket `path` until cancelled; the socket file is gone afterwards.

    A stale socket is replaced; raises OSError (EADDRINUSE) when somebody still listens on it.
    """
    routes = (*docker_api.routes(app), *creche_api.routes(app), *creche_usage.routes(app))
    with _listening(path) as listener:
        limit = trio.Semaphore(CONNECTIONS)
        task_status.started()
        await trio.serve_listeners(partial(_admit, routes, limit), [listener])


@contextlib.contextmanager
def _listening(path: Path) -> Generator[trio.SocketListener]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    with contextlib.ExitStack() as stack:
        address = str(path)
        if len(os.fsencode(address)) > _PATH_LIMIT:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, directory)
            address = f"/proc/self/fd/{directory}/{path.name}"
        _remove_stale(path, address)
        inner = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        inner.bind(address)
        mine = path.stat()
        stack.callback(_unlink_if_same, path, (mine.st_dev, mine.st_ino))
        path.chmod(0o600)
        inner.listen(128)
        yield trio.SocketListener(trio.socket.from_stdlib_socket(inner))


def _remove_stale(path: Path, address: str) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "the control socket's place is taken by another file", str(path))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(address)
    if answer in (0, errno.EAGAIN):
        raise OSError(errno.EADDRINUSE, "another supervisor listens on this control socket", str(path))
    path.unlink(missing_ok=True)


def _unlink_if_same(path: Path, identity: tuple[int, int]) -> None:
    with contextlib.suppress(FileNotFoundError):
        now = path.lstat()
        if (now.st_dev, now.st_ino) == identity:
            path.unlink()


async def _admit(routes: Sequence[Route], limit: trio.Semaphore, stream: trio.SocketStream) -> None:
    """One connection, from its first byte to its end; never raises for what a client does."""
    connection = Connection(stream)
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        _, uid, _ = struct.unpack("iII", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            await connection.refuse(Refused(403, f"this app belongs to user {os.geteuid()}; you are user {uid}"))
        elif not _taken(limit):
            await connection.refuse(Refused(503, f"{CONNECTIONS} connections are open; close some and try again"))
        else:
            try:
                await connection.converse(routes)
            finally:
                limit.release()


def _taken(limit: trio.Semaphore) -> bool:
    try:
        limit.acquire_nowait()
    except trio.WouldBlock:
        return False
    return True


class Connection:
    """One client's connection and its HTTP state."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._torn = False

    async def converse(self, routes: Sequence[Route]) -> None:
        """Serve requests until either side wants no more of them."""
        try:
            while True:
                request = await self._request()
                if request is None or not await self._serve(routes, request):
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self.refuse(Refused(error.error_status_hint or 400, f"the request cannot be read: {error}"))
        except Refused as refusal:
            await self.refuse(refusal)

    async def refuse(self, refusal: Refused) -> None:
        """Say no and be done with this connection; what cannot be said any more is left out."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send_reply(_refusal(refusal, close=True))

    async def _request(self) -> Request | None:
        """The next request, None at the end of the connection; raises `Refused` (408, 413)."""
        with trio.move_on_after(IDLE_SECONDS) as idle:
            if self._http.trailing_data[0] == b"":
                data = await self._stream.receive_some(HEAD_LIMIT)
                self._http.receive_data(data)
        if idle.cancelled_caught:
            return None
        with trio.move_on_after(REQUEST_SECONDS):
            head: h11.Request | None = None
            body = bytearray()
            while True:
                event = await self._event()
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > BODY_LIMIT:
                        raise Refused(413, f"the request's body is larger than {BODY_LIMIT} bytes")
                elif isinstance(event, h11.EndOfMessage) and head is not None:
                    upgrade = any(name == b"upgrade" for name, _ in head.headers)
                    target = head.target.decode("latin-1")
                    return Request.of(head.method.decode("ascii"), target, bytes(body), upgrade=upgrade)
                else:
                    return None
        raise Refused(408, f"the request did not arrive within {REQUEST_SECONDS:g} s")

    async def _event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._put(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            self._http.receive_data(await self._stream.receive_some(HEAD_LIMIT))

    async def _serve(self, routes: Sequence[Route], request: Request) -> bool:
        """Answer one request; True when the connection may carry another one."""
        answer = await _answer(routes, request)
        if isinstance(answer, Stream):
            await self._send_stream(answer, body=request.method != "HEAD")
            return False
        if isinstance(answer, Hijack):
            await self._hand_over(answer, request)
            return False
        await self._send_reply(answer, body=request.method != "HEAD")
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _send_reply(self, reply: Reply, *, body: bool = True) -> None:
        data = reply.encoded()
        headers = [("Server", "creche"), *reply.headers.items()]
        empty = reply.status in (204, 304)
        if not empty:
            headers += [("Content-Type", reply.content_type), ("Content-Length", str(len(data)))]
        with trio.CancelScope(
            deadline=trio.current_time() + (LAST_SECONDS if reply.last else REPLY_SECONDS)
        ) as patience:
            patience.shield = reply.last
            events: list[h11.Event] = [h11.Response(status_code=reply.status, headers=headers)]
            events += [h11.Data(data=data)] if body and not empty else []
            await self._put(*events, h11.EndOfMessage())
        if patience.cancelled_caught:
            await trio.aclose_forcefully(self._stream)

    async def _send_stream(self, stream: Stream, *, body: bool) -> None:
        headers = [("Server", "creche"), ("Content-Type", stream.content_type), ("Connection", "close")]
        headers.append(("Transfer-Encoding", "chunked"))
        await self._put(h11.Response(status_code=200, headers=headers))
        if body:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_gone, nursery.cancel_scope)
                try:
                    await stream.produce(self._send_chunk)
                except trio.Cancelled:
                    await self._end_cancelled_stream()
                    raise
                except trio.BrokenResourceError:
                    return
                except Exception:  # noqa: BLE001 - cut short, so that the client sees that its stream is broken
                    traceback.print_exc()
                    return
                finally:
                    nursery.cancel_scope.cancel()
        if self._http.our_state is h11.SEND_BODY:
            await self._put(h11.EndOfMessage())

    async def _end_cancelled_stream(self) -> None:
        """The app ends and this server with it: the stream ends well, unless a chunk of it was cut in the middle."""
        if not self._torn:
            with trio.move_on_after(LAST_SECONDS) as patience, contextlib.suppress(trio.BrokenResourceError):
                patience.shield = True
                await self._put(h11.EndOfMessage())

    async def _hand_over(self, hijack: Hijack, request: Request) -> None:
        """Let the connection be a byte stream, by Docker's 101, or its older 200 for a client that asks for nothing."""
        kind = ("Content-Type", hijack.content_type)
        if request.upgrade:
            headers = [kind, ("Connection", "Upgrade"), ("Upgrade", "tcp")]
            await self._put(h11.InformationalResponse(status_code=101, headers=headers, reason=b"UPGRADED"))
        else:
            await self._stream.send_all(f"HTTP/1.1 200 OK\r\n{': '.join(kind)}\r\n\r\n".encode())
        await hijack.converse(_Taken(self._stream, self._http.trailing_data[0]))

    async def _send_chunk(self, data: bytes) -> None:
        for start in range(0, len(data), 64 << 10):
            await self._put(h11.Data(data=data[start : start + (64 << 10)]))

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        """Notice that the client hung up while nothing is sent; what it says during a stream is dropped."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._stream.receive_some(4096):
                pass
        scope.cancel()

    async def _put(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        if data:
            self._torn = True
            await self._stream.send_all(data)
            self._torn = False


class _Taken:
    """exchange.Wire over the connection's socket; what came with the request is its first bytes."""

    def __init__(self, stream: trio.SocketStream, early: bytes) -> None:
        self._stream = stream
        self._early = early

    async def receive(self) -> bytes:
        early, self._early = self._early, b""
        return early or bytes(await self._stream.receive_some(64 << 10))

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)


async def _answer(routes: Sequence[Route], request: Request) -> Answer:
    try:
        handler, match = find(routes, request)
        return await handler(request, match)
    except Refused as refusal:
        return _refusal(refusal)
    except NoExec as error:
        return _refusal(Refused(404, str(error)))
    except (AppError, NotRunning) as error:
        return _refusal(Refused(409, str(error)))
    except OperationFailed as error:
        return _refusal(Refused(500, str(error)))
    except Exception as error:  # noqa: BLE001 - one request's failure is that client's answer, not the app's end
        traceback.print_exc()
        sys.stderr.flush()
        return _refusal(Refused(500, f"{type(error).__name__}: {error}"))


def _refusal(refusal: Refused, *, close: bool = False) -> Reply:
    headers = {"Connection": "close"} if close else {}
    if refusal.status == 304:
        return Reply(304, headers=headers)
    return Reply(refusal.status, {"message": refusal.message}, headers=headers)
