"""Positions: from a key's path to its line, which tomllib does not tell. For text that tomllib accepts."""

import contextlib
import re
from collections.abc import Mapping

from .problems import KeyPath

_SKIP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)
_PLAIN = re.compile(r"[^,\]}#\n]*")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def scan(text: str) -> Mapping[KeyPath, int]:
    """Return the line (from 1) of every key, table and list element of a TOML text, by its path from the top.

    A table that is only implied has the line of the first key or header that names it. For text that is no TOML the
    result is some of its positions, never an error.
    """
    # Four quotes at a multi-line string's end are one of its own and three that close it; _STRING's {3,5} says so.
    scanner = _Scanner(text)
    with contextlib.suppress(_Lost, RecursionError):
        scanner.document()
    return scanner.lines


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int | None:
    """Return the line of the path, or of the nearest table above it that has one; None where nothing does."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


class _Lost(Exception):
    """The text is no TOML here."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self._lists: dict[KeyPath, int] = {}
        self._counted, self._line = 0, 1

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip() < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header(2)
            elif self.text.startswith("[", self.at):
                table = self._header(1)
            else:
                self._pair(table)

    def _header(self, brackets: int) -> KeyPath:
        self.at += brackets
        keys = self._keys()
        self.at += brackets
        table: KeyPath = ()
        for index, (key, line) in enumerate(keys):
            table = (*table, key)
            self._note(table, line)
            if brackets == 2 and index == len(keys) - 1:
                self._lists[table] = self._lists.get(table, -1) + 1
                table = (*table, self._lists[table])
                self._note(table, line)
            elif table in self._lists:
                table = (*table, self._lists[table])
        return table

    def _pair(self, table: KeyPath) -> None:
        for key, line in self._keys():
            table = (*table, key)
            self._note(table, line)
        self._expect("=")
        self._value(table)

    def _value(self, path: KeyPath) -> None:
        self._skip()
        start = self.text[self.at : self.at + 1]
        if start == "[":
            self.at += 1
            index = 0
            while self._skip() < len(self.text) and self.text[self.at] != "]":
                self._note((*path, index), self._here())
                self._value((*path, index))
                index += 1
                self._comma("]")
            self._expect("]")
        elif start == "{":
            self.at += 1
            while self._skip() < len(self.text) and self.text[self.at] != "}":
                self._pair(path)
                self._comma("}")
            self._expect("}")
        else:
            pattern = _STRING if start in ('"', "'") and start else _PLAIN
            match = pattern.match(self.text, self.at)
            if not match:
                raise _Lost
            self.at = match.end()

    def _keys(self) -> list[tuple[str, int]]:
        keys: list[tuple[str, int]] = []
        while True:
            self._skip()
            line = self._here()
            quote = self.text[self.at : self.at + 1]
            match = (_STRING if quote in ('"', "'") and quote else _BARE).match(self.text, self.at)
            if not match:
                raise _Lost
            self.at = match.end()
            key = match[0] if quote not in ('"', "'") else match[0][1:-1]
            keys.append((_ESCAPE.sub(_unescape, key) if quote == '"' else key, line))
            self._skip()
            if self.text[self.at : self.at + 1] != ".":
                return keys
            self.at += 1

    def _comma(self, end: str) -> None:
        self._skip()
        if self.text[self.at : self.at + 1] == ",":
            self.at += 1
        elif self.text[self.at : self.at + 1] != end:
            raise _Lost

    def _expect(self, sign: str) -> None:
        self._skip()
        if self.text[self.at : self.at + 1] != sign:
            raise _Lost
        self.at += 1

    def _skip(self) -> int:
        match = _SKIP.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _note(self, path: KeyPath, line: int) -> None:
        self.lines.setdefault(path, line)

    def _here(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line


def _unescape(match: re.Match[str]) -> str:
    if code := match[1] or match[2]:
        return chr(int(code, 16))
    return _ESCAPED.get(match[3], match[3])
