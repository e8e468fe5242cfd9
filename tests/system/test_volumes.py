"""What a container may keep, share and lose: volumes, binds, tmpfs, its layer; as who, and with what around it."""

import json
import os
from pathlib import Path

import pytest

from tests.system.driver import Creche, busybox_root, until


@pytest.fixture(params=["host-root", "directory"])
def rootfs(request: pytest.FixtureRequest, creche: Creche) -> str:
    """The host's own root, which is not idmapped, and a directory, which is."""
    return "/" if request.param == "host-root" else str(busybox_root(creche.directory / "fs"))


def box(rootfs: str, script: str, more: str = "", name: str = "box") -> str:
    command = json.dumps(["sh", "-c", script])
    return f'[containers.{name}]\nrootfs = "{rootfs}"\ncommand = {command}\nrestart = "never"\n{more}\n'


def said(creche: Creche, rootfs: str, script: str, more: str = "", app: str = "vols") -> str:
    """What a script prints in a container of its own app, once it ended."""
    creche.up(app, box(rootfs, script, more), wait=False)
    status = creche.wait_for("box", lambda seen: seen["state"] in ("completed", "failed"))
    text = creche.logs("box").decode()
    assert status["exit_code"] == 0, (status, text, creche.story())
    return text


def test_a_named_volume_belongs_to_the_containers_root_and_outlives_down(creche: Creche, rootfs: str) -> None:
    script = "stat -c %u:%g /data; ls /data; echo kept > /data/file; stat -c %u:%g /data/file"
    assert said(creche, rootfs, script, 'volumes = ["named:/data"]') == "0:0\n0:0\n"
    creche("down")
    assert (creche.root / "volumes/vols/named/file").read_text() == "kept\n"
    assert (creche.root / "volumes/vols/named/file").stat().st_uid == 0
    assert said(creche, rootfs, script, 'volumes = ["named:/data"]') == "0:0\nfile\n0:0\n"


def test_a_bind_shows_the_hosts_owners_as_its_own(creche: Creche, rootfs: str) -> None:
    place = creche.directory / "bound"
    place.mkdir()
    (place / "ours").write_text("x")
    (place / "theirs").write_text("x")
    os.chown(place / "theirs", 1000, 1000)
    script = "stat -c %u:%g /data/ours /data/theirs; echo new > /data/new"
    assert said(creche, rootfs, script, 'volumes = ["./bound:/data"]') == "0:0\n1000:1000\n"
    assert ((place / "new").read_text(), (place / "new").stat().st_uid) == ("new\n", 0)


def test_a_read_only_volume_cannot_be_written(creche: Creche, rootfs: str) -> None:
    script = "touch /data/x 2>/dev/null && echo written || echo refused"
    assert said(creche, rootfs, script, 'volumes = ["named:/data:ro"]') == "refused\n"


def test_a_bound_file_is_a_file(creche: Creche, rootfs: str) -> None:
    (creche.directory / "setting").write_text("value\n")
    assert said(creche, rootfs, "cat /opt/app/setting", 'volumes = ["./setting:/opt/app/setting:ro"]') == "value\n"


def test_a_tmpfs_is_bounded_and_everybodys(creche: Creche, rootfs: str) -> None:
    script = "stat -c %a /scratch; dd if=/dev/zero of=/scratch/x bs=1M count=8 2>/dev/null; stat -c %s /scratch/x"
    text = said(creche, rootfs, script, 'volumes = ["tmpfs:/scratch:size=4M"]')
    assert text == f"1777\n{4 << 20}\n"


def test_two_containers_share_a_named_volume_as_its_owners(creche: Creche, rootfs: str) -> None:
    writer = box(rootfs, "echo shared > /data/x", 'volumes = ["both:/data"]', "writer")
    reader = box(
        rootfs, "cat /data/x; stat -c %u /data/x", 'volumes = ["both:/data"]\nafter = { writer = "completed" }'
    )
    creche.up("share", writer + reader, wait=False)
    creche.wait_for("box", lambda status: status["state"] == "completed")
    assert creche.logs("box") == b"shared\n0\n"


# The writable layer


def test_the_writable_layer_survives_restarts_and_goes_with_down(creche: Creche) -> None:
    root = busybox_root(creche.directory / "fs", "wc")
    text = box(str(root), "echo x >> /count; wc -l < /count; exec sleep 60").replace('"never"', '"always"')
    path = creche.up("layer", text)
    until(lambda: creche.logs("box") == b"1\n")
    creche("restart", "box")
    until(lambda: creche.logs("box") == b"1\n2\n")
    creche("kill", "box")
    until(lambda: creche.logs("box") == b"1\n2\n3\n")
    assert not (root / "count").exists()
    creche("down")
    creche("up", "-d", "--wait", path)
    until(lambda: creche.logs("box") == b"1\n")


def test_what_root_writes_in_its_layer_is_its_own(creche: Creche) -> None:
    root = str(busybox_root(creche.directory / "fs"))
    script = (
        "stat -c %u:%g / /etc /etc/passwd; echo x > /etc/new; echo y >> /etc/passwd; stat -c %u:%g /etc/new /etc/passwd"
    )
    assert said(creche, root, script) == "0:0\n" * 5


def test_a_memory_layer_is_bounded_and_forgotten(creche: Creche) -> None:
    root = str(busybox_root(creche.directory / "fs", "wc"))
    script = (
        "test -e /big && echo remembered || echo fresh; dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null; "
        "stat -c %s /big; exec sleep 60"
    )
    creche.up("memory", box(root, script, 'writable = "tmpfs:16M"'))
    until(lambda: creche.logs("box").count(b"\n") == 2)
    creche("restart", "box")
    until(lambda: creche.logs("box").count(b"\n") == 4)
    first, size, again, _ = creche.logs("box").decode().split()
    assert (first, again) == ("fresh", "fresh")
    assert 8 << 20 < int(size) <= 16 << 20


