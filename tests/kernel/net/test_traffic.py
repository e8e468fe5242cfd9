"""What reaches what, through links and table together."""

import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from net import firewall, forwarding, links, rules
from net.addresses import GATEWAY
from net.rules import PublishedPort
from tests.kernel.net.conftest import HOST, OUTSIDE, SUBNET, World, exchanged, ip, listen, reach

LOOPBACK, EVERYWHERE = IPv4Address("127.0.0.1"), IPv4Address("0.0.0.0")


def published(world: World, host_ip: IPv4Address, protocol: str = "tcp") -> PublishedPort:
    return PublishedPort(host_ip, 8080, world.members["web"], 80, protocol)


def serve(world: World, name: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    with world.inside(name):
        return listen(EVERYWHERE, 80, kind)


def send_raw(source: IPv4Address, target: IPv4Address, payload: bytes) -> None:
    """A UDP datagram to port 80 with any source, as a container with CAP_NET_RAW can send it (raw(7))."""
    udp = struct.pack(">HHHH", 4000, 80, 8 + len(payload), 0) + payload
    packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, source.packed, target.packed)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet + udp, (str(target), 0))


def test_a_container_reaches_another_by_address_and_is_seen_by_its_own(world: World) -> None:
    world.app("web", "db")
    with serve(world, "db") as server, world.inside("web"):
        assert exchanged(reach(world.members["db"], 80), server) == str(world.members["web"])


def test_containers_talk_while_the_host_does_not_forward(world: World) -> None:
    assert not forwarding.enabled()
    world.app("web", "db")
    with serve(world, "db") as server, world.inside("web"):
        exchanged(reach(world.members["db"], 80), server)


@pytest.mark.parametrize("checked", ["0", "1", "2"])
def test_a_port_on_loopback_is_reached_on_a_host_that_has_only_loopback(world: World, checked: str) -> None:
    """Under every setting of rp_filter: distributions differ."""
    Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text(checked)
    world.app("web")
    firewall.commit(rules.table(world.wiring(published(world, LOOPBACK))))
    with serve(world, "web") as server:
        assert exchanged(reach(LOOPBACK, 8080), server) == str(GATEWAY)


