"""The texts a container resolves names by."""

from ipaddress import IPv4Address, ip_address

import pytest

from net.hosts import NSSWITCH, extra_host, hosts, resolv_conf

OWN = IPv4Address("10.64.0.2")


def lookup(text: str, name: str) -> list[str]:
    """What hosts(5) finds for a name, in order."""
    lines = (line.split() for line in text.splitlines())
    return [words[0] for words in lines if name in words[1:]]


def test_the_own_name_is_the_own_address() -> None:
    assert lookup(hosts("web", OWN, {}), "web") == ["10.64.0.2"]


def test_localhost_is_the_loopback_of_both_families() -> None:
    assert lookup(hosts("web", OWN, {}), "localhost") == ["127.0.0.1", "::1"]


def test_without_a_network_the_own_name_still_resolves() -> None:
    assert lookup(hosts("web", None, {}), "web") == ["127.0.1.1"]


def test_a_link_is_found_by_its_alias() -> None:
    assert lookup(hosts("web", OWN, {"redis": IPv4Address("10.64.0.9")}), "redis") == ["10.64.0.9"]


def test_a_link_wins_over_an_extra_host_of_its_name() -> None:
    text = hosts("web", OWN, {"db": IPv4Address("10.64.0.9")}, ["db:192.0.2.1"])
    assert lookup(text, "db")[0] == "10.64.0.9"


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("a:192.0.2.1", "a", "192.0.2.1"),
        ("a=192.0.2.1", "a", "192.0.2.1"),
        ("a:2001:db8::1", "a", "2001:db8::1"),
        ("a:[2001:db8::1]", "a", "2001:db8::1"),
    ],
)
def test_extra_hosts_as_compose_writes_them(text: str, name: str, address: str) -> None:
    assert extra_host(text) == (name, ip_address(address))


@pytest.mark.parametrize("text", ["a", "a:", ":192.0.2.1", "a b:192.0.2.1", "a:300.1.1.1", "a:\n192.0.2.1 b"])
def test_a_malformed_extra_host_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="extra host"):
        extra_host(text)


def test_real_servers_are_kept_with_search_and_options() -> None:
    found = resolv_conf("# made by dhcp\nsearch lan\nnameserver 192.0.2.53\noptions edns0\nsortlist 1.2.3.4\n")
    assert found.text == "nameserver 192.0.2.53\nsearch lan\noptions edns0\n"
    assert found.warning is None


def test_behind_a_stub_the_real_servers_are_used() -> None:
    found = resolv_conf("nameserver 127.0.0.53\nsearch stub\n", "nameserver 192.0.2.53\nsearch lan\n")
    assert found.text == "nameserver 192.0.2.53\nsearch lan\n"


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.53", "::1", "fe80::1%eth0", "fe80::1", "0.0.0.0", "junk"])
def test_a_server_no_container_reaches_is_dropped(server: str) -> None:
    assert resolv_conf(f"nameserver {server}\nnameserver 192.0.2.53\n").servers == ("192.0.2.53",)


@pytest.mark.parametrize("server", ["127.0.0.1", "2001:db8::53"])
def test_no_server_left_is_a_warning_and_none_is_invented(server: str) -> None:
    found = resolv_conf(f"nameserver {server}\nsearch lan\n")
    assert found.servers == () and "nameserver" not in found.text
    assert found.warning is not None and "dns = [...]" in found.warning


def test_a_clouds_link_local_server_is_a_real_one() -> None:
    assert resolv_conf("nameserver 169.254.169.254\n").servers == ("169.254.169.254",)


def test_ipv6_servers_stay_where_containers_have_ipv6() -> None:
    assert resolv_conf("nameserver 2001:db8::53\n", ipv6=True).servers == ("2001:db8::53",)


def test_what_the_file_says_wins_and_search_stays() -> None:
    found = resolv_conf("nameserver 192.0.2.53\nsearch lan\n", None, ["203.0.113.1", "203.0.113.2"])
    assert found.text == "nameserver 203.0.113.1\nnameserver 203.0.113.2\nsearch lan\n"


def test_etc_hosts_comes_before_dns() -> None:
    assert NSSWITCH == "hosts: files dns\n"
