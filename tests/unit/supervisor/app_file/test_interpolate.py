"""Interpolation: the truth table of the braced forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.app_file.interpolate import escape, interpolate

VARIABLES = {"A": "one", "EMPTY": "", "TRICK": "${A}", "_x1": "low"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("<${A}${A}>", "<oneone>"),
        ("${_x1}", "low"),
        ("${EMPTY}", ""),
        ("${A:-x}", "one"),
        ("${EMPTY:-x}", "x"),
        ("${NONE:-x}", "x"),
        ("${NONE:-}", ""),
        ("${NONE:-${A}}", "one"),
        ("${NONE:-${ALSO:-${A}!}?}", "one!?"),
        ("${A:?needed}", "one"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("${TRICK}", "${A}"),
        ("$A $$ $ $1 ${", "$A $$ $ $1 ${"),
        ("${A", "${A"),
        ("${A:-x", "${A:-x"),
        ("${1} ${} ${A-x} ${#A} ${A:+x}", "${1} ${} ${A-x} ${#A} ${A:+x}"),
        ("${NONE:-a}b}", "ab}"),
    ],
)
def test_forms(text: str, result: str) -> None:
    assert interpolate(text, VARIABLES) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "the variable NONE is not set; ${NONE:-default} gives it a default"),
        ("${NONE:?say ${A}}", "the variable NONE is not set: say one"),
        ("${EMPTY:?}", "the variable EMPTY is not set"),
    ],
)
def test_missing(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        interpolate(text, VARIABLES)
    assert str(error.value) == message


@given(st.text(alphabet="$${}A:-?x"))
def test_escaped_text_stays(text: str) -> None:
    assert interpolate(escape(text), VARIABLES) == text
