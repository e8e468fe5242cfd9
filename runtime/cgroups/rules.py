"""Device rules: OCI's list, read as runc reads it, and what it comes to. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Device = tuple[str, str, bool]
"""A device rule as v1 writes it, such as `c 1:3`; its access, such as `rwm`; and whether it allows.

`a *:*` with all of `rwm` is "everything": it forgets the rules before it.
"""

EVERYTHING = "a *:*"
DEFAULT_DEVICES: tuple[Device, ...] = (
    # Making a node is no access, so mknod is allowed for every device, as Docker does.
    ("c *:*", "m", True),
    ("b *:*", "m", True),
    ("c 1:3", "rwm", True),  # null
    ("c 1:5", "rwm", True),  # zero
    ("c 1:7", "rwm", True),  # full
    ("c 1:8", "rwm", True),  # random
    ("c 1:9", "rwm", True),  # urandom
    ("c 5:0", "rwm", True),  # tty
    ("c 5:2", "rwm", True),  # ptmx
    ("c 136:*", "rwm", True),  # pts
)
"""The default devices of the OCI runtime spec (config-linux.md, "Default Devices"); everything else is denied."""


class Uncoverable(ValueError):
    """A rule that v1's list of exceptions cannot express."""


class Exceptions(NamedTuple):
    """How the kernel keeps rules on v1: what holds for all devices, and for which it does not."""

    allow: bool
    access: dict[str, str]
    """From `c 1:3` to the letters that are allowed, or denied where all is allowed, in the order r, w, m."""


def device_rules(listed: Iterable[object]) -> tuple[Device, ...]:
    """Return OCI's list as rules that come after "deny everything"; the last one that applies decides.

    As in runc, a list need not begin with that denial, and the spec's default devices, which every container must
    have, are allowed at the end of each list. Raises ValueError naming the entry.
    """
    found: list[Device] = []
    for index, rule in enumerate(listed):
        where = f"resources.devices[{index}]"
        if not isinstance(rule, Mapping):
            raise ValueError(f"{where} must be an object, not {rule!r}")
        found += _rules(where, rule)  # pyright: ignore[reportUnknownArgumentType]
    return (*found, *DEFAULT_DEVICES)


def _rules(where: str, rule: Mapping[str, Any]) -> list[Device]:
    allow, kind, access = rule.get("allow"), rule.get("type") or "a", rule.get("access") or "rwm"
    if not isinstance(allow, bool):
        raise ValueError(f"{where}.allow must be true or false, not {allow!r}")
    if kind not in ("a", "b", "c", "u"):
        raise ValueError(f"{where}: {dict(rule)!r} has no valid type (a, b, c, u)")
    if not isinstance(access, str) or set(access) - set("rwm"):
        raise ValueError(f"{where}: {dict(rule)!r} has no valid access (some of r, w, m)")
    numbers: list[str] = []
    for part in ("major", "minor"):
        number = rule.get(part)
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < -1):
            raise ValueError(f"{where}.{part} must be a whole number, or -1 for all, not {number!r}")
        numbers.append("*" if number in (None, -1) else str(number))
    place = ":".join(numbers)
    letters = "".join(letter for letter in "rwm" if letter in access)
    if kind == "a" and place == "*:*" and letters == "rwm":
        return [(EVERYTHING, letters, allow)]
    kinds = {"a": ("b", "c"), "u": ("c",)}.get(kind, (kind,))
    return [(f"{each} {place}", letters, allow) for each in kinds]


def exceptions(rules: Iterable[Device]) -> Exceptions:
    """Return what `rules`, after "deny everything", come to in v1's form (cgroup-v1/devices.rst).

    Raises Uncoverable for a rule that takes a part out of an exception: v1 keeps no exceptions from exceptions.
    """
    default, kept = False, dict[str, str]()
    for place, access, allow in rules:
        if place == EVERYTHING:
            default, kept = allow, {}
        elif allow != default:
            kept[place] = _union(kept.get(place, ""), access)
        else:
            for other in list(kept):
                if not _overlap(place, other) or not set(kept[other]) & set(access):
                    continue
                if not _covers(place, other):
                    raise Uncoverable(
                        f"resources.devices: cgroup v1 cannot {'allow' if allow else 'deny'} {place} {access} after "
                        f"a rule for {other}; name the devices one by one instead of by *"
                    )
                if rest := "".join(letter for letter in kept[other] if letter not in access):
                    kept[other] = rest
                else:
                    del kept[other]
    return Exceptions(default, kept)


def listed(text: str) -> Exceptions:
    """Return what `devices.list` says; where it allows all, the kernel does not tell the exceptions."""
    kept: dict[str, str] = {}
    for line in text.splitlines():
        place, _, access = line.rpartition(" ")
        if place.startswith("a "):
            return Exceptions(True, {})
        kept[place] = _union(kept.get(place, ""), access)
    return Exceptions(False, kept)


def _union(one: str, other: str) -> str:
    return "".join(letter for letter in "rwm" if letter in one or letter in other)


def _parts(place: str) -> tuple[str, str, str]:
    kind, _, numbers = place.partition(" ")
    major, _, minor = numbers.partition(":")
    return kind, major, minor


def _overlap(one: str, other: str) -> bool:
    return all("*" in (a, b) or a == b for a, b in zip(_parts(one), _parts(other), strict=True))


def _covers(wide: str, narrow: str) -> bool:
    return all(a in ("*", b) for a, b in zip(_parts(wide), _parts(narrow), strict=True))
