"""The documents say what the code says, where they quote it."""

import re
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
PAGES = sorted([*TREE.glob("*.md"), *(TREE / "docs").glob("*.md"), *(TREE / "configs").glob("*.md")])


def quoted(name: str) -> str:
    """What stands between a page's two markers, without fences."""
    text = (TREE / "docs/ARCHITECTURE.md").read_text()
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    assert text.count(begin) == text.count(end) == 1
    lines = text.partition(begin)[2].partition(end)[0].splitlines()
    return "\n".join(line for line in lines if not line.startswith("```")).strip("\n")


def test_the_lifecycle_is_the_tables() -> None:
    from supervisor.lifecycle import mermaid

    assert quoted("lifecycle") == mermaid().strip()


def test_the_ladder_is_the_messages() -> None:
    import inspect

    from runtime.launch import messages

    said = inspect.cleandoc(messages.__doc__ or "").split("\n\n")
    drawing = next(part for part in said if "│" in part)
    assert squeezed(quoted("ladder")) == squeezed(drawing)


def squeezed(drawing: str) -> list[str]:
    """A drawing's lines without their common margin."""
    import textwrap

    return [line.rstrip() for line in textwrap.dedent(drawing).splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(TREE)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(TREE)) for page in PAGES])
def test_tests_that_are_named_exist(page: Path) -> None:
    for file, test in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text()):
        assert (TREE / file).is_file(), file
        assert not test or re.search(rf"^(?:async )?def {test}\(", (TREE / file).read_text(), re.M), f"{file}::{test}"
