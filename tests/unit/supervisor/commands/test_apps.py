"""ps and tree: their JSON, their tables, and what they say without a supervisor."""

import json

import pytest

from supervisor.app_file.spec import AppSpec, Container
from supervisor.app_file.write import normalised
from supervisor.commands.apps import drawn, ending, health, row
from supervisor.commands.leftovers import checked, lives
from supervisor.commands.tables import aligned, printable, span
from supervisor.control.creche_api import plain
from supervisor.journal import Journal, Owner, Record
from supervisor.moments import unix
from tests.unit.supervisor.control.fake_app import status

NOW = unix("2026-01-02T03:05:06Z")


def seen(**fields):
    return plain(status("web", **fields))


def test_ps_prints_json_and_nothing_else(creche, serving):
    app = serving()
    app.change("db", state="stopped")
    result = creche("ps", "--json")
    assert [each["name"] for each in json.loads(result.out)] == ["db", "web"]
    assert (result.code, result.err) == (0, "")


def test_ps_hides_what_is_over_and_says_so(creche, serving):
    serving().change("db", state="stopped")
    short, long = creche("ps"), creche("ps", "-a", "shop")
    assert [line.split()[0] for line in short.out.splitlines()] == ["NAME", "web"]
    assert "1 stopped or completed" in short.err
    assert [line.split()[0] for line in long.out.splitlines()] == ["NAME", "db", "web"]
    assert long.err == ""


@pytest.mark.parametrize(
    ("fields", "column", "text"),
    [
        ({}, 1, "running"),
        ({"state": "pending", "waiting_for": ("db",)}, 1, "pending: waits for db"),
        ({"state": "backing-off", "next_start_at": "2026-01-02T03:05:07.500000Z"}, 1, "backing-off 1.5s"),
        ({}, 2, "ready"),
        ({"ready": False}, 2, "-"),
        ({"health": "unhealthy"}, 2, "unhealthy"),
        ({"restarts": 12}, 3, "12"),
        ({}, 4, "-"),
        ({}, 5, "1m01s"),
        ({"state": "failed"}, 5, "-"),
        ({"ip": None}, 6, "-"),
        ({}, 7, "127.0.0.1:8080:80/tcp"),
        ({}, 8, "/"),
    ],
)
def test_rows(fields, column, text):
    assert row(seen(**fields), NOW)[column] == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"exit_code": 1}, "1"),
        ({"exit_code": 137, "exit_signal": 9}, "137 (SIGKILL)"),
        ({"exit_code": 137, "exit_signal": 9, "oom_killed": True}, "137 (oom)"),
        ({"exit_code": 180, "exit_signal": 52}, "180 (signal 52)"),
    ],
)
def test_endings(fields, text):
    assert ending(seen(**fields)) == text


def test_health_without_probes_is_readiness():
    assert health(seen(ready=True)) == "ready"


def test_the_tree_is_drawn():
    leaf = seen(restarts=1, last_reason="exit")
    branch = {
        "name": "shop",
        "strategy": "one-for-one",
        "children": [
            {"name": "back", "strategy": "one-for-one", "children": [leaf]},
            seen(state="running", ready=False),
        ],
    }
    assert drawn(branch) == [
        "shop (one-for-one)",
        "├─ back (one-for-one)",
        "│  └─ web: running, 1 restart, last death: exit",
        "└─ web: running, not ready",
    ]


def test_tree(creche, serving):
    serving()
    assert creche("tree").out.startswith("shop (one-for-one)\n├─ db: running\n")
    assert json.loads(creche("tree", "--json", "shop").out)["strategy"] == "one-for-one"


def test_ps_of_nothing(creche):
    result = creche("ps")
    assert (result.code, result.out) == (2, "")
    assert "no app is running" in result.err


def test_ps_of_an_app_that_does_not_run(creche):
    result = creche("ps", "shop")
    assert result.code == 1
    assert "no supervisor of shop runs" in result.err


@pytest.fixture
def journal(places):
    """An app's journal without its supervisor: db lived in this boot, web never began."""
    spec = AppSpec(name="shop", containers=[Container(name=name, rootfs="/", command="run") for name in ("web", "db")])
    journal = Journal(places.state("shop"))
    journal.own(Owner("shop", None, normalised(spec)))
    journal.write([Record("db", "x", "another boot", state="running", run=2, pid=1, cgroup="creche/x", ready=True)])
    return journal


def test_ps_without_a_supervisor_reads_the_journal(creche, journal):
    result = creche("ps", "--json")
    assert [(each["name"], each["state"], each["pid"]) for each in json.loads(result.out)] == [
        ("web", "pending", None),
        ("db", "stopped", None),
    ]
    assert "no supervisor of shop runs" in result.err


def test_a_torn_journal_is_named(creche, journal, places):
    (places.state("shop") / "state" / "db.json").write_text("{")
    result = creche("ps")
    assert result.code == 1
    assert "db.json" in result.err


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "running"),
        ({"boot": "earlier"}, "stopped"),
        ({"pid": 43}, "stopped"),
        ({"pid": None}, "stopped"),
        ({"cgroup": "creche/other"}, "stopped"),
        ({"state": "failed", "pid": None}, "failed"),
        ({"state": "backing-off"}, "backing-off"),
    ],
)
def test_records_are_checked_against_processes(tmp_path, fields, state):
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text("4:memory:/creche/shop-1/web/run-1\n0::/creche/shop-1/web/run-1\n")
    keys = {"state": "running", "pid": 42, "cgroup": "creche/shop-1/web/run-1", "boot": "this", **fields}
    record = checked(Record("web", "x", **keys), "this", tmp_path)
    assert record.state == state
    assert state != "stopped" or (record.pid, record.ready) == (None, False)


def test_a_process_without_a_known_cgroup_lives_by_its_number(tmp_path):
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text("0::/\n")
    assert lives(42, None, tmp_path)
    assert not lives(43, None, tmp_path)


def test_tables_are_aligned_and_safe():
    assert aligned(("A", "LONG"), [("xyz", "1"), ("\x1b[2J", "")]) == "A        LONG\nxyz      1\n\\x1b[2J\n"
    assert printable("a\tb\n") == "a\\tb\\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (61, "1m01s"), (7260, "2h01m"), (90_000, "1d01h"), (-3, "0s")]
)
def test_spans(seconds, text):
    assert span(seconds) == text
