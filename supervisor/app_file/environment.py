"""Files of variables: `.env` and `env_file`, in the format of Compose. Pure; the reader opens the files."""

import re
from collections.abc import Mapping

from .interpolate import interpolate

_LINE = re.compile(
    r"[^\S\n]*(?:export[^\S\n]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[^\S\n]*(?P<end>=[^\S\n]*|(?=\n|$|#))"
)
_SKIPPED = re.compile(r"[^\S\n]*(?:#[^\n]*)?(?:\n|$)")
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


class EnvironmentSyntaxError(ValueError):
    """A line that is no variable; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line: int = line


def parse_environment(text: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a file's text in its order; the later one of two wins.

    `NAME=value`, also after `export`; `#` begins a comment at a line's start, and after a blank; '…' is literal, "…"
    knows \\n \\r \\t, a backslash before a quote or itself drops out, both may span lines. `${…}` is interpolated
    outside of '…' from `variables` first, then from the lines above. A name without `=` takes its value from
    `variables`, and is left out where they have none. Raises EnvironmentSyntaxError.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    result: dict[str, str] = {}
    position = 0
    while position < len(text):
        if skipped := _SKIPPED.match(text, position):
            position = skipped.end()
            continue
        line = text.count("\n", 0, position) + 1
        match = _LINE.match(text, position)
        if not match:
            raise EnvironmentSyntaxError(line, "must be NAME=value")
        name, position = match["name"], match.end()
        if not match["end"]:
            if name in variables:
                result[name] = variables[name]
        else:
            try:
                result[name], position = _value(text, position, result | dict(variables))
            except ValueError as error:
                raise EnvironmentSyntaxError(line, f"{name}: {error}") from None
        rest = _SKIPPED.match(text, position)
        if not rest:
            raise EnvironmentSyntaxError(line, f"{name}: something stands after the closing quote")
        position = rest.end()
    return result


def _value(text: str, position: int, variables: Mapping[str, str]) -> tuple[str, int]:
    quote = text[position : position + 1]
    if quote not in ("'", '"') or not quote:
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        raw = text[position:end]
        comment = re.search(r"(?:^|\s)#", raw)
        raw = raw[: comment.start()] if comment else raw
        return interpolate(raw.strip(), variables), end
    match = (_SINGLE if quote == "'" else _DOUBLE).match(text, position)
    if not match:
        raise ValueError("the closing quote is missing")
    if quote == "'":
        return match[1].replace("\\'", "'"), match.end()
    value = _ESCAPE.sub(_unescape, match[1])
    return interpolate(value, variables), match.end()


def _unescape(match: re.Match[str]) -> str:
    letter = match[1]
    if letter == "$":
        return "$$" if match.string.startswith("{", match.end()) else "$"
    return _ESCAPED.get(letter) or (letter if letter in '"\\' else match[0])
