"""Reserved ports and the forwarding switch."""

import errno
import os
import socket
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from net import firewall, forwarding, ports, rules
from net.ports import PortError, PortTaken
from net.rules import PublishedPort
from tests.kernel.net.conftest import World, exchanged, listen, reach

LOOPBACK, EVERYWHERE = IPv4Address("127.0.0.1"), IPv4Address("0.0.0.0")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("first", [LOOPBACK, EVERYWHERE])
@pytest.mark.parametrize("second", [LOOPBACK, EVERYWHERE])
def test_no_two_reserve_one_port(world: World, first: IPv4Address, second: IPv4Address, protocol: str) -> None:
    with ports.reserve(first, 8080, protocol), pytest.raises(PortTaken):
        ports.reserve(second, 8080, protocol)


def test_a_reservation_is_no_listener_and_not_inherited(world: World) -> None:
    with ports.reserve(LOOPBACK, 8080) as reserved:
        assert not reserved.get_inheritable()
        with pytest.raises(ConnectionRefusedError):
            reach(LOOPBACK, 8080)


def test_a_closed_reservation_frees_the_port(world: World) -> None:
    ports.reserve(LOOPBACK, 8080).close()
    ports.reserve(LOOPBACK, 8080).close()


def test_a_listener_cannot_take_a_reserved_port_even_with_reuse(world: World) -> None:
    with ports.reserve(LOOPBACK, 8080), socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="Address already in use"):
            thief.bind((str(LOOPBACK), 8080))


def test_a_reservation_does_not_stand_in_the_way_of_the_published_port(world: World) -> None:
    world.app("web")
    with world.inside("web"):
        server = listen(EVERYWHERE, 80)
    firewall.commit(rules.table(world.wiring(PublishedPort(LOOPBACK, 8080, world.members["web"], 80))))
    with server, ports.reserve(LOOPBACK, 8080):
        exchanged(reach(LOOPBACK, 8080), server)


@pytest.mark.parametrize("held", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_taken_port_says_who_has_it(world: World, held: str) -> None:
    six = ":" in held
    server = socket.create_server((held, 8080), family=socket.AF_INET6 if six else socket.AF_INET, dualstack_ipv6=six)
    told = rf"127\.0\.0\.1:8080/tcp is taken by process {os.getpid()} "
    with server, pytest.raises(PortTaken, match=told) as caught:
        ports.reserve(LOOPBACK, 8080)
    assert caught.value.holder is not None and caught.value.holder.pid == os.getpid()


def test_a_port_taken_by_a_reservation_says_that_it_does_not_show(world: World) -> None:
    with ports.reserve(LOOPBACK, 8080), pytest.raises(PortTaken, match="perhaps another app"):
        ports.reserve(LOOPBACK, 8080)


def test_an_address_the_host_does_not_have_is_said_so(world: World) -> None:
    with pytest.raises(PortError, match=r"no address 192\.0\.2\.77") as caught:
        ports.reserve(IPv4Address("192.0.2.77"), 8080)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_forwarding_is_switched_on_once(world: World) -> None:
    assert (forwarding.enabled(), forwarding.enable(), forwarding.enable()) == (False, True, False)
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