def test_a_memory_layer_works_on_the_hosts_root(creche: Creche) -> None:
    assert said(creche, "/", "echo ok", 'writable = "tmpfs:16M"') == "ok\n"


def test_a_read_only_root_keeps_its_volumes_writable(creche: Creche, rootfs: str) -> None:
    script = "touch /tmp-file /etc/x 2>/dev/null && echo written || echo refused; echo ok > /data/x && cat /data/x"
    more = 'read_only = true\nvolumes = ["named:/data"]'
    assert said(creche, rootfs, script, more) == "refused\nok\n"


# Who, where, with what


USERS = {
    "root": ("", "0 0 0"),
    "name": ('user = "user"', "1000 1000 1000 2000"),
    "number": ('user = "1000"', "1000 1000 1000 2000"),
    "numbers": ('user = "1234:2345"', "1234 2345 2345"),
    "names": ('user = "user:extra"', "1000 2000 2000"),
    "groups": ('user = "user"\ngroup_add = ["extra", "3000"]', "1000 1000 1000 2000 3000"),
    "unknown": ('user = "1234"\ngroup_add = ["3000"]', "1234 0 0 3000"),
}
"""What stands in the file, and `id -u`, `id -g` and `id -G` inside."""


def test_users_and_groups_by_name_and_number(creche: Creche) -> None:
    root = str(busybox_root(creche.directory / "fs"))
    script = "echo $(id -u) $(id -g) $(id -G)"
    creche.up("users", "".join(box(root, script, more, name) for name, (more, _) in USERS.items()), wait=False)
    until(lambda: {each["state"] for each in creche.ps().values()} == {"completed"}, what="all of them completed")
    assert {name: creche.logs(name).decode().strip() for name in USERS} == {
        name: ids for name, (_, ids) in USERS.items()
    }


def test_a_user_has_no_capabilities_and_cannot_write_roots_files(creche: Creche) -> None:
    root = str(busybox_root(creche.directory / "fs", "grep"))
    script = "grep CapEff /proc/self/status; touch /etc/x 2>/dev/null && echo written || echo refused"
    assert said(creche, root, script, 'user = "user"') == "CapEff:\t0000000000000000\nrefused\n"


def test_env_workdir_hostname_and_extra_hosts(creche: Creche, rootfs: str) -> None:
    script = 'echo "$GREETING $HOSTNAME"; pwd; cat /etc/hostname; cat /etc/hosts'
    more = 'env = { GREETING = "hello there" }\nworkdir = "/etc"\nhostname = "own"\nextra_hosts = ["far:192.0.2.7"]'
    greeting, directory, hostname, *hosts = said(creche, rootfs, script, more).splitlines()
    assert (greeting, directory, hostname) == ("hello there own", "/etc", "own")
    assert ["192.0.2.7", "far"] in [line.split() for line in hosts]


def test_a_link_is_a_name_and_no_link_is_none(creche: Creche) -> None:
    listen = '["/usr/bin/python3", "-m", "http.server", "9000"]'
    ask = (
        "import socket\\n"
        "for name in ('alias', 'server'):\\n"
        "    try: socket.create_connection((name, 9000), 5).close(); print('reached')\\n"
        "    except OSError as error: print(type(error).__name__)"
    )
    text = f"""
[defaults]
rootfs = "/"
[containers.server]
command = {listen}
[containers.client]
command = ["sh", "-c", "sleep 1; exec /usr/bin/python3 -c \\"$0\\"", "{ask}"]
links = ["server:alias"]
"""
    creche.up("linked", text)
    until(lambda: creche.logs("client").count(b"\n") == 2, what="two answers")
    assert creche.logs("client").decode().split() == ["reached", "gaierror"]


def test_no_network_has_only_a_loopback(creche: Creche) -> None:
    assert said(creche, "/", "ls /sys/class/net", 'network = "none"') == "lo\n"


def test_ulimits_and_shm_size(creche: Creche) -> None:
    more = 'ulimits = { nofile = 123 }\nshm_size = "2M"'
    text = said(creche, "/", "ulimit -n; df -k /dev/shm | tail -1", more)
    limit, shown = text.splitlines()
    assert (limit, shown.split()[1]) == ("123", "2048")


def test_the_root_directory_is_never_written(creche: Creche) -> None:
    root = busybox_root(creche.directory / "fs")
    before = sorted(str(path) for path in root.rglob("*"))
    said(creche, str(root), "echo x > /etc/y; mkdir /new", 'volumes = ["named:/deep/down/data"]')
    assert sorted(str(path) for path in root.rglob("*")) == before


def test_a_hostile_root_leads_no_mount_outside(creche: Creche) -> None:
    """/etc and a volume's target are symbolic links that point out of the root."""
    root = busybox_root(creche.directory / "fs")
    outside = creche.directory / "outside"
    outside.mkdir()
    for name in ("passwd", "group"):
        (root / "etc" / name).unlink()
    (root / "etc").rmdir()
    (root / "etc").symlink_to("../../../../../.." + str(outside))
    (root / "data").symlink_to(str(outside))
    creche.up("hostile", box(str(root), "echo ran", 'volumes = ["named:/data"]'), wait=False)
    creche.wait_for("box", lambda status: status["state"] in ("completed", "failed"))
    assert list(outside.iterdir()) == []
    assert Path("/etc/hosts").stat().st_size > 0
