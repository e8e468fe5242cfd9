"""Transactions against the kernel's tables."""

import errno
import json
import subprocess
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest

from net import firewall, rules
from net.firewall import FirewallError
from net.rules import PublishedPort
from net.ruleset import Hook, Table
from tests.kernel.net.conftest import SUBNET, World


def listed() -> list[dict[str, Any]]:
    """nft's own view, without handles: what another reader makes of our messages."""
    text = subprocess.run(["nft", "-j", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    objects: list[dict[str, Any]] = [each for each in json.loads(text)["nftables"] if "metainfo" not in each]
    for each in objects:
        for body in each.values():
            body.pop("handle", None)
    return objects


def ports(*numbers: int) -> tuple[PublishedPort, ...]:
    return tuple(PublishedPort(IPv4Address("127.0.0.1"), number, SUBNET[2], 80) for number in numbers)


def table(world: World, *numbers: int) -> Table:
    world.members["web"] = SUBNET[2]
    return rules.table(world.wiring(*ports(*numbers)))


def test_nft_reads_every_rule_with_its_name(world: World) -> None:
    wanted = table(world, 8080)
    firewall.commit(wanted)
    found = [(each["rule"]["chain"], each["rule"]["comment"]) for each in listed() if "rule" in each]
    assert found == [(chain.name, rule.name) for chain in wanted.chains for rule in chain.rules]


def test_a_commit_replaces_the_whole_table(world: World) -> None:
    firewall.commit(table(world, *range(1, 500)))
    firewall.commit(table(world, 8080))
    once = listed()
    firewall.remove(world.table)
    firewall.commit(table(world, 8080))
    assert listed() == once


def test_more_elements_than_one_message_holds(world: World) -> None:
    firewall.commit(table(world, *range(1, 5001)))
    (found,) = (each["map"] for each in listed() if "map" in each and each["map"]["name"] == "ports")
    assert len(found["elem"]) == 5000


def test_a_refused_commit_changes_nothing_and_names_the_object(world: World) -> None:
    firewall.commit(table(world, 8080))
    before = listed()
    good = table(world, 9090)
    broken = attrs.evolve(good.chains[2], hook=Hook.INPUT, kind="route")
    with pytest.raises(FirewallError, match=f"chain {world.table} output: ") as caught:
        firewall.commit(attrs.evolve(good, chains=(*good.chains[:2], broken, *good.chains[3:])))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert listed() == before


def test_an_update_leaves_what_a_commit_would(world: World) -> None:
    firewall.commit(table(world, 8080, 8081))
    firewall.update(table(world, 8080, 8081), table(world, 8081, 8082))
    updated = listed()
    firewall.commit(table(world, 8081, 8082))
    assert updated == listed()


def test_an_update_moves_a_port_to_another_container(world: World) -> None:
    old = table(world, 8080)
    moved = rules.table(world.wiring(PublishedPort(IPv4Address("127.0.0.1"), 8080, SUBNET[3], 80)))
    firewall.commit(old)
    firewall.update(old, moved)
    updated = listed()
    firewall.commit(moved)
    assert updated == listed()


def test_an_update_of_a_table_that_is_another_one_changes_nothing(world: World) -> None:
    firewall.commit(table(world, 8080))
    before = listed()
    with pytest.raises(FirewallError, match="deletion of elements of set"):
        firewall.update(table(world, 9090), table(world, 9091))
    assert listed() == before


def test_an_update_of_other_rules_is_refused(world: World) -> None:
    whole = table(world, 8080)
    with pytest.raises(ValueError, match="commit the new one"):
        firewall.update(whole, whole.without(rules.FORGED_SOURCE))


def test_an_update_of_nothing_needs_no_kernel(world: World) -> None:
    firewall.update(table(world, 8080), table(world, 8080))
    assert not firewall.exists(world.table)


def test_removing_leaves_nothing_and_may_be_repeated(world: World) -> None:
    firewall.commit(table(world, 8080))
    firewall.remove(world.table)
    firewall.remove(world.table)
    assert listed() == []


def test_tables_are_found_by_prefix_and_others_stay(world: World) -> None:
    subprocess.run(["nft", "add table inet theirs; add table ip creche-not-inet"], check=True)
    firewall.commit(table(world))
    assert firewall.tables("creche-") == (world.table,)
    assert firewall.exists(world.table) and not firewall.exists(world.table[:-1])
