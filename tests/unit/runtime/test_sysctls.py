"""Which kernel parameters a container may set, and how their names are read."""

import pytest

from runtime.sysctls import MAX_VALUE, Sysctls, check, components

ALL = frozenset({"network", "ipc", "uts"})


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("net.ipv4.ip_forward", ("net", "ipv4", "ip_forward")),
        ("net/ipv4/ip_forward", ("net", "ipv4", "ip_forward")),
        ("net.ipv4.conf.eth0/1.forwarding", ("net", "ipv4", "conf", "eth0.1", "forwarding")),
        ("net/ipv4/conf/eth0.1/forwarding", ("net", "ipv4", "conf", "eth0.1", "forwarding")),
    ],
)
def test_both_forms_of_a_name(name: str, parts: tuple[str, ...]) -> None:
    assert components(name) == parts


@pytest.mark.parametrize(
    "name",
    [
        "",
        "net",
        ".",
        "..",
        "/",
        "net.",
        ".net",
        "net..x",
        "net/../kernel/core_pattern",
        "net/./x",
        "net.//.x",
        "net/\0",
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no kernel parameter"):
        components(name)


def test_dots_made_of_slashes_lead_nowhere() -> None:
    """`//` in the dotted form is a part of two dots."""
    with pytest.raises(ValueError, match=r"^linux\.sysctl 'net.* is no kernel parameter"):
        check({"net.//.kernel.core_pattern": "|/bin/sh"}, ALL)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("net.core.somaxconn", "network"),
        ("net/core/somaxconn", "network"),
        *(
            (f"kernel.{name}", "ipc")
            for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
        ),
        ("fs.mqueue.msg_max", "ipc"),
        ("fs/mqueue/msg_max", "ipc"),
    ],
)
def test_it_needs_its_own_namespace(name: str, namespace: str) -> None:
    assert check({name: "1"}, {namespace}) == ((name.replace(".", "/"), "1"),)
    with pytest.raises(ValueError, match=f"shares the host's {namespace} namespace"):
        check({name: "1"}, ALL - {namespace})


HOSTS = """
kernel.core_pattern kernel.modprobe vm.overcommit_memory fs.file-max fs.mqueuex.y kernel.shmmaxx abi.x
kernel.msgmax.more fs.mqueue user.max_user_namespaces network.x dev.tty.legacy_tiocsti
"""


@pytest.mark.parametrize("name", HOSTS.split())
def test_what_is_the_hosts_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="would change the host; set it on the host"):
        check({name: "1"}, ALL)


@pytest.mark.parametrize("field", ["hostname", "domainname"])
@pytest.mark.parametrize("form", ["kernel.{}", "kernel/{}"])
def test_what_has_a_field_of_its_own_names_it(field: str, form: str) -> None:
    with pytest.raises(ValueError, match=f"the field '{field}' says it"):
        check({form.format(field): "x"}, ALL)


@pytest.mark.parametrize("value", [1, None, "x" * (MAX_VALUE + 1), "a\0b"])
def test_a_value_that_is_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"linux\.sysctl 'net\.core\.somaxconn'"):
        check({"net.core.somaxconn": value}, ALL)


def test_one_parameter_in_two_forms_is_refused() -> None:
    with pytest.raises(ValueError, match="is there twice"):
        check({"net.core.somaxconn": "1", "net/core/somaxconn": "2"}, ALL)


def test_its_words() -> None:
    assert Sysctls(check({"net.core.somaxconn": "1"}, ALL)).describe() == "set net.core.somaxconn"
