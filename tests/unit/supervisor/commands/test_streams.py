"""logs and events: bytes as written, prefixes, choices, following."""

import base64
import json
import re
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.logs import Line
from runtime.segments import Record, pack
from supervisor.commands.command import Wrong
from supervisor.commands.streams import Printer, line_count, moment, pieces, story

S = 10**9


def write_log(places, name, *chunks, app="shop"):
    """A log of one segment: chunks of (seconds, stream, bytes)."""
    directory = places.state(app) / "logs" / name
    directory.mkdir(parents=True, exist_ok=True)
    (places.state(app) / "app.json").write_text("{}")
    data = {"out": b"", "err": b""}
    index = b""
    for seconds, stream, text in chunks:
        data[stream] += text
        index += pack(Record(seconds * S, len(data["out"]), len(data["err"])))
    for suffix, content in (*data.items(), ("idx", index)):
        (directory / f"000001.{suffix}").write_bytes(content)


def test_one_container_is_printed_byte_for_byte(creche, places):
    write_log(places, "web", (1, "out", b"a\xff\x00\r\n"), (2, "err", b"b\n"), (3, "out", b"unfinished"))
    result = creche("logs", "shop/web")
    assert (result.code, result.raw) == (0, b"a\xff\x00\r\nb\nunfinished")


def test_several_are_merged_with_prefixes(creche, places):
    write_log(places, "web", (1, "out", b"w1\n"), (3, "out", b"w2\n"))
    write_log(places, "db", (2, "err", b"d1\n"))
    assert creche("logs", "shop/").out == "web | w1\ndb | d1\nweb | w2\n"
    assert creche("logs").out == "web | w1\ndb | d1\nweb | w2\n"
    assert creche("logs", "shop/db").out == "d1\n"


def test_no_prefix_when_the_app_has_one_container(creche, places):
    write_log(places, "web", (1, "out", b"x\n"))
    assert creche("logs").out == "x\n"


def test_tail_since_and_timestamps(creche, places):
    write_log(places, "web", *((second, "out", b"%d\n" % second) for second in range(1, 6)))
    assert creche("logs", "--tail", "2").out == "4\n5\n"
    assert creche("logs", "--since", "3").out == "3\n4\n5\n"
    assert creche("logs", "--since", "1970-01-01T00:00:05Z", "-t").out == "1970-01-01T00:00:05.000000000Z 5\n"
    assert creche("logs", "--tail", "0").out == ""


def test_json_is_one_object_a_line(creche, places):
    write_log(places, "web", (1, "err", b"\xff\n"))
    entry = json.loads(creche("logs", "--json").out)
    assert entry["app"], entry["container"] == ("shop", "web")
    assert (entry["stream"], base64.b64decode(entry["base64"]), entry["complete"]) == ("stderr", b"\xff", True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["shop/wbe"], 1, "did you mean 'web'"),
        (["nix/web"], 1, "has no logs"),
        (["shop/web", "other/web"], 2, "one app at a time"),
        (["--tail", "x"], 2, "neither a number of lines nor all"),
        (["--since", "yesterday"], 2, "is no moment"),
    ],
)
def test_wrong_choices(creche, places, arguments, code, words):
    write_log(places, "web", (1, "out", b"x\n"))
    result = creche("logs", *arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err


def test_following_sees_what_is_written_and_ends_with_the_app(places):
    write_log(places, "web", (1, "out", b"first\n"))
    command = [sys.executable, "-m", "creche", "--root", str(places.root), "--run", str(places.run), "logs", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"first\n"
        write_log(places, "web", (1, "out", b"first\n"), (2, "out", b"second\n"))
        assert process.stdout.readline() == b"second\n"
        places.state("shop").rename(places.root / "gone")
        assert process.stdout.read() == b""
    assert process.returncode == 0


def lines(*specs):
    return [(name, Line(0, stream, text, complete, start)) for name, stream, text, complete, start in specs]


def test_pieces_of_one_line_are_joined_under_one_prefix():
    printer = Printer(["a", "b"])
    written = pieces(
        printer,
        lines(
            ("a", "stdout", b"x" * 3, False, True),
            ("a", "stdout", b"y", True, False),
            ("a", "stdout", b"open", False, True),
            ("b", "stdout", b"own line", True, True),
        ),
    )
    assert b"".join(written) == b"a | xxxy\na | open\nb | own line\n"


def test_colour_is_only_around_the_prefix():
    [(name, line)] = lines(("a", "stdout", b"\x1b[1mtext", True, True))
    text = Printer(["a", "b"], colour=True).render(name, line)
    assert re.fullmatch(rb"\x1b\[\d+ma \| \x1b\[0m\x1b\[1mtext\n", text)


@given(st.lists(st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"")), max_size=20))
def test_whatever_is_written_comes_out(texts):
    written = pieces(Printer(["a"]), lines(*(("a", "stdout", text, True, True) for text in texts)))
    assert b"".join(written) == b"".join(text + b"\n" for text in texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("10m", 400.0),
        ("1700000000", 1.7e9),
        ("1.5", 1.5),
        ("1970-01-01T00:01:00Z", 60.0),
    ],
)
def test_moments(text, expected):
    assert moment(text, 1000.0) == expected


@pytest.mark.parametrize("text", ["", "10", "-1", "all "])
def test_line_counts(text):
    if text.isdigit():
        assert line_count(text) == int(text)
    else:
        with pytest.raises(Wrong):
            line_count(text)


def test_events_as_stories_and_json(creche, serving):
    app = serving()
    app.tell("web", "restarting", "web restarts in 0.2 s: it exited with code 1", time=100.0)
    app.tell(None, "gap", "", time=200.0)
    first, second = creche("events").out.splitlines()
    assert (
        first == "1970-01-01T00:01:40.000Z  web              restarting  web restarts in 0.2 s: it exited with code 1"
    )
    assert second.split() == ["1970-01-01T00:03:20.000Z", "shop", "gap"]
    assert [json.loads(line)["event"] for line in creche("events", "--json", "shop").out.splitlines()] == [
        "restarting",
        "gap",
    ]
    assert creche("events", "--since", "150", "--json").out.count("\n") == 1


def test_followed_events_end_with_the_app(creche, serving, monkeypatch):
    monkeypatch.setattr("supervisor.commands.down.FAREWELL_SECONDS", 0.1)  # it is this very process
    app = serving()
    app.tell("web", "died", "gone")
    token = threading.Thread(target=lambda: (time.sleep(0.05), creche("down")))
    token.start()
    result = creche("events", "-f", "shop")
    token.join()
    assert (result.code, result.out.count("died")) == (0, 1)


def test_a_story_cannot_move_the_cursor():
    event = {
        "time": "1970-01-01T00:00:00Z",
        "app": "a",
        "container": "b",
        "event": "died",
        "reason": None,
        "detail": "\x1b[2J",
    }
    assert "\x1b" not in story(event)
