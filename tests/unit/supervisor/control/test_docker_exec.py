"""Docker's exec on the control socket: what is asked, the connection that becomes streams, what is told afterwards."""

import json

import pytest
import trio

from supervisor.control.docker_exec import process_asked
from supervisor.control.exchange import Refused
from supervisor.machine import Process, StartError
from tests.unit.supervisor.scripted import Doing

ASKED = {"Cmd": ["prog", "-x"], "AttachStdout": True, "AttachStderr": True}


def post(target, document, extra=""):
    body = json.dumps(document).encode()
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answer(connect, data):
    """The status and the document of one reply."""
    stream = await connect()
    await stream.send_all(data.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n", 1))
    raw = await everything(stream)
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body.strip() else None


async def everything(stream):
    raw = b""
    while piece := await stream.receive_some(65536):
        raw += piece
    return raw


async def created(connect, **keys):
    status, document = await answer(connect, post("/v1.41/containers/web/exec", ASKED | keys))
    assert status == 201, document
    return document["Id"]


async def hijacked(connect, identity, sent=b"", *, eof=True, extra="Connection: Upgrade\r\nUpgrade: tcp\r\n", **start):
    """The head and the rest of a connection that becomes streams; `sent` goes along with the request."""
    stream = await connect()
    await stream.send_all(post(f"/exec/{identity}/start", {"Detach": False, **start}, extra) + sent)
    if eof:
        await stream.send_eof()
    head, _, rest = (await everything(stream)).partition(b"\r\n\r\n")
    return head, rest


def frame(stream, data):
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


async def shown(connect, identity):
    return (await answer(connect, f"GET /exec/{identity}/json HTTP/1.1\r\nHost: x\r\n\r\n".encode()))[1]


def test_output_comes_in_frames(served, app):
    app.programs["prog"] = Doing(((1, b"out"),), code=3)

    async def body(connect):
        identity = await created(connect)
        head, rest = await hijacked(connect, identity)
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert rest == frame(1, b"out")
        assert (await shown(connect, identity))["ExitCode"] == 3

    served(body)


def test_errors_have_a_stream_of_their_own(served, app):
    app.programs["prog"] = Doing(((2, b"oh"),))

    async def body(connect):
        assert (await hijacked(connect, await created(connect)))[1] == frame(2, b"oh")

    served(body)


def test_a_client_that_asks_for_no_upgrade_gets_200_and_bytes(served, app):
    app.programs["prog"] = Doing(((1, b"out"),))

    async def body(connect):
        head, rest = await hijacked(connect, await created(connect), extra="")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream")
        assert rest == frame(1, b"out")

    served(body)


def test_with_a_terminal_output_is_raw(served, app):
    app.programs["prog"] = Doing(((1, b"$ "),))

    async def body(connect):
        assert (await hijacked(connect, await created(connect, Tty=True), Tty=True))[1] == b"$ "

    served(body)


def test_input_that_came_with_the_request_is_input(served, app):
    app.programs["prog"] = Doing(echoes=True)

    async def body(connect):
        identity = await created(connect, AttachStdin=True)
        assert (await hijacked(connect, identity, b"early"))[1] == frame(1, b"early")
        assert app.sessions[0].taken == b"early"

    served(body)


def test_without_stdin_what_the_client_sends_is_dropped(served, app):
    app.programs["prog"] = Doing(lasts=1.0)

    async def body(connect):
        await hijacked(connect, await created(connect), b"unasked")
        assert app.sessions[0].taken == b""

    served(body)


def test_an_output_that_is_not_wanted_is_not_sent(served, app):
    app.programs["prog"] = Doing(((1, b"out"), (2, b"err")))

    async def body(connect):
        identity = await created(connect, AttachStderr=False)
        assert (await hijacked(connect, identity))[1] == frame(1, b"out")

    served(body)


def test_a_start_that_fails_is_told_on_the_stream(served, app):
    app.programs["prog"] = StartError("web", "exec", "prog is not there", exit_code=127, advice="install it")

    async def body(connect):
        identity = await created(connect)
        assert (await hijacked(connect, identity))[1] == frame(2, b"prog is not there (install it)\n")
        assert (await shown(connect, identity))["ExitCode"] == 127

    served(body)


def test_a_detached_start_answers_when_it_runs(served, app):
    app.programs["prog"] = Doing(lasts=1e3)

    async def body(connect):
        identity = await created(connect)
        assert await answer(connect, post(f"/exec/{identity}/start", {"Detach": True})) == (200, None)
        about = await shown(connect, identity)
        assert (about["Running"], about["ExitCode"], about["Pid"]) == (True, None, 4300)

    served(body)


def test_a_detached_start_that_fails_is_refused(served, app):
    app.programs["prog"] = StartError("web", "exec", "prog is not there", exit_code=127)

    async def body(connect):
        identity = await created(connect)
        status, document = await answer(connect, post(f"/exec/{identity}/start", {"Detach": True}))
        assert (status, document) == (400, {"message": "prog is not there"})

    served(body)


def test_a_client_that_hangs_up_leaves_the_process(served, app):
    app.programs["prog"] = Doing(tuple((1, bytes(1000)) for _ in range(1000)), lasts=5.0)

    async def body(connect):
        identity = await created(connect)
        stream = await connect()
        await stream.send_all(post(f"/exec/{identity}/start", {}, "Connection: Upgrade\r\nUpgrade: tcp\r\n"))
        await stream.receive_some(10)
        await stream.aclose()
        await trio.sleep(3)
        assert (await shown(connect, identity))["Running"]
        await trio.sleep(3)
        assert (await shown(connect, identity))["ExitCode"] == 0

    served(body)


def test_it_starts_once(served, app):
    async def body(connect):
        identity = await created(connect)
        await hijacked(connect, identity)
        assert (await answer(connect, post(f"/exec/{identity}/start", {})))[0] == 409

    served(body)


@pytest.mark.parametrize("state", ["paused", "stopped", "backing-off"])
def test_what_does_not_run_refuses(served, app, state):
    app.change("web", state=state)

    async def body(connect):
        assert (await answer(connect, post("/containers/web/exec", ASKED)))[0] == 409

    served(body)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/exec/00/json", 404),
        ("POST", "/exec/00/start", 404),
        ("POST", "/exec/00/resize?h=1&w=1", 404),
        ("POST", "/exec/00/resize?h=0&w=1", 400),
        ("POST", "/containers/nope/exec", 404),
    ],
)
def test_what_is_not_there(served, method, target, status):
    async def body(connect):
        assert (await answer(connect, f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))[0] == status

    served(body)


