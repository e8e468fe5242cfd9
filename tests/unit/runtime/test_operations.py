"""Operations travel as JSON and come back as what they were."""

import inspect
import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import devices, hooks, identity, labels, mounts, overlay, scheduling, sysctls, terminal
from runtime.operations import KINDS, pack, unpack

TEXT = st.text(max_size=8)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(0, 1 << 64),
    bool: st.booleans(),
    tuple[str, ...]: st.lists(TEXT).map(tuple),
    tuple[tuple[str, str], ...]: st.lists(st.tuples(TEXT, TEXT)).map(tuple),
    tuple[tuple[int, int, int], ...]: st.lists(st.tuples(*[st.integers(0, 4095)] * 3)).map(tuple),
    tuple[tuple[str, str, int, int, int, int, int], ...]: st.lists(
        st.tuples(TEXT, TEXT, *[st.integers(0, 4095)] * 5)
    ).map(tuple),
    tuple[tuple[Any, ...], ...]: st.lists(
        st.tuples(TEXT, st.lists(TEXT).map(tuple), st.lists(TEXT).map(tuple), st.none() | st.integers(1, 9))
    ).map(tuple),
}


def operations() -> st.SearchStrategy[Any]:
    def of(kind: Any) -> st.SearchStrategy[Any]:
        hints = get_type_hints(kind)
        return st.tuples(*(FIELDS[hints[name]] for name in kind._fields)).map(lambda values: kind(*values))

    return st.sampled_from(sorted(KINDS)).flatmap(lambda name: of(KINDS[name]))


@given(operations())
def test_round_trip(operation: Any) -> None:
    back = unpack(json.loads(json.dumps(pack(operation))))
    assert type(back) is type(operation)
    assert tuple(back) == tuple(operation)
    hash(back)  # lists became tuples, all the way down
    assert back.describe() == operation.describe()


@pytest.mark.parametrize("module", [mounts, devices, overlay, hooks, identity, labels, scheduling, sysctls, terminal])
def test_every_operation_can_travel(module: Any) -> None:
    found = {
        name
        for name, each in inspect.getmembers(module, inspect.isclass)
        if each.__module__ == module.__name__ and hasattr(each, "execute")
    }
    assert found
    assert found <= KINDS.keys()


def test_operations_without_fields_are_not_confused() -> None:
    """NamedTuples compare as tuples, so PivotRoot() == Isolate(): only the name tells them apart."""
    bare = [name for name, kind in KINDS.items() if not kind._fields]
    assert len(bare) > 1
    assert [type(unpack(pack(KINDS[name]()))).__name__ for name in bare] == bare


@pytest.mark.parametrize("packed", [["Format", "/"], [], ["OpenTree"], ["PivotRoot", 1]])
def test_what_is_no_operation(packed: list[Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        unpack(packed)


def test_birth_knows_its_last_steps_by_name() -> None:
    from runtime.launch.child import LAST

    assert {"NoNewPrivileges", "Credentials", "Seccomp"} == LAST
    assert KINDS.keys() >= LAST
