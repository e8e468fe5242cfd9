"""Linux capabilities: names, numbers, the default set and changes to it. Pure but for `last`."""

import difflib
from collections.abc import Iterable
from pathlib import Path

_ALL = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
)
_ELEVEN = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"

NAMES: tuple[str, ...] = tuple("CAP_" + each for each in _ALL.split())
"""All capabilities; a name's index is its number (linux/capability.h, capabilities(7))."""

DEFAULT: frozenset[str] = frozenset("CAP_" + each for each in _ELEVEN.split())
"""The eleven that Podman gives a container; Docker's three more (MKNOD, NET_RAW, AUDIT_WRITE) must be asked for."""

_NUMBERS = {name: number for number, name in enumerate(NAMES)}


def name(text: str) -> str:
    """Return the full name of a capability written in any case, with or without `CAP_`.

    Raises ValueError with the nearest real name.
    """
    upper = text.upper()
    full = upper if upper.startswith("CAP_") else "CAP_" + upper
    if full not in _NUMBERS:
        near = difflib.get_close_matches(full, NAMES, n=1)
        advice = f"; did you mean {near[0].removeprefix('CAP_')!r}?" if near else "; see capabilities(7)"
        raise ValueError(f"unknown capability {text!r}{advice}")
    return full


def adjusted(add: Iterable[str] = (), drop: Iterable[str] = ()) -> frozenset[str]:
    """Return the default set with `drop` taken away and `add` put in, as full names.

    `ALL` means every capability and gives way to a name on the other side: `drop = ["ALL"]` with a short `add` says
    exactly what a container has. Raises ValueError for an unknown name and for one on both sides.
    """
    added, dropped = ({"ALL" if text.upper() == "ALL" else name(text) for text in side} for side in (add, drop))
    if both := sorted(added & dropped):
        raise ValueError(f"capability {both[0].removeprefix('CAP_')!r} is both added and dropped; name it once")
    start = frozenset(NAMES) if "ALL" in added else frozenset[str]() if "ALL" in dropped else DEFAULT
    return ((start - dropped) | added) - {"ALL"}


def mask(names: Iterable[str]) -> int:
    """Return the 64-bit mask of `names` as /proc/PID/status and capset(2) have it."""
    result = 0
    for each in names:
        result |= 1 << _NUMBERS[name(each)]
    return result


def names(bits: int) -> frozenset[str]:
    """Return the names in a mask; bits of capabilities newer than this list are left out."""
    return frozenset(each for each, number in _NUMBERS.items() if bits >> number & 1)


def last(text: str | None = None) -> int:
    """Return the highest capability number this kernel knows, from the text of /proc/sys/kernel/cap_last_cap."""
    return int(text if text is not None else Path("/proc/sys/kernel/cap_last_cap").read_text())


def held(text: str | None = None) -> int:
    """Return the mask of what this process may give (CapBnd), from the text of /proc/self/status."""
    for line in (text if text is not None else Path("/proc/self/status").read_text()).splitlines():
        field, _, value = line.partition(":")
        if field == "CapBnd":
            return int(value, 16)
    raise ValueError("/proc/self/status has no CapBnd")


def beyond(wanted: Iterable[str], mine: int) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return those of `wanted` that can be given by whoever has `mine`, and in order those that cannot.

    The second are for a warning: they are unknown to this kernel or to this list, or not held (config.md,
    "process.capabilities": a runtime does not fail for them). In a user namespace of its own a container can be
    given all that the kernel knows.
    """
    given: set[str] = set()
    refused: list[str] = []
    for each in wanted:
        number = _NUMBERS.get(each)
        if number is not None and mine >> number & 1:
            given.add(each)
        else:
            refused.append(each)
    return frozenset(given), tuple(dict.fromkeys(refused))
