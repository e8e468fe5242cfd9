"""A mount's options: what each word of config.md, "Linux mount options", asks of which system call. Pure.

Words that no mount has are the filesystem's own data. Of words that contradict each other the later wins (mount(8)).
"""

from collections.abc import Iterable
from typing import NamedTuple

from runtime import syscalls

_ATIME = syscalls.MOUNT_ATTR__ATIME
_BITS = {  # a mount's attribute: the word that sets it, the word that clears it (mount_setattr(2))
    ("ro", "rw"): syscalls.MOUNT_ATTR_RDONLY,
    ("nosuid", "suid"): syscalls.MOUNT_ATTR_NOSUID,
    ("nodev", "dev"): syscalls.MOUNT_ATTR_NODEV,
    ("noexec", "exec"): syscalls.MOUNT_ATTR_NOEXEC,
    ("nodiratime", "diratime"): syscalls.MOUNT_ATTR_NODIRATIME,
    ("nosymfollow", "symfollow"): syscalls.MOUNT_ATTR_NOSYMFOLLOW,
}
_SETS = {words[0]: bit for words, bit in _BITS.items()}
_CLEARS = {words[1]: bit for words, bit in _BITS.items()}
_TIMES = {  # when access times are written, one of three; each word with those that it takes back
    "noatime": (syscalls.MOUNT_ATTR_NOATIME, None),
    "strictatime": (syscalls.MOUNT_ATTR_STRICTATIME, None),
    "relatime": (0, None),
    "atime": (0, syscalls.MOUNT_ATTR_NOATIME),
    "nostrictatime": (0, syscalls.MOUNT_ATTR_STRICTATIME),
    "norelatime": (0, 0),
}
_PROPAGATION = {
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
    "private": syscalls.MS_PRIVATE,
    "unbindable": syscalls.MS_UNBINDABLE,
}
PROPAGATION: dict[str, tuple[int, bool]] = {
    **{word: (kind, False) for word, kind in _PROPAGATION.items()},
    **{f"r{word}": (kind, True) for word, kind in _PROPAGATION.items()},
}
"""The words for mount_namespaces(7)'s propagation types: the MS_ flag, and whether all mounts below get it, too."""

_SUPERBLOCK = {  # words for the filesystem as a whole, as fsconfig(2) has them, and those that they take back
    "sync": ("sync", "async"),
    "async": ("async", "sync"),
    "dirsync": ("dirsync", ""),
    "lazytime": ("lazytime", "nolazytime"),
    "nolazytime": ("nolazytime", "lazytime"),
    "mand": ("mand", "nomand"),
    "nomand": ("nomand", "mand"),
    "acl": ("acl", "noacl"),
    "noacl": ("noacl", "acl"),
    "iversion": ("i_version", ""),
    "noiversion": ("", "i_version"),
}
_WORDS = frozenset({"defaults", "silent", "loud"})
"""Words without anything to do: what is there without them, and a printk that fsopen(2) never makes."""


class Attributes(NamedTuple):
    """What is set and what is cleared of a mount, MOUNT_ATTR_* each."""

    set: int = 0
    clear: int = 0

    def both(self, other: "Attributes") -> "Attributes":
        """Return these with `other`'s put over them."""
        return Attributes((self.set & ~other.clear) | other.set, (self.clear & ~other.set) | other.clear)

    def without(self, other: "Attributes") -> "Attributes":
        """Return these without a word about anything that `other` speaks of."""
        spoken = other.set | other.clear
        return Attributes(self.set & ~spoken, self.clear & ~spoken)


class Options(NamedTuple):
    """What a list of words says."""

    top: Attributes = Attributes()  # of the mount itself
    deep: Attributes = Attributes()  # of it and of all mounts below (`rro` and its like)
    bind: bool = False
    recursive: bool = False  # rbind
    remount: bool = False
    propagation: int = 0  # MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE; 0: nothing was said
    propagation_deep: bool = False
    idmap: bool = False
    idmap_deep: bool = False  # ridmap
    copy_up: bool = False
    superblock: tuple[str, ...] = ()  # flags of a new filesystem, as fsconfig(2) has them
    data: tuple[tuple[str, str], ...] = ()  # the filesystem's own words; an empty value is a flag


def parse(words: Iterable[str]) -> Options:
    """Return what `words` ask for; a word that is nobody's is the filesystem's data."""
    top, deep = Attributes(), Attributes()
    found = Options()
    superblock: dict[str, None] = {}
    data: dict[str, str] = {}
    for word in words:
        below = word[1:] if word.startswith("r") else ""
        if (change := _attribute(word, top)) is not None:
            top = top.both(change)
        elif below and (change := _attribute(below, deep)) is not None:
            deep = deep.both(change)
            top = top.without(change)  # it comes later, and is about the mount itself as well
        elif word in PROPAGATION:
            kind, recursive = PROPAGATION[word]
            found = found._replace(propagation=kind, propagation_deep=recursive)
        elif word in _SUPERBLOCK:
            name, taken_back = _SUPERBLOCK[word]
            superblock.pop(taken_back, None)
            if name:
                superblock[name] = None
        elif word in ("bind", "rbind"):
            found = found._replace(bind=True, recursive=word == "rbind")
        elif word in ("idmap", "ridmap"):
            found = found._replace(idmap=True, idmap_deep=word == "ridmap")
        elif word == "remount":
            found = found._replace(remount=True)
        elif word == "tmpcopyup":
            found = found._replace(copy_up=True)
        elif word and word not in _WORDS:
            name, _, value = word.partition("=")
            data.pop(name, None)
            data[name] = value
    return found._replace(top=top, deep=deep, superblock=tuple(superblock), data=tuple(data.items()))


def _attribute(word: str, so_far: Attributes) -> Attributes | None:
    """Return the change of attributes that `word` is, None where it is none."""
    if word in _SETS:
        return Attributes(_SETS[word], 0)
    if word in _CLEARS:
        return Attributes(0, _CLEARS[word])
    if word not in _TIMES:
        return None
    value, takes_back = _TIMES[word]
    said = so_far.clear & _ATIME
    if takes_back is not None and said and so_far.set & _ATIME != takes_back:
        return Attributes()  # another time was asked for, which this word does not take back
    # The three are one field and not bits: it is cleared whole before it is set (mount_setattr(2)).
    return Attributes(value, _ATIME)


def words() -> list[str]:
    """Return every word that is not a filesystem's own, sorted, as features.md lists them."""
    attributes = {*_SETS, *_CLEARS, *_TIMES}
    others = {"bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"}
    return sorted({*attributes, *(f"r{word}" for word in attributes), *PROPAGATION, *_SUPERBLOCK, *_WORDS, *others})
