"""Positions: every key that tomllib finds is on the line that the scanner says."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.app_file.positions import line_of, scan

TEXT = '''\
name = "x" # [no] = 1
text = """
[not.a.table]
key = 1"""

[a]
"quoted key".b = [
  1, # ] one
  [2,
   3],
]
'literal' = { x = 1, y.z = { w = "}" } }

[[list]]
v = 1
[list.sub]
w = """a"""" # four
[[list]]
  v = \'\'\'
'\'\'\'\'
  u = 1979-05-27 07:32:00
[a.later]
"\\u00e4" = 'é'
'''

LINES = {
    ("name",): 1,
    ("text",): 2,
    ("a",): 6,
    ("a", "quoted key"): 7,
    ("a", "quoted key", "b"): 7,
    ("a", "quoted key", "b", 0): 8,
    ("a", "quoted key", "b", 1): 9,
    ("a", "quoted key", "b", 1, 0): 9,
    ("a", "quoted key", "b", 1, 1): 10,
    ("a", "literal"): 12,
    ("a", "literal", "x"): 12,
    ("a", "literal", "y"): 12,
    ("a", "literal", "y", "z"): 12,
    ("a", "literal", "y", "z", "w"): 12,
    ("list",): 14,
    ("list", 0): 14,
    ("list", 0, "v"): 15,
    ("list", 0, "sub"): 16,
    ("list", 0, "sub", "w"): 17,
    ("list", 1): 18,
    ("list", 1, "v"): 19,
    ("list", 1, "u"): 21,
    ("a", "later"): 22,
    ("a", "later", "ä"): 23,
}


def test_every_kind_of_position() -> None:
    assert scan(TEXT) == LINES


def test_the_nearest_table_stands_in() -> None:
    assert line_of(("a", "missing", 3), scan(TEXT)) == 6
    assert line_of(("nothing",), scan(TEXT)) is None


class Writer:
    """Draws a TOML document whose keys are all different, in every style that TOML has."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.count = 0

    def key(self) -> str:
        self.count += 1
        name = f"k{self.count}" + self.draw(st.sampled_from(["", " x", '"', "ä", "\\", ".", "#", "'", "]", "=", "\t"]))
        styles = [json.dumps(name, ensure_ascii=self.draw(st.booleans()))]
        if name.isascii() and name.isalnum():
            styles.append(name)
        if "'" not in name:
            styles.append(f"'{name}'")
        return self.draw(st.sampled_from(styles))

    def dotted(self) -> str:
        dot = self.draw(st.sampled_from([".", " . ", "\t."]))
        return dot.join(self.key() for _ in range(self.draw(st.integers(1, 3))))

    def gap(self) -> str:
        return self.draw(st.sampled_from(["", " ", "\n", "\n # zz = [1\n", " # ]\n\n\t"]))

    def value(self, depth: int) -> str:
        kinds = ["plain", "list", "table"] if depth else ["plain"]
        match self.draw(st.sampled_from(kinds)):
            case "list":
                items = [
                    f"{self.gap()}{self.value(depth - 1)}{self.gap()}" for _ in range(self.draw(st.integers(0, 3)))
                ]
                end = self.draw(st.sampled_from(["", ","])) if items else ""
                return f"[{','.join(items)}{end}{self.gap()}]"
            case "table":
                pairs = [f"{self.dotted()} = {self.value(0)}" for _ in range(self.draw(st.integers(0, 3)))]
                return f"{{ {', '.join(pairs)} }}"
            case _:
                plain = [
                    "1",
                    "-0.5e3",
                    "true",
                    '"#]}"',
                    "'\\'",
                    "07:32:00",
                    "2020-01-02T03:04:05Z",
                    '"\\""',
                    '""',
                    "''",
                ]
                long = [
                    '"""\n[zz]\nzz = 1\\\n """',
                    "'''[[zz]]\n'''",
                    '"""\\""""""',
                    "'''a''''",
                    '"""a"" \'\'\'"""',
                    '""""""',
                ]
                return self.draw(st.sampled_from(plain + long))

    def pairs(self) -> str:
        comment = self.draw(st.sampled_from(["", " # zz = '''", "\n\n#[zz]"]))
        count = self.draw(st.integers(0, 3))
        return "".join(f"{self.dotted()} = {self.value(2)}{comment}\n" for _ in range(count))

    def document(self) -> str:
        text = self.pairs()
        headers: list[str] = []
        for _ in range(self.draw(st.integers(0, 4))):
            name = self.dotted()
            if headers and self.draw(st.booleans()):
                name = f"{self.draw(st.sampled_from(headers))}.{name}"
            if self.draw(st.booleans()):
                headers.append(name)
                text += f"[ {name}]\n{self.pairs()}"
            else:
                for _ in range(self.draw(st.integers(1, 2))):
                    text += f"[[{name} ]] # [zz]\n{self.pairs()}"
                headers.append(name)
        return text.replace("\n", self.draw(st.sampled_from(["\n", "\r\n"])))


@st.composite
def documents(draw: st.DrawFn) -> str:
    return Writer(draw).document()


def paths(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        yield (*above, step)
        yield from paths(below, (*above, step))


@settings(max_examples=300, deadline=None)
@given(documents())
def test_every_key_is_on_its_line(text: str) -> None:
    found = list(paths(tomllib.loads(text)))
    lines = scan(text)
    assert set(lines) == set(found)
    rows = text.split("\n")
    for path in found:
        key = path[-1]
        if isinstance(key, str):
            row = rows[lines[path] - 1]
            assert key in row or json.dumps(key)[1:-1] in row or json.dumps(key, ensure_ascii=False)[1:-1] in row


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab=[]{}.,\"'\\\n #1"))
def test_no_text_is_an_error(text: str) -> None:
    scan(text)


def test_deep_nesting_is_no_error() -> None:
    scan("a = " + "[" * 100_000)


@pytest.mark.parametrize("text", ["", "\n", "# only\n"])
def test_nothing_is_nowhere(text: str) -> None:
    assert scan(text) == {}
