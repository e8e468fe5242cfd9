"""The container's terminal on the real kernel: its own, in nobody else's reach."""

import errno

import pytest

from tests.kernel.runtime.inside import MAPS, NAMESPACES, inside

OWN = 'cover("/dev/pts", "devpts", ptmxmode="0666", mode="0620", gid="5")\n'
OPEN = """
ours, theirs = socket.socketpair()
world.keep("console", theirs.fileno())
terminal.Terminal({rows}, {columns}, "console", {own_node}).execute(world)
data, rights, _, _ = ours.recvmsg(64, socket.CMSG_SPACE(64))
(received,) = struct.unpack("=i", rights[0][2])
"""


def opened(rows: int = 24, columns: int = 80, own_node: bool = False) -> str:
    return OWN + OPEN.format(rows=rows, columns=columns, own_node=own_node)


def test_the_streams_are_its_slave() -> None:
    code = """
say([len({world.stdin, world.stdout, world.stderr}), world.terminal, os.ttyname(world.stdin), os.isatty(received)])
"""
    assert inside(opened() + code) == [1, True, "/dev/pts/0", True]


def test_what_is_typed_at_the_master_is_read() -> None:
    code = 'os.write(received, b"hello\\n"); say(os.read(world.stdin, 10).decode())'
    assert inside(opened() + code) == "hello\n"


def test_it_comes_with_one_descriptor_under_runcs_name() -> None:
    assert inside(opened() + "say([data.decode(), len(rights)])") == ["/dev/ptmx", 1]


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (0, 0), (65535, 1)])
def test_its_size(rows: int, columns: int) -> None:
    size = 'say(struct.unpack("=4H", fcntl.ioctl(world.stdin, 0x5413, bytes(8)))[:2])'
    assert inside(opened(rows, columns) + size) == [rows, columns]


def test_a_size_beyond_what_there_is() -> None:
    with pytest.raises(OSError, match="at most 65535 rows") as caught:
        inside(opened(65536, 80))
    assert caught.value.errno == errno.EINVAL


ABOUT = "about = os.fstat(world.stdin); say([about.st_uid, about.st_gid, oct(about.st_mode & 0o777)])"


def test_it_is_the_users_and_of_the_group_tty() -> None:
    assert inside("world.account = Account(1000, 1000)\n" + opened() + ABOUT) == [1000, 5, "0o620"]


def test_a_user_who_is_looked_up_afterwards_has_it_too() -> None:
    code = 'identity.Identify("1000:1000", ()).execute(world)\n'
    assert inside(opened() + code + ABOUT) == [1000, 5, "0o620"]


def test_without_a_group_tty_it_is_the_users_alone() -> None:
    maps = tuple((kind, text.replace(" 65536", " 1")) for kind, text in MAPS)
    code = opened().replace(', gid="5"', "")
    assert inside(code + ABOUT, maps=maps) == [0, 0, "0o600"]


def test_it_is_dev_console_where_asked() -> None:
    code = """
console = os.stat("/dev/console")
say([console.st_rdev == os.fstat(world.stdin).st_rdev, console.st_dev == os.fstat(world.stdin).st_dev])
"""
    assert inside(opened(own_node=True) + code) == [True, True]


def test_dev_console_is_made_where_it_is_missing() -> None:
    code = 'cover("/dev")\nos.mkdir("/dev/pts")\n' + opened(own_node=True)
    assert inside(code + 'say(stat.S_ISCHR(os.stat("/dev/console").st_mode))') is True


def test_a_link_at_dev_console_is_not_followed() -> None:
    code = 'cover("/dev")\nos.mkdir("/dev/pts")\nos.symlink("/etc/hostname", "/dev/console")\n' + opened(own_node=True)
    assert inside(code + 'say([os.path.islink("/dev/console"), os.path.ismount("/etc/hostname")])') == [False, False]


def test_one_more_process_in_the_container_has_one_of_its_own() -> None:
    again = OPEN.format(rows=24, columns=80, own_node=False)
    assert inside(opened() + again + "say(os.ttyname(world.stdin))") == "/dev/pts/1"


def test_nothing_of_it_survives_exec_but_the_streams() -> None:
    code = "say([os.get_inheritable(number) for number in (world.stdin, *world.descriptors.values())])"
    assert inside(opened() + code) == [False] * 3


def test_the_hosts_terminals_are_refused() -> None:
    with pytest.raises(OSError, match="is the host's devpts") as caught:
        inside(OPEN.format(rows=24, columns=80, own_node=False))
    assert caught.value.errno == errno.ENODEV


def test_a_bind_of_the_hosts_terminals_is_refused() -> None:
    bind = """
tree = syscalls.open_tree("/dev/pts")
cover("/dev")
os.mkdir("/dev/pts")
syscalls.move_mount_to(tree, "/dev/pts")
"""
    with pytest.raises(OSError, match="is the host's devpts"):
        inside(bind + OPEN.format(rows=24, columns=80, own_node=False), flags=NAMESPACES & ~0x10000000)


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        ('cover("/dev"); os.mkdir("/dev/pts")', "is no devpts"),
        ('cover("/dev"); os.mkdir("/dev/pts"); open("/dev/pts/ptmx", "w").close()', "is no devpts"),
        ('cover("/dev"); os.symlink("/proc", "/dev/pts")', "is or is below a symbolic link"),
        ('cover("/dev"); open("/dev/pts", "w").close()', "/dev/pts"),
        ('cover("/dev")', "/dev/pts"),
    ],
)
def test_what_is_no_devpts_is_refused(hostile: str, words: str) -> None:
    with pytest.raises(OSError, match=words):
        inside(hostile + OPEN.format(rows=24, columns=80, own_node=False))


def test_another_file_on_the_multiplexer_is_not_opened() -> None:
    hostile = 'syscalls.move_mount_to(syscalls.open_tree("/dev/null"), "/dev/pts/ptmx")\n'
    with pytest.raises(OSError, match="/dev/pts/ptmx") as caught:
        inside(OWN + hostile + OPEN.format(rows=24, columns=80, own_node=False))
    assert caught.value.errno == errno.EXDEV


def test_another_file_on_the_slaves_path_is_not_opened() -> None:
    """The slave is had from the master, by no path (TIOCGPTPEER)."""
    hostile = """
first, second = terminal.open_pair()
os.close(first), os.close(second)
syscalls.move_mount_to(syscalls.open_tree("/dev/null"), "/dev/pts/0") if os.path.exists("/dev/pts/0") else None
"""
    code = OWN + hostile + OPEN.format(rows=24, columns=80, own_node=False) + "say(os.isatty(world.stdin))"
    assert inside(code) is True


def test_a_listener_that_is_gone_is_an_error() -> None:
    code = opened().replace("terminal.Terminal(", "ours.close(); terminal.Terminal(")
    with pytest.raises(BrokenPipeError, match="the console socket"):
        inside(code)


def test_it_cannot_type_into_the_hosts_terminal() -> None:
    """Its session has the container's terminal, so that is what /dev/tty and TIOCSTI are about."""
    code = """
os.setsid()
fcntl.ioctl(world.stdin, 0x540E, 0)
tty = os.open("/dev/tty", os.O_RDWR)
fcntl.ioctl(tty, 0x5412, b"x")
fcntl.ioctl(tty, 0x5412, b"\\n")
say([os.read(world.stdin, 9).decode(), os.fstat(world.stdin).st_dev in terminal._HOST_DEVICES])
"""
    assert inside(opened() + code) == ["x\n", False]
