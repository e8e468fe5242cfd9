"""Addresses and names of an app."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net import addresses
from net.addresses import POOLS, AddressesExhausted, SubnetTaken, SubnetUnfit

SEED = addresses.seed("/run/creche", "shop")
networks = st.integers(0, 2**16 - 1).map(lambda n: IPv4Network((int(IPv4Address("10.64.0.0")) + n * 64, 26)))


def test_two_run_directories_share_no_name() -> None:
    other = addresses.seed("/run/other", "shop")
    names = [(addresses.interface(s, "web"), addresses.group(s), addresses.table("shop", s)) for s in (SEED, other)]
    assert not set(names[0]) & set(names[1])


def test_the_run_directory_and_the_app_cannot_run_into_each_other() -> None:
    assert addresses.seed("/run/a", "b") != addresses.seed("/run/", "ab")


@given(st.text(min_size=1), st.text(min_size=1))
def test_an_interface_name_is_one_the_kernel_takes(app: str, container: str) -> None:
    name = addresses.interface(addresses.seed("/run", app), container)
    assert len(name.encode()) <= 15 and name.startswith("cr") and name.isalnum()


@given(st.text())
def test_a_link_group_is_never_the_group_of_all_other_interfaces(app: str) -> None:
    assert 0 < addresses.group(addresses.seed("/run", app)) < 2**31


def test_a_seed_of_zeros_has_a_link_group_too() -> None:
    assert addresses.group("0" * 64) == 1


def test_a_table_says_whose_it_is() -> None:
    assert addresses.table("shop", SEED) == f"creche-shop-{SEED[:8]}"


@given(st.text())
def test_hardware_addresses_are_local_unicast_and_differ(container: str) -> None:
    ends = addresses.hardware(SEED, container)
    assert ends.host != ends.container
    for end in (ends.host, ends.container):
        assert len(bytes.fromhex(end.replace(":", ""))) == 6 and int(end[:2], 16) & 3 == 2


@given(st.frozensets(networks, max_size=20))
def test_a_chosen_subnet_overlaps_nothing_and_lies_in_a_pool(taken: frozenset[IPv4Network]) -> None:
    chosen = addresses.choose_subnet(SEED, taken)
    assert not any(chosen.overlaps(other) for other in taken)
    assert any(chosen.subnet_of(pool) for pool in POOLS)


def test_the_same_machine_gives_the_same_subnet() -> None:
    assert addresses.choose_subnet(SEED, ()) == addresses.choose_subnet(SEED, [IPv4Network("192.168.0.0/16")])


def test_a_taken_subnet_is_passed_over() -> None:
    first = addresses.choose_subnet(SEED, ())
    assert addresses.choose_subnet(SEED, [first]) != first


def test_a_full_first_pool_leads_to_the_second() -> None:
    assert addresses.choose_subnet(SEED, [POOLS[0]]).subnet_of(POOLS[1])


def test_full_pools_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(AddressesExhausted, match=r"under \[network\]"):
        addresses.choose_subnet(SEED, POOLS)


def test_a_free_wanted_subnet_is_taken_as_it_is() -> None:
    wanted = IPv4Network("10.1.0.0/24")
    assert addresses.choose_subnet(SEED, [IPv4Network("10.2.0.0/24")], wanted) == wanted


def test_a_wanted_subnet_that_is_taken_is_an_error_with_both() -> None:
    with pytest.raises(SubnetTaken, match=r"10\.1\.0\.0/24 overlaps 10\.0\.0\.0/8"):
        addresses.choose_subnet(SEED, [IPv4Network("10.0.0.0/8")], IPv4Network("10.1.0.0/24"))


@pytest.mark.parametrize("unfit", ["127.0.0.0/16", "169.254.0.0/16", "224.0.0.0/16", "10.0.0.0/30"])
def test_a_subnet_no_container_could_use_is_an_error(unfit: str) -> None:
    with pytest.raises(SubnetUnfit, match=unfit):
        addresses.choose_subnet(SEED, (), IPv4Network(unfit))


@given(st.lists(st.text(), unique=True, max_size=127))
def test_addresses_are_unique_and_leave_the_upper_half(names: list[str]) -> None:
    subnet = IPv4Network("10.64.8.0/24")
    taken: dict[str, IPv4Address] = {}
    for name in names:
        taken[name] = addresses.allocate(subnet, taken, name)
    assert len(set(taken.values())) == len(names)
    lower = next(subnet.subnets())
    assert all(address in lower and address != subnet.network_address for address in taken.values())


def test_an_address_is_for_life() -> None:
    subnet = IPv4Network("10.64.8.0/24")
    taken = {"db": IPv4Address("10.64.8.77")}
    assert addresses.allocate(subnet, taken, "db") == taken["db"]


def test_an_address_of_an_earlier_subnet_is_not_kept() -> None:
    subnet = IPv4Network("10.64.8.0/24")
    assert addresses.allocate(subnet, {"db": IPv4Address("10.65.0.1")}, "db") in subnet


def test_a_full_subnet_is_an_error() -> None:
    subnet = IPv4Network("10.64.8.0/29")
    taken = {str(n): subnet[n] for n in (1, 2, 3)}
    with pytest.raises(AddressesExhausted, match="'web'"):
        addresses.allocate(subnet, taken, "web")
