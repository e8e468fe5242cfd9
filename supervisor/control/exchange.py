"""One request and its reply, as handlers of the control socket see them; knows no socket and no app."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

Send = Callable[[bytes], Awaitable[None]]


class Refused(Exception):
    """A request that cannot be served: Docker's status code and one sentence (`{"message": …}` on the wire)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@attrs.frozen
class Request:
    """A request with its path decoded, a `/v1.xx` prefix removed, its query and a bounded body."""

    method: str
    path: str
    query: Mapping[str, tuple[str, ...]]
    body: bytes = b""
    upgrade: bool = False
    """The client asks for a protocol of its own on this connection (RFC 9110, 7.8), as Docker's do for streams."""

    @classmethod
    def of(cls, method: str, target: str, body: bytes = b"", *, upgrade: bool = False) -> "Request":
        """Make one from a request line's target; raises `Refused` (400) when it is no absolute path."""
        parts = urlsplit(target) if target.startswith("/") and not target.startswith("//") else None
        if parts is None:
            raise Refused(400, f"the request target {target[:100]!r} is not an absolute path")
        path = unquote(re.sub(r"^/v[0-9]{1,3}\.[0-9]{1,3}(?=/)", "", parts.path), errors="replace")
        try:
            query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=4096)
        except ValueError as error:
            raise Refused(400, f"the query cannot be read: {error}") from error
        return cls(method, path, {key: tuple(values) for key, values in query.items()}, body, upgrade)

    def document(self) -> dict[str, Any]:
        """The body as a JSON object, `{}` for none; raises `Refused` (400)."""
        try:
            found: Any = json.loads(self.body) if self.body.strip() else {}
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise Refused(400, "the body is not a JSON object")
        return cast("dict[str, Any]", found)

    def one(self, key: str) -> str | None:
        """The last value of a query key, None when it is absent or empty."""
        return (self.query.get(key) or (None,))[-1] or None

    def every(self, key: str) -> tuple[str, ...]:
        """All values of a query key."""
        return self.query.get(key, ())

    def flag(self, key: str) -> bool:
        """Docker's booleans: everything but "", 0, no, false and none is true."""
        return (self.one(key) or "").lower() not in ("", "0", "no", "false", "none")

    def number(self, key: str) -> float | None:
        """A number of at least 0, None when absent; raises `Refused` (400)."""
        text = self.one(key)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", text):
            raise Refused(400, f"{key}={text[:100]!r} is not a number of at least 0")
        return float(text)


@attrs.frozen
class Reply:
    """A whole reply; `body` bytes go out as they are, anything else as JSON.

    A `last` reply is still delivered (for a few seconds) while the server is cancelled: it tells of the end itself.
    """

    status: int = 200
    body: Any = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    last: bool = False

    def encoded(self) -> bytes:
        """The bytes of the body."""
        if isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body, separators=(",", ":")).encode() + b"\n"


@attrs.frozen
class Stream:
    """A reply of unknown length: `produce` is called with a `send` and ends by returning; it is cancelled when the
    client goes away."""

    produce: Callable[[Send], Awaitable[None]]
    content_type: str = "application/x-ndjson"


class Wire(Protocol):
    """A connection that became a plain byte stream both ways."""

    async def receive(self) -> bytes:
        """The next bytes; none when the client sends no more. Raises trio.BrokenResourceError when it is gone."""
        ...

    async def send(self, data: bytes) -> None:
        """Send all; raises trio.BrokenResourceError when the client is gone."""
        ...


@attrs.frozen
class Hijack:
    """The connection itself as the reply: `converse` talks over it and ends by returning; then it is closed."""

    converse: Callable[[Wire], Awaitable[None]]
    content_type: str = "application/vnd.docker.raw-stream"


Answer = Reply | Stream | Hijack
Handler = Callable[[Request, re.Match[str]], Awaitable[Answer]]
Route = tuple[str, str, Handler]


def find(routes: Sequence[Route], request: Request) -> tuple[Handler, re.Match[str]]:
    """The handler for a request: HEAD is served as GET; raises `Refused` with 404 or 405."""
    method = "GET" if request.method == "HEAD" else request.method
    allowed: set[str] = set()
    for verb, pattern, handler in routes:
        match = re.fullmatch(pattern, request.path)
        if match is not None and verb == method:
            return handler, match
        if match is not None:
            allowed.add(verb)
    if allowed:
        raise Refused(405, f"{request.path[:200]} answers {', '.join(sorted(allowed))}, not {request.method}")
    raise Refused(404, f"page not found: {request.path[:200]} is not served here (yet)")


def line(value: Any) -> bytes:
    """One JSON document on a line of its own."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
