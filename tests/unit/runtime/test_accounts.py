"""Users and groups of a container, from text nobody trusts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.accounts import MAX_FILE, MAX_LINE, Account, resolve

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
# a comment
+nis::::::
broken line
web:x:1000:1001:,,,:/srv/web:/bin/sh
3proxy:x:1003:13:::
neg:x:-1:0::/:
hex:x:0x0:0::/:
1000:x:0:0::/root:/bin/sh
"""
GROUP = b"""\
root:x:0:
web:x:1001:
adm:x:4:web,other
tape:x:26:other
video:x:44:web
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Account(0, 0, (), "/root")),
        ("root", Account(0, 0, (), "/root")),
        ("web", Account(1000, 1001, (4, 44), "/srv/web")),
        ("1000", Account(1000, 1001, (4, 44), "/srv/web")),
        ("web:adm", Account(1000, 4, (), "/srv/web")),
        ("web:7", Account(1000, 7, (), "/srv/web")),
        ("77", Account(77, 0, (), "/")),
        ("77:88", Account(77, 88, (), "/")),
        ("3proxy", Account(1003, 13, (), "/")),
        ("4294967294", Account(4294967294, 0, (), "/")),
    ],
)
def test_resolve(user: str, expected: Account) -> None:
    assert resolve(user, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("0x0", "plain decimal"),
        ("+1", "plain decimal"),
        ("-1", "plain decimal"),
        ("1_000", "plain decimal"),
        ("007", "plain decimal"),
        ("1e3", "plain decimal"),
        ("1.0", "plain decimal"),
        (" 1", "not a valid name"),
        ("1 ", "not a valid name"),
        ("\u0661", "not a valid name"),
        ("4294967295", "ids go from 0 to 4294967294"),
        ("99999999999", "plain decimal"),
        ("web:", "group after the colon"),
        ("web:a:b", "not a valid name"),
        ("we\0b", "not a valid name"),
        ("nobody", "no user 'nobody'"),
        ("neg", "no user 'neg'"),
        ("hex", "no user 'hex'"),
        ("web:wheel", "no group 'wheel'"),
        ("web:0x0", "plain decimal"),
    ],
)
def test_no_surprises(user: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve(user, PASSWD, GROUP)


def test_added_groups_come_once_and_the_first_where_it_is_added() -> None:
    assert resolve("web", PASSWD, GROUP, ["tape", 44, "26"]).groups == (4, 44, 26)
    assert resolve("web", PASSWD, GROUP, ["tape", 1001, 1001]).groups == (4, 44, 26, 1001)


def test_a_file_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"/etc/passwd has .* bytes"):
        resolve("web", b"a" * (MAX_FILE + 1))


def test_a_line_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"/etc/group has a line"):
        resolve("0", b"", b"a" * (MAX_LINE + 1))


def test_a_relative_home_is_the_root() -> None:
    assert resolve("u", b"u:x:5:5::../../etc:").home == "/"


@given(st.text(), st.binary(), st.binary())
def test_any_text_gives_ids_in_range_or_a_clear_error(user: str, passwd: bytes, group: bytes) -> None:
    try:
        account = resolve(user, passwd, group)
    except ValueError as error:
        assert str(error)
    else:
        assert 0 <= account.uid <= 0xFFFFFFFE
        assert 0 <= account.gid <= 0xFFFFFFFE


@given(st.integers(0, 0xFFFFFFFE), st.binary())
def test_a_number_is_only_ever_that_number(uid: int, passwd: bytes) -> None:
    assert resolve(str(uid), passwd + b"\n%d:x:0:0::/:" % uid).uid == uid
