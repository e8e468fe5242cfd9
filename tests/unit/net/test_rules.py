"""The table an app should have, as data."""

from ipaddress import IPv4Address, IPv4Network

from net import rules
from net.rules import PublishedPort, Wiring
from net.ruleset import Among, Dnat, Hook, Table, Verdict

WEB, DB = IPv4Address("10.64.0.2"), IPv4Address("10.64.0.3")
WIRING = Wiring(
    "creche-shop-0",
    IPv4Network("10.64.0.0/21"),
    7,
    {"crweb": WEB, "crdb": DB},
    (
        PublishedPort(IPv4Address("127.0.0.1"), 8080, WEB, 80),
        PublishedPort(IPv4Address("0.0.0.0"), 5353, DB, 53, "udp"),
    ),
)


def elements(table: Table, name: str) -> dict[bytes, bytes]:
    return dict(next(each.elements for each in table.sets if each.name == name))


def test_a_port_of_one_address_is_keyed_by_it() -> None:
    key = bytes([127, 0, 0, 1, 6, 0, 0, 0, 8080 >> 8, 8080 & 255, 0, 0])
    assert elements(rules.table(WIRING), "ports") == {key: WEB.packed + bytes([0, 80, 0, 0])}


def test_a_port_of_every_address_is_keyed_by_protocol_and_number() -> None:
    key = bytes([17, 0, 0, 0, 5353 >> 8, 5353 & 255, 0, 0])
    assert elements(rules.table(WIRING), "ports-everywhere") == {key: DB.packed + bytes([0, 53, 0, 0])}


def test_every_member_has_one_address_that_it_may_send_from() -> None:
    assert set(elements(rules.table(WIRING), "addresses")) == {
        b"crweb".ljust(16, b"\0") + WEB.packed,
        b"crdb".ljust(16, b"\0") + DB.packed,
    }


def test_set_keys_are_as_long_as_their_fields() -> None:
    for each in rules.table(WIRING).sets:
        for key, value in each.elements.items():
            assert len(key) == sum(field.padded for field in each.key)
            assert len(value) == sum(field.padded for field in each.data)


def test_rules_name_only_sets_of_the_table() -> None:
    table = rules.table(WIRING)
    names = {each.name for each in table.sets}
    for chain in table.chains:
        for rule in chain.rules:
            for statement in rule.statements:
                match statement:
                    case Among(set=name) | Dnat(map=name):
                        assert name in names
                    case _:
                        pass


def test_rule_names_are_unique_in_their_chain() -> None:
    for chain in rules.table(WIRING).chains:
        names = [rule.name for rule in chain.rules]
        assert len(set(names)) == len(names)


def test_forged_packets_are_dropped_before_connection_tracking() -> None:
    guard = rules.table(WIRING).chains[0]
    assert (guard.hook, guard.priority) == (Hook.PREROUTING, -300)
    assert all(rule.statements[-1] is Verdict.DROP for rule in guard.rules)


def test_without_ports_the_rules_are_the_same() -> None:
    bare = Wiring(WIRING.table, WIRING.subnet, WIRING.group, WIRING.members)
    assert rules.table(bare).chains == rules.table(WIRING).chains


def test_a_table_can_be_had_without_one_rule() -> None:
    table = rules.table(WIRING).without(rules.FORGED_SOURCE)
    assert rules.FORGED_SOURCE not in {rule.name for chain in table.chains for rule in chain.rules}
    assert sum(len(chain.rules) for chain in table.chains) == sum(len(c.rules) for c in rules.table(WIRING).chains) - 1
