"""The virtual machine's archives, the order of its modules and the reading of its report: pure."""

import stat
import subprocess
from pathlib import Path

import pytest

from tests.vm import archive, image, kernel, machine, test_machine


def members(packed: bytes) -> dict[str, tuple[int, int, bytes]]:
    """Name → (mode, mtime, content) of a newc archive (cpio(5)), read by its own rules."""
    found: dict[str, tuple[int, int, bytes]] = {}
    place = 0
    while True:
        assert packed[place : place + 6] == b"070701"
        assert place % 4 == 0
        fields = [int(packed[place + 6 + 8 * at : place + 14 + 8 * at], 16) for at in range(13)]
        name = packed[place + 110 : place + 110 + fields[11] - 1].decode()
        start = place + 110 + fields[11]
        start += -start % 4
        if name == "TRAILER!!!":
            return found
        found[name] = fields[1], fields[5], packed[start : start + fields[6]]
        place = start + fields[6]
        place += -place % 4


def packed(*entries: archive.Entry) -> bytes:
    return b"".join(archive.pack(entries))


def test_what_is_packed_is_what_is_read() -> None:
    entries = (archive.file("/a", b"one\n", 0o755, 1234), archive.link("/b", "a"), archive.directory("/c", 0o700))
    assert members(packed(*entries)) == {
        "a": (stat.S_IFREG | 0o755, 1234, b"one\n"),
        "b": (stat.S_IFLNK | 0o777, 0, b"a"),
        "c": (stat.S_IFDIR | 0o700, 0, b""),
    }


@pytest.mark.parametrize("length", range(9))
def test_every_length_is_padded(length: int) -> None:
    read = members(packed(archive.file("/" + "n" * (length + 1), b"x" * length), archive.file("/z", b"last")))
    assert read["n" * (length + 1)][2] == b"x" * length
    assert read["z"][2] == b"last"


def test_directories_come_before_what_is_in_them() -> None:
    names = list(members(packed(archive.file("/one/two/three", b""))))
    assert names == ["one", "one/two", "one/two/three"]


def test_the_last_of_two_with_one_path_counts() -> None:
    assert members(packed(archive.file("/a", b"first"), archive.file("/a", b"second")))["a"][2] == b"second"


@pytest.mark.parametrize("path", ("relative", "/", "/a/", "/a//b", "/a/../b", "/./a", ""))
def test_a_path_that_is_not_plain_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no absolute path"):
        packed(archive.file(path, b""))


def test_nothing_lies_below_a_file() -> None:
    with pytest.raises(ValueError, match="which is no directory"):
        packed(archive.file("/a", b""), archive.file("/a/b", b""))


def test_another_reader_agrees(tmp_path: Path) -> None:
    entries = (archive.file("/d/a", b"content", 0o600, 100), archive.link("/d/b", "a"))
    command = ["/bin/busybox", "cpio", "-idm"]
    done = subprocess.run(command, input=packed(*entries), cwd=tmp_path, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d/b").read_bytes() == b"content"
    assert ((tmp_path / "d/a").stat().st_mode & 0o777, (tmp_path / "d/a").stat().st_mtime) == (0o600, 100)


def test_modules_come_after_what_they_need() -> None:
    depends = {"a": ("b", "c"), "b": ("c",), "c": (), "d": (), "unused": ()}
    assert archive.in_order(depends, ("a", "d")) == ["c", "b", "a", "d"]


def test_modules_that_need_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="a → b → a"):
        archive.in_order({"a": ("b",), "b": ("a",)}, ("a",))


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="gone"):
        archive.in_order({"a": ("gone",)}, ("a",))


@pytest.mark.parametrize(
    ("content", "needed"),
    (
        (b"\0license=GPL\0depends=nf_tables,nf-conntrack\0name=x\0", ("nf_tables", "nf_conntrack")),
        (b"\0depends=\0", ()),
        (b"\0license=GPL\0", ()),
    ),
)
def test_what_a_module_needs_is_read_from_its_file(content: bytes, needed: tuple[str, ...]) -> None:
    assert kernel.dependencies(content) == needed


def test_the_command_is_quoted() -> None:
    command = machine.pytest_command(["tests/a.py"], "-k", "one or two")
    assert command.endswith("-k 'one or two' tests/a.py")
    assert "--junitxml=/results/report.xml" in command


REPORT = b"""<testsuites><testsuite>
<testcase classname="tests.kernel.test_a" name="good"/>
<testcase classname="tests.kernel.test_a" name="bad"><failure message="no">lines</failure></testcase>
<testcase classname="tests.kernel.test_a" name="late"><error message="left">teardown</error></testcase>
<testcase classname="tests.kernel.test_b" name="v1"><skipped message="no v1 freezer here">there</skipped></testcase>
<testcase classname="tests.kernel.test_b" name="tool"><skipped message="no runc">there</skipped></testcase>
</testsuite></testsuites>"""


def test_failures_errors_and_strange_skips_are_told() -> None:
    found = test_machine.outcomes(REPORT)
    assert found["tests/kernel/test_a.py"].passed == 1
    assert [text.split("\n")[0] for text in found["tests/kernel/test_a.py"].wrong] == [
        "bad: failure: no",
        "late: error: left",
    ]
    assert found["tests/kernel/test_b.py"] == (0, ("tool: skipped: no runc\nthere",))


def test_what_runs_inside_is_there() -> None:
    missing = [path for path in test_machine.FILES if not (image.CHECKOUT / path).is_file()]
    assert not missing
    for path, names in test_machine.CHOSEN.items():
        source = (image.CHECKOUT / path).read_text()
        assert all(f"def {name}(" in source for name in names), path


def test_results_that_were_never_written_show_the_console(tmp_path: Path) -> None:
    (tmp_path / "results").write_bytes(bytes(4096))
    (tmp_path / "console").write_text("Kernel panic")
    with pytest.raises(machine.MachineError, match="Kernel panic"):
        machine._results(tmp_path, 1.0)


def test_an_archive_becomes_a_filesystem(tmp_path: Path) -> None:
    machine._write(tmp_path / "packed", [archive.file("/d/a", b"content", 0o640), archive.link("/b", "d/a")])
    with (tmp_path / "disk").open("wb") as opened:
        opened.truncate(8 << 20)
    machine._fill(tmp_path / "disk", tmp_path / "packed")
    command = ["/usr/sbin/debugfs", "-R", "cat /d/a", str(tmp_path / "disk")]
    assert subprocess.run(command, capture_output=True, timeout=20, check=True).stdout == b"content"


def test_an_archive_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(b"no archive at all" * 20)
    with pytest.raises(machine.MachineError, match="cpio"):
        machine._fill(tmp_path / "disk", tmp_path / "packed")
