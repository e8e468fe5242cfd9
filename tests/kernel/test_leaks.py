"""The leak check itself: each kind of thing that a test can leave is caught, told by name, and only when it is ours."""

import os
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from net import addresses, firewall, links
from net.ruleset import Table
from runtime.cgroups.hierarchy import find
from supervisor import claims
from tests import leaks

APP = "leaky"
Kind = Callable[[Path, str], AbstractContextManager[str]]
SLEEP = ["/bin/sleep", "60"]


@contextmanager
def process(directory: Path, seed: str) -> Iterator[str]:
    child = subprocess.Popen(SLEEP)
    yield f"process {child.pid} 'sleep'"
    child.kill()
    child.wait()


@contextmanager
def zombie(directory: Path, seed: str) -> Iterator[str]:
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield f"zombie {child.pid} 'true'"
    child.wait()


@contextmanager
def confined(directory: Path, seed: str) -> Iterator[str]:
    """A process known only by its cgroup."""
    with cgroup(directory, seed):
        child = subprocess.Popen(["/bin/sh", "-c", "(exec /bin/sleep 60 >/dev/null) & echo $!"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        child.stdout.close()
        child.wait()
        place = _cgroup(seed)
        (place / "cgroup.procs").write_text(str(pid))
        yield f"process {pid} 'sleep'"
        descriptor = os.pidfd_open(pid)
        os.kill(pid, 9)
        assert select.select([descriptor], [], [], 5)[0]
        os.close(descriptor)


def _cgroup(seed: str) -> Path:
    layout = find()
    place = layout.v2 or layout.v1[0]
    return Path(place.mount, "creche", f"{APP}-{seed[:8]}")


@contextmanager
def cgroup(directory: Path, seed: str) -> Iterator[str]:
    place = _cgroup(seed)
    place.mkdir(parents=True)
    yield f"cgroup {place}"
    place.rmdir()


@contextmanager
def mount(directory: Path, seed: str) -> Iterator[str]:
    point = directory / "mounted"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "left", str(point)], check=True)
    yield f"on {point}: tmpfs left"
    subprocess.run(["umount", str(point)], check=True)


@contextmanager
def interface(directory: Path, seed: str) -> Iterator[str]:
    name = addresses.interface(seed, "box")
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name[:10]}peer"], check=True)
    group = str(addresses.group(seed))
    subprocess.run(["ip", "link", "set", name, "group", group, "alias", f"creche {APP}/box"], check=True)
    yield f"interface {name}"
    links.disconnect(name)


@contextmanager
def table(directory: Path, seed: str) -> Iterator[str]:
    name = addresses.table(APP, seed)
    firewall.commit(Table(name, (), ()))
    yield f"nftables table {name}"
    firewall.remove(name)


@contextmanager
def route(directory: Path, seed: str) -> Iterator[str]:
    subnet = addresses.choose_subnet(seed, links.host_networks())
    links.claim(IPv4Network(subnet), addresses.group(seed))
    yield f"unreachable route {subnet}"
    links.release(addresses.group(seed))


@contextmanager
def id_range(directory: Path, seed: str) -> Iterator[str]:
    (directory / "root/apps" / APP).mkdir(parents=True)
    base = claims.claim(directory / "root", APP, ["box"])["box"]
    yield f"id range {base} of box in {APP}"
    claims.release(directory / "root", APP)


@contextmanager
def descriptor(directory: Path, seed: str) -> Iterator[str]:
    number = os.open("/dev/null", os.O_RDONLY)
    yield f"descriptor {number} -> /dev/null"
    os.close(number)


KINDS = (process, zombie, confined, cgroup, mount, interface, table, route, id_range, descriptor)


@pytest.fixture
def place(tmp_path: Path, leak_scope: leaks.Scope) -> tuple[Path, str]:
    """The test's directory and the seed of its app there."""
    (tmp_path / "run").mkdir()
    leak_scope.own(tmp_path, APP)
    return tmp_path, addresses.seed(str(tmp_path / "run"), APP)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_left_is_caught_and_named(kind: Kind, place: tuple[Path, str], leak_scope: leaks.Scope) -> None:
    with ExitStack() as stack, pytest.raises(leaks.Leak) as caught, leaks.checked(leak_scope, settle=0.05):
        told = stack.enter_context(kind(*place))
    assert told in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_taken_away_is_not_told(kind: Kind, place: tuple[Path, str], leak_scope: leaks.Scope) -> None:
    with leaks.checked(leak_scope), kind(*place):
        pass


@pytest.mark.parametrize("kind", (confined, cgroup, interface, table, route, id_range), ids=lambda kind: kind.__name__)
def test_what_is_another_tests_is_not_told(kind: Kind, tmp_path: Path) -> None:
    """The same things, below a directory that is not this scope's."""
    other, mine = tmp_path / "other", tmp_path / "mine"
    for directory in (other / "run", mine / "run"):
        directory.mkdir(parents=True)
    scope = leaks.Scope()
    scope.own(mine, APP)
    with ExitStack() as stack, leaks.checked(scope, settle=0.05):
        stack.enter_context(kind(other, addresses.seed(str(other / "run"), APP)))
