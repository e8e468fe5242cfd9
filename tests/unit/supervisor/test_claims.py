"""Ranges of host ids: never shared, kept while their app has state, in one ledger for every root."""

import json
import multiprocessing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import claims
from supervisor.claims import FIRST, LAST, SIZE, Claim, ClaimsExhausted, DamagedLedger, allocate, subordinate

NAMES = st.text("abc", min_size=1, max_size=3)
CLAIMS = st.tuples(st.sampled_from(("/r", "/s")), NAMES, NAMES)


# Pure


@given(
    st.lists(CLAIMS, max_size=30),
    st.lists(
        st.tuples(st.integers(0, LAST), st.integers(0, 1 << 22)).map(lambda at: range(at[0], sum(at))), max_size=5
    ),
)
def test_ranges_never_overlap(wanted: list[Claim], avoid: list[range]) -> None:
    taken: dict[int, Claim] = {}
    for claim in wanted:
        taken[allocate(taken, avoid, claim)] = claim
    bases = sorted(taken)
    assert set(taken.values()) == set(wanted), "each has one"
    assert len(bases) == len(set(wanted)), "and only one"
    assert all(later - base >= SIZE for base, later in pairwise(bases))
    for base in bases:
        assert base >= FIRST
        assert base + SIZE <= LAST
        assert not any(base < other.stop and other.start < base + SIZE for other in avoid if len(other))


@given(CLAIMS, st.dictionaries(st.integers(0, 30).map(lambda number: FIRST + number * SIZE), CLAIMS))
def test_a_holder_keeps_its_range(claim: Claim, taken: dict[int, Claim]) -> None:
    base = allocate(taken, (), claim)
    assert allocate({**taken, base: claim}, [range(base, base + SIZE)], claim) in {
        each for each, holder in {**taken, base: claim}.items() if holder == claim
    }


def test_a_free_machine_gives_a_name_the_same_range_again() -> None:
    assert allocate({}, (), ("/r", "shop", "web")) == allocate({}, (), ("/r", "shop", "web"))


