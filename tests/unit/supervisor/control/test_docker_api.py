"""Docker's words on the control socket: shapes, references to containers, status codes."""

import json

import pytest
import trio
import trio.testing

from net.addresses import seed
from supervisor.control.docker_api import ago, filters, identity, prose
from supervisor.control.exchange import Refused
from supervisor.control.log_frames import frame
from supervisor.control.signals import signal_number


@pytest.fixture
def ask(served):
    """Ask one request of the served app: (status, JSON or None)."""

    def go(target, method="GET"):
        answers = []

        async def body(connect):
            answers.append(await exchange(connect, target, method))

        served(body)
        return answers[0]

    return go


async def exchange(connect, target, method="GET"):
    stream = await connect()
    await stream.send_all(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    raw = b""
    while piece := await stream.receive_some(65536):
        raw += piece
    head, _, text = raw.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        text = unchunked(text)
    return int(head.split()[1]), json.loads(text) if text.strip().startswith((b"{", b"[")) else text or None


def unchunked(raw):
    text = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        text, raw = text + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return text


@pytest.fixture
def web_id(app):
    return identity(seed(str(app.run_directory.resolve()), app.name), "web")


def test_the_version_prefix_is_optional(ask):
    assert ask("/v1.41/version")[1]["ApiVersion"] == ask("/version")[1]["ApiVersion"] == "1.41"


def test_info_counts_containers(ask, app):
    app.change("db", state="exhausted")
    info = ask("/info")[1]
    assert (info["Containers"], info["ContainersRunning"], info["ContainersStopped"]) == (2, 1, 1)


def test_the_list_has_dockers_fields(ask, app, web_id):
    entry = ask("/v1.41/containers/json")[1][1]
    assert entry["Id"] == web_id
    assert entry["Names"] == ["/web"]
    assert entry["Ports"] == [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]
    assert entry["Status"].startswith("Up ")
    assert entry["Labels"]["com.docker.compose.project"] == "shop"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["/web"]),
        ("?all=1", ["/db", "/web"]),
        ("?all=true&limit=1", ["/db"]),
        ('?filters={"status":["exited"]}', ["/db"]),
        ('?filters={"name":{"we":true}}', ["/web"]),
        ('?filters={"label":["com.docker.compose.service=web"]}', ["/web"]),
        ('?filters={"label":["nothing"]}', []),
    ],
)
def test_the_list_is_chosen(ask, app, query, names):
    app.change("db", state="failed")
    quoted = query.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
    assert [entry["Names"][0] for entry in ask(f"/containers/json{quoted}")[1]] == names


@pytest.mark.parametrize("form", ["web", "/web", "shop/web", "ID", "ID[:12]"])
def test_a_container_is_found_by_every_form_of_reference(ask, web_id, form):
    reference = {"ID": web_id, "ID[:12]": web_id[:12]}.get(form, form)
    assert ask(f"/containers/{reference}/json")[1]["Name"] == "/web"


def test_inspect_has_dockers_state(ask, app):
    app.change("web", state="failed", exit_code=127, pid=None, oom_killed=False)
    state = ask("/containers/web/json")[1]["State"]
    assert (state["Status"], state["Running"], state["ExitCode"], state["Pid"]) == ("exited", False, 127, 0)


@pytest.mark.parametrize(
    ("target", "state", "status", "calls"),
    [
        ("nope/start", "running", 404, []),
        ("web/start", "running", 304, []),
        ("web/start", "stopped", 204, [("start", ["web"])]),
        ("web/start", "backing-off", 204, [("start", ["web"])]),
        ("web/stop?t=3", "running", 204, [("stop", ["web"], 3.0)]),
        ("web/stop", "completed", 304, []),
        ("web/stop?t=x", "running", 400, []),
        ("web/restart?t=0", "running", 204, [("restart", ["web"], 0.0)]),
        ("web/kill?signal=HUP", "running", 204, [("kill", ["web"], 1)]),
        ("web/kill", "running", 204, [("kill", ["web"], 9)]),
        ("web/kill", "stopped", 409, []),
        ("web/pause", "running", 204, [("pause", ["web"])]),
        ("web/unpause", "paused", 204, [("unpause", ["web"])]),
        ("web/kill?signal=NOPE", "running", 400, []),
        ("web/wait?condition=removed", "stopped", 400, []),
        ("web/logs", "running", 400, []),
        ("web/logs?stdout=1&tail=x", "running", 400, []),
    ],
)
def test_changes_and_their_status_codes(ask, app, target, state, status, calls):
    app.change("web", state=state)
    code, answer = ask(f"/containers/{target}", "GET" if "logs" in target else "POST")
    assert (code, app.calls) == (status, calls)
    assert answer is None if status in (204, 304) else set(answer) == {"message"}


