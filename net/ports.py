"""Published ports' reservations: a socket that is bound and never listens keeps everybody else off the port."""

import errno
import os
import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path

import attrs

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_ANY = "00000000"


class PortError(OSError):
    """A port that cannot be reserved; the message says which, why, and what to do."""


class PortTaken(PortError):
    """Somebody has the port; `holder` is who, as far as /proc tells."""

    holder: "Holder | None"

    def __init__(self, number: int, message: str, holder: "Holder | None") -> None:
        super().__init__(number, message)
        self.holder = holder


@attrs.frozen
class Holder:
    pid: int
    name: str


def reserve(host_ip: IPv4Address, port: int, protocol: str = "tcp") -> socket.socket:
    """A bound socket, close-on-exec, without SO_REUSEADDR or SO_REUSEPORT (with either a second one could bind).

    The table's DNAT takes the packets before they are for the host, so that this socket never gets any; when the table
    has no target for the port, a TCP client is refused at once. Raises PortTaken and PortError.
    """
    holder = socket.socket(socket.AF_INET, _KINDS[protocol] | socket.SOCK_CLOEXEC)
    try:
        holder.bind((str(host_ip), port))
    except OSError as error:
        holder.close()
        raise _explained(error, host_ip, port, protocol) from error
    return holder


def find_holder(host_ip: IPv4Address, port: int, protocol: str = "tcp") -> Holder | None:
    """Who has this port, by proc_pid_net(5) and the descriptors that this user may look at; None when it does not show.

    A socket that is bound and does not listen (as `reserve` makes them) is in no table of /proc.
    """
    inodes = set[str]()
    for family in ("", "6"):
        inodes |= _inodes(Path(f"/proc/net/{protocol}{family}"), host_ip, port)
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _has_socket(process, inodes):
            try:
                return Holder(int(process.name), (process / "comm").read_text().strip())
            except OSError:  # it ended meanwhile: then its port is free again, and the next try will tell
                return None
    return None


def _explained(error: OSError, host_ip: IPv4Address, port: int, protocol: str) -> PortError:
    number = error.errno or errno.EIO
    place = f"{host_ip}:{port}/{protocol}"
    if number == errno.EADDRINUSE:
        holder = find_holder(host_ip, port, protocol)
        who = (
            f"process {holder.pid} ({holder.name})"
            if holder
            else "a process that does not show it, perhaps another app"
        )
        return PortTaken(number, f"port {place} is taken by {who}: stop it, or publish another port", holder)
    if number == errno.EADDRNOTAVAIL:
        return PortError(number, f"port {place}: this host has no address {host_ip}; use one of its own, or 0.0.0.0")
    if number == errno.EACCES:
        advice = "choose a port above net.ipv4.ip_unprivileged_port_start, or run as root"
        return PortError(number, f"port {place} is only for root here: {advice}")
    return PortError(number, f"port {place}: {os.strerror(number)}")


def _inodes(table: Path, host_ip: IPv4Address, port: int) -> set[str]:
    """The sockets of a table like /proc/net/tcp that stand in the way of this address and port."""
    try:
        lines = table.read_text().splitlines()[1:]
    except FileNotFoundError:  # no IPv6 on this host
        return set()
    wanted = host_ip.packed[::-1].hex().upper() if _LITTLE else host_ip.packed.hex().upper()
    found = set[str]()
    for line in lines:
        words = line.split()
        address, _, number = words[1].partition(":")
        if int(number, 16) != port or words[9] == "0":
            continue
        if wanted == _ANY or set(address) == {"0"} or address[-8:] == wanted:
            found.add(words[9])
    return found


_LITTLE = sys.byteorder == "little"


def _has_socket(process: Path, inodes: set[str]) -> bool:
    names = {f"socket:[{inode}]" for inode in inodes}
    try:
        with os.scandir(process / "fd") as descriptors:
            for descriptor in descriptors:
                try:
                    if os.readlink(descriptor.path) in names:
                        return True
                except OSError:  # closed while we looked
                    continue
    except OSError:  # ended, or another user's
        return False
    return False
