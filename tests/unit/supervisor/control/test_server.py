"""The control socket's server against well-formed, malformed, huge, slow and vanishing clients."""

import json
import os
import socket
import stat

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.control import server


async def ask(stream, text):
    """Send raw bytes, read until the server closes; (status, headers, body)."""
    await stream.send_all(text)
    return parted(await everything(stream))


async def everything(stream):
    data = b""
    while piece := await stream.receive_some(65536):
        data += piece
    return data


def parted(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), lines[1:], body


def request(target, method="GET", extra=""):
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\r\n".encode()


def test_a_request_is_answered_with_json(served):
    async def body(connect):
        status, _, text = await ask(await connect(), request("/creche/containers"))
        assert (status, [each["name"] for each in json.loads(text)]) == (200, ["db", "web"])

    served(body)


def test_a_connection_is_kept_for_the_next_request(served):
    async def body(connect):
        stream = await connect()
        for _ in range(3):
            await stream.send_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some(65536)).endswith(b"OK")

    served(body)


def test_pipelined_requests_are_answered_in_order(served):
    async def body(connect):
        stream = await connect()
        await stream.send_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" + request("/nowhere"))
        raw = await everything(stream)
        assert raw.count(b"HTTP/1.1 200") == 1
        assert raw.index(b"HTTP/1.1 200") < raw.index(b"HTTP/1.1 404")

    served(body)


def test_head_has_no_body(served):
    async def body(connect):
        status, headers, text = await ask(await connect(), request("/_ping", "HEAD"))
        assert (status, text) == (200, b"")
        assert "api-version: 1.41" in [header.lower() for header in headers]

    served(body)


def test_a_body_after_100_continue_is_read(served):
    async def body(connect):
        stream = await connect()
        await stream.send_all(request("/creche/stop?name=web", "POST", "Expect: 100-continue\r\nContent-Length: 2\r\n"))
        assert b"100 Continue" in await stream.receive_some(65536)
        status, _, _ = await ask(stream, b"{}")
        assert status == 200

    served(body)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET http://x/_ping HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET //x/_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000, 431),
        (b"POST /creche/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + b"x" * (3 << 20), 413),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"DELETE /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_what_is_wrong_is_refused_with_dockers_error_form(served, raw, expected):
    async def body(connect):
        stream = await connect()

        async def send():
            try:
                await stream.send_all(raw)
            except trio.BrokenResourceError:
                return  # refused before all of it was taken

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            data = b""
            try:
                while piece := await stream.receive_some(65536):
                    data += piece
            except trio.BrokenResourceError:
                assert data
        status, _, text = parted(data)
        assert status == expected
        assert set(json.loads(text)) == {"message"}

    served(body)


def test_a_slow_request_is_cut_off_and_holds_up_nobody(served):
    async def body(connect):
        slow = await connect()
        await slow.send_all(b"GET /creche/cont")
        assert (await ask(await connect(), request("/_ping")))[0] == 200
        began = trio.current_time()
        status, _, text = parted(await everything(slow))
        assert status == 408
        assert "did not arrive" in json.loads(text)["message"]
        assert trio.current_time() - began == pytest.approx(server.REQUEST_SECONDS, abs=1)

    served(body)


def test_an_idle_connection_is_closed_without_a_word(served):
    async def body(connect):
        assert await everything(await connect()) == b""

    served(body)


def test_a_client_that_takes_no_reply_costs_one_task_for_a_while(served, app):
    async def body(connect):
        app.inspect = lambda name: {"blob": "x" * (8 << 20)}
        stream = await connect()
        await stream.send_all(request("/creche/inspect/web"))
        assert (await ask(await connect(), request("/_ping")))[0] == 200
        await trio.sleep(server.REPLY_SECONDS + 1)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x" * 4096)

    served(body)


def test_connections_are_bounded(served, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 3)

    async def body(connect):
        held = [await connect() for _ in range(3)]
        for stream in held:
            await stream.send_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some(65536)
        status, _, text = parted(await everything(await connect()))
        assert (status, "connections are open" in json.loads(text)["message"]) == (503, True)
        await held[0].aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await ask(await connect(), request("/_ping")))[0] == 200

    served(body)


def test_another_user_is_refused(served, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)

    async def body(connect):
        if os.getuid() == 0:  # root may
            assert (await ask(await connect(), request("/_ping")))[0] == 200
        else:
            assert parted(await everything(await connect()))[0] == 403

    served(body)


def test_a_handlers_bug_is_answered_and_told_but_ends_nothing(served, app, capfd):
    async def body(connect):
        app.statuses = lambda: 1 / 0
        status, _, text = await ask(await connect(), request("/creche/containers"))
        assert (status, json.loads(text)["message"]) == (500, "ZeroDivisionError: division by zero")
        assert (await ask(await connect(), request("/_ping")))[0] == 200

    served(body)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_stream_is_chunked_and_ends_when_its_client_goes(served, app):
    async def body(connect):
        stream = await connect()
        await stream.send_all(request("/creche/events?follow=1"))
        head = await stream.receive_some(65536)
        assert b"chunked" in head.lower()
        await trio.testing.wait_all_tasks_blocked(0.01)
        app.tell("web", "died")
        assert b'"died"' in await stream.receive_some(65536)
        tasks = trio.lowlevel.current_statistics().tasks_living
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert trio.lowlevel.current_statistics().tasks_living < tasks

    served(body)


def test_a_stalled_reader_of_a_stream_holds_up_nobody(served, app):
    async def body(connect):
        stalled = await connect()
        await stalled.send_all(request("/creche/events?follow=1"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(3000):
            app.tell("web", "died", "x" * 1000)
        assert (await ask(await connect(), request("/_ping")))[0] == 200

    served(body)


def test_the_socket_is_private(served):
    async def body(connect):
        assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o700

    served(body)


def test_the_socket_is_gone_at_the_end(served):
    async def body(connect):
        pass

    served(body)
    assert not served.path.exists()


def test_a_stale_socket_is_replaced(served):
    served.path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(served.path)) if len(str(served.path)) < 108 else pytest.fail("tmp_path is too long")

    async def body(connect):
        assert (await ask(await connect(), request("/_ping")))[0] == 200

    served(body)


def test_a_living_socket_is_left_alone(served):
    served.path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(served.path))
        living.listen()
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="another supervisor listens")):
            served(None)
        assert served.path.exists()


def test_a_path_longer_than_a_socket_address_works(app, tmp_path):
    from supervisor.control.client import Client

    run = tmp_path / ("d" * 60) / ("e" * 60)

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, app, run / "shop" / "control.sock")
            answer = await trio.to_thread.run_sync(Client(run, "shop").get, "/creche/containers")
            assert len(answer) == 2
            nursery.cancel_scope.cancel()

    trio.run(main)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400))
def test_noise_never_ends_the_server(served, noise):
    async def body(connect):
        stream = await connect()
        await stream.send_all(noise + b"\r\n\r\n")
        await stream.send_eof()
        await everything(stream)
        assert (await ask(await connect(), request("/_ping")))[0] == 200

    served(body)
