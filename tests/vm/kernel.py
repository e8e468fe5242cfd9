"""The machine's kernel: Debian's 6.1 for clouds, downloaded once and unpacked below the checkout, not installed."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.vm.archive import in_order

PACKAGE = "linux-image-cloud-amd64"
_TRIES = 3
_NAMED = re.compile(r"linux-image-6\.1\.[0-9-]+-cloud-amd64")
MODULES = (
    *("virtio_pci", "virtio_blk", "overlay", "veth", "dummy", "loop"),
    *("nf_tables", "nft_ct", "nft_nat", "nft_chain_nat", "nft_masq", "nft_redir", "nft_reject_inet"),
    *("nft_numgen", "nft_fib_inet", "nft_limit", "nft_log", "nft_hash"),
)
"""What the machine loads at its start, with all that these need."""


class Kernel(NamedTuple):
    """An unpacked kernel: the file to boot, and its modules in the order in which they are loaded."""

    image: Path
    modules: tuple[Path, ...]


class NoKernel(RuntimeError):
    """The kernel cannot be had; the text says why and what to do."""


def fetch(cache: Path) -> Kernel:
    """Return the kernel in `cache`, downloaded from Debian's archive where it is not there yet."""
    found = _unpacked(cache)
    if found is None:
        _download(cache)
        found = _unpacked(cache)
    if found is None:
        raise NoKernel(f"the package in {cache} holds no kernel: remove that directory and try again")
    return found


def _unpacked(cache: Path) -> Kernel | None:
    images = sorted((cache / "kernel" / "boot").glob("vmlinuz-*"))
    if not images:
        return None
    files = {_name(path): path for path in (cache / "kernel" / "lib" / "modules").rglob("*.ko")}
    depends = {name: dependencies(path.read_bytes()) for name, path in files.items()}
    return Kernel(images[-1], tuple(files[name] for name in in_order(depends, MODULES)))


def _name(path: Path) -> str:
    return path.stem.replace("-", "_")


def dependencies(module: bytes) -> tuple[str, ...]:
    """Return the modules that a module's file says it needs (`depends=` in its .modinfo)."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return tuple(name.replace("-", "_") for name in found[1].decode().split(",") if name) if found else ()


def _download(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        said = ""
        for attempt in range(_TRIES):
            time.sleep(attempt)
            said = _run(["apt-get", "update", "-qq"], Path(work)) if attempt else ""
            said = _run(["apt-get", "download", _real_name()], Path(work)) or said
            packages = list(Path(work).glob("*.deb"))
            if packages:
                break
        else:
            raise NoKernel(f"apt-get cannot download {PACKAGE}, which the virtual machine boots:\n{said}")
        unpacked = Path(work, "unpacked")
        said = _run(["dpkg-deb", "-x", str(packages[0]), str(unpacked)], Path(work))
        if said:
            raise NoKernel(f"{packages[0].name} cannot be unpacked:\n{said}")
        shutil.rmtree(cache / "kernel", ignore_errors=True)
        os.rename(unpacked, cache / "kernel")


def _real_name() -> str:
    """The package that the ever-present name stands for today."""
    done = subprocess.run(["apt-cache", "depends", PACKAGE], capture_output=True, text=True, timeout=60, check=False)
    found = _NAMED.search(done.stdout)
    return found[0] if found else PACKAGE


def _run(command: list[str], where: Path) -> str:
    """Run a command; return what it said when it failed, else nothing."""
    try:
        done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}"
    return f"{' '.join(command)}:\n{done.stdout}{done.stderr}" if done.returncode else ""
