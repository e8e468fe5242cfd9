"""Which way an overlay is made is asked of the kernel once; a scripted kernel answers here."""

import errno
import os
from pathlib import Path

import pytest

from runtime import overlay
from runtime.overlay import MemoryLayer, Overlay, takes_detached_layers

SAID = errno.EINVAL, errno.EOPNOTSUPP
"""What kernels answer that take no detached layers, or no descriptors as options."""


class Kernel:
    """Makes filesystems of directories, and answers a mount of layers with `number`, 0 for yes."""

    def __init__(self, directory: Path, number: int) -> None:
        self.directory = directory
        self.number = number
        self.asked = 0

    def filesystem(self, kind: str, options: dict[str, str], attributes: int) -> int:
        assert kind == "tmpfs"
        return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)

    def mount(self, lowers: tuple[int, ...], upper: int, work: int) -> int:
        self.asked += 1
        if self.number:
            raise OSError(self.number, os.strerror(self.number), "option lowerdir+")
        return os.open("/dev/null", os.O_RDONLY)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Kernel:
    """A kernel that answers as the test's parameter says."""
    made = Kernel(tmp_path, request.param)
    monkeypatch.setattr(overlay, "_detached", None)
    monkeypatch.setattr(overlay, "new_filesystem", made.filesystem)
    monkeypatch.setattr(overlay, "_of_descriptors", made.mount)
    return made


@pytest.mark.parametrize("kernel", (0, *SAID), indirect=True)
def test_the_kernels_answer_counts_and_is_asked_for_once(kernel: Kernel) -> None:
    before = os.listdir("/proc/self/fd")
    assert takes_detached_layers() is (kernel.number == 0)
    assert takes_detached_layers() is (kernel.number == 0)
    assert kernel.asked == 1
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("kernel", (errno.ENODEV, errno.EPERM, errno.ENOMEM), indirect=True)
def test_another_error_is_no_answer(kernel: Kernel) -> None:
    """It is told as it is, and the kernel is asked again the next time."""
    with pytest.raises(OSError, match=os.strerror(kernel.number)):
        takes_detached_layers()
    kernel.directory.joinpath("lower").rmdir()
    kernel.directory.joinpath("upper").rmdir()
    kernel.directory.joinpath("work").rmdir()
    kernel.number = 0
    assert takes_detached_layers() is True


def test_the_steps_say_what_they_do() -> None:
    assert Overlay("root", ("a", "b"), "writable", 0).describe() == "make the root of 2 layer(s)"
    assert MemoryLayer("writable", 4096).describe() == "make a writable layer of 4096 bytes in memory"
