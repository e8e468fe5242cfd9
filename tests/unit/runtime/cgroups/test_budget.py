"""Where a budget may lie, and what it cannot share."""

import pytest

from runtime.cgroups.budget import Budget
from runtime.cgroups.hierarchy import CgroupError, Hierarchy, Layout

V1 = Layout((Hierarchy(1, "/cg/blkio", "/", "/", frozenset({"blkio"})),), None)
V2 = Layout((), Hierarchy(2, "/cg", "/", "/", frozenset({"io"})))
THROTTLE = {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}


@pytest.mark.parametrize("path", ["creche/app", "creche", "other/app/budget", "/creche/app/budget"])
def test_a_budget_lies_in_an_app(path: str) -> None:
    with pytest.raises(ValueError, match="is no budget"):
        Budget.at(V2, path, {})


def test_throttles_are_shared_on_v2_alone() -> None:
    assert Budget.at(V2, "creche/app/budget", THROTTLE).path == "creche/app/budget"
    with pytest.raises(CgroupError, match="not supported for a budget on cgroup v1"):
        Budget.at(V1, "creche/app/budget", THROTTLE)
