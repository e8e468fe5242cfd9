"""The group: its commands, its help, its errors, and what it does not import."""

import json
import os
import subprocess
import sys

import click
import pytest

from supervisor.commands.command import default_places
from supervisor.commands.main import COMMANDS, HIDDEN, cli

HEAVY = {"trio", "pyroute2", "httpx", "rich"}


def loaded_by(arguments):
    """The modules that a command loads, in a process of its own."""
    script = (
        "import sys, json, contextlib\n"
        "from supervisor.commands.main import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(sys.argv[1:], prog_name='creche')\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return done.stdout, set(json.loads(done.stderr.splitlines()[-1]))


def test_help_imports_click_and_little_else():
    out, loaded = loaded_by(["--help"])
    assert "Commands:" in out
    assert not (HEAVY | {"h11", "attr", "cattrs", "tomllib", "supervisor.control.client"}) & loaded


def test_ps_loads_nothing_heavy(serving, places):
    serving()
    out, loaded = loaded_by(["--root", str(places.root), "--run", str(places.run), "ps", "--json"])
    assert len(json.loads(out)) == 2
    assert not HEAVY & loaded


def test_ps_without_a_supervisor_loads_nothing_heavy(places):
    from supervisor.app_file.spec import AppSpec, Container
    from supervisor.app_file.write import normalised
    from supervisor.journal import Journal, Owner

    spec = AppSpec(name="shop", containers=[Container(name="web", rootfs="/", command="run")])
    Journal(places.state("shop")).own(Owner("shop", None, normalised(spec)))
    out, loaded = loaded_by(["--root", str(places.root), "--run", str(places.run), "ps", "--json"])
    assert [each["name"] for each in json.loads(out)] == ["web"]
    assert not HEAVY & loaded


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in HIDDEN])
def test_every_command_has_help_with_an_example(creche, name):
    result = creche(name, "--help")
    assert result.code == 0
    assert f"  creche {name}" in result.out.partition("Example")[2]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in HIDDEN])
def test_the_summary_is_a_line_and_the_command_has_its_name(name):
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert COMMANDS[name].summary.endswith(".")
    assert command.help


def test_hidden_commands_are_not_listed(creche):
    assert "supervise" not in creche("--help").out


@pytest.mark.parametrize(("name", "words"), [("pss", "did you mean 'ps'"), ("commit", "No such command 'commit'")])
def test_a_command_that_does_not_exist(creche, name, words):
    result = creche(name)
    assert (result.code, result.out) == (2, "")
    assert words in result.err


@pytest.mark.parametrize("position", ["before", "after", "environment"])
def test_root_and_run_are_accepted_everywhere(serving, places, position, monkeypatch):
    from click.testing import CliRunner

    serving()
    options = ["--root", str(places.root), "--run", str(places.run)]
    monkeypatch.setenv("CRECHE_RUN", str(places.run) if position == "environment" else "/nowhere")
    arguments = {"before": [*options, "ps"], "after": ["ps", *options], "environment": ["ps"]}[position]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert (result.exit_code, len(json.loads(result.stdout))) == (0, 2)


@pytest.mark.parametrize(
    ("euid", "environ", "expected"),
    [
        (0, {}, ("/var/lib/creche", "/run/creche")),
        (0, {"CRECHE_ROOT": "/a", "CRECHE_RUN": "/b"}, ("/a", "/b")),
        (1000, {"HOME": "/home/u"}, ("/home/u/.local/share/creche", "/run/user/1000/creche")),
        (1000, {"XDG_DATA_HOME": "/d", "XDG_RUNTIME_DIR": "/r"}, ("/d/creche", "/r/creche")),
    ],
)
def test_default_places(euid, environ, expected):
    assert tuple(map(str, default_places(euid, environ))) == expected


def test_a_reader_that_leaves_early_ends_the_command_quietly(serving, places):
    app = serving()
    for _ in range(2000):
        app.tell("web", "died", "x" * 200)
    command = [sys.executable, "-m", "creche", "--root", str(places.root), "--run", str(places.run), "events"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_an_interrupt_of_a_follower_is_no_error(serving, places):
    import signal

    serving().tell("web", "died", "gone")
    command = [sys.executable, "-m", "creche", "--run", str(places.run), "events", "-f"]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_reference_page_is_current():
    from pathlib import Path

    from supervisor.commands.reference import markdown

    page = Path(__file__).parents[4] / "docs/commands.md"
    assert page.read_text() == markdown(), "run: python -m supervisor.commands.reference > docs/commands.md"
