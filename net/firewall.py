"""Commits an app's table to nftables, whole, in one transaction of nfnetlink messages (linux/netfilter/nf_tables.h).

A transaction takes effect at one moment or not at all; errors name every object that the kernel refused.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

from net import netlink
from net.netlink import NetlinkError, Request, attribute, nested, text
from net.ruleset import (
    Among,
    Chain,
    Dnat,
    Field,
    Is,
    Masquerade,
    Rule,
    Set,
    Snat,
    Source,
    Statement,
    Table,
    Verdict,
)

_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWELEMENT, _DELELEMENT = 0, 1, 2, 3, 6, 9, 12, 14
_INET, _IPV4 = 1, 2
_SET_CONCATENATION, _SET_MAP = 0x80, 0x8
_EXPRESSION, _DATA_VALUE, _DATA_VERDICT = 1, 1, 2
_VERDICT_REGISTER = 0
_FIRST_REGISTER = 8  # NFT_REG32_00: sixteen registers of four bytes
_EQUAL, _DIFFERENT = 0, 1
_NAT_SOURCE, _NAT_DESTINATION = 0, 1
_FIB_DESTINATION, _FIB_ADDRESS_TYPE = 2, 3
_COMMENT = 0
_ELEMENTS = 60_000  # bytes of a list of elements: a nested attribute's length is 16 bits


class FirewallError(NetlinkError):
    """A transaction that the kernel refused; nothing of it took effect."""


def commit(table: Table) -> None:
    """Make the kernel's table of this name equal to `table`, whether it existed or not. Raises FirewallError."""
    requests = [_new_table(table.name), _delete_table(table.name), _new_table(table.name)]
    requests += [_new_set(table.name, each, number) for number, each in enumerate(table.sets, 1)]
    for chain in table.chains:
        requests.append(_new_chain(table.name, chain))
        requests += [_new_rule(table.name, chain.name, rule) for rule in chain.rules]
    for each in table.sets:
        requests += _elements(_NEWELEMENT, table.name, each.name, each.elements)
    _transact(requests)


def update(old: Table, new: Table) -> None:
    """Turn the elements of `old`, which the kernel has, into those of `new`; nothing to do is no transaction.

    Raises ValueError when more than elements differs, and FirewallError (nothing changed) when the
    kernel's table is not `old`: then commit `new`.
    """
    if (old.name, old.chains, _shapes(old)) != (new.name, new.chains, _shapes(new)):
        raise ValueError(f"tables {old.name!r} and {new.name!r} differ in more than elements: commit the new one")
    gone: list[Request] = []
    come: list[Request] = []
    for before, after in zip(old.sets, new.sets, strict=True):
        removed = dict(before.elements.items() - after.elements.items())
        added = dict(after.elements.items() - before.elements.items())
        gone += _elements(_DELELEMENT, old.name, before.name, removed)
        come += _elements(_NEWELEMENT, old.name, before.name, added)
    if gone or come:
        _transact(gone + come)


def remove(name: str) -> None:
    """Delete the table with all in it; no error when there is none. Raises FirewallError."""
    _transact([_new_table(name), _delete_table(name)])


def exists(name: str) -> bool:
    return name in tables(name)


def tables(prefix: str = "") -> tuple[str, ...]:
    """The names of all `inet` tables of this network namespace that begin with `prefix`, sorted."""
    with netlink.opened(netlink.NETFILTER) as channel:
        bodies = netlink.dump(channel, _SUBSYSTEM << 8 | _GETTABLE, _header(_INET), "list the nftables tables")
        names = [
            value.rstrip(b"\0").decode() for body in bodies for kind, value in netlink.attributes(body[4:]) if kind == 1
        ]
    return tuple(sorted(name for name in names if name.startswith(prefix)))


def _transact(requests: Sequence[Request]) -> None:
    begin = Request(_BATCH_BEGIN, 0, _header(0, _SUBSYSTEM), "the transaction as a whole")
    end = Request(_BATCH_END, 0, _header(0, _SUBSYSTEM), "the end of the transaction")
    with netlink.opened(netlink.NETFILTER) as channel:
        refusals = netlink.send(channel, [begin, *requests, end], [len(requests)])
    if refusals:
        raise FirewallError(refusals[0].errno, "nftables transaction refused: " + "; ".join(map(str, refusals)))


