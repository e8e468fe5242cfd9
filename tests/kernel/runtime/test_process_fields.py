"""A config's process fields arrive at the program that a launcher started, and nowhere else."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.runtime.launching import Launching, eventually

SCRIPT = r"""
echo "oom $(cat /proc/self/oom_score_adj)"
echo "nice $(awk '{print $19}' /proc/self/stat)"
echo "policy $(awk '{print $41}' /proc/self/stat)"
echo "machine $(uname -m)"
echo "cpu $(ulimit -t)"
echo "ttl $(cat /proc/sys/net/ipv4/ip_default_ttl)"
echo "shmmni $(cat /proc/sys/kernel/shmmni)"
echo "io $(ionice -p $$)"
echo done
"""


def everything(config: dict[str, Any]) -> None:
    config["process"] |= {
        "oomScoreAdj": 321,
        "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 6},
        "scheduler": {"policy": "SCHED_BATCH", "nice": 4},
        "rlimits": [{"type": "RLIMIT_CPU", "soft": 77, "hard": 99}],
    }
    config["linux"] |= {
        "personality": {"domain": "LINUX32"},
        "sysctl": {"net.ipv4.ip_default_ttl": "42", "kernel/shmmni": "99"},
    }


@pytest.fixture
def launching(tmp_path: Path) -> Iterator[Launching]:
    with Launching(tmp_path) as found:
        found.hold()
        yield found


@pytest.mark.parametrize("init", [True, False])
def test_everything_at_once(launching: Launching, init: bool) -> None:
    launching.run(1, "/bin/sh", "-c", SCRIPT, init=init, change=everything)
    assert eventually(lambda: b"done" in launching.output()), launching.output(suffix="err")
    found = dict(line.split(" ", 1) for line in launching.output().decode().splitlines() if " " in line)
    assert found == {
        "oom": "321",
        "nice": "4",
        "policy": "3",
        "machine": "i686",
        "cpu": "77",
        "ttl": "42",
        "shmmni": "99",
        "io": "realtime: prio 6",
    }


@pytest.mark.parametrize("init", [True, False])
def test_the_launcher_stays_what_it_was(launching: Launching, init: bool) -> None:
    """pid 1 and the process that clones it may share its memory; nothing of this goes with memory."""

    def about() -> tuple[str, list[str], int]:
        stat = Path(f"/proc/{launching.pid}/stat").read_text().rpartition(")")[2].split()
        return (
            Path(f"/proc/{launching.pid}/oom_score_adj").read_text(),
            stat[15:17],
            os.sched_getscheduler(launching.pid),
        )

    before = about()
    launching.run(1, "/bin/sleep", "100", init=init, change=everything)
    assert about() == before
