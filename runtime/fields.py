"""The fields of a config as they are read: each with its type, each refusal with the field's name."""

from collections.abc import Iterable, Mapping
from typing import Any, cast


class PlanError(ValueError):
    """The config asks for something that cannot be planned; the text names the field."""


def empty(value: object) -> bool:
    """Whether a field asks for nothing: null, false and empty values do."""
    return value is None or value is False or value in ("", [], {}, ())


def refuse(table: Mapping[str, Any], where: str, reasons: Mapping[str, str]) -> None:
    """Raise PlanError for a field of `reasons` that asks for something."""
    for key, reason in reasons.items():
        if not empty(table.get(key)):
            raise PlanError(f"{where}{key} is not supported: {reason}")


def only(table: Mapping[str, Any], where: str, known: Iterable[str]) -> None:
    """Raise PlanError for a field that is not among `known` and asks for something."""
    for key, value in table.items():
        if key not in known and not empty(value):
            raise PlanError(f"{where}{key} is not supported here")


def table(above: Mapping[str, Any], where: str, key: str) -> dict[str, Any]:
    """Return an object, an empty one where there is none."""
    value: object = above.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PlanError(f"{where}{key}: {value!r} is no object")
    return cast("dict[str, Any]", value)


def tables(above: Mapping[str, Any], where: str, key: str) -> list[tuple[str, dict[str, Any]]]:
    """Return a list of objects, each with its place such as `mounts[3]`."""
    value: object = above.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise PlanError(f"{where}{key}: {value!r} is no list")
    found: list[tuple[str, dict[str, Any]]] = []
    for number, each in enumerate(cast("list[object]", value)):
        place = f"{where}{key}[{number}]"
        if not isinstance(each, dict):
            raise PlanError(f"{place}: {each!r} is no object")
        found.append((place, cast("dict[str, Any]", each)))
    return found


def text(above: Mapping[str, Any], where: str, key: str, default: str = "") -> str:
    """Return a string without NUL."""
    value: object = above.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or "\0" in value:
        raise PlanError(f"{where}{key}: {value!r} is no text")
    return value


def texts(above: Mapping[str, Any], where: str, key: str) -> tuple[str, ...]:
    """Return a list of strings without NUL."""
    value: object = above.get(key)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise PlanError(f"{where}{key}: {value!r} is no list")
    items = cast("list[object]", value)
    for number, each in enumerate(items):
        if not isinstance(each, str) or "\0" in each:
            raise PlanError(f"{where}{key}[{number}]: {each!r} is no text")
    return tuple(cast("list[str]", items))


def number(above: Mapping[str, Any], where: str, key: str, least: int, most: int, default: int | None = None) -> int:
    """Return a whole number between `least` and `most`; without a `default` it must be there."""
    value: object = above.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise PlanError(f"{where}{key}: {value!r} is no whole number from {least} to {most}")
    return value


def numbers(above: Mapping[str, Any], where: str, key: str, least: int, most: int) -> tuple[int, ...]:
    """Return a list of whole numbers between `least` and `most`."""
    value: object = above.get(key)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise PlanError(f"{where}{key}: {value!r} is no list")
    items = cast("list[object]", value)
    return tuple(number({"": each}, f"{where}{key}[{at}]", "", least, most) for at, each in enumerate(items))


def flag(above: Mapping[str, Any], where: str, key: str) -> bool:
    """Return a truth value, false where there is none."""
    value: object = above.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise PlanError(f"{where}{key}: {value!r} is neither true nor false")
    return value