def _header(family: int, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def _request(kind: int, flags: int, what: str, *attributes: bytes) -> Request:
    return Request(_SUBSYSTEM << 8 | kind, flags, _header(_INET) + b"".join(attributes), what)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _new_table(name: str) -> Request:
    return _request(_NEWTABLE, netlink.CREATE, f"table {name}", text(1, name))


def _delete_table(name: str) -> Request:
    return _request(_DELTABLE, 0, f"deletion of table {name}", text(1, name))


def _new_chain(table: str, chain: Chain) -> Request:
    hook = nested(4, _number(1, chain.hook), _number(2, chain.priority))
    what = f"chain {table} {chain.name}"
    return _request(_NEWCHAIN, netlink.CREATE, what, text(1, table), text(3, chain.name), hook, text(7, chain.kind))


def _new_rule(table: str, chain: str, rule: Rule) -> Request:
    expressions = b"".join(map(_lower, rule.statements))
    comment = rule.name.encode() + b"\0"
    userdata = attribute(7, bytes((_COMMENT, len(comment))) + comment)
    what = f"rule {rule.name!r} of chain {table} {chain}"
    flags = netlink.CREATE | netlink.APPEND
    return _request(_NEWRULE, flags, what, text(1, table), text(2, chain), nested(4, expressions), userdata)


def _new_set(table: str, each: Set, number: int) -> Request:
    flags = (_SET_CONCATENATION if len(each.key) > 1 else 0) | (_SET_MAP if each.data else 0)
    parts = [text(1, table), text(2, each.name), _number(3, flags)]
    parts += [_number(4, _type(each.key)), _number(5, _length(each.key)), _number(10, number)]
    if each.data:
        parts += [_number(6, _type(each.data)), _number(7, _length(each.data))]
    if len(each.key) > 1:
        fields = [nested(1, _number(1, field.padded)) for field in each.key]
        parts.append(nested(9, nested(2, *fields)))
    return _request(_NEWSET, netlink.CREATE, f"set {table} {each.name}", *parts)


def _elements(kind: int, table: str, name: str, elements: Mapping[bytes, bytes]) -> list[Request]:
    """As many messages as the elements need, each list of them below the 64 KiB that an attribute can hold."""
    encoded = [
        nested(
            1, nested(1, attribute(_DATA_VALUE, key)), *([nested(2, attribute(_DATA_VALUE, value))] if value else [])
        )
        for key, value in elements.items()
    ]
    verb, flags = ("elements", netlink.CREATE) if kind == _NEWELEMENT else ("deletion of elements", 0)
    requests: list[Request] = []
    for number, start in enumerate(_slices(encoded)):
        what = f"{verb} of set {table} {name} (part {number + 1})"
        requests.append(_request(kind, flags, what, text(1, table), text(2, name), nested(3, *start)))
    return requests


def _slices(encoded: Iterable[bytes]) -> list[list[bytes]]:
    slices: list[list[bytes]] = []
    room = 0
    for element in encoded:
        if room < len(element):
            slices.append([])
            room = _ELEMENTS
        slices[-1].append(element)
        room -= len(element)
    return slices


def _shapes(table: Table) -> list[tuple[str, tuple[Field, ...], tuple[Field, ...]]]:
    return [(each.name, each.key, each.data) for each in table.sets]


def _type(fields: tuple[Field, ...]) -> int:
    """nft's number for a concatenation: six bits a field."""
    return reduce(lambda number, field: number << 6 | (field.type or 0), fields, 0)


def _length(fields: tuple[Field, ...]) -> int:
    return sum(field.padded for field in fields)


def _lower(statement: Statement) -> bytes:
    """A statement as the kernel's expressions: fields loaded into registers, then compared, looked up or used."""
    match statement:
        case Is(field, value, mask, equal):
            lowered = _load(field, _FIRST_REGISTER)
            if mask is not None:
                lowered += _masked(mask)
            compared = (_number(1, _FIRST_REGISTER), _number(2, _EQUAL if equal else _DIFFERENT))
            return lowered + _expression("cmp", *compared, nested(3, attribute(_DATA_VALUE, value)))
        case Among(fields, name, member):
            inverted = () if member else (_number(5, 1),)
            return _load_all(fields) + _expression("lookup", text(1, name), _number(2, _FIRST_REGISTER), *inverted)
        case Dnat(fields, name):
            found = _FIRST_REGISTER + 8
            lookup = _expression("lookup", text(1, name), _number(2, _FIRST_REGISTER), _number(3, found))
            return _load_all(fields) + lookup + _nat(_NAT_DESTINATION, found, _number(5, found + 1))
        case Snat(address):
            loaded = _immediate(_FIRST_REGISTER, attribute(_DATA_VALUE, address.packed))
            return loaded + _nat(_NAT_SOURCE, _FIRST_REGISTER)
        case Masquerade():
            return _expression("masq")
        case Verdict():
            return _immediate(_VERDICT_REGISTER, nested(_DATA_VERDICT, _number(1, statement)))


def _load_all(fields: tuple[Field, ...]) -> bytes:
    register = _FIRST_REGISTER
    loads: list[bytes] = []
    for field in fields:
        loads.append(_load(field, register))
        register += field.padded // 4
    return b"".join(loads)


def _load(field: Field, register: int) -> bytes:
    match field.source:
        case Source.META:
            return _expression("meta", _number(1, register), _number(2, field.key))
        case Source.CONNECTION:
            return _expression("ct", _number(1, register), _number(2, field.key))
        case Source.ROUTE:
            return _expression("fib", _number(1, register), _number(2, _FIB_ADDRESS_TYPE), _number(3, _FIB_DESTINATION))
        case Source.NETWORK_HEADER | Source.TRANSPORT_HEADER:
            base = 1 if field.source is Source.NETWORK_HEADER else 2
            place = (_number(2, base), _number(3, field.key), _number(4, field.length))
            return _expression("payload", _number(1, register), *place)


def _masked(mask: bytes) -> bytes:
    register = (_number(1, _FIRST_REGISTER), _number(2, _FIRST_REGISTER), _number(3, len(mask)))
    zero = attribute(_DATA_VALUE, bytes(len(mask)))
    return _expression("bitwise", *register, nested(4, attribute(_DATA_VALUE, mask)), nested(5, zero))


def _immediate(register: int, data: bytes) -> bytes:
    return _expression("immediate", _number(1, register), nested(2, data))


def _nat(kind: int, address: int, *port: bytes) -> bytes:
    return _expression("nat", _number(1, kind), _number(2, _IPV4), _number(3, address), *port)


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(_EXPRESSION, text(1, name), nested(2, *attributes))
