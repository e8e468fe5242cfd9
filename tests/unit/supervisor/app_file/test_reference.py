"""The app file's reference: current, whole, and its example an app that runs."""

import re
from pathlib import Path

from supervisor.app_file import reference
from supervisor.app_file.read import parse
from supervisor.app_file.spec import Container, Group
from supervisor.app_file.support import CONTAINER, GROUP

PAGE = Path(__file__).parents[4] / "docs" / "app-file.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference.markdown(), "run: python -m supervisor.app_file.reference > docs/app-file.md"


def test_every_key_has_one_row_and_no_row_is_of_no_key() -> None:
    container = [row.key for row in reference.rows(Container(name="x"), CONTAINER, reference.MEANINGS)]
    group = [row.key for row in reference.rows(Group(), GROUP, reference.GROUP_MEANINGS)]
    assert (sorted(container), sorted(group)) == (sorted(reference.MEANINGS), sorted(reference.GROUP_MEANINGS))


def test_every_refusal_is_told() -> None:
    rows = [*reference.rows(Container(name="x"), CONTAINER, reference.MEANINGS)]
    assert {row.key for row in rows if row.refusals} == set(CONTAINER)


def test_the_example_is_an_app() -> None:
    example = re.findall(r"```toml\n(.*?)```", reference.markdown(), re.DOTALL)[0]
    assert list(parse(example, file="shop.toml", environ={}).containers) == ["store", "api"]
