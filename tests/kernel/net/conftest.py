"""A little world of network namespaces: a host that has only its loopback, containers, and what lies outside.

Everything lives in namespaces that exist only as descriptors of this process: the machine's own network is left
while a test runs, never written to, and checked to be as it was before.
"""

import os
import socket
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import attrs
import pytest

from net import addresses, firewall, links, rules
from net.rules import PublishedPort, Wiring
from runtime import syscalls

SUBNET = IPv4Network("10.64.0.0/21")
OUTSIDE, HOST = IPv4Address("192.0.2.9"), IPv4Address("192.0.2.1")


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def listen(address: str | IPv4Address, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    server = socket.socket(socket.AF_INET, kind)
    server.settimeout(2)
    server.bind((str(address), port))
    if kind == socket.SOCK_STREAM:
        server.listen(16)
    return server


def reach(address: str | IPv4Address, port: int, timeout: float = 2, source: str = "") -> socket.socket:
    return socket.create_connection((str(address), port), timeout, (source, 0) if source else None)


def exchanged(client: socket.socket, server: socket.socket) -> str:
    """Send there and back; the address that the server sees its client under."""
    connection, peer = server.accept()
    with client, connection:
        connection.settimeout(2)
        client.sendall(b"there")
        assert connection.recv(16) == b"there"
        connection.sendall(b"back")
        assert client.recv(16) == b"back"
    return str(peer[0])


@attrs.define
class World:
    """The test's thread is in `host` but within `inside`."""

    host: int
    seed: str = addresses.seed("/run/creche", "shop")
    spaces: dict[str, int] = attrs.field(factory=dict[str, int])
    members: dict[str, IPv4Address] = attrs.field(factory=dict[str, IPv4Address])

    @property
    def group(self) -> int:
        return addresses.group(self.seed)

    @property
    def table(self) -> str:
        return addresses.table("shop", self.seed)

    @contextmanager
    def inside(self, space: str) -> Generator[None]:
        syscalls.setns(self.spaces[space], syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(self.host, syscalls.CLONE_NEWNET)

    def space(self, name: str) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        self.spaces[name] = own_namespace()
        syscalls.setns(self.host, syscalls.CLONE_NEWNET)

    def join(self, name: str) -> links.Join:
        """A fresh container's namespace, an address in the subnet, and how to connect it."""
        if name not in self.spaces:
            self.space(name)
        with self.inside(name):
            inner = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE).detach()
        self.members[name] = addresses.allocate(SUBNET, self.members, name)
        return links.Join(
            interface=addresses.interface(self.seed, name),
            address=self.members[name],
            hardware=addresses.hardware(self.seed, name),
            netns=self.spaces[name],
            inner=inner,
            app="shop",
            container=name,
            group=self.group,
        )

    def wiring(self, *ports: PublishedPort) -> Wiring:
        members = {addresses.interface(self.seed, name): at for name, at in self.members.items()}
        return Wiring(self.table, SUBNET, self.group, members, ports)

    def app(self, *names: str) -> None:
        """Connected containers and the app's table, without a published port."""
        joins = [self.join(name) for name in names]
        firewall.commit(rules.table(self.wiring()))
        links.connect(joins)

    def wire(self) -> None:
        """Another machine, `outside`, on a wire of the host; it does not know the app's subnet."""
        self.space("outside")
        mine, theirs = "wire", "eth0"
        space = f"/proc/{os.getpid()}/fd/{self.spaces['outside']}"
        ip("link", "add", mine, "type", "veth", "peer", "name", theirs, "netns", space)
        ip("address", "add", f"{HOST}/24", "dev", mine)
        ip("link", "set", mine, "up")
        with self.inside("outside"):
            ip("address", "add", f"{OUTSIDE}/24", "dev", theirs)
            ip("link", "set", theirs, "up")


def own_namespace() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def inventory() -> tuple[str, ...]:
    """All that this network namespace has and a test could leave behind."""
    tables = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    listed = (ip("-o", "link"), ip("route", "show", "table", "all"), tables)
    return *listed, Path("/proc/sys/net/ipv4/ip_forward").read_text()


@pytest.fixture
def world() -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.fail("tests of the kernel's network need root")
    before, descriptors = inventory(), set(os.listdir("/proc/self/fd"))
    machine = own_namespace()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        made = World(own_namespace())
        ip("link", "set", "lo", "up")
        # A namespace is born with the machine's own switch, which any app that ever ran here has turned on.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        yield made
    finally:
        syscalls.setns(machine, syscalls.CLONE_NEWNET)
        os.close(machine)
    for descriptor in (made.host, *made.spaces.values()):
        os.close(descriptor)
    assert inventory() == before
    assert set(os.listdir("/proc/self/fd")) == descriptors
