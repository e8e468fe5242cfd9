"""OCI's device lists are read in order after "deny everything", and come to what v1's files can hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups import v1
from runtime.cgroups.resources import Resources
from runtime.cgroups.rules import DEFAULT_DEVICES, Device, Uncoverable, device_rules, exceptions, listed

DENY_ALL = {"allow": False, "access": "rwm"}
DEFAULT_LIST = "".join(f"{place} {access}\n" for place, access, _ in DEFAULT_DEVICES)


@pytest.mark.parametrize("first", [[], [DENY_ALL], [{"allow": False, "type": "a"}]])
def test_a_list_need_not_begin_with_the_denial(first: list[dict[str, Any]]) -> None:
    rules = [*first, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]
    assert exceptions(device_rules(rules)) == exceptions((("c 10:229", "rwm", True), *DEFAULT_DEVICES))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"allow": True, "type": "b", "major": 8, "access": "r"}, [("b 8:*", "r", True)]),
        ({"allow": True, "type": "a", "major": 8, "minor": 1}, [("b 8:1", "rwm", True), ("c 8:1", "rwm", True)]),
        ({"allow": True, "type": "a", "access": "mr"}, [("b *:*", "rm", True), ("c *:*", "rm", True)]),
        ({"allow": True, "type": "c", "major": -1, "minor": 5}, [("c *:5", "rwm", True)]),
        ({"allow": True, "type": "u", "major": 1, "minor": 5}, [("c 1:5", "rwm", True)]),
        ({"allow": True}, [("a *:*", "rwm", True)]),
        ({"allow": False, "type": None, "access": None, "major": None}, [("a *:*", "rwm", False)]),
    ],
)
def test_every_form_of_a_rule(rule: dict[str, Any], expected: list[Device]) -> None:
    assert list(device_rules([rule])) == [*expected, *DEFAULT_DEVICES]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("c 1:3", "must be an object"),
        ({"allow": 1}, "allow must be true or false"),
        ({"allow": True, "type": "p"}, "no valid type"),
        ({"allow": True, "access": "x"}, "no valid access"),
        ({"allow": True, "type": "c", "major": "8"}, "major must be a whole number"),
        ({"allow": True, "type": "c", "minor": -2}, "minor must be a whole number"),
    ],
)
def test_a_bad_rule_is_named(rule: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"resources\.devices\[1\].*{words}"):
        device_rules([DENY_ALL, rule])


def test_all_allowed_but_one() -> None:
    rules = [{"allow": True}, {"allow": False, "type": "c", "major": 10, "minor": 1}]
    assert exceptions(device_rules(rules)) == (True, {"c 10:1": "rw"})


def test_what_was_allowed_is_taken_back() -> None:
    rules: tuple[Device, ...] = (("c 1:3", "rwm", True), ("b 8:0", "r", True), ("c *:*", "wm", False))
    assert exceptions(rules) == (False, {"c 1:3": "r", "b 8:0": "r"})


def test_an_exception_from_an_exception_is_refused() -> None:
    with pytest.raises(Uncoverable, match=r"cannot deny c 10:200 w after a rule for c 10:\*"):
        exceptions((("c 10:*", "rw", True), ("c 10:200", "w", False)))


def test_the_kernels_list_is_read() -> None:
    assert listed("c *:* m\nc 1:3 rwm\n") == (False, {"c *:*": "m", "c 1:3": "rwm"})
    assert listed("a *:* rwm\n") == (True, {})


def writes(oci: list[dict[str, Any]], now: str) -> list[tuple[str, str]]:
    return [(each.file, each.value) for each in v1.device_writes(Resources.parse({"devices": oci}).devices, now)]


def test_a_change_writes_only_what_differs_and_allows_first() -> None:
    now = DEFAULT_LIST + "c 10:1 rw\n"
    rules = [{"allow": True, "type": "c", "major": 10, "minor": 2, "access": "r"}]
    assert writes(rules, now) == [("devices.allow", "c 10:2 r"), ("devices.deny", "c 10:1 rw")]


def test_no_change_writes_nothing() -> None:
    assert writes([], DEFAULT_LIST) == []


def test_allowing_all_is_one_write_and_its_exceptions() -> None:
    rules = [{"allow": True}, {"allow": False, "type": "b", "major": 8, "minor": 0, "access": "rw"}]
    assert writes(rules, DEFAULT_LIST) == [("devices.allow", "a"), ("devices.deny", "b 8:0 rw")]


rule = st.tuples(
    st.builds(
        lambda kind, major, minor: f"{kind} {major}:{minor}",
        st.sampled_from("bc"),
        st.sampled_from("*12"),
        st.sampled_from("*12"),
    )
    | st.just("a *:*"),
    st.sampled_from(["r", "rw", "rwm"]),
    st.booleans(),
).map(lambda rule: (rule[0], "rwm", rule[2]) if rule[0] == "a *:*" else rule)


@given(st.lists(rule, max_size=6), st.sampled_from("bc"), st.sampled_from("123"), st.sampled_from("123"))
def test_exceptions_mean_what_the_rules_say(rules: list[Device], kind: str, major: str, minor: str) -> None:
    """For each single access, the last rule that names it decides; so do the exceptions."""

    def names(place: str) -> bool:
        other, numbers = place.split(" ")
        return other in ("a", kind) and all(
            a in ("*", b) for a, b in zip(numbers.split(":"), (major, minor), strict=True)
        )

    try:
        kept = exceptions(rules)
    except Uncoverable:
        return
    for letter in "rwm":
        expected = next((allow for place, access, allow in reversed(rules) if names(place) and letter in access), False)
        excepted = any(names(place) and letter in access for place, access in kept.access.items())
        assert (kept.allow != excepted) is expected
