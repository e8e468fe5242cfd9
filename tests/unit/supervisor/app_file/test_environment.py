"""Files of variables: Compose's format."""

import pytest

from supervisor.app_file.environment import EnvironmentSyntaxError, parse_environment


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("# only a comment\n\n  # another", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("export A=1\n  export  B = 2 ", {"A": "1", "B": "2"}),
        ("A=", {"A": ""}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=one two # three", {"A": "one two"}),
        ("A=one#two", {"A": "one#two"}),
        ("A= # nothing", {"A": ""}),
        ("A='one # ${B} \\n' # comment", {"A": "one # ${B} \\n"}),
        ("A='Let\\'s go'", {"A": "Let's go"}),
        ('A="a\\tb\\n\\"c\\" \\\\ \\d"', {"A": 'a\tb\n"c" \\ \\d'}),
        ("A='two\nlines'\nB=1", {"A": "two\nlines", "B": "1"}),
        ('A="two\nlines"', {"A": "two\nlines"}),
        ('A=x="y"', {"A": 'x="y"'}),
        ("A=1\nB=${A}2", {"A": "1", "B": "12"}),
        ("HOME=/elsewhere\nB=${HOME}", {"HOME": "/elsewhere", "B": "/root"}),
        ('B="\\${HOME} ${HOME} $HOME"', {"B": "${HOME} /root $HOME"}),
        ("B=${NONE:-x}", {"B": "x"}),
        ("HOME\nNONE\nB=1", {"HOME": "/root", "B": "1"}),
    ],
)
def test_format(text: str, variables: dict[str, str]) -> None:
    assert parse_environment(text, {"HOME": "/root"}) == variables


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("A=1\nnot this", 2, "must be NAME=value"),
        ("=1", 1, "must be NAME=value"),
        ("\n1A=1", 2, "must be NAME=value"),
        ("A='x\nB=1", 1, "A: the closing quote is missing"),
        ('A="x" y', 1, "A: something stands after the closing quote"),
        ("A='x\ny'\nB=${C}", 3, "B: the variable C is not set; ${C:-default} gives it a default"),
    ],
)
def test_errors(text: str, line: int, message: str) -> None:
    with pytest.raises(EnvironmentSyntaxError) as error:
        parse_environment(text, {})
    assert (error.value.line, str(error.value)) == (line, message)
