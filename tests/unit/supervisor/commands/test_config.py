"""config: a file checked, normalised, as TOML or JSON; the schema."""

import json
import tomllib
from pathlib import Path

import pytest

GOOD = '[containers.web]\nrootfs = "/"\ncommand = "sleep 1"\n'
BROKEN = '[containers.web]\nrootfs = "/"\nlink = ["db"]\nrestart = 3\n'


@pytest.fixture
def file(places):
    def write(text, name="shop.toml"):
        Path(name).write_text(text)
        return name

    return write


def test_toml_is_normalised(creche, file):
    result = creche("config", file(GOOD))
    assert result.code == 0
    assert tomllib.loads(result.out)["containers"]["web"]["restart"]["policy"] == "on-failure"


def test_json_says_the_same(creche, file):
    name = file(GOOD)
    document = json.loads(creche("config", "--json", name).out)
    assert without_nulls(document) == tomllib.loads(creche("config", "-f", name).out)


def without_nulls(value):
    """TOML has no null: a key without a value is left out there."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def test_the_file_of_the_directory(creche, file):
    file(GOOD, "creche.toml")
    Path("creche.toml").write_text('name = "here"\n' + GOOD)
    assert json.loads(creche("config", "--json").out)["name"] == "here"


def test_all_problems_at_once_with_their_lines(creche, file):
    result = creche("config", file(BROKEN))
    assert (result.code, result.out) == (2, "")
    assert "shop.toml:3" in result.err
    assert "shop.toml:4" in result.err


def test_the_schema(creche):
    assert json.loads(creche("config", "--schema").out)["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("arguments", [["shop"], ["--schema", "x.toml"], ["nix.toml"], ["a.toml", "b.toml"]])
def test_wrong_arguments(creche, arguments):
    assert creche("config", *arguments).code == 2
