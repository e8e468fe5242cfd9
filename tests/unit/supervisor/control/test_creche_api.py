"""`/creche/…` through the real client: what the commands ask and get."""

import json
import sys

import pytest
import trio

from supervisor.control.client import Client, ControlError, NoSupervisor, Refusal, running
from supervisor.control.server import serve
from supervisor.failures import AppFailed, Closing, ContainerFailed

FAILED = AppFailed("shop is not ready: web gave up", [ContainerFailed("web", "exhausted", "web gave up")])


@pytest.fixture
def asking(app):
    """Run `ask(client)` in a thread beside the served app; real time, no sleeps."""

    def go(ask):
        results = []

        async def main():
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, app, app.run / "shop" / "control.sock")
                results.append(await trio.to_thread.run_sync(ask, Client(app.run, "shop")))
                nursery.cancel_scope.cancel()

        trio.run(main)
        return results[0]

    return go


def lone(error):
    """The only error of a nursery's group."""
    assert len(error.value.exceptions) == 1
    return error.value.exceptions[0]


def test_containers_have_the_fields_of_ps(asking):
    entry = asking(lambda client: client.get("/creche/containers"))[0]
    assert {"app", "name", "service", "replica", "state", "ready", "health", "pid", "ip", "ports", "image"} <= set(
        entry
    )
    assert entry["ports"] == ["127.0.0.1:8080:80/tcp"]


def test_the_tree_nests(asking):
    tree = asking(lambda client: client.get("/creche/tree"))
    assert (tree["name"], tree["strategy"], [child["name"] for child in tree["children"]]) == (
        "shop",
        "one-for-one",
        ["db", "web"],
    )


def test_about_names_file_and_spec(asking):
    about = asking(lambda client: client.get("/creche/app"))
    assert about["name"] == "shop"
    assert about["file"] is None
    assert set(about["spec"]["containers"]) == {"db", "web"}


@pytest.mark.parametrize(
    ("verb", "query", "call"),
    [
        ("stop", {"name": ["db", "web"], "timeout": 1.5}, ("stop", ["db", "web"], 1.5)),
        ("start", {"name": ["shop/web"]}, ("start", ["web"])),
        ("restart", {"name": ["web"]}, ("restart", ["web"], None)),
        ("kill", {"name": ["web"], "signal": 1}, ("kill", ["web"], 1)),
        ("down", {"timeout": 3.0, "volumes": True}, ("down", 3.0, True)),
    ],
)
def test_changes_reach_the_app(asking, app, verb, query, call):
    asking(lambda client: client.post(f"/creche/{verb}", **query))
    assert app.calls == [call]


@pytest.mark.parametrize(
    ("verb", "query", "status", "words"),
    [
        ("stop", {"name": ["db", "wbe"]}, 404, "did you mean 'web'"),
        ("stop", {}, 400, "which containers"),
        ("kill", {"name": ["web"], "signal": 99}, 400, "1 to 64"),
        ("kill", {"name": ["web"]}, 400, "1 to 64"),
        ("stop", {"name": ["web"], "timeout": "soon"}, 400, "is not a number"),
    ],
)
def test_what_is_wrong_touches_nothing(asking, app, verb, query, status, words):
    with pytest.raises(ExceptionGroup) as error:
        asking(lambda client: client.post(f"/creche/{verb}", **query))
    refusal = lone(error)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, app.calls) == (status, [])
    assert words in str(refusal)


def test_an_app_that_ends_says_so(asking, app):
    async def closing(names, timeout=None):
        raise Closing("the app shop ends")

    app.stop = closing
    with pytest.raises(ExceptionGroup) as error:
        asking(lambda client: client.post("/creche/stop", name="web"))
    assert lone(error).status == 409


def test_events_since(asking, app):
    app.tell("web", "started", time=100.0)
    app.tell("web", "died", time=200.0)
    assert [each["event"] for each in asking(lambda client: list(client.lines("/creche/events")))] == [
        "started",
        "died",
    ]
    assert [each["event"] for each in asking(lambda client: list(client.lines("/creche/events", since=150)))] == [
        "died"
    ]


def test_followed_events_end_well_when_the_app_ends(app):
    seen = []

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, app, app.run / "shop" / "control.sock")

            def follow():
                for event in Client(app.run, "shop").lines("/creche/events", follow=True):
                    seen.append(event["event"])
                    trio.from_thread.run_sync(nursery.cancel_scope.cancel)

            app.tell("web", "stopped")
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(follow)

    trio.run(main)
    assert seen == ["stopped"]


def test_a_stream_that_is_cut_is_an_error(app):
    async def events(last):
        yield app.history()[0]
        raise RuntimeError("a bug")

    app.tell("web", "died")
    app.history, history = (lambda: history()), app.history
    app.events = events

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, app, app.run / "shop" / "control.sock")
            with pytest.raises(ControlError, match="before its answer was complete"):
                await trio.to_thread.run_sync(list, Client(app.run, "shop").lines("/creche/events", follow=True))
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize(
    ("outcome", "timeout", "expected"),
    [
        (None, None, (True, False, "")),
        (FAILED, None, (False, False, "web gave up")),
        ("never", 0.01, (False, True, "web (starting)")),
    ],
)
def test_waiting_for_readiness(asking, app, outcome, timeout, expected):
    app.readied = outcome
    app.change("web", state="starting", ready=False)
    [answer] = asking(lambda client: list(client.lines("/creche/wait-ready", timeout=timeout)))
    assert (answer["ready"], answer["timeout"]) == expected[:2]
    assert expected[2] in answer["message"]


def test_the_answer_to_down_survives_the_servers_end(app):
    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, app, app.run / "shop" / "control.sock")

            async def end_with_the_app():
                await app.ended()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_the_app)
            with trio.CancelScope(shield=True):
                answer = await trio.to_thread.run_sync(lambda: Client(app.run, "shop").post("/creche/down"))
            assert answer == {"down": "shop"}

    trio.run(main)


def test_inspect(asking):
    assert asking(lambda client: client.get("/creche/inspect/web"))["status"]["name"] == "web"


def test_nobody_listens(tmp_path):
    with pytest.raises(NoSupervisor, match=r"no supervisor of shop runs.*creche up"):
        Client(tmp_path, "shop").get("/creche/containers")


def test_running_apps(asking, app, tmp_path):
    (app.run / "dead").mkdir(parents=True)
    assert asking(lambda client: running(app.run)) == ["shop"]
    assert running(tmp_path / "nowhere") == []


def test_the_supervisors_process_is_known(asking):
    import os

    assert asking(lambda client: client.supervisor()) == os.getpid()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", b"nonsense\r\n\r\n"])
def test_a_server_that_answers_badly(tmp_path, answer):
    import socket
    import threading

    (tmp_path / "shop").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "shop" / "control.sock"))
        listener.listen()

        def once():
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        with pytest.raises(ControlError, match="before its answer was complete"):
            Client(tmp_path, "shop").get("/creche/containers")
        thread.join()


def test_the_client_needs_no_event_loop():
    import subprocess

    script = "import supervisor.control.client, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert not {"trio", "attrs", "attr", "pyroute2", "httpx", "rich", "click"} & set(loaded)
