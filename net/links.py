"""Containers' links: a veth pair each, the host end routed, the other end the container's eth0 (rtnetlink(7), veth(4)).

There is no bridge. Inside, everything goes to 169.254.1.1, whose hardware address is a permanent neighbour; on the
host each container is one /32 route. Both ends know each other's hardware address: no ARP is ever needed.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

import attrs

from net import netlink
from net.addresses import GATEWAY, HardwareAddresses, SubnetTaken
from net.netlink import NetlinkError, Refusal, Request, attribute, attributes, nested, text

INSIDE = "eth0"
DEFAULT_MTU = 1500

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _GETADDR, _NEWROUTE, _DELROUTE, _GETROUTE, _NEWNEIGH = 20, 22, 24, 25, 26, 28
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, which flags change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst, src prefixes, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxHiHBB")  # ndmsg: family, index, state, flags, type
_UP = 1
_PERMANENT = 0x80
_LINK_HARDWARE, _LINK_NAME, _LINK_MTU, _LINK_INFO, _LINK_ALIAS, _LINK_AF, _LINK_GROUP, _LINK_NETNS = (
    1, 3, 4, 18, 20, 26, 27, 28,
)  # fmt: skip
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_INET_CONF, _CONF_FORWARDING, _CONF_ROUTE_LOCALNET = 1, 1, 26
_TABLE_MAIN, _TABLE_LOCAL = 254, 255
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_UNICAST, _UNREACHABLE = 1, 7
_PROTOCOL = 0xC7
"""Who made a route (`rtm_protocol`, free above 186 in rt_protos): a claimed subnet is recognised by it."""

_DST, _OIF, _GATEWAY, _PRIORITY = 1, 4, 5, 6
_SIOCGIFINDEX = 0x8933
_TOGETHER = 64
"""Containers per request: their acknowledgements have to fit into a receive buffer."""

_LOOPBACK_INDEX = 1


@attrs.frozen
class Join:
    """One container to connect.

    `netns` is its network namespace, `inner` a NETLINK_ROUTE socket opened inside it; both are descriptors: the
    first stays the caller's, the second is consumed, whatever happens. `app`, `container` and `group` mark the link.
    """

    interface: str
    address: IPv4Address
    hardware: HardwareAddresses
    netns: int
    inner: int
    app: str
    container: str
    group: int
    mtu: int = DEFAULT_MTU


class LinkError(NetlinkError):
    """The kernel refused to make or remove a link; the message names container, object, and why."""


def connect(joins: Sequence[Join]) -> None:
    """Connect containers; what is left of links of the same names, of a killed run, is replaced.

    A host end lets addresses of 127.0.0.0/8 through (route_localnet, for published ports) and forwards whatever
    the host's own setting is; the app's table, which guards that, must be committed before. Raises LinkError:
    then none of `joins` is connected any more.
    """
    inner = [socket.socket(fileno=join.inner) for join in joins]
    try:
        with netlink.opened(netlink.ROUTE) as host:
            try:
                for start in range(0, len(joins), _TOGETHER):
                    part = slice(start, start + _TOGETHER)
                    _create(host, joins[part])
                    _route(host, joins[part])
                for join, channel in zip(joins, inner, strict=True):
                    netlink.explain(channel)
                    _settle(channel, join)
            except OSError as error:
                _delete_all(host, [join.interface for join in joins])
                if isinstance(error, LinkError):
                    raise
                raise _failed("connect the containers", error) from error
    finally:
        for channel in inner:
            channel.close()


def disconnect(interface: str) -> None:
    """Delete one link, both ends; no error when it is gone already. 16 ms of waiting: never on a restart's way."""
    with netlink.opened(netlink.ROUTE) as channel:
        _delete_all(channel, [interface])


def disconnect_group(group: int) -> None:
    """Delete all links of an app at once, wait until they are gone; no error when there is none."""
    if group <= 0:
        raise ValueError(f"link group {group} is not an app's: it would name every interface of this host")
    request = Request(_DELLINK, 0, _link(0) + _u32(_LINK_GROUP, group), f"deletion of link group {group}")
    with netlink.opened(netlink.ROUTE) as channel:
        _raise(netlink.send(channel, [request], [0]), ignore=(errno.ENODEV,))


def connected(group: int) -> tuple[str, ...]:
    """The names of the host's interfaces in this group, sorted."""
    with netlink.opened(netlink.ROUTE) as channel:
        found = [
            dict(attributes(body[_LINK.size :])) for body in netlink.dump(channel, _GETLINK, _link(0), "list links")
        ]
    named = (each for each in found if _LINK_GROUP in each and _unsigned(each[_LINK_GROUP]) == group)
    return tuple(sorted(each[_LINK_NAME].rstrip(b"\0").decode() for each in named))


