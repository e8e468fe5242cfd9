"""Who a container's process is: `user[:group]` read strictly, looked up in the container's own passwd and group.

Those files come from a root filesystem that nobody trusts: their size and lines are bounded, malformed lines are
passed over as the C library does, and whatever looks like a number is only ever a number. Pure.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MAX_ID = 0xFFFFFFFE
"""The highest id; the one above it is -1, "no change", to every system call that takes ids."""
MAX_FILE = 4 << 20
MAX_LINE = 64 << 10
MAX_GROUPS = 65_536
"""The kernel's NGROUPS_MAX."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_NUMBER_LIKE = re.compile(r"[-+]?[0-9][0-9_.,a-fA-FxXoO]*|[-+].*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,254}\$?")


class Account(NamedTuple):
    """The ids, inside the container, that its process gets, and its home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve(user: str, passwd: bytes = b"", group: bytes = b"", add: Sequence[str | int] = ()) -> Account:
    """Return the account for `user[:group]`, an empty one meaning root, with the further groups of `add`.

    As with Docker: a number need not be in the files and then has group 0; without `:group` the user also gets
    the groups that list it. Raises ValueError for malformed text, unknown names and files that are too large.
    """
    who, colon, which = user.partition(":")
    if colon and not which:
        raise ValueError(f"user {user!r}: the group after the colon is missing")
    users = list(_users(_lines(passwd, "/etc/passwd")))
    groups = list(_groups(_lines(group, "/etc/group")))
    number = _number(who or "0", user)
    found = next((each for each in users if (each.name == who if number is None else each.uid == number)), None)
    if found is None:
        if number is None:
            raise ValueError(
                f"user {user!r}: the container's /etc/passwd has no user {who!r}; name one it has, or a uid"
            )
        found = _User("", number, 0, "/")
    more: list[int] = []
    if which:
        gid = _gid(which, user, groups)
    else:
        gid = found.gid
        more += [each.gid for each in groups if found.name and found.name in each.members]
    added = [_gid(str(each), f"group_add {each}", groups) for each in add]
    # The own group too where it is asked for: who left it by setgid would else escape what is denied to it.
    further = tuple(dict.fromkeys(each for each in (*more, *added) if each != gid or each in added))
    if len(further) > MAX_GROUPS:
        raise ValueError(f"user {user!r}: {len(further)} groups are more than the kernel's {MAX_GROUPS}")
    return Account(found.uid, gid, further, found.home)


def _gid(text: str, what: str, groups: Iterable[_Group]) -> int:
    number = _number(text, what)
    if number is not None:
        return number
    for each in groups:
        if each.name == text:
            return each.gid
    raise ValueError(f"{what!r}: the container's /etc/group has no group {text!r}; name one it has, or a gid")


def _number(text: str, what: str) -> int | None:
    """Return `text` as an id, or None when it is a name."""
    if _NUMBER.fullmatch(text):
        if int(text) > MAX_ID:
            raise ValueError(f"{what!r}: {text} is not an id; ids go from 0 to {MAX_ID}")
        return int(text)
    if _NUMBER_LIKE.fullmatch(text):
        raise ValueError(f"{what!r}: {text!r} is neither a name nor a plain decimal number")
    if not _NAME.fullmatch(text):
        raise ValueError(f"{what!r}: {text!r} is not a valid name")
    return None


def _lines(data: bytes, path: str) -> Iterator[list[str]]:
    if len(data) > MAX_FILE:
        raise ValueError(f"the container's {path} has {len(data)} bytes; more than {MAX_FILE} are refused")
    for line in data.split(b"\n"):
        if len(line) > MAX_LINE:
            raise ValueError(
                f"the container's {path} has a line of {len(line)} bytes; more than {MAX_LINE} are refused"
            )
        if line and b"\0" not in line and line[:1] not in b"#+-":
            yield line.decode("utf-8", "surrogateescape").split(":")


def _users(lines: Iterable[list[str]]) -> Iterator[_User]:
    for fields in lines:
        if len(fields) < 6:
            continue
        uid, gid = _stored(fields[2]), _stored(fields[3])
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, fields[5] if fields[5].startswith("/") else "/")


def _groups(lines: Iterable[list[str]]) -> Iterator[_Group]:
    for fields in lines:
        gid = _stored(fields[2]) if len(fields) >= 4 else None
        if gid is not None:
            yield _Group(fields[0], gid, tuple(member for member in fields[3].split(",") if member))


def _stored(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= MAX_ID else None
