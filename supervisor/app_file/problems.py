"""What is wrong with an app file: problems, each with its key, and the error that carries them all."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

import attrs

KeyPath = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 60


@attrs.frozen
class Problem:
    """One thing that is wrong, at one key.

    `path` is the way to the key (an int is an index into a list), `found` what stood there as TOML would write it, or
    None where the message says it already, `advice` what was perhaps meant. `file` and `line` (from 1) are None for an
    app that was built in code.
    """

    path: KeyPath
    message: str
    found: str | None = None
    advice: str = ""
    file: str | None = None
    line: int | None = None

    @property
    def key(self) -> str:
        """The key's path as a person writes it: `containers.api.ports[0]`."""
        text = ""
        for step in self.path:
            if isinstance(step, int):
                text += f"[{step}]"
            else:
                name = step if _BARE.fullmatch(step) else json.dumps(step, ensure_ascii=False)
                text += f".{name}" if text else name
        return text

    def below(self, *steps: str | int) -> "Problem":
        """Return the same problem with its path seen from further up."""
        return attrs.evolve(self, path=(*steps, *self.path))

    def __str__(self) -> str:
        place = "" if self.file is None else self.file + ":" + (f"{self.line}:" if self.line else "") + " "
        key = f"{self.key}: " if self.path else ""
        found = "" if self.found is None else f", found {self.found}"
        advice = f"; {self.advice}" if self.advice else ""
        return f"{place}{key}{self.message}{found}{advice}"


class Invalid(ValueError):
    """Values that no app may have; `problems` holds every one of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def below(self, *steps: str | int) -> "Invalid":
        """Return the same error with its paths seen from further up."""
        return type(self)(problem.below(*steps) for problem in self.problems)


class AppFileError(Invalid):
    """An app file, or an app built in code, that cannot be run: all its problems in the file's order."""


def wrong(message: str, found: object = None, advice: str = "") -> Invalid:
    """Return the error for one value; `found` is the value itself, None where the message tells it."""
    return Invalid([Problem((), message, None if found is None else shown(found), advice)])


def shown(value: Any) -> str:
    """Return a value as TOML would write it, shortened, on one line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool | str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= _SHOWN else text[: _SHOWN - 2] + '…"'
    return str(value)


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """Return `did you mean "links"?` for a near miss, else an empty string."""
    words = {name.lower(): name for name in known}
    if not isinstance(word, str):
        return ""
    near = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6 if len(word) > 3 else 0.5)
    return f'did you mean "{words[near[0]]}"?' if near else ""
