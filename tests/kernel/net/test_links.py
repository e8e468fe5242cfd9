"""Links made and removed, subnets claimed."""

import errno
import os
import subprocess
import time
from ipaddress import IPv4Network

import attrs
import pytest

from net import addresses, links
from net.addresses import SubnetTaken
from net.links import LinkError
from tests.kernel.net.conftest import SUBNET, World, exchanged, inventory, ip, listen, reach


def test_two_hundred_links_come_at_once_and_go_as_a_group(world: World) -> None:
    before = inventory()
    joins = [world.join(f"c{number}") for number in range(200)]
    start = time.perf_counter()
    links.connect(joins)
    connected = time.perf_counter()
    assert links.connected(world.group) == tuple(sorted(join.interface for join in joins))
    middle = time.perf_counter()
    links.disconnect_group(world.group)
    end = time.perf_counter()
    assert inventory() == before
    print(f"connect {connected - start:.3f} s, disconnect {end - middle:.3f} s")
    assert connected - start < 1.5 and end - middle < 1.5


def test_a_link_says_whose_it_is(world: World) -> None:
    join = world.join("web")
    links.connect([join])
    assert "alias creche shop/web" in ip("link", "show", join.interface)


def test_a_container_has_its_address_and_one_way_out(world: World) -> None:
    join = world.join("web")
    links.connect([join])
    with world.inside("web"):
        assert f"inet {world.members['web']}/32 scope global eth0" in ip("address", "show", "eth0")
        assert "via 169.254.1.1 dev eth0" in ip("route", "get", "192.0.2.1")
        assert f"169.254.1.1 dev eth0 lladdr {join.hardware.host} PERMANENT" in ip("neighbour")
        assert "LOOPBACK,UP" in ip("link", "show", "lo")


def test_the_mtu_is_that_of_both_ends(world: World) -> None:
    join = attrs.evolve(world.join("web"), mtu=1400)
    links.connect([join])
    assert "mtu 1400" in ip("link", "show", join.interface)
    with world.inside("web"):
        assert "mtu 1400" in ip("link", "show", "eth0")


def test_what_a_killed_run_left_is_replaced(world: World) -> None:
    links.connect([world.join("web"), world.join("db")])
    world.space("again")
    world.spaces["web"], world.spaces["again"] = world.spaces["again"], world.spaces["web"]
    links.connect([world.join("web"), world.join("new")])
    assert len(links.connected(world.group)) == 3
    with world.inside("again"):
        assert "eth0" not in ip("link")
    with world.inside("web"):
        assert "eth0" in ip("link")


def test_a_refused_link_takes_the_others_with_it_and_says_which(world: World) -> None:
    before = inventory()
    joins = [world.join("web"), attrs.evolve(world.join("db"), mtu=1)]
    with pytest.raises(LinkError, match="creche shop/db: Invalid argument") as caught:
        links.connect(joins)
    assert caught.value.errno == errno.EINVAL
    assert inventory() == before


def test_the_inner_socket_is_consumed_when_connecting_fails_too(world: World) -> None:
    join = attrs.evolve(world.join("web"), mtu=1)
    with pytest.raises(LinkError):
        links.connect([join])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(join.inner)


def test_connecting_nothing_is_nothing(world: World) -> None:
    before = inventory()
    links.connect([])
    assert inventory() == before


def test_one_link_is_removed_and_may_be_removed_again(world: World) -> None:
    joins = [world.join("web"), world.join("db")]
    links.connect(joins)
    links.disconnect(joins[0].interface)
    links.disconnect(joins[0].interface)
    assert links.connected(world.group) == (joins[1].interface,)


def test_an_empty_group_is_removed_without_an_error(world: World) -> None:
    links.disconnect_group(world.group)


def test_the_group_of_all_other_interfaces_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="every interface of this host"):
        links.disconnect_group(0)


def test_another_apps_links_stay(world: World) -> None:
    join = world.join("web")
    links.connect([join, attrs.evolve(world.join("db"), group=world.group + 1)])
    links.disconnect_group(world.group + 1)
    assert links.connected(world.group) == (join.interface,)


def test_the_hosts_networks_are_those_of_addresses_and_routes(world: World) -> None:
    world.wire()
    ip("route", "add", "10.9.0.0/16", "via", "192.0.2.7")
    ip("route", "add", "blackhole", "10.8.0.0/16", "table", "77")
    ip("route", "add", "default", "via", "192.0.2.7")
    assert links.host_networks() == {IPv4Network(net) for net in ("192.0.2.0/24", "10.9.0.0/16", "10.8.0.0/16")}


def test_a_claimed_subnet_is_seen_by_others_and_not_by_its_app(world: World) -> None:
    links.claim(SUBNET, world.group)
    links.connect([world.join("web")])
    assert SUBNET in links.host_networks()
    assert links.host_networks(besides=world.group) == frozenset()
    assert links.claimed(world.group) == (SUBNET,)


def test_claiming_may_be_repeated(world: World) -> None:
    links.claim(SUBNET, world.group)
    links.claim(SUBNET, world.group)
    assert links.claimed(world.group) == (SUBNET,)


def test_of_two_apps_the_second_does_not_get_an_overlapping_subnet(world: World) -> None:
    links.claim(SUBNET, world.group)
    with pytest.raises(SubnetTaken, match="overlaps"):
        links.claim(next(SUBNET.subnets()), world.group + 1)
    assert links.claimed(world.group + 1) == ()
    assert links.claimed(world.group) == (SUBNET,)


def test_a_released_subnet_is_free(world: World) -> None:
    before = inventory()
    links.claim(SUBNET, world.group)
    links.release(world.group)
    links.release(world.group)
    assert inventory() == before


def test_a_default_subnet_is_free_on_this_host(world: World) -> None:
    world.wire()
    links.claim(addresses.choose_subnet(world.seed, links.host_networks()), world.group)
    other = addresses.choose_subnet(world.seed, links.host_networks())
    assert not other.overlaps(links.claimed(world.group)[0])


def test_a_namespace_of_a_mapped_user_is_connected_too(world: World) -> None:
    """As containers have it: their network namespace belongs to a user namespace of their own."""
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo made; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"made\n"
            world.spaces["mapped"] = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            world.app("mapped", "web")
        finally:
            process.kill()
    with world.inside("mapped"):
        server = listen("0.0.0.0", 80)
    with server, world.inside("web"):
        exchanged(reach(world.members["mapped"], 80), server)
