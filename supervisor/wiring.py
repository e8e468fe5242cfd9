"""An app's network, kept in step with its containers: subnet, addresses for life, links, ports, the table."""

import json
import socket
from collections.abc import Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import trio

from net import addresses, firewall, forwarding, hosts, links, ports, rules
from net.addresses import SubnetTaken
from net.rules import PublishedPort
from net.ruleset import Table
from supervisor.app_file.spec import Container
from supervisor.app_file.values import Port
from supervisor.threads import in_thread

_STUB = Path("/run/systemd/resolve/resolv.conf")
_HOST_RESOLVER = Path("/etc/resolv.conf")
_TRIES = 8  # two apps that choose a subnet at one moment: one of them chooses again


def port_key(port: Port) -> str:
    """Return a published port's name, `ip:port/protocol`, as the launcher keeps its reservation."""
    return f"{port.host_ip}:{port.host}/{port.protocol}"


class Wiring:
    """The network of one app. What blocks runs in a worker thread; one change of the table is one transaction."""

    def __init__(self, app: str, run_directory: Path, memory: Path, wanted: str | None) -> None:
        self.seed = addresses.seed(str(run_directory), app)
        self._app = app
        self._group = addresses.group(self.seed)
        self._table_name = addresses.table(app, self.seed)
        self._memory = memory  # a file that keeps subnet and addresses over restarts and reboots
        self._wanted = IPv4Network(wanted) if wanted else None
        self.subnet: IPv4Network | None = None
        self.addresses: dict[str, IPv4Address] = {}
        self._published: dict[str, tuple[Port, ...]] = {}
        self._committed: Table | None = None
        self._lock = trio.Lock()
        self._asked = 0
        self._done = 0

    async def establish(self, containers: Iterable[Container]) -> bool:
        """Claim the subnet, give every container its address, commit the table; return whether it had to switch the
        host's IP forwarding on. Raises the errors of `net`.
        """
        names = [each.name for each in containers if each.network == "group"]
        switched = await in_thread(self._establish, names)
        await self._commit(whole=True)
        return switched

    def _establish(self, names: list[str]) -> bool:
        remembered, known = self._remember()
        subnet = self.subnet or self._held(remembered) or self._claim(self._wanted or remembered)
        self.subnet = subnet
        for name in names:
            if name not in self.addresses:
                kept = known.get(name)
                if kept is not None and kept in subnet and kept not in self.addresses.values():
                    self.addresses[name] = kept
                else:
                    self.addresses[name] = addresses.allocate(subnet, self.addresses, name)
        shown = {"subnet": str(subnet), "addresses": {name: str(at) for name, at in self.addresses.items()}}
        fresh = self._memory.with_suffix(".new")
        fresh.write_text(json.dumps(shown))
        fresh.replace(self._memory)
        return forwarding.enable()

    def _held(self, remembered: IPv4Network | None) -> IPv4Network | None:
        """Return the subnet that the kernel still holds for this app, if it is one to go on with."""
        held = links.claimed(self._group)
        preferred = self._wanted or remembered
        if preferred in held:
            return preferred
        if held:
            links.release(self._group)
        return None

    def _claim(self, preferred: IPv4Network | None) -> IPv4Network:
        for _ in range(_TRIES):
            taken = links.host_networks(besides=self._group)
            try:
                subnet = addresses.choose_subnet(self.seed, taken, preferred)
                links.claim(subnet, self._group)
            except SubnetTaken:
                if self._wanted is not None:
                    raise
                preferred = None
            else:
                return subnet
        raise addresses.AddressesExhausted("every subnet that was free was taken the next moment; try again")

    def _remember(self) -> tuple[IPv4Network | None, Mapping[str, IPv4Address]]:
        try:
            kept = json.loads(self._memory.read_text())
            return IPv4Network(kept["subnet"]), {name: IPv4Address(at) for name, at in kept["addresses"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None, {}  # a convenience, not a truth: the kernel and the table are made from what is chosen now

    def reserve(self, container: Container) -> list[tuple[str, socket.socket]]:
        """Bind a socket to each of the container's published ports; raise PortError with all of them closed."""
        bound: list[tuple[str, socket.socket]] = []
        try:
            for port in container.ports:
                bound.append((port_key(port), ports.reserve(IPv4Address(port.host_ip), port.host, port.protocol)))
        except ports.PortError:
            for _, each in bound:
                each.close()
            raise
        return bound

    def hosts_file(self, container: Container) -> str:
        """Return the container's /etc/hosts: itself and what it links to."""
        named = {link.alias: self.addresses[link.to] for link in container.links if link.to in self.addresses}
        hostname = container.hostname or container.name
        return hosts.hosts(hostname, self.addresses.get(container.name), named, container.extra_hosts)

    def resolver(self, container: Container) -> hosts.Resolver:
        """Return the container's resolv.conf, from the host's own as it is now."""
        stub = _STUB.read_text() if _STUB.exists() else None
        text = _HOST_RESOLVER.read_text() if _HOST_RESOLVER.exists() else ""
        return hosts.resolv_conf(text, stub, container.dns)

    def connected(self) -> frozenset[str]:
        """Return the interfaces that exist."""
        return frozenset(links.connected(self._group))

    def interface(self, name: str) -> str:
        """Return the host end of a container's link."""
        return addresses.interface(self.seed, name)

    def connect(self, name: str, netns: int, inner: int) -> None:
        """Link a container; `inner` is consumed. Raises LinkError."""
        links.connect(
            [
                links.Join(
                    self.interface(name),
                    self.addresses[name],
                    addresses.hardware(self.seed, name),
                    netns,
                    inner,
                    self._app,
                    name,
                    self._group,
                )
            ]
        )

    def published_before(self, container: Container) -> None:
        """The container runs already: its ports are open in the very first table that is committed."""
        if container.ports and container.network == "group":
            self._published[container.name] = container.ports

    async def publish(self, container: Container, ready: bool) -> None:
        """Open the container's published ports, or close them."""
        if not container.ports or container.name not in self.addresses:
            return
        if ready:
            self._published[container.name] = container.ports
        else:
            self._published.pop(container.name, None)
        await self._commit()

    async def forget(self, name: str) -> None:
        """A container is gone for good: its address and ports are free."""
        self.addresses.pop(name, None)
        if self._published.pop(name, None) is not None:
            await self._commit()

    async def _commit(self, *, whole: bool = False) -> None:
        """Bring the table in step; callers that wait for each other share one transaction."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._done >= mine or self.subnet is None:
                return
            doing, table = self._asked, self._table(self.subnet)
            change = partial(firewall.commit, table)
            if not whole and self._committed is not None:
                change = partial(firewall.update, self._committed, table)
            await in_thread(change)
            self._committed, self._done = table, doing

    def _table(self, subnet: IPv4Network) -> Table:
        members = {self.interface(name): at for name, at in self.addresses.items()}
        published = tuple(
            PublishedPort(IPv4Address(port.host_ip), port.host, self.addresses[name], port.container, port.protocol)
            for name, each in self._published.items()
            if name in self.addresses
            for port in each
        )
        return rules.table(rules.Wiring(self._table_name, subnet, self._group, members, published))

    def dismantle(self) -> None:
        """Remove links, table and claim, whoever made them. Raises the errors of `net`."""
        links.disconnect_group(self._group)
        firewall.remove(self._table_name)
        links.release(self._group)
        self.subnet = self._committed = None
        self.addresses.clear()
        self._published.clear()