def host_networks(besides: int | None = None) -> frozenset[IPv4Network]:
    """Every IPv4 network that this host has an address in, routes to, or another app has claimed.

    `besides` is a link group whose claim and containers are left out: an app asks for its own subnet again.
    """
    own = set(_indices(connected(besides))) if besides is not None else set[int]()
    networks: set[IPv4Network] = set()
    with netlink.opened(netlink.ROUTE) as channel:
        for body in netlink.dump(channel, _GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0), "list addresses"):
            found = dict(attributes(body[_ADDRESS.size :]))
            if 1 in found:
                networks.add(IPv4Network((found[1], body[1]), strict=False))
        for route in _routes(channel):
            ours = route.claimed_by == besides if route.claimed_by is not None else route.device in own
            if route.table != _TABLE_LOCAL and route.network.prefixlen and not (besides is not None and ours):
                networks.add(route.network)
    return frozenset(network for network in networks if not network.is_loopback and not network.is_link_local)


def claim(subnet: IPv4Network, group: int) -> None:
    """Make the subnet this app's: an unreachable route, so that other apps see it and a packet to an absent container
    is refused at once instead of leaving by the default route.

    Claimed first and checked then, so that of two apps that claim at one moment at most one keeps it: raises
    addresses.SubnetTaken (choose another one, again) and LinkError. Claiming it again is no error.
    """
    with netlink.opened(netlink.ROUTE) as channel:
        request = _claim(_NEWROUTE, netlink.CREATE | netlink.REPLACE, subnet, group)
        _raise(netlink.send(channel, [request], [0]))
    for other in host_networks(besides=group):
        if other.overlaps(subnet):
            release(group)
            raise SubnetTaken(subnet, other)


def claimed(group: int) -> tuple[IPv4Network, ...]:
    """What this app holds: nothing, its subnet, or also an earlier one that nobody released."""
    with netlink.opened(netlink.ROUTE) as channel:
        return tuple(route.network for route in _routes(channel) if route.claimed_by == group)


def release(group: int) -> None:
    """Give back all that this app claimed; no error when it holds nothing."""
    requests = [_claim(_DELROUTE, 0, subnet, group) for subnet in claimed(group)]
    if requests:
        with netlink.opened(netlink.ROUTE) as channel:
            _raise(netlink.send(channel, requests, range(len(requests))), ignore=(errno.ESRCH,))


def _create(host: socket.socket, joins: Sequence[Join]) -> None:
    requests = [_pair(join) for join in joins]
    refusals = netlink.send(host, requests, range(len(requests)))
    if any(refusal.errno == errno.EEXIST for refusal in refusals):
        _delete_all(host, [join.interface for join in joins])
        refusals = netlink.send(host, requests, range(len(requests)))
    _raise(refusals)


def _pair(join: Join) -> Request:
    peer = _link(0) + b"".join(
        (
            text(_LINK_NAME, INSIDE),
            _u32(_LINK_MTU, join.mtu),
            attribute(_LINK_HARDWARE, _hardware(join.hardware.container)),
            _u32(_LINK_NETNS, join.netns),
        )
    )
    body = _link(0) + b"".join(
        (
            text(_LINK_NAME, join.interface),
            _u32(_LINK_MTU, join.mtu),
            _u32(_LINK_GROUP, join.group),
            attribute(_LINK_HARDWARE, _hardware(join.hardware.host)),
            nested(_LINK_INFO, attribute(_INFO_KIND, b"veth"), nested(_INFO_DATA, attribute(_VETH_PEER, peer))),
        )
    )
    return Request(_NEWLINK, netlink.CREATE | netlink.EXCL, body, f"link {join.interface} of {_label(join)}")


def _route(host: socket.socket, joins: Sequence[Join]) -> None:
    requests: list[Request] = []
    for join, index in zip(joins, _indices(join.interface for join in joins), strict=True):
        conf = (_u32(_CONF_FORWARDING, 1), _u32(_CONF_ROUTE_LOCALNET, 1))
        settings = nested(_LINK_AF, nested(socket.AF_INET, nested(_INET_CONF, *conf)))
        alias = attribute(_LINK_ALIAS, _label(join).encode())
        what = f"of {_label(join)} on the host"
        requests += (
            Request(_SETLINK, 0, _link(index, up=True) + alias + settings, f"settings of link {join.interface} {what}"),
            _address(index, GATEWAY, _SCOPE_LINK, what),
            _device_route(index, join.address, what),
            _neighbour(index, join.address, join.hardware.container, what),
        )
    _raise(netlink.send(host, requests, range(len(requests))))