def test_a_udp_port_on_loopback_answers_from_where_it_was_asked(world: World) -> None:
    world.app("web")
    firewall.commit(rules.table(world.wiring(published(world, LOOPBACK, "udp"))))
    with serve(world, "web", socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((str(LOOPBACK), 8080))
        client.send(b"there")
        _, peer = server.recvfrom(16)
        server.sendto(b"back", peer)
        assert client.recv(16) == b"back"


def test_a_port_on_every_address_is_reached_on_each(world: World) -> None:
    world.wire()
    world.app("web")
    firewall.commit(rules.table(world.wiring(published(world, EVERYWHERE))))
    with serve(world, "web") as server:
        assert exchanged(reach(LOOPBACK, 8080), server) == str(GATEWAY)
        assert exchanged(reach("127.9.9.9", 8080), server) == str(GATEWAY)
        exchanged(reach(HOST, 8080), server)


def test_a_port_on_every_address_shows_the_clients_address(world: World) -> None:
    world.wire()
    world.app("web")
    forwarding.enable()
    firewall.commit(rules.table(world.wiring(published(world, EVERYWHERE))))
    with serve(world, "web") as server, world.inside("outside"):
        assert exchanged(reach(HOST, 8080), server) == str(OUTSIDE)


def test_a_port_on_one_address_is_not_on_another(world: World) -> None:
    world.wire()
    world.app("web")
    firewall.commit(rules.table(world.wiring(published(world, HOST))))
    with serve(world, "web") as server:
        exchanged(reach(HOST, 8080), server)
        with pytest.raises(ConnectionRefusedError):
            reach(LOOPBACK, 8080)


def test_a_container_reaches_itself_through_its_published_port(world: World) -> None:
    world.wire()
    world.app("web")
    firewall.commit(rules.table(world.wiring(published(world, EVERYWHERE))))
    with serve(world, "web") as server, world.inside("web"):
        assert exchanged(reach(HOST, 8080), server) == str(GATEWAY)


def test_a_container_reaches_another_through_a_published_port_under_its_own_address(world: World) -> None:
    world.wire()
    world.app("web", "db")
    firewall.commit(rules.table(world.wiring(published(world, EVERYWHERE))))
    with serve(world, "web") as server, world.inside("db"):
        assert exchanged(reach(HOST, 8080), server) == str(world.members["db"])


def test_the_host_reaches_a_container_by_its_address(world: World) -> None:
    world.app("web")
    with serve(world, "web") as server:
        assert exchanged(reach(world.members["web"], 80), server) == str(GATEWAY)


def test_what_leaves_is_masqueraded(world: World) -> None:
    world.wire()
    world.app("web")
    forwarding.enable()
    with world.inside("outside"):
        server = listen(OUTSIDE, 80)
    with server, world.inside("web"):
        assert exchanged(reach(OUTSIDE, 80), server) == str(HOST)


def test_no_connection_from_outside_reaches_a_container(world: World) -> None:
    world.wire()
    world.app("web")
    forwarding.enable()
    with serve(world, "web"), world.inside("outside"):
        ip("route", "add", str(SUBNET), "via", str(HOST))
        with pytest.raises(TimeoutError):
            reach(world.members["web"], 80, timeout=0.3)


def another_app(world: World) -> None:
    """A container `stranger` of an app with a seed, a group and a table of its own."""
    other = World(world.host, seed="f" * 64, spaces=world.spaces)
    other.members.update(world.members)  # so that addresses differ
    join = other.join("stranger")
    other.members.pop("web")
    firewall.commit(rules.table(other.wiring()))
    links.connect([join])


def test_another_apps_container_reaches_a_port_published_on_the_hosts_address(world: World) -> None:
    world.wire()
    world.app("web")
    firewall.commit(rules.table(world.wiring(published(world, EVERYWHERE))))
    another_app(world)
    with serve(world, "web") as server, world.inside("stranger"):
        exchanged(reach(HOST, 8080), server)


def test_another_apps_container_does_not_reach_ours(world: World) -> None:
    world.app("web")
    another_app(world)
    with serve(world, "web"), world.inside("stranger"), pytest.raises(TimeoutError):
        reach(world.members["web"], 80, timeout=0.3)


def from_outside_to_loopback(world: World) -> socket.socket:
    """moby#45610: a neighbour on the wire routes 127.0.0.1 to the host."""
    with world.inside("outside"):
        Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")
        ip("link", "set", "lo", "down")
        ip("route", "flush", "table", "local", "root", "127.0.0.0/8")
        ip("route", "add", "127.0.0.1/32", "via", str(HOST), "src", str(OUTSIDE))
        return reach(LOOPBACK, 8080, timeout=0.3)


def test_a_port_on_loopback_is_not_reached_from_outside(world: World) -> None:
    world.wire()
    world.app("web")
    forwarding.enable()
    firewall.commit(rules.table(world.wiring(published(world, LOOPBACK))))
    with serve(world, "web"), pytest.raises(TimeoutError):
        from_outside_to_loopback(world)


def test_without_the_guard_a_port_on_loopback_is_reached_from_outside(world: World) -> None:
    """The negative control of the test above."""
    world.wire()
    world.app("web")
    forwarding.enable()
    firewall.commit(rules.table(world.wiring(published(world, LOOPBACK))).without(rules.LOOPBACK_FROM_OUTSIDE))
    with serve(world, "web"):
        from_outside_to_loopback(world).close()


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_a_forged_source_is_dropped(world: World, guarded: bool) -> None:
    world.app("web", "db", "thief")
    table = rules.table(world.wiring())
    firewall.commit(table if guarded else table.without(rules.FORGED_SOURCE))
    with serve(world, "db", socket.SOCK_DGRAM) as server:
        with world.inside("thief"):
            send_raw(world.members["web"], world.members["db"], b"forged")
            send_raw(world.members["thief"], world.members["db"], b"honest")
        assert server.recv(16) == (b"honest" if guarded else b"forged")


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_a_container_does_not_reach_the_hosts_loopback(world: World, guarded: bool) -> None:
    """CVE-2020-8558: its interface lets 127.0.0.0/8 through for published ports."""
    world.app("thief")
    table = rules.table(world.wiring())
    firewall.commit(table if guarded else table.without(rules.LOOPBACK_FROM_OUTSIDE))
    with listen(LOOPBACK, 80, socket.SOCK_DGRAM) as server:
        with world.inside("thief"):
            Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")
            ip("link", "set", "lo", "down")
            ip("route", "flush", "table", "local", "root", "127.0.0.0/8")
            ip("route", "add", "127.0.0.1/32", "via", str(GATEWAY), "dev", "eth0", "onlink")
            send_raw(world.members["thief"], LOOPBACK, b"forged")
        server.settimeout(0.3)
        if guarded:
            with pytest.raises(TimeoutError):
                server.recv(16)
        else:
            assert server.recv(16) == b"forged"


def test_connections_go_on_while_the_table_is_replaced(world: World) -> None:
    world.app("web")
    table = rules.table(world.wiring(published(world, LOOPBACK)))
    firewall.commit(table)
    with serve(world, "web") as server, reach(LOOPBACK, 8080) as client:
        connection, _ = server.accept()
        with connection:
            for _ in range(10):
                firewall.commit(table)
                client.sendall(b"there")
                assert connection.recv(16) == b"there"


def test_a_packet_to_an_absent_container_is_refused_at_once(world: World) -> None:

    world.app("web")
    links.claim(SUBNET, world.group)
    with world.inside("web"), pytest.raises(OSError, match="No route to host"):
        reach(SUBNET[99], 80)