def test_one_free_range_is_found_wherever_it_is() -> None:
    every = range(FIRST, LAST - SIZE + 1, SIZE)
    for free in (every[0], every[len(every) // 2], every[-1]):
        taken = {base: ("/r", "a", str(base)) for base in every if base != free}
        assert allocate(taken, (), ("/r", "shop", "web")) == free


def test_none_is_left() -> None:
    with pytest.raises(ClaimsExhausted, match="65536 ids from 524288 are taken"):
        allocate({}, [range(LAST)], ("/r", "shop", "web"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("user:100000:65536\n", [range(100000, 165536)]),
        ("a:1:2\n1000:5:6\n", [range(1, 3), range(5, 11)]),
        ("# user:1:2\nuser:3:4 # why\n", [range(3, 7)]),
        ("user:1\nuser::5\nuser:x:y\nuser:1:2:3\n::\nuser:-1:5\nuser:1:\u0665\n", [range(1, 6)]),
        ("user:7:0\n", [range(7, 7)]),
    ],
)
def test_subordinate_ids(text: str, expected: list[range]) -> None:
    assert subordinate(text) == expected


# The ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "lib/ids.json"


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    for root in ("one", "two"):
        (tmp_path / root / "apps/shop").mkdir(parents=True)
        (tmp_path / root / "apps/blog").mkdir(parents=True)
    return tmp_path / "one", tmp_path / "two"


def held(ledger: Path) -> dict[str, list[str]]:
    return json.loads(ledger.read_text())["claims"]


def test_two_roots_share_nothing(ledger: Path, roots: tuple[Path, Path]) -> None:
    found = [claims.claim(root, "shop", ("web", "db"), ledger) for root in roots]
    bases = {base for each in found for base in each.values()}
    assert len(bases) == 4
    assert held(ledger).keys() == {str(base) for base in bases}
    assert found[0] == claims.claim(roots[0], "shop", ("web", "db"), ledger)


def test_a_release_is_of_one_container_or_the_app(ledger: Path, roots: tuple[Path, Path]) -> None:
    for root in roots:
        claims.claim(root, "shop", ("web", "db"), ledger)
    claims.claim(roots[0], "blog", ("web",), ledger)
    claims.release(roots[0], "shop", "web", ledger)
    assert len(held(ledger)) == 4
    claims.release(roots[0], "shop", ledger=ledger)
    assert sorted(held(ledger).values()) == sorted(
        [[str(roots[0]), "blog", "web"], [str(roots[1]), "shop", "db"], [str(roots[1]), "shop", "web"]]
    )
    claims.release(roots[0], "shop", ledger=ledger)


def test_ranges_of_apps_that_are_gone_are_free(ledger: Path, roots: tuple[Path, Path]) -> None:
    claims.claim(roots[0], "shop", ("web",), ledger)
    claims.claim(roots[0], "blog", ("web",), ledger)
    (roots[0] / "apps/shop").rmdir()
    claims.claim(roots[1], "shop", ("web",), ledger)
    assert sorted(held(ledger).values()) == [[str(roots[0]), "blog", "web"], [str(roots[1]), "shop", "web"]]


def test_the_ledger_is_roots_alone(ledger: Path, roots: tuple[Path, Path]) -> None:
    claims.claim(roots[0], "shop", ("web",), ledger)
    assert ledger.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in ledger.parent.iterdir()) == ["ids.json", "ids.lock"]


def test_nothing_new_writes_nothing(ledger: Path, roots: tuple[Path, Path]) -> None:
    claims.claim(roots[0], "shop", ("web",), ledger)
    before = ledger.stat().st_ino
    claims.claim(roots[0], "shop", ("web",), ledger)
    assert ledger.stat().st_ino == before


def test_an_allocation_that_fails_writes_nothing(
    ledger: Path, roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    claims.claim(roots[0], "shop", ("web",), ledger)
    before = ledger.read_text()
    monkeypatch.setattr(claims, "LAST", FIRST + SIZE)
    with pytest.raises(ClaimsExhausted):
        claims.claim(roots[0], "blog", ("a", "b"), ledger)
    assert ledger.read_text() == before


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"1",
        b'"x"',
        b"{}",
        b'{"version": 2, "claims": {}}',
        b'{"version": 1}',
        b'{"version": 1, "claims": []}',
        b'{"version": 1, "claims": {"x": ["a", "b", "c"]}}',
        b'{"version": 1, "claims": {"1": ["a", "b"]}}',
        b'{"version": 1, "claims": {"1": ["a", 2, null]}}',
        b'{"version": 1, "claims": {"1": 5}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_damaged_ledger_is_named_and_kept(ledger: Path, roots: tuple[Path, Path], content: bytes) -> None:
    ledger.parent.mkdir()
    ledger.write_bytes(content)
    with pytest.raises(DamagedLedger, match=r"ids\.json is not a ledger .* remove it"):
        claims.claim(roots[0], "shop", ("web",), ledger)
    assert ledger.read_bytes() == content


def _claim(root: Path, ledger: Path, app: str, names: list[str]) -> None:
    for name in names:
        claims.claim(root, app, (name,), ledger)


def test_many_processes_claim_at_once(ledger: Path, roots: tuple[Path, Path]) -> None:
    names = [str(number) for number in range(10)]
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_claim, args=(root, ledger, app, names)) for root in roots for app in ("shop", "blog")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len({tuple(holder) for holder in held(ledger).values()}) == 40


def test_a_name_that_is_no_utf_8_is_kept(ledger: Path, tmp_path: Path) -> None:
    root = tmp_path / "r\udcff"
    (root / "apps/shop").mkdir(parents=True)
    first = claims.claim(root, "shop", ("web",), ledger)
    assert claims.claim(root, "shop", ("web",), ledger) == first
