"""What a launcher weighs, and launchers that were made worse on purpose."""

from pathlib import Path

from runtime.launch import client
from tests.kernel.runtime.launching import status_of

MOST = 15 << 20  # bytes of resident size that a launcher may have, whatever was done to it


def resident(pid: int) -> int:
    """VmRSS in bytes."""
    return int(status_of(pid)["VmRSS"].split()[0]) << 10


def proportional(pid: int) -> int:
    """Pss in bytes: what is shared counts in shares."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("\nPss:")[1].split()[0]) << 10


def worse(statement: str) -> str:
    """The words that start a launcher in which `statement` was executed before its main."""
    return client._BOOT.replace("from runtime.launch.launcher", f"{statement}; from runtime.launch.launcher")
