"""Which file, app and containers a command line means."""

from pathlib import Path

import pytest

from supervisor.commands.choice import app_file, app_name, by_app, choose, chosen_app, is_file, left_over, reference
from supervisor.commands.command import Wrong


@pytest.mark.parametrize(
    ("argument", "file"),
    [("shop.toml", True), ("./shop", True), ("a/b", True), ("shop", False), ("web.1", False), ("toml", False)],
)
def test_a_file_has_a_slash_or_ends_in_toml(argument, file):
    assert is_file(argument) is file


@pytest.mark.parametrize(
    ("arguments", "options", "file", "names"),
    [
        (["shop.toml"], [], "shop.toml", ()),
        (["shop.toml", "web"], [], "shop.toml", ("web",)),
        (["web"], ["shop.toml"], "shop.toml", ("web",)),
        ([], ["shop.toml"], "shop.toml", ()),
        ([], [], "creche.toml", ()),
        (["web", "db"], [], "creche.toml", ("web", "db")),
        (["./sub/x.toml"], [], "sub/x.toml", ()),
    ],
)
def test_the_app_file(places, arguments, options, file, names):
    Path("sub").mkdir()
    for path in ("shop.toml", "creche.toml", "sub/x.toml"):
        Path(path).write_text("")
    assert app_file(arguments, options) == (Path(file).absolute(), names)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ([], [], "no ./creche.toml here"),
        (["nix.toml"], [], "nix.toml: there is no such file"),
        (["a.toml"], ["b.toml"], "named twice"),
        ([], ["a.toml", "b.toml"], "not yet supported"),
    ],
)
def test_no_app_file(places, arguments, options, words):
    with pytest.raises(Wrong, match=words):
        app_file(arguments, options)


HERE = Path("/here/creche.toml")


@pytest.mark.parametrize(
    ("running", "app"),
    [
        ({"shop": Path("/else/shop.toml")}, "shop"),
        ({"shop": None}, "shop"),
        ({"a": Path("/else/a.toml"), "here": HERE}, "here"),
        ({"a": None, "here": Path("/here/../here/creche.toml")}, "here"),
    ],
)
def test_the_app_that_is_meant(running, app):
    assert choose(running, HERE) == app


def test_several_apps_are_listed():
    with pytest.raises(Wrong) as error:
        choose({"b": Path("/else/b.toml"), "a": None}, HERE)
    assert error.value.exit_code == 2
    assert error.value.message.splitlines()[1:] == ["  a", "  b  (/else/b.toml)"]


def test_no_app_at_all():
    with pytest.raises(Wrong, match="no app is running"):
        choose({}, HERE)


def test_the_app_of_the_file_here_is_asked_of_the_running_ones(serving, places):
    serving(name="other")
    serving(name="here", file=Path("creche.toml").absolute())
    assert chosen_app(places, None) == "here"
    assert by_app(places, ["web", "other/db", "here/web", "web"]) == {"here": ["web"], "other": ["db"]}


def test_a_named_app_is_not_looked_for(places):
    assert chosen_app(places, "shop") == "shop"


def test_left_over_apps_with_their_files(places):
    for name, text in (("a", '{"file": "/x/a.toml"}'), ("b", "torn")):
        places.state(name).mkdir(parents=True)
        (places.state(name) / "app.json").write_text(text)
    places.state("c").mkdir()
    assert left_over(places) == {"a": Path("/x/a.toml"), "b": None}


@pytest.mark.parametrize(("text", "parts"), [("web", (None, "web")), ("shop/web.1", ("shop", "web.1"))])
def test_references(text, parts):
    assert reference(text) == parts


@pytest.mark.parametrize("text", ["", "..", "a/b", "Shop", "-x", "a" * 32, "a\n"])
def test_names_that_would_leave_the_directory(text):
    with pytest.raises(Wrong, match="no app's name"):
        app_name(text)
