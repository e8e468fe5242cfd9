"""Ranges of host ids: each container's user namespace has 65,536 of its own on this machine.

The ledger is the machine's, in one fixed place for every root, and changed under its lock. Two containers that shared a
range could signal each other's processes and read each other's files where their mounts ever meet; so ranges are never
shared, and those that /etc/subuid and /etc/subgid give to users are left alone.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEDGER = Path("/var/lib/creche.ids.json")
SIZE = 65_536
FIRST, LAST = 0x80000, 0x7FFF0000  # below 2³¹: some tools keep ids in signed integers

Claim = tuple[str, str, str]  # root directory, app, container


class ClaimsExhausted(Exception):
    """Every range of ids on this machine is taken."""


class DamagedLedger(Exception):
    """The ledger does not say what it must; the text names the file and the way out."""


def allocate(taken: Mapping[int, Claim], avoid: Iterable[range], claim: Claim) -> int:
    """Return the first id of the range for `claim`: the one it has, else a free one from where its name hashes to.

    `avoid` are ranges of host ids that belong to others. Raises ClaimsExhausted. Pure.
    """
    for base, holder in taken.items():
        if holder == claim:
            return base
    foreign = [other for other in avoid if len(other)]
    count = (LAST - FIRST) // SIZE
    start = int.from_bytes(hashlib.sha256("\0".join(claim).encode(errors="surrogateescape")).digest()[:4]) % count
    for step in range(count):
        base = FIRST + (start + step) % count * SIZE
        if base not in taken and not any(base < other.stop and other.start < base + SIZE for other in foreign):
            return base
    raise ClaimsExhausted(f"all {count} ranges of {SIZE} ids from {FIRST} are taken, see {LEDGER}")


def subordinate(text: str) -> list[range]:
    """Return the ranges that /etc/subuid or /etc/subgid gives away (subuid(5)); other lines are passed over."""
    ranges: list[range] = []
    for line in text.splitlines():
        fields = line.split("#", 1)[0].strip().split(":")
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            ranges.append(range(int(fields[1]), int(fields[1]) + int(fields[2])))
    return ranges


def claim(root: Path, app: str, containers: Iterable[str], ledger: Path = LEDGER) -> dict[str, int]:
    """Return each container's first host id; a container keeps its range until it is released.

    Ranges of apps whose state is gone are free again. Raises ClaimsExhausted, DamagedLedger, OSError.
    """
    avoid = [each for path in ("/etc/subuid", "/etc/subgid") for each in subordinate(_text(Path(path)))]
    with _open(ledger) as claims:
        for base, (holder_root, holder_app, _) in list(claims.items()):
            if not (Path(holder_root) / "apps" / holder_app).is_dir():
                del claims[base]
        found: dict[str, int] = {}
        for name in containers:
            wanted = (str(root), app, name)
            found[name] = allocate(claims, avoid, wanted)
            claims[found[name]] = wanted
    return found


def release(root: Path, app: str, container: str | None = None, ledger: Path = LEDGER) -> None:
    """Give a container's range back, or all of the app's. Raises DamagedLedger, OSError."""
    with _open(ledger) as claims:
        for base, (holder_root, holder_app, name) in list(claims.items()):
            if (holder_root, holder_app) == (str(root), app) and container in (None, name):
                del claims[base]


@contextmanager
def _open(ledger: Path) -> Generator[dict[int, Claim]]:
    """Hold the ledger's lock; write what was changed, atomically."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(ledger.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        claims = _read(ledger)
        before = dict(claims)
        yield claims
        if claims != before:
            fresh = ledger.with_suffix(".new")
            content = {"version": 1, "claims": {str(base): holder for base, holder in sorted(claims.items())}}
            fresh.write_text(json.dumps(content, indent=0))
            fresh.chmod(0o600)
            fresh.replace(ledger)
    finally:
        os.close(lock)


def _read(ledger: Path) -> dict[int, Claim]:
    text = _text(ledger)
    if not text:
        return {}
    try:
        document: Any = json.loads(text)
        if document["version"] != 1:
            raise ValueError(f"version {document['version']} is not known")
        claims = {int(base): (root, app, name) for base, (root, app, name) in document["claims"].items()}
        if not all(isinstance(word, str) for claim in claims.values() for word in claim):
            raise ValueError("a holder is not named by strings")
        return claims
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedLedger(
            f"{ledger} is not a ledger of id ranges ({error}); when no app runs on this machine, remove it"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")  # paths are bytes
    except FileNotFoundError:
        return ""