def _settle(channel: socket.socket, join: Join) -> None:
    index = _index(channel, INSIDE)
    what = f"inside {_label(join)}"
    default = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTOCOL, _SCOPE_UNIVERSE, _UNICAST, 0)
    requests = (
        Request(_SETLINK, 0, _link(_LOOPBACK_INDEX, up=True), f"loopback {what}"),
        Request(_SETLINK, 0, _link(index, up=True), f"{INSIDE} {what}"),
        _address(index, join.address, _SCOPE_UNIVERSE, what),
        _device_route(index, GATEWAY, what),
        Request(
            _NEWROUTE,
            netlink.CREATE | netlink.EXCL,
            default + attribute(_GATEWAY, GATEWAY.packed) + _u32(_OIF, index),
            f"default route {what}",
        ),
        _neighbour(index, GATEWAY, join.hardware.host, what),
    )
    _raise(netlink.send(channel, requests, range(len(requests))))


def _address(index: int, address: IPv4Address, scope: int, what: str) -> Request:
    body = _ADDRESS.pack(socket.AF_INET, 32, 0, scope, index)
    body += attribute(1, address.packed) + attribute(2, address.packed)
    return Request(_NEWADDR, netlink.CREATE | netlink.EXCL, body, f"address {address} {what}")


def _device_route(index: int, address: IPv4Address, what: str) -> Request:
    body = _ROUTE.pack(socket.AF_INET, 32, 0, 0, _TABLE_MAIN, _PROTOCOL, _SCOPE_LINK, _UNICAST, 0)
    body += attribute(_DST, address.packed) + _u32(_OIF, index)
    return Request(_NEWROUTE, netlink.CREATE | netlink.EXCL, body, f"route to {address} {what}")


def _neighbour(index: int, address: IPv4Address, hardware: str, what: str) -> Request:
    body = _NEIGHBOUR.pack(socket.AF_INET, 0, index, _PERMANENT, 0, _UNICAST)
    body += attribute(1, address.packed) + attribute(2, _hardware(hardware))
    return Request(_NEWNEIGH, netlink.CREATE | netlink.REPLACE, body, f"neighbour {address} {what}")


def _claim(kind: int, flags: int, subnet: IPv4Network, group: int) -> Request:
    body = _ROUTE.pack(socket.AF_INET, subnet.prefixlen, 0, 0, _TABLE_MAIN, _PROTOCOL, _SCOPE_UNIVERSE, _UNREACHABLE, 0)
    body += attribute(_DST, subnet.network_address.packed) + _u32(_PRIORITY, group)
    return Request(kind, flags, body, f"claim of subnet {subnet}")


@attrs.frozen
class _Route:
    network: IPv4Network
    table: int
    device: int | None
    claimed_by: int | None


def _routes(channel: socket.socket) -> list[_Route]:
    routes: list[_Route] = []
    for body in netlink.dump(channel, _GETROUTE, _ROUTE.pack(socket.AF_INET, *[0] * 8), "list routes"):
        _, prefix, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
        found = {key: value for key, value in attributes(body[_ROUTE.size :])}
        network = IPv4Network((found.get(_DST, bytes(4)), prefix))
        claim = protocol == _PROTOCOL and kind == _UNREACHABLE and _PRIORITY in found
        device = _unsigned(found[_OIF]) if _OIF in found else None
        routes.append(_Route(network, table, device, _unsigned(found[_PRIORITY]) if claim else None))
    return routes


def _delete_all(channel: socket.socket, interfaces: Sequence[str]) -> None:
    requests = [
        Request(_DELLINK, 0, _link(0) + text(_LINK_NAME, name), f"deletion of link {name}") for name in interfaces
    ]
    for start in range(0, len(requests), _TOGETHER):
        part = requests[start : start + _TOGETHER]
        _raise(netlink.send(channel, part, range(len(part))), ignore=(errno.ENODEV,))


def _raise(refusals: Sequence[Refusal], ignore: tuple[int, ...] = ()) -> None:
    refused = [refusal for refusal in refusals if refusal.errno not in ignore]
    if refused:
        raise LinkError(refused[0].errno, "; ".join(map(str, refused)))


def _failed(what: str, error: OSError) -> LinkError:
    number = error.errno or errno.EIO
    return LinkError(number, f"{what}: {error.strerror or os.strerror(number)}")


def _indices(interfaces: Iterable[str]) -> list[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        return [_index(channel, name) for name in interfaces]


def _index(channel: socket.socket, interface: str) -> int:
    """netdevice(7), SIOCGIFINDEX: answered for the network namespace of any socket, netlink's too."""
    request = struct.pack("16sI20x", interface.encode(), 0)
    try:
        answer = fcntl.ioctl(channel, _SIOCGIFINDEX, request)
    except OSError as error:
        raise _failed(f"find interface {interface}", error) from error
    return int(struct.unpack_from("16xI", answer)[0])


def _link(index: int, up: bool = False) -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, index, _UP if up else 0, _UP if up else 0)


def _label(join: Join) -> str:
    return f"creche {join.app}/{join.container}"


def _hardware(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _unsigned(value: bytes) -> int:
    return int(struct.unpack("=I", value[:4])[0])
