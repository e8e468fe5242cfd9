"""Netlink's wire format."""

from hypothesis import given
from hypothesis import strategies as st

from net import netlink


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_read_what_was_written(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, value) for kind, value in pairs)
    assert list(netlink.attributes(data)) == pairs


@given(st.binary(max_size=40))
def test_attributes_end_on_four_bytes(value: bytes) -> None:
    assert len(netlink.attribute(1, value)) % 4 == 0


def test_a_nested_attribute_is_read_under_its_own_kind() -> None:
    ((kind, value),) = netlink.attributes(netlink.nested(5, netlink.text(1, "a")))
    assert (kind, list(netlink.attributes(value))) == (5, [(1, b"a\0")])


@given(st.binary(max_size=64))
def test_foreign_bytes_never_hang_the_reader(data: bytes) -> None:
    assert len(list(netlink.attributes(data))) <= 16


def test_a_refusal_says_what_and_why() -> None:
    assert str(netlink.Refusal("link a", 17, "in use")) == "link a: File exists (in use)"
