"""Names inside a container: the texts of /etc/hosts, /etc/resolv.conf and /etc/nsswitch.conf.

Pure; whoever builds the container's files reads the host's and writes these.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

import attrs

NSSWITCH = "hosts: files dns\n"
"""For an image without /etc/nsswitch.conf: some C libraries would ask DNS before /etc/hosts, or only DNS."""

_LOOPBACK = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


@attrs.frozen
class Resolver:
    """A container's resolv.conf; `warning` is a sentence when no name server is left in it."""

    text: str
    servers: tuple[str, ...]
    warning: str | None


def hosts(
    hostname: str,
    address: IPv4Address | None,
    links: Mapping[str, IPv4Address],
    extra: Iterable[str] = (),
) -> str:
    """/etc/hosts (hosts(5)): the container itself, what it links to by alias, and `name:ip` extras.

    A link wins over an extra of the same name, for the resolver takes the first line that fits.
    `address` is None for a container without a network. Raises ValueError for a malformed extra.
    """
    lines: list[str] = [*_LOOPBACK]
    lines.append(f"{address or '127.0.1.1'}\t{hostname}")
    lines += [f"{target}\t{alias}" for alias, target in links.items()]
    lines += [f"{target}\t{name}" for name, target in map(extra_host, extra)]
    return "\n".join(lines) + "\n"


def extra_host(text: str) -> tuple[str, IPv4Address | IPv6Address]:
    """`name:ip` or `name=ip`, as Compose writes it; an IPv6 address may stand in brackets. Raises ValueError."""
    name, separator, target = text.partition("=") if "=" in text else text.partition(":")
    if not separator or not name or any(letter.isspace() for letter in name):
        raise ValueError(f"extra host {text!r} is not of the form name:address")
    try:
        return name, ip_address(target.strip().removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"extra host {text!r}: {target!r} is not an IP address") from None


def resolv_conf(host: str, stub: str | None = None, dns: Iterable[str] = (), ipv6: bool = False) -> Resolver:
    """What a container can ask, resolv.conf(5): `dns` if given, else the host's real servers.

    `host` is the host's /etc/resolv.conf, `stub` the list that systemd-resolved keeps beside its stub listener
    (/run/systemd/resolve/resolv.conf), used when `host` names only servers that a container cannot reach:
    loopback and scoped ones, and those with IPv6 addresses unless `ipv6`. `search` and `options` are kept.
    """
    chosen, source = tuple(dns), host
    if not chosen:
        chosen = _reachable(host, ipv6)
        if not chosen and stub is not None:
            chosen, source = _reachable(stub, ipv6), stub
    kept = [line for line in map(str.strip, source.splitlines()) if _keyword(line) in ("search", "domain", "options")]
    text = "\n".join([*(f"nameserver {server}" for server in chosen), *kept])
    warning = None
    if not chosen:
        warning = (
            "no name server of this host can be reached from a container (only loopback, scoped or none at all):"
            " names outside the app do not resolve; set dns = [...]"
        )
    return Resolver(text + "\n" if text else "", chosen, warning)


def _reachable(text: str, ipv6: bool) -> tuple[str, ...]:
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            server = ip_address(words[1])
        except ValueError:
            continue
        scoped = server.version == 6 and (server.is_link_local or not ipv6)  # 169.254.169.254 is a cloud's real one
        if server.is_loopback or server.is_unspecified or scoped:
            continue
        if words[1] not in found:
            found.append(words[1])
    return tuple(found)


def _keyword(line: str) -> str:
    return line.split(maxsplit=1)[0] if line else ""
