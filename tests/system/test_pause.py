"""pause, unpause and update for real: the kernel's freezer and files say so."""

import json
import subprocess
from pathlib import Path

from runtime.cgroups.hierarchy import find
from tests.system.driver import Creche, until

COUNTING = """
[containers.count]
rootfs = "/"
command = ["sh", "-c", "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"]
init = false
stop = { timeout = "5s" }
"""


def counted(creche: Creche) -> int:
    words = creche.logs("count").split()
    return int(words[-1]) if words else 0


def test_what_is_paused_stands_still_and_goes_on(creche: Creche) -> None:
    creche.up("still", COUNTING)
    until(lambda: counted(creche) > 5, what="some counting")
    creche("pause", "count")
    assert creche.status("count")["state"] == "paused"
    first = counted(creche)
    seen = [counted(creche) for _ in range(4)]  # each look takes a process's start: many times the count's pace
    assert seen == [first] * 4
    creche("unpause", "count")
    until(lambda: counted(creche) > first + 5, what="more counting")
    numbers = [int(word) for word in creche.logs("count").split()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [each["event"] for each in creche.events(name="count")][-2:] == ["paused", "unpaused"]


def test_what_is_not_paused_does_not_stand_still(creche: Creche) -> None:
    """The control of the test above: the same looks see it move."""
    creche.up("moves", COUNTING)
    until(lambda: counted(creche) > 5, what="some counting")
    first = counted(creche)
    assert [counted(creche) for _ in range(4)][-1] > first


def test_a_paused_one_stops_gracefully(creche: Creche) -> None:
    creche.up("stops", COUNTING)
    creche("pause", "count")
    stopped = creche("stop", "count")
    status = creche.status("count")
    assert (status["state"], status["exit_code"], stopped.seconds < 4) == ("stopped", 0, True)


def test_a_paused_one_can_be_killed(creche: Creche) -> None:
    creche.up("kills", COUNTING + 'restart = "never"\n')
    creche("pause", "count")
    creche("kill", "count")
    creche.wait_for("count", lambda seen: seen["exit_signal"] == 9)


def test_a_paused_app_goes_down(creche: Creche) -> None:
    creche.up("downs", COUNTING)
    creche("pause", "count")
    assert creche("down", "downs").seconds < 5
    creche.nothing_left()


def test_a_paused_one_is_adopted_as_paused(creche: Creche) -> None:
    path = creche.up("adopts", COUNTING)
    creche("pause", "count")
    pid = creche.status("count")["pid"]
    creche.sigkill(creche.supervisor("adopts"))
    creche("up", "-d", path)
    status = creche.wait_for("count", lambda seen: seen["state"] in ("paused", "running"))
    assert (status["state"], status["pid"]) == ("paused", pid)
    creche("unpause", "count")
    before = counted(creche)
    until(lambda: counted(creche) > before, what="more counting")


def test_refusals_are_clear(creche: Creche) -> None:
    creche.up("refuses", COUNTING)
    assert "count is not paused" in creche("unpause", "count", code=1).err
    creche("pause", "count")
    assert "count is already paused" in creche("pause", "count", code=1).err
    creche("stop", "count")
    assert "count is stopped" in creche("pause", "count", code=1).err


def limit(cgroup: str, controller: str, v1: str, v2: str) -> str:
    """A file of the container's cgroup."""
    layout = find()
    place = layout.of(controller)
    assert place is not None
    file = Path(place.mount) / str(Path(cgroup).parent) / (v2 if place.version == 2 else v1)
    return file.read_text().strip()


def test_an_update_changes_the_cgroups_files(creche: Creche) -> None:
    creche.up("updates", COUNTING + 'limits = { memory = "128M", pids = 50 }\n')
    cgroup = creche.status("count")["cgroup"]
    socket = creche.run / "updates" / "control.sock"
    body = json.dumps({"Memory": 96 << 20, "MemorySwap": 96 << 20, "PidsLimit": 77})
    answered = subprocess.run(
        [
            "curl", "-sS", "--unix-socket", str(socket), "-H", "Content-Type: application/json", "-d", body,
            "http://x/v1.41/containers/count/update",
        ],
        capture_output=True,
        check=True,
    )  # fmt: skip
    assert json.loads(answered.stdout) == {"Warnings": []}
    assert limit(cgroup, "memory", "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert limit(cgroup, "pids", "pids.max", "pids.max") == "77"
