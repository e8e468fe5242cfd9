"""The vocabulary of an nftables table, as data: fields, statements, rules, chains, maps (nft(8), nf_tables.h).

Nothing here knows what a rule is for (`rules`) or how it is sent (`firewall`). Keys and values are bytes in
network order, padded to four bytes a field, as the kernel keeps them.
"""

import struct
from collections.abc import Mapping
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network

import attrs


class Type(IntEnum):
    """nft's data types, which only its listings read; they are part of a map's declaration."""

    ADDRESS = 7
    PROTOCOL = 12
    SERVICE = 13
    INTERFACE = 41


class Source(Enum):
    """Where the kernel takes a field from: the expression that loads it."""

    META = "meta"
    CONNECTION = "ct"
    NETWORK_HEADER = "payload of the network header"
    TRANSPORT_HEADER = "payload of the transport header"
    ROUTE = "fib"


@attrs.frozen
class Field:
    """What a rule looks at. `key`: the meta or ct key, or the offset in the header; `length` in bytes."""

    name: str
    source: Source
    key: int
    length: int
    type: Type | None = None

    @property
    def padded(self) -> int:
        return self.length + -self.length % 4


FAMILY = Field("meta nfproto", Source.META, 15, 1)
PROTOCOL = Field("meta l4proto", Source.META, 16, 1, Type.PROTOCOL)
INCOMING = Field("iifname", Source.META, 6, 16, Type.INTERFACE)
INCOMING_GROUP = Field("iifgroup", Source.META, 21, 4)
OUTGOING = Field("oifname", Source.META, 7, 16, Type.INTERFACE)
OUTGOING_GROUP = Field("oifgroup", Source.META, 22, 4)
SOURCE = Field("ip saddr", Source.NETWORK_HEADER, 12, 4, Type.ADDRESS)
DESTINATION = Field("ip daddr", Source.NETWORK_HEADER, 16, 4, Type.ADDRESS)
PORT = Field("th dport", Source.TRANSPORT_HEADER, 2, 2, Type.SERVICE)
STATE = Field("ct state", Source.CONNECTION, 0, 4)
STATUS = Field("ct status", Source.CONNECTION, 2, 4)
DESTINATION_TYPE = Field("fib daddr type", Source.ROUTE, 3, 4)

ESTABLISHED_OR_RELATED = struct.pack("=I", 1 << 1 | 1 << 2)
TRANSLATED_DESTINATION = struct.pack("=I", 1 << 5)
LOCAL = struct.pack("=I", 2)
IPV4 = b"\2"


@attrs.frozen
class Is:
    """The field, under `mask` if there is one, equals `value`; or differs from it."""

    field: Field
    value: bytes
    mask: bytes | None = None
    equal: bool = True


@attrs.frozen
class Among:
    """The fields together are an element of the set; or are not."""

    fields: tuple[Field, ...]
    set: str
    member: bool = True


@attrs.frozen
class Dnat:
    """The destination becomes what the map has for the fields, address and port; without an element, the next rule."""

    fields: tuple[Field, ...]
    map: str


@attrs.frozen
class Snat:
    address: IPv4Address


@attrs.frozen
class Masquerade:
    pass


class Verdict(IntEnum):
    DROP = 0
    ACCEPT = 1


Statement = Is | Among | Dnat | Snat | Masquerade | Verdict


@attrs.frozen
class Rule:
    """`name` is unique in its chain, says what the rule does, and is its comment in `nft list`."""

    name: str
    statements: tuple[Statement, ...]


class Hook(IntEnum):
    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


@attrs.frozen
class Chain:
    """A base chain; what its rules let through is accepted here and still judged by other tables' chains."""

    name: str
    kind: str
    hook: Hook
    priority: int
    rules: tuple[Rule, ...]


@attrs.frozen
class Set:
    """A set, or with `data` a map from `key` to it. Elements: key to value, b"" in a set."""

    name: str
    key: tuple[Field, ...]
    data: tuple[Field, ...] = ()
    elements: Mapping[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])


@attrs.frozen
class Table:
    """A whole `inet` table."""

    name: str
    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]

    def without(self, *rules: str) -> "Table":
        """The same table less the rules of these names: the negative control of a test."""
        chains = tuple(
            attrs.evolve(chain, rules=tuple(rule for rule in chain.rules if rule.name not in rules))
            for chain in self.chains
        )
        return attrs.evolve(self, chains=chains)


def within(field: Field, network: IPv4Network) -> Is:
    return Is(field, network.network_address.packed, network.netmask.packed)


def address(value: IPv4Address) -> bytes:
    return value.packed


def interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def service(port: int) -> bytes:
    return struct.pack(">HH", port, 0)


def protocol(number: int) -> bytes:
    return bytes((number, 0, 0, 0))


def link_group(number: int) -> bytes:
    return struct.pack("=I", number)