def test_resize(served, app):
    app.programs["prog"] = Doing(lasts=10.0)

    async def body(connect):
        identity = await created(connect, Tty=True)
        await answer(connect, post(f"/exec/{identity}/start", {"Detach": True}))
        assert (await answer(connect, post(f"/exec/{identity}/resize?h=40&w=100", None)))[0] == 200
        assert (40, 100) in app.sessions[0].told

    served(body)


def test_everything_asked_reaches_the_process():
    asked = ASKED | {
        "AttachStdin": True, "Tty": True, "Env": ["A=1=2"], "User": "1:2", "WorkingDir": "/srv",
        "ConsoleSize": [24, 80], "DetachKeys": "", "Privileged": False,
    }  # fmt: skip
    expected = Process(("prog", "-x"), {"A": "1=2"}, "1:2", "/srv", terminal=True, stdin=True, size=(24, 80))
    assert process_asked(asked) == (expected, (True, True))


@pytest.mark.parametrize(
    "change",
    [
        {"Cmd": []},
        {"Cmd": None},
        {"Cmd": [""]},
        {"Cmd": [1]},
        {"Cmd": ["a\0b"]},
        {"Env": ["A"]},
        {"Env": ["=1"]},
        {"Env": {"A": "1"}},
        {"WorkingDir": "srv"},
        {"User": 7},
        {"Privileged": True},
        {"DetachKeys": "ctrl-x"},
        {"Surprise": 1},
    ],
)
def test_what_cannot_be_asked(change):
    with pytest.raises(Refused) as refusal:
        process_asked(ASKED | change)
    assert refusal.value.status == 400


@pytest.mark.parametrize("size", [None, [0, 0], [1], [24, -1], "24x80", [24, 99999]])
def test_a_size_that_is_none(size):
    assert process_asked(ASKED | {"ConsoleSize": size})[0].size is None
