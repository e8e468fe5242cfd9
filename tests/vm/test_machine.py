"""The kernel's tests on pure cgroup v2 and on 6.1, the oldest kernel that is tested: in a virtual machine."""

import xml.etree.ElementTree as Tree
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from tests.vm import beside, machine

TIMEOUT = 480.0
"""Seconds for all of it, on a machine whose two cores are busy otherwise; alone it takes less than half."""

INSIDE = (
    "tests/vm/smoke.py",
    "tests/kernel/runtime/test_cgroups.py",
    "tests/kernel/runtime/test_cgroups_freezer.py",
    "tests/kernel/runtime/test_cgroups_update.py",
    "tests/kernel/runtime/test_overlay.py",
)
CHOSEN = {
    "tests/kernel/runtime/test_seccomp_filter.py": (
        "test_every_action_does_what_it_says",
        "test_a_filter_loads_with_every_flag_of_oci",
        "test_python_lives_under_it",
    ),
    "tests/kernel/runtime/test_launcher.py": (
        "test_a_run_writes_its_log_and_tells_its_end",
        "test_nothing_runs_between_create_and_start",
        "test_runs_follow_each_other_under_one_network_namespace",
        "test_end_takes_everything_along",
        "test_forget_leaves_no_cgroup_and_no_descriptor",
        "test_the_oom_killer_is_told",
        "test_two_runs_do_not_hold_each_others_pipes",
    ),
    "tests/kernel/runtime/test_exec.py": (
        "test_its_end_is_told",
        "test_a_paused_container_refuses",
        "test_a_kill_thaws_the_execs_too_and_the_next_run_is_born_thawed",
    ),
}
"""Of these files only what may be different on pure v2 or on an older kernel: starting takes seconds inside."""
FILES = (*INSIDE, *CHOSEN)
NOT_THERE = ("no v1 ", "no overlay over detached layers")
"""How the reason of a skip begins that is one inside: these run outside."""


class Outcome(NamedTuple):
    """How the tests of one file ended: how many passed, and what is to be told of the others."""

    passed: int
    wrong: tuple[str, ...]


def outcomes(report: bytes) -> dict[str, Outcome]:
    """Sort a junit report by file; a skip for one of the reasons above is neither passed nor wrong."""
    found: dict[str, Outcome] = {}
    for case in Tree.fromstring(report).iter("testcase"):
        path = case.get("classname", "").replace(".", "/") + ".py"
        passed, wrong = found.get(path, Outcome(0, ()))
        faults: list[str] = []
        allowed = False
        for kind in ("failure", "error", "skipped"):
            for told in case.iter(kind):
                if kind == "skipped" and told.get("message", "").startswith(NOT_THERE):
                    allowed = True
                else:
                    faults.append(f"{case.get('name')}: {kind}: {told.get('message')}\n{told.text or ''}")
        found[path] = Outcome(passed + (not faults and not allowed), (*wrong, *faults))
    return found


COMMAND = machine.pytest_command(
    [*INSIDE, *(f"{path}::{name}" for path, names in CHOSEN.items() for name in names)],
)


@pytest.fixture(scope="module")
def ran(machine_beside: beside.Started | None) -> machine.Results:
    """What one boot of the machine left."""
    return machine.run(COMMAND, timeout=TIMEOUT) if machine_beside is None else machine_beside.wait()


@pytest.fixture(scope="module")
def told(ran: machine.Results) -> Mapping[str, Outcome]:
    """Its report, by file."""
    assert "report.xml" in ran.files, f"pytest left no report:\n{ran.output[-8000:]}"
    return outcomes(ran.files["report.xml"])


@pytest.mark.timeout(TIMEOUT + 120)
@pytest.mark.parametrize("path", FILES)
def test_all_tests_pass_inside(path: str, told: Mapping[str, Outcome]) -> None:
    assert path in told, f"nothing of {path} ran inside; what did: {', '.join(told)}"
    assert not told[path].wrong, "\n".join(told[path].wrong)
    assert told[path].passed


@pytest.mark.timeout(TIMEOUT + 120)
def test_the_run_as_a_whole_was_one(ran: machine.Results) -> None:
    assert ran.status == 0, ran.output[-8000:]
