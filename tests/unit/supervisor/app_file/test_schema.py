"""The JSON Schema is one, accepts every valid file, and refuses what is wrong at first sight."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from supervisor.app_file.read import read
from supervisor.app_file.schema import schema
from supervisor.app_file.write import to_toml

VALID = Path(__file__).parent / "valid"
FILES = sorted(path.name for path in VALID.glob("*.toml"))
VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    json.dumps(schema())


@pytest.mark.parametrize("file", FILES)
def test_valid_files_are_valid(file: str) -> None:
    VALIDATOR.validate(tomllib.loads((VALID / file).read_text()))


@pytest.mark.parametrize("file", ["supported.toml", "interpolated.toml"])
def test_normalised_files_are_valid(file: str) -> None:
    VALIDATOR.validate(tomllib.loads(to_toml(read(VALID / file, {}))))


@pytest.mark.parametrize(
    "text",
    [
        "nam = 'x'",
        "[containers.a]\nlink = []",
        "[containers.'A b']\nrootfs = '/'",
        "[containers.a]\nrestart = 'alway'",
        "[containers.a]\nreplicas = 'two'",
        "[containers.a]\nlimits.memory = '12X'",
        "[containers.a]\nlimits.pids = 0",
        "[containers.a]\nstop.timeout = 10",
        "[containers.a]\nreadiness = { interval = '1s' }",
        "[containers.a]\nreadiness = { tcp = 1, http = '/' }",
        "[containers.a]\nbuild = { target = 'x' }",
        "[defaults]\ntty = 1",
        "[groups.a]\nstrategy = 'x'",
        "[volumes.v]\ndriver = 'x'",
    ],
)
def test_broken_files_are_not(text: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(text))
