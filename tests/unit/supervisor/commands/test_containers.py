"""stop, start, restart, kill, inspect through a served app."""

import json

import pytest

from supervisor.commands.command import Wrong
from supervisor.commands.containers import seconds


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["stop", "web"], ("stop", ["web"], None)),
        (["stop", "--timeout", "1m30s", "web", "shop/db", "web"], ("stop", ["web", "db"], 90.0)),
        (["start", "web"], ("start", ["web"])),
        (["restart", "-t", "0.5", "web"], ("restart", ["web"], 0.5)),
        (["kill", "web"], ("kill", ["web"], 9)),
        (["kill", "-s", "hup", "web"], ("kill", ["web"], 1)),
        (["pause", "web", "db"], ("pause", ["web", "db"])),
        (["unpause", "shop/web"], ("unpause", ["web"])),
    ],
)
def test_changes(creche, serving, arguments, call):
    app = serving()
    result = creche(*arguments)
    assert (result.code, app.calls) == (0, [call])
    assert result.out.split() == call[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stop"], 2, "Missing argument"),
        (["stop", "wbe"], 1, "did you mean 'web'"),
        (["stop", "-t", "soon", "web"], 2, "is no duration"),
        (["kill", "-s", "NOPE", "web"], 2, "no signal is called"),
        (["stop", "gone/web"], 1, "no supervisor of gone runs"),
        (["stop", "../x/web"], 2, "no app's name"),
        (["inspect", "wbe"], 1, "did you mean 'web'"),
    ],
)
def test_what_is_wrong(creche, serving, arguments, code, words):
    app = serving()
    result = creche(*arguments)
    assert (result.code, app.calls, result.out) == (code, [], "")
    assert words in result.err


def test_one_apps_refusal_does_not_keep_the_other_from_stopping(creche, serving):
    shop, other = serving(), serving(name="other")
    result = creche("stop", "shop/nope", "other/web")
    assert (result.code, shop.calls, other.calls) == (1, [], [("stop", ["web"], None)])


def test_inspect_plan_is_a_line_a_step(creche, serving):
    serving()
    assert creche("inspect", "--plan", "shop/web").out == "make web\npivot into the root\n"


def test_inspect_is_json(creche, serving):
    serving()
    assert json.loads(creche("inspect", "shop/web").out)["status"]["name"] == "web"


@pytest.mark.parametrize(("text", "value"), [(None, None), ("10s", 10.0), ("3", 3.0), ("0", 0.0), ("500ms", 0.5)])
def test_durations(text, value):
    assert seconds("--timeout", text) == value


@pytest.mark.parametrize("text", ["", "s", "-1", "1x", "nan", "inf"])
def test_other_durations(text):
    with pytest.raises(Wrong):
        seconds("--timeout", text)
