"""Every word of config.md's mount options, alone and against each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import syscalls as s
from runtime.mount_options import Attributes, Options, parse

ATIME = s.MOUNT_ATTR__ATIME


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ro", Attributes(s.MOUNT_ATTR_RDONLY, 0)),
        ("rw", Attributes(0, s.MOUNT_ATTR_RDONLY)),
        ("nosuid", Attributes(s.MOUNT_ATTR_NOSUID, 0)),
        ("suid", Attributes(0, s.MOUNT_ATTR_NOSUID)),
        ("nodev", Attributes(s.MOUNT_ATTR_NODEV, 0)),
        ("dev", Attributes(0, s.MOUNT_ATTR_NODEV)),
        ("noexec", Attributes(s.MOUNT_ATTR_NOEXEC, 0)),
        ("exec", Attributes(0, s.MOUNT_ATTR_NOEXEC)),
        ("nodiratime", Attributes(s.MOUNT_ATTR_NODIRATIME, 0)),
        ("diratime", Attributes(0, s.MOUNT_ATTR_NODIRATIME)),
        ("nosymfollow", Attributes(s.MOUNT_ATTR_NOSYMFOLLOW, 0)),
        ("symfollow", Attributes(0, s.MOUNT_ATTR_NOSYMFOLLOW)),
        ("noatime", Attributes(s.MOUNT_ATTR_NOATIME, ATIME)),
        ("strictatime", Attributes(s.MOUNT_ATTR_STRICTATIME, ATIME)),
        ("relatime", Attributes(0, ATIME)),
        ("atime", Attributes(0, ATIME)),
        ("nostrictatime", Attributes(0, ATIME)),
        ("norelatime", Attributes(0, ATIME)),
    ],
)
def test_an_attribute_of_the_mount_and_of_all_below(word: str, expected: Attributes) -> None:
    assert parse([word]) == Options(top=expected)
    assert parse([f"r{word}"]) == Options(deep=expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ro", "rw"], Attributes(0, s.MOUNT_ATTR_RDONLY)),
        (["rw", "ro"], Attributes(s.MOUNT_ATTR_RDONLY, 0)),
        (["noatime", "strictatime"], Attributes(s.MOUNT_ATTR_STRICTATIME, ATIME)),
        (["strictatime", "relatime"], Attributes(0, ATIME)),
        (["noatime", "atime"], Attributes(0, ATIME)),
        (["strictatime", "atime"], Attributes(s.MOUNT_ATTR_STRICTATIME, ATIME)),
        (["strictatime", "nostrictatime"], Attributes(0, ATIME)),
        (["noatime", "nostrictatime"], Attributes(s.MOUNT_ATTR_NOATIME, ATIME)),
        (["noatime", "norelatime"], Attributes(s.MOUNT_ATTR_NOATIME, ATIME)),
        (["noatime", "nosuid"], Attributes(s.MOUNT_ATTR_NOATIME | s.MOUNT_ATTR_NOSUID, ATIME)),
    ],
)
def test_the_later_wins(words: list[str], expected: Attributes) -> None:
    assert parse(words).top == expected


def test_a_later_word_about_all_mounts_wins_over_one_about_the_first() -> None:
    assert parse(["rw", "rro"]) == Options(deep=Attributes(s.MOUNT_ATTR_RDONLY, 0))
    assert parse(["rro", "rw"]) == Options(
        top=Attributes(0, s.MOUNT_ATTR_RDONLY), deep=Attributes(s.MOUNT_ATTR_RDONLY, 0)
    )


@pytest.mark.parametrize(
    ("word", "kind", "deep"),
    [
        ("shared", s.MS_SHARED, False),
        ("slave", s.MS_SLAVE, False),
        ("private", s.MS_PRIVATE, False),
        ("unbindable", s.MS_UNBINDABLE, False),
        ("rshared", s.MS_SHARED, True),
        ("rslave", s.MS_SLAVE, True),
        ("rprivate", s.MS_PRIVATE, True),
        ("runbindable", s.MS_UNBINDABLE, True),
    ],
)
def test_propagation(word: str, kind: int, deep: bool) -> None:
    assert parse([word]) == Options(propagation=kind, propagation_deep=deep)
    assert parse(["rshared", word]).propagation == kind


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bind", Options(bind=True)),
        ("rbind", Options(bind=True, recursive=True)),
        ("remount", Options(remount=True)),
        ("idmap", Options(idmap=True)),
        ("ridmap", Options(idmap=True, idmap_deep=True)),
        ("tmpcopyup", Options(copy_up=True)),
        ("defaults", Options()),
        ("silent", Options()),
        ("loud", Options()),
        ("sync", Options(superblock=("sync",))),
        ("async", Options(superblock=("async",))),
        ("dirsync", Options(superblock=("dirsync",))),
        ("lazytime", Options(superblock=("lazytime",))),
        ("nolazytime", Options(superblock=("nolazytime",))),
        ("mand", Options(superblock=("mand",))),
        ("nomand", Options(superblock=("nomand",))),
        ("acl", Options(superblock=("acl",))),
        ("noacl", Options(superblock=("noacl",))),
        ("iversion", Options(superblock=("i_version",))),
        ("noiversion", Options()),
    ],
)
def test_other_words(word: str, expected: Options) -> None:
    assert parse([word]) == expected


def test_words_of_the_filesystem_that_take_each_other_back() -> None:
    assert parse(["sync", "dirsync", "async"]).superblock == ("dirsync", "async")
    assert parse(["iversion", "noiversion"]).superblock == ()


def test_what_is_nobodys_is_the_filesystems() -> None:
    words = ["size=5", "ro", "newinstance", "lowerdir=/a=b:/c", "size=6"]
    assert parse(words).data == (("newinstance", ""), ("lowerdir", "/a=b:/c"), ("size", "6"))


@given(st.lists(st.sampled_from(["ro", "rw", "rro", "rrw", "noatime", "ratime", "rstrictatime", "relatime", "suid"])))
def test_no_bit_is_set_and_cleared_but_the_field_of_times(words: list[str]) -> None:
    """mount_setattr(2) wants the times cleared before one of them is set, and refuses it for nothing else."""
    found = parse(words)
    for each in (found.top, found.deep):
        assert each.set & each.clear & ~ATIME == 0
        assert not each.set & ATIME or each.clear & ATIME == ATIME
