"""Paths below a hostile root: whatever it holds, nothing outside is opened, made or changed."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.paths import make_directory, make_file, open_below


class Tree:
    """A root beside something that must never be reached."""

    def __init__(self, place: Path) -> None:
        self.root = place / "root"
        self.outside = place / "outside"
        for each in (self.root, self.outside):
            each.mkdir()
        (self.outside / "secret").write_text("secret")
        self.fd = os.open(self.root, os.O_PATH | os.O_DIRECTORY)

    def real(self, descriptor: int) -> Path:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        os.close(descriptor)
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path.resolve())
    before = sorted(os.listdir(made.outside))
    numbers = os.listdir("/proc/self/fd")
    yield made
    assert len(os.listdir("/proc/self/fd")) == len(numbers), "a descriptor was left open"
    os.close(made.fd)
    assert sorted(os.listdir(made.outside)) == before
    assert (made.outside / "secret").read_text() == "secret"


@pytest.mark.parametrize("path", ["/a/b/c", "a/b/c", "/a//b/c/", "/a/./b/c", "/a/b/x/../c"])
def test_directories_are_made_with_their_parents(tree: Tree, path: str) -> None:
    (tree.root / "a/b/x").mkdir(parents=True)
    assert tree.real(make_directory(tree.fd, path)) == tree.root / "a/b/c"


def test_the_root_itself(tree: Tree) -> None:
    assert tree.real(make_directory(tree.fd, "/")) == tree.root


def test_made_directories_ignore_nobodys_umask(tree: Tree) -> None:
    former = os.umask(0)
    try:
        os.close(make_directory(tree.fd, "/a/b"))
    finally:
        os.umask(former)
    assert {(tree.root / each).stat().st_mode & 0o7777 for each in ("a", "a/b")} == {0o755}


@pytest.mark.parametrize("link", ["/outside", "../outside", "../../../../outside", "/../outside", "/"])
def test_links_stay_inside(tree: Tree, link: str) -> None:
    (tree.root / "outside").mkdir()
    (tree.root / "link").symlink_to(link)
    made = tree.real(make_directory(tree.fd, "/link/new"))
    assert made.is_relative_to(tree.root)
    assert made.is_dir()


@pytest.mark.parametrize("path", ["/../outside/new", "../../outside/new", "/a/../../outside/new"])
def test_dots_do_not_lead_out(tree: Tree, path: str) -> None:
    (tree.root / "outside").mkdir()
    (tree.root / "a").mkdir()
    assert tree.real(make_directory(tree.fd, path)) == tree.root / "outside/new"


def test_a_dangling_link_is_refused_and_not_followed(tree: Tree) -> None:
    (tree.root / "link").symlink_to(tree.outside / "new")
    for path in ("/link", "/link/below"):
        with pytest.raises(OSError, match="symbolic link that leads nowhere") as caught:
            make_directory(tree.fd, path)
        assert caught.value.errno == errno.ELOOP


def test_a_loop_of_links_is_refused(tree: Tree) -> None:
    (tree.root / "a").symlink_to("b")
    (tree.root / "b").symlink_to("a")
    with pytest.raises(OSError) as caught:
        make_directory(tree.fd, "/a/x")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("magic", ["/proc/self/root", "/proc/self/cwd"])
def test_magic_links_are_not_followed(magic: str) -> None:
    host = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError) as caught:
            open_below(host, f"{magic}/etc")
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(host)


def test_a_file_where_a_directory_must_be(tree: Tree) -> None:
    (tree.root / "file").write_text("")
    for path in ("/file", "/file/below"):
        with pytest.raises(NotADirectoryError):
            make_directory(tree.fd, path)


@pytest.mark.parametrize("path", ["/etc/hosts", "etc/hosts"])
def test_a_file_is_made_with_its_parents(tree: Tree, path: str) -> None:
    made = tree.real(make_file(tree.fd, path, replace_link=False))
    assert (made, made.read_text()) == (tree.root / "etc/hosts", "")


def test_a_file_that_is_there_keeps_its_content(tree: Tree) -> None:
    (tree.root / "file").write_text("mine")
    os.close(make_file(tree.fd, "/file", replace_link=True))
    assert (tree.root / "file").read_text() == "mine"


def test_a_link_gives_way_only_where_asked(tree: Tree) -> None:
    (tree.root / "link").symlink_to(tree.outside / "secret")
    with pytest.raises(FileNotFoundError):
        make_file(tree.fd, "/link", replace_link=False)
    made = tree.real(make_file(tree.fd, "/link", replace_link=True))
    assert made == tree.root / "link"
    assert not made.is_symlink()


def test_a_link_inside_is_followed_inside(tree: Tree) -> None:
    (tree.root / "real").write_text("")
    (tree.root / "link").symlink_to("/real")
    assert tree.real(make_file(tree.fd, "/link", replace_link=False)) == tree.root / "real"


def test_a_parent_that_leads_out_is_resolved_inside(tree: Tree) -> None:
    (tree.root / "etc").symlink_to("../outside")
    with pytest.raises(OSError, match="leads nowhere"):
        make_file(tree.fd, "/etc/secret", replace_link=True)


def test_a_directory_where_a_file_must_be(tree: Tree) -> None:
    (tree.root / "dir").mkdir()
    with pytest.raises(IsADirectoryError, match="a file is to be mounted"):
        make_file(tree.fd, "/dir", replace_link=True)


def test_a_fifo_does_not_hold_anybody_up(tree: Tree) -> None:
    os.mkfifo(tree.root / "fifo")
    assert tree.real(make_file(tree.fd, "/fifo", replace_link=True)) == tree.root / "fifo"
    with pytest.raises(NotADirectoryError):
        make_directory(tree.fd, "/fifo/below")
