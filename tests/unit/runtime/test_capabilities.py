"""Capabilities by name and number."""

import pytest

from runtime import capabilities


def test_default_is_podmans_eleven() -> None:
    assert capabilities.mask(capabilities.DEFAULT) == 0x00000000800405FB


def test_all_of_them_are_the_kernels_41() -> None:
    assert capabilities.mask(capabilities.NAMES) == 0x000001FFFFFFFFFF


@pytest.mark.parametrize(
    ("name", "number"), [("CAP_CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CAP_SETFCAP", 31), ("CAP_CHECKPOINT_RESTORE", 40)]
)
def test_numbers(name: str, number: int) -> None:
    assert capabilities.NAMES[number] == name


@pytest.mark.parametrize("text", ["net_admin", "NET_ADMIN", "cap_net_admin", "Cap_Net_Admin"])
def test_names_in_any_form(text: str) -> None:
    assert capabilities.name(text) == "CAP_NET_ADMIN"


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], capabilities.DEFAULT),
        (["net_raw"], [], capabilities.DEFAULT | {"CAP_NET_RAW"}),
        ([], ["CHOWN"], capabilities.DEFAULT - {"CAP_CHOWN"}),
        ([], ["ALL"], frozenset[str]()),
        (["chown"], ["all"], frozenset({"CAP_CHOWN"})),
        (["ALL"], [], frozenset(capabilities.NAMES)),
        (["ALL"], ["SYS_ADMIN"], frozenset(capabilities.NAMES) - {"CAP_SYS_ADMIN"}),
        ([], ["NET_RAW"], capabilities.DEFAULT),
    ],
)
def test_adjusted(add: list[str], drop: list[str], expected: frozenset[str]) -> None:
    assert capabilities.adjusted(add, drop) == expected


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown capability 'sys_amdin'; did you mean 'SYS_ADMIN'\?"):
        capabilities.adjusted(["sys_amdin"])


def test_masks_come_back_as_names() -> None:
    assert capabilities.names(capabilities.mask(capabilities.DEFAULT) | 1 << 63) == capabilities.DEFAULT


def test_last() -> None:
    assert capabilities.last("40\n") == 40


@pytest.mark.parametrize(("add", "drop"), [(["CHOWN"], ["cap_chown"]), (["ALL"], ["all"])])
def test_a_contradiction_is_refused(add: list[str], drop: list[str]) -> None:
    with pytest.raises(ValueError, match="both added and dropped"):
        capabilities.adjusted(add, drop)


def test_what_the_process_may_give() -> None:
    assert capabilities.held("Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t00000000800405fb\n") == 0x800405FB


def test_a_status_without_a_bounding_set_is_none() -> None:
    with pytest.raises(ValueError, match="no CapBnd"):
        capabilities.held("Name:\tx\n")


def test_what_cannot_be_given_is_told() -> None:
    wanted = ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_OF_TOMORROW", "CAP_KILL", "CAP_SYS_ADMIN"]
    mine = capabilities.mask(["CAP_CHOWN", "CAP_KILL"])
    assert capabilities.beyond(wanted, mine) == ({"CAP_CHOWN", "CAP_KILL"}, ("CAP_SYS_ADMIN", "CAP_OF_TOMORROW"))
