"""The root of layers, made in both ways: of detached layers, and of layers that a child attaches. Needs root."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import overlay, syscalls
from runtime.launch import client, helper
from runtime.mounts import OpenTree
from runtime.overlay import MemoryLayer, Overlay
from runtime.world import World
from tests.kernel.runtime.launching import BASE, Launching

WAYS = ("detached", "attached")
ATTACHED_BOOT = client._BOOT.replace(
    "from runtime.launch.launcher",
    "from runtime import overlay; overlay.takes_detached_layers = lambda: False; from runtime.launch.launcher",
)
"""Starts a launcher as on a kernel before 6.15."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way; the first one only where the kernel has it, as the machine's 6.1 has not."""
    if request.param == "attached":
        monkeypatch.setattr(overlay, "takes_detached_layers", lambda: False)
    return request.param


def needs(way: str) -> None:
    if way == "detached" and not overlay.takes_detached_layers():
        pytest.skip("no overlay over detached layers here")


@pytest.fixture
def world() -> Iterator[World]:
    """A world without a user namespace."""
    made = World(None, -1, -1)
    yield made
    made.close()


def layers(directory: Path, count: int) -> list[Path]:
    """Layers with names that option strings would have to escape; each has `file` and a file of its own."""
    made: list[Path] = []
    for number in range(count):
        layer = directory / f"layer {number}:a,b\\c=d"
        layer.mkdir()
        (layer / "file").write_text(str(number))
        (layer / f"only-{number}").write_text("")
        made.append(layer)
    return made


def rooted(world: World, lowers: list[Path], writable: Path, *, idmap: bool = False, owner: int = 0) -> int:
    """The root over `lowers`, the topmost first."""
    for name in ("upper", "work"):
        (writable / name).mkdir(parents=True, exist_ok=True)
    for number, lower in enumerate(lowers):
        OpenTree(f"layer-{number}", str(lower), idmap, False, 0).execute(world)
    OpenTree("writable", str(writable), False, False, 0).execute(world)
    keys = tuple(f"layer-{number}" for number in range(len(lowers)))
    Overlay("root", keys, "writable", owner).execute(world)
    return world.root


def read(root: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=root)
    with os.fdopen(descriptor) as opened:
        return opened.read()


def names(root: int) -> set[str]:
    return set(os.listdir(f"/proc/self/fd/{root}"))  # the descriptor itself is for paths only


def test_the_topmost_layer_wins_and_writes_go_above(way: str, world: World, tmp_path: Path) -> None:
    needs(way)
    root = rooted(world, layers(tmp_path, 3), tmp_path / "writable: \\,")
    assert read(root, "file") == "0"
    assert {"only-0", "only-1", "only-2"} < names(root)
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=root))
    assert (tmp_path / "writable: \\," / "upper" / "new").exists()


def test_a_hundred_layers_are_no_limit(way: str, world: World, tmp_path: Path) -> None:
    """As many as an image may have (127) do not fit into one option of fsconfig(2)."""
    needs(way)
    root = rooted(world, layers(tmp_path, 127), tmp_path / "writable")
    assert read(root, "file") == "0"
    assert "only-126" in names(root)


def test_the_writable_layer_may_be_memory(way: str, world: World, tmp_path: Path) -> None:
    needs(way)
    MemoryLayer("writable", 1 << 20).execute(world)
    OpenTree("layer", str(layers(tmp_path, 1)[0]), False, False, 0).execute(world)
    Overlay("root", ("layer",), "writable", 0).execute(world)
    assert read(world.root, "file") == "0"
    with pytest.raises(OSError, match="No space left"):
        descriptor = os.open("big", os.O_CREAT | os.O_WRONLY, dir_fd=world.root)
        try:
            for _ in range(64):
                os.write(descriptor, bytes(1 << 16))
        finally:
            os.close(descriptor)


def test_layers_may_be_idmapped(way: str, tmp_path: Path) -> None:
    """The files' owner on the host, 0, is seen as the container's root."""
    needs(way)
    namespaces, inner = helper.make(((0, BASE, 65536),), ((0, BASE, 65536),), True)
    world = World(namespaces.user, -1, -1)
    try:
        root = rooted(world, layers(tmp_path, 2), tmp_path / "writable", idmap=True, owner=BASE)
        assert os.stat("file", dir_fd=root).st_uid == BASE
        assert os.fstat(root).st_uid == BASE
    finally:
        world.close()
        for descriptor in (namespaces.net, namespaces.user, inner):
            assert descriptor is not None
            os.close(descriptor)


def test_nodes_in_a_layer_open_no_device(way: str, world: World, tmp_path: Path) -> None:
    needs(way)
    lower = layers(tmp_path, 1)
    os.mknod(lower[0] / "null", 0o20666, os.makedev(1, 3))
    root = rooted(world, lower, tmp_path / "writable")
    with pytest.raises(PermissionError):
        os.open("null", os.O_RDONLY, dir_fd=root)


def test_it_is_seen_nowhere_in_this_mount_namespace(way: str, world: World, tmp_path: Path) -> None:
    needs(way)
    before = Path("/proc/self/mountinfo").read_text()
    own = os.readlink("/proc/self/ns/mnt")
    root = rooted(world, layers(tmp_path, 2), tmp_path / "writable")
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.readlink("/proc/self/ns/mnt") == own
    point = tmp_path / "point"
    point.mkdir()
    syscalls.move_mount_to(root, str(point))
    try:
        assert "overlay" in Path("/proc/self/mountinfo").read_text(), "the table shows what is attached"
    finally:
        syscalls.umount2(str(point), syscalls.MNT_DETACH)  # its descriptor holds it


def break_work(writable: Path) -> None:
    (writable / "work").rename(writable / "former")
    (writable / "work").write_text("")


def break_upper(writable: Path) -> None:
    (writable / "upper").rename(writable / "former")


@pytest.mark.parametrize("broken", (break_work, break_upper), ids=lambda each: each.__name__)
def test_what_cannot_be_made_is_an_error_and_leaves_no_descriptor(
    way: str, broken: Callable[[Path], None], world: World, tmp_path: Path
) -> None:
    needs(way)
    rooted(world, layers(tmp_path, 1), tmp_path / "writable")
    before = os.listdir("/proc/self/fd")
    broken(tmp_path / "writable")
    with pytest.raises(OSError):
        Overlay("again", ("layer-0",), "writable", 0).execute(world)
    assert os.listdir("/proc/self/fd") == before


def test_a_layer_that_is_an_overlay_over_the_same_upper_is_refused(way: str, world: World, tmp_path: Path) -> None:
    """The kernel's own refusal arrives: the error that a child met is the caller's."""
    needs(way)
    rooted(world, layers(tmp_path, 1), tmp_path / "writable")
    with pytest.raises(OSError) as caught:
        Overlay("over", ("writable",), "root", 0).execute(world)
    assert caught.value.errno


def test_a_launcher_of_an_older_kernel_runs_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_BOOT", ATTACHED_BOOT)
    with Launching(tmp_path) as launcher:
        own = os.readlink(f"/proc/{launcher.pid}/ns/mnt")
        assert own == os.readlink("/proc/self/ns/mnt"), "later mounts of the host reach it"
        launcher.hold()
        for run in range(3):
            launcher.run(run, "/bin/sh", "-c", f"echo run {run}; grep -c root: /etc/passwd")
            assert launcher.exited("web", run) == (0, None, False)
        assert launcher.output() == b"".join(b"run %d\n1\n" % run for run in range(3))
        assert os.readlink(f"/proc/{launcher.pid}/ns/mnt") == own
        assert launcher.log() == ""
