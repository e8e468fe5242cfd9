"""stats and top through a served app."""

import json

import pytest

from runtime.cgroups.stats import Cpu, Memory, Pids, Stats
from supervisor.commands.usage import Refresh, size
from supervisor.machine import Usage


def usage(at, cpu):
    return Usage(at, Stats(cpu=Cpu(cpu), memory=Memory(3 << 20, 64 << 20), pids=Pids(2, 100)), None, 0, 2, 1 << 30)


@pytest.fixture
def app(serving):
    made = serving(names=("web",))
    made.usages = [usage(100.0, 0), usage(100.5, 10**8)]
    return made


def test_a_table_of_one_round(creche, app):
    header, row = creche("stats", "--no-stream").out.splitlines()
    assert header.split()[:2] == ["NAME", "CPU"]
    assert row.split() == [
        "web",
        "20.00%",
        "3MiB",
        "/",
        "64MiB",
        "4.69%",
        "2",
        "/",
        "100",
        "-",
        "/",
        "-",
        "0B",
        "/",
        "0B",
    ]


def test_stats_as_json_are_one_object_a_line(creche, app):
    (line,) = creche("stats", "--no-stream", "--json", "shop/web").out.splitlines()
    found = json.loads(line)
    assert (found["name"], found["cpu_percent"], found["memory_limit"], found["pids"]) == ("web", 20.0, 64 << 20, 2)


def test_stats_of_what_does_not_run(creche, app):
    app.change("web", state="stopped")
    result = creche("stats", "--no-stream", "web")
    assert (result.code, result.out) == (1, "")
    assert "it uses nothing" in result.err


@pytest.mark.parametrize("arguments", [["web"], []])
def test_top_is_a_table(creche, app, arguments):
    header, row = creche("top", *arguments).out.splitlines()
    assert header.split() == ["CONTAINER", "PID", "INSIDE", "USER", "TIME", "MEMORY", "COMMAND"]
    assert row.split() == ["web", "4242", "1", "root", "1:01.50", "2MiB", "sleep", "1"]


def test_top_as_json(creche, app):
    (found,) = json.loads(creche("top", "--json", "web").out)
    assert (found["container"], found["pid"], found["inner_pid"], found["command"]) == ("web", 4242, 1, "sleep 1")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1536, "1.5KiB"),
        (20 << 20, "20MiB"),
        (5 << 40, "5TiB"),
        (5000 << 40, "5000TiB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


def test_a_live_table_is_drawn_in_place_and_cut_to_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "9")
    monkeypatch.setenv("LINES", "3")
    with Refresh(enabled=True) as live:
        live.show(("NAME", "MORE"), [("one", "a long cell"), ("two", "x"), ("three", "y")])
        live.show(("NAME", "MORE"), [])
        raise KeyboardInterrupt
    first, second = capsys.readouterr().out.split("\x1b[H")[1:]
    assert first == "NAME   MO\x1b[K\none    a \x1b[K\n\x1b[J"
    assert second == "NAME  MOR\x1b[K\n\x1b[J"
