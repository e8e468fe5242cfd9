"""Scheduling as the OCI config has it: what is valid, and which field is wrong."""

from typing import Any

import pytest

from runtime.scheduling import IoPriority, Scheduler, cpus


@pytest.mark.parametrize(
    ("text", "found"),
    [("0", {0}), ("0-3,7", {0, 1, 2, 3, 7}), ("1,1", {1}), (" 0-1 , 4 ", {0, 1, 4}), ("8191", {8191})],
)
def test_a_list_of_cpus(text: str, found: set[int]) -> None:
    assert cpus(text) == found


@pytest.mark.parametrize("text", ["", ",", "a", "-1", "1-", "-", "3-1", "0-8192", "99999999", "0x1", "1-2-3", "²"])
def test_what_is_no_list_of_cpus(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        cpus(text)


def test_an_io_priority() -> None:
    assert IoPriority.parse({"class": "IOPRIO_CLASS_BE", "priority": 4}) == ("IOPRIO_CLASS_BE", 4)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "class"),
        ({"class": "IOPRIO_CLASS_NONE"}, "class"),
        ({"class": "IOPRIO_CLASS_RT", "priority": 8}, "priority"),
        ({"class": "IOPRIO_CLASS_RT", "priority": -1}, "priority"),
        ({"class": "IOPRIO_CLASS_RT", "priority": "1"}, "priority"),
    ],
)
def test_an_io_priority_that_is_none_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"process\.ioPriority\.{field}: "):
        IoPriority.parse(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"policy": "SCHED_OTHER"},
        {"policy": "SCHED_OTHER", "nice": -20},
        {"policy": "SCHED_BATCH", "nice": 19, "priority": 0},
        {"policy": "SCHED_FIFO", "priority": 99},
        {"policy": "SCHED_RR", "priority": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        {"policy": "SCHED_IDLE"},
        {"policy": "SCHED_ISO"},
        {"policy": "SCHED_DEADLINE", "runtime": 10, "deadline": 20, "period": 30},
    ],
)
def test_a_scheduler(fields: dict[str, Any]) -> None:
    step = Scheduler.parse(fields)
    said = {name: getattr(step, name) for name in fields}
    assert said == {**fields, **({"flags": tuple(fields["flags"])} if "flags" in fields else {})}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "policy"),
        ({"policy": "SCHED_EXT"}, "policy"),
        ({"policy": "SCHED_OTHER", "nice": 20}, "nice"),
        ({"policy": "SCHED_OTHER", "nice": -21}, "nice"),
        ({"policy": "SCHED_OTHER", "priority": 1}, "priority"),
        ({"policy": "SCHED_FIFO"}, "priority"),
        ({"policy": "SCHED_RR", "priority": 100}, "priority"),
        ({"policy": "SCHED_OTHER", "runtime": 1}, "runtime"),
        ({"policy": "SCHED_DEADLINE", "deadline": -1}, "deadline"),
        ({"policy": "SCHED_DEADLINE", "period": 1 << 64}, "period"),
        ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_SUGOV"]}, "flags"),
    ],
)
def test_a_scheduler_that_is_none_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"process\.scheduler\.{field}\b"):
        Scheduler.parse(fields)
