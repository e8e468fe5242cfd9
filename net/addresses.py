"""Addresses and names: an app's subnet, its containers' addresses, interfaces, link group and table.

All of it is pure and derives from the app's seed, so that two run directories never touch each other
and the leftovers of a killed run are recognised by their names.
"""

import hashlib
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

import attrs

GATEWAY = IPv4Address("169.254.1.1")
"""What every container routes through and what it sees of its host; link-local (RFC 3927), never on a wire."""

POOLS = (IPv4Network("10.64.0.0/10"), IPv4Network("172.16.0.0/12"))
PREFIX = 21
"""A default subnet: 1,023 containers in the lower half, as many virtual addresses in the upper one."""

SMALLEST_PREFIX = 29


class SubnetTaken(Exception):
    """The subnet asked for overlaps one that this machine uses already."""

    def __init__(self, wanted: IPv4Network, taken: IPv4Network) -> None:
        self.wanted, self.taken = wanted, taken
        super().__init__(
            f"subnet {wanted} overlaps {taken}, which this machine uses already:"
            " choose another one under [network], or leave it out to get a free one"
        )


class SubnetUnfit(Exception):
    """The subnet asked for cannot hold containers at all."""


class AddressesExhausted(Exception):
    """No free subnet on this machine, or no free address in the app's subnet."""


@attrs.frozen
class HardwareAddresses:
    """The two ends of a container's link, as `aa:bb:cc:dd:ee:ff`."""

    host: str
    container: str


def seed(run_directory: str, app: str) -> str:
    """64 hexadecimal digits that stand for this app below this run directory (its real path)."""
    return _digest(run_directory, app)


def choose_subnet(seed: str, taken: Iterable[IPv4Network], wanted: IPv4Network | None = None) -> IPv4Network:
    """`wanted` if it is free, else the first free /21 of `POOLS` from the place that the seed hashes to.

    Raises SubnetTaken, SubnetUnfit (both only for `wanted`) and AddressesExhausted.
    """
    used = tuple(taken)
    if wanted is not None:
        return _checked(wanted, used)
    for pool in POOLS:
        count = 1 << (PREFIX - pool.prefixlen)
        first = int(seed[:8], 16) % count
        size = 1 << (32 - PREFIX)
        for step in range(count):
            base = int(pool.network_address) + (first + step) % count * size
            candidate = IPv4Network((base, PREFIX))
            if not any(candidate.overlaps(other) for other in used):
                return candidate
    ranges = " and ".join(map(str, POOLS))
    raise AddressesExhausted(f"no free /{PREFIX} is left in {ranges}: name a subnet under [network]")


def allocate(subnet: IPv4Network, taken: Mapping[str, IPv4Address], name: str) -> IPv4Address:
    """The address of `name` for life: what `taken` says, else a free one in the subnet's lower half.

    The search starts where the name hashes to: a container that is discarded and made again mostly
    gets its old address, and another one rarely inherits it. Raises AddressesExhausted.
    """
    known = taken.get(name)
    if known is not None and known in subnet:
        return known
    count = subnet.num_addresses // 2 - 1
    used = set(taken.values())
    first = int(_digest(name)[:8], 16)
    for step in range(count):
        address = subnet.network_address + 1 + (first + step) % count
        if address not in used:
            return address
    raise AddressesExhausted(f"{subnet} holds {count} containers and has no address left for {name!r}")


def interface(seed: str, container: str) -> str:
    """The host end of a container's link: 15 bytes, the most the kernel takes (IFNAMSIZ − 1)."""
    return "cr" + _digest(seed, container)[:13]


def group(seed: str) -> int:
    """The link group of an app's interfaces, 1 to 2³¹ − 1; 0 is every other interface's group."""
    return (int(seed[:8], 16) & 0x7FFFFFFF) or 1


def table(app: str, seed: str) -> str:
    """The name of an app's nftables table; `creche-` is what all tables of all apps begin with."""
    return f"creche-{app}-{seed[:8]}"


def hardware(seed: str, container: str) -> HardwareAddresses:
    """Locally administered unicast addresses (IEEE 802, second-least bit of the first byte)."""
    digest = _digest(seed, container, "hardware")
    ends = (digest[:10], digest[10:20])
    host, inner = (":".join(["02", *(end[i : i + 2] for i in range(0, 10, 2))]) for end in ends)
    return HardwareAddresses(host, inner)


def _checked(wanted: IPv4Network, used: tuple[IPv4Network, ...]) -> IPv4Network:
    if wanted.prefixlen > SMALLEST_PREFIX:
        raise SubnetUnfit(f"subnet {wanted} is too small: at least a /{SMALLEST_PREFIX} is needed")
    if wanted.is_loopback or wanted.is_multicast or wanted.is_link_local or wanted.is_unspecified:
        raise SubnetUnfit(f"subnet {wanted} cannot be routed to containers: choose a private range")
    for other in used:
        if wanted.overlaps(other):
            raise SubnetTaken(wanted, other)
    return wanted


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
