"""What an app's table should contain: pure, from its wiring (docs/network.md draws each packet's way)."""

import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

import attrs

from net import ruleset
from net.addresses import GATEWAY
from net.ruleset import (
    DESTINATION,
    DESTINATION_TYPE,
    ESTABLISHED_OR_RELATED,
    FAMILY,
    INCOMING,
    INCOMING_GROUP,
    LOCAL,
    OUTGOING_GROUP,
    PORT,
    PROTOCOL,
    SOURCE,
    STATE,
    STATUS,
    TRANSLATED_DESTINATION,
    Among,
    Chain,
    Dnat,
    Hook,
    Is,
    Masquerade,
    Rule,
    Set,
    Snat,
    Table,
    Verdict,
    within,
)

LOOPBACK = IPv4Network("127.0.0.0/8")
EVERYWHERE = IPv4Address("0.0.0.0")

LOOPBACK_FROM_OUTSIDE = "loopback addresses from a wire"
FORGED_SOURCE = "forged source"

_IPV4 = Is(FAMILY, ruleset.IPV4)
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@attrs.frozen
class PublishedPort:
    """`host_ip:host` on this machine leads to `address:port`; `host_ip` 0.0.0.0 means every local address."""

    host_ip: IPv4Address
    host: int
    address: IPv4Address
    port: int
    protocol: str = "tcp"


@attrs.frozen
class Wiring:
    """An app's network; `members`: host interface → its container's address; `ports`: those that are open now."""

    table: str
    subnet: IPv4Network
    group: int
    members: Mapping[str, IPv4Address]
    ports: tuple[PublishedPort, ...] = ()


def table(wiring: Wiring) -> Table:
    """The whole table. Two ports of one host address and number: the later one wins; `ports` refuses that before."""
    ours = ruleset.link_group(wiring.group)
    return Table(
        wiring.table,
        _sets(wiring),
        (
            _guard(ours),
            Chain("prerouting", "nat", Hook.PREROUTING, -100, _publish()),
            Chain("output", "nat", Hook.OUTPUT, -100, _publish()),
            _forward(ours),
            _leave(ours, wiring.subnet),
        ),
    )


def _sets(wiring: Wiring) -> tuple[Set, ...]:
    addresses = {ruleset.interface(name) + ruleset.address(at): b"" for name, at in wiring.members.items()}
    itself = {ruleset.address(at) * 2: b"" for at in wiring.members.values()}
    exact: dict[bytes, bytes] = {}
    anywhere: dict[bytes, bytes] = {}
    for port in wiring.ports:
        key = ruleset.protocol(_PROTOCOLS[port.protocol]) + ruleset.service(port.host)
        target = ruleset.address(port.address) + ruleset.service(port.port)
        if port.host_ip == EVERYWHERE:
            anywhere[key] = target
        else:
            exact[ruleset.address(port.host_ip) + key] = target
    return (
        Set("addresses", (INCOMING, SOURCE), elements=addresses),
        Set("itself", (SOURCE, DESTINATION), elements=itself),
        Set("ports", (DESTINATION, PROTOCOL, PORT), (DESTINATION, PORT), exact),
        Set("ports-everywhere", (PROTOCOL, PORT), (DESTINATION, PORT), anywhere),
    )


def _guard(ours: bytes) -> Chain:
    """Before connection tracking, so that a forged packet neither makes nor joins a connection.

    Our interfaces have route_localnet on, and DNAT comes before the kernel's own check for martians: without the
    first rule a neighbour on the wire, or a container with CAP_NET_RAW, reaches 127.0.0.1 (moby#45610, CVE-2020-8558).
    """
    wire = Is(INCOMING, ruleset.interface("lo"), equal=False)
    from_member = Is(INCOMING_GROUP, ours)
    return Chain(
        "guard",
        "filter",
        Hook.PREROUTING,
        -300,
        (
            Rule(LOOPBACK_FROM_OUTSIDE, (_IPV4, within(DESTINATION, LOOPBACK), wire, Verdict.DROP)),
            Rule("not yet IPv6", (from_member, Is(FAMILY, ruleset.IPV4, equal=False), Verdict.DROP)),
            Rule(FORGED_SOURCE, (from_member, _IPV4, Among((INCOMING, SOURCE), "addresses", False), Verdict.DROP)),
        ),
    )


def _publish() -> tuple[Rule, ...]:
    return (
        Rule("published on one address", (_IPV4, Dnat((DESTINATION, PROTOCOL, PORT), "ports"))),
        Rule(
            "published on every local address",
            (_IPV4, Is(DESTINATION_TYPE, LOCAL), Dnat((PROTOCOL, PORT), "ports-everywhere")),
        ),
    )


def _forward(ours: bytes) -> Chain:
    from_member, to_member = Is(INCOMING_GROUP, ours), Is(OUTGOING_GROUP, ours)
    established = Is(STATE, bytes(4), mask=ESTABLISHED_OR_RELATED, equal=False)
    translated = Is(STATUS, bytes(4), mask=TRANSLATED_DESTINATION, equal=False)
    return Chain(
        "forward",
        "filter",
        Hook.FORWARD,
        0,
        (
            Rule("answers", (established, Verdict.ACCEPT)),
            Rule("to a published port", (to_member, translated, Verdict.ACCEPT)),
            Rule("member to member", (from_member, to_member, Verdict.ACCEPT)),
            Rule("member to elsewhere", (from_member, Verdict.ACCEPT)),
            Rule("elsewhere to member", (to_member, Verdict.DROP)),
        ),
    )


def _leave(ours: bytes, subnet: IPv4Network) -> Chain:
    to_member = Is(OUTGOING_GROUP, ours)
    return Chain(
        "leave",
        "nat",
        Hook.POSTROUTING,
        100,
        (
            Rule("from loopback", (_IPV4, to_member, within(SOURCE, LOOPBACK), Snat(GATEWAY))),
            Rule("to itself", (_IPV4, to_member, Among((SOURCE, DESTINATION), "itself"), Snat(GATEWAY))),
            Rule(
                "member to elsewhere",
                (_IPV4, within(SOURCE, subnet), Is(OUTGOING_GROUP, ours, equal=False), Masquerade()),
            ),
        ),
    )
