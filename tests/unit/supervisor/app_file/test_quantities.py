"""Durations and sizes: what they read, what they refuse, and that printing keeps them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.app_file.quantities import parse_duration, parse_size, print_duration, print_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("100ms", 0.1),
        ("10s", 10),
        ("1.5s", 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1m500ms", 60.5),
        ("20us", 2e-05),
        ("7ns", 7e-09),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "1", "s", "-1s", "+1s", "1 s", "1S", "30m1h", "1s1s", "1.s", ".5s", "1e3s", "١s", "1_0s", "9" * 12 + "s"],
)
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.1, "100ms"), (1.5, "1.5s"), (90, "1m30s"), (5400, "1h30m"), (86400, "24h")]
)
def test_duration_is_printed_in_usual_form(seconds: float, text: str) -> None:
    assert print_duration(seconds) == text


@given(st.floats(0, 1e9))
def test_every_duration_survives_printing(seconds: float) -> None:
    assert parse_duration(print_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("64K", 65536), ("512m", 512 << 20), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("10b", 10)],
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1 M", "1MM", "0x10", "1e3", "٣M", "9999999T", "1P"])
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@given(st.integers(0, (1 << 63) - 1))
def test_every_size_survives_printing(size: int) -> None:
    assert parse_size(print_size(size)) == size
