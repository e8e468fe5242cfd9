"""Style and types, as the tools see them."""

import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
SOURCES = ("creche.py", "supervisor", "runtime", "net")


def said_by(*command: str) -> str | None:
    """What a tool complains of, None when it is content."""
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:]], cwd=TREE, capture_output=True, text=True, timeout=110)
    return None if done.returncode == 0 else done.stdout + done.stderr


def test_ruff_is_content() -> None:
    complaint = said_by("ruff", "check", "--output-format=concise", ".")
    assert complaint is None, complaint


def test_the_code_is_formatted() -> None:
    complaint = said_by("ruff", "format", "--check", ".")
    assert complaint is None, complaint


@pytest.mark.timeout(120)
def test_the_types_agree() -> None:
    complaint = said_by("basedpyright", "--level", "error", *SOURCES)
    assert complaint is None, complaint