def test_wait_answers_at_once_for_one_that_ended(ask, app):
    app.change("web", state="failed", exit_code=3)
    assert ask("/containers/web/wait", "POST")[1] == {"StatusCode": 3, "Error": None}


def test_wait_answers_when_it_ends(served, app):
    answers = []

    async def body(connect):
        async with trio.open_nursery() as nursery:

            async def wait():
                answers.append(await exchange(connect, "/containers/web/wait", "POST"))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            app.tell("web", "died")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not answers
            app.change("web", state="completed", exit_code=0)
            app.tell("web", "completed")

    served(body)
    assert answers == [(200, {"StatusCode": 0, "Error": None})]


def test_events_are_dockers(ask, app):
    app.tell("web", "started", time=100.5)
    app.tell("web", "restarting", time=101.0)
    event = ask("/events?since=100&until=200&filters=%7B%22container%22:%5B%22web%22%5D%7D")[1]
    assert (event["Action"], event["Actor"]["Attributes"]["name"], event["time"]) == ("start", "web", 100)


def test_logs_are_frames(ask, app):
    from runtime.logs import Line
    from runtime.segments import Record, pack

    directory = app.root / "apps" / "shop" / "logs" / "web"
    directory.mkdir(parents=True)
    (directory / "000001.out").write_bytes(b"one\ntwo\n")
    (directory / "000001.err").write_bytes(b"oh\n")
    (directory / "000001.idx").write_bytes(pack(Record(10**18, 4, 0)) + pack(Record(2 * 10**18, 8, 3)))
    lines = [Line(10**18, "stdout", b"one", True), Line(2 * 10**18, "stdout", b"two", True)]
    both = [*lines, Line(2 * 10**18, "stderr", b"oh", True)]
    for query, expected in (("stdout=1", lines), ("stdout=1&stderr=1", both), ("stdout=1&since=1500000000", lines[1:])):
        raw = ask(f"/containers/web/logs?{query}")[1]
        assert raw == b"".join(frame(line, timestamps=False) for line in expected)


def test_a_frame_has_stream_and_length():
    from runtime.logs import Line

    assert frame(Line(0, "stderr", b"hi", True), timestamps=False) == b"\x02\0\0\0\0\0\0\x03hi\n"


@pytest.mark.parametrize(("text", "number"), [("KILL", 9), ("sigterm", 15), ("1", 1), ("SIGHUP", 1), ("64", 64)])
def test_signals_by_name_and_number(text, number):
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "SIG", "KILLER", "9 ", "0x9"])
def test_other_signals_are_refused(text):
    with pytest.raises(ValueError, match="no signal"):
        signal_number(text)


@pytest.mark.parametrize("text", ["[", "[]", '{"colour":["red"]}', '{"name":"web"}', "[" * 100_000])
def test_filters_that_are_wrong(text):
    with pytest.raises(Refused):
        filters(text, ("name",))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "less than a second"), (1, "1 second"), (59, "59 seconds"), (7300, "2 hours")]
)
def test_spans(seconds, text):
    assert ago(seconds) == text


def test_prose_of_an_ended_one(app):
    app.change("web", state="exhausted", exit_code=1, finished_at="2026-01-02T03:04:05Z")
    assert prose(app.states["web"], 1767323045 + 63.0) == "Exited (1) 1 minute ago"
