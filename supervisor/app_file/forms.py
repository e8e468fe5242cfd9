"""The forms that values take in the app file: each reads, prints and describes (JSON Schema) its own.

A form is also the converter of the attribute that it belongs to, so that code which builds a container writes what the
file writes. `parse` takes what TOML gave and is strict; calling the form takes native values as well.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import attrs

from .problems import Invalid, Problem, did_you_mean, shown, wrong
from .quantities import parse_duration, parse_size, print_duration, print_size

T = TypeVar("T")

Schema = dict[str, Any]
LARGEST = (1 << 31) - 1
INTERPOLATED: Schema = {"type": "string", "pattern": r"\$\{"}


class Form(Generic[T]):
    """One way to write a T. Subclasses say how; `parse` raises Invalid with paths relative to the value."""

    def parse(self, value: Any) -> T:
        """Return the value that the file's `value` stands for."""
        raise NotImplementedError

    def show(self, value: T) -> Any:
        """Return the value as the file writes it: what `parse` reads back as the same."""
        return value

    def schema(self) -> Schema:
        """Return the JSON Schema of what `parse` accepts."""
        raise NotImplementedError

    def merge(self, under: Any, over: Any) -> Any:
        """Return what `over` means when `under` is what it would have been without it; both as the file has them."""
        return over

    def __call__(self, value: Any) -> T:
        return self.parse(value)


@attrs.frozen
class Text(Form[str]):
    """A string without NUL; `pattern` must match all of it, `what` says in words what is allowed."""

    what: str = "a string"
    pattern: str = ""
    numbers: bool = False
    test: Callable[[str], object] | None = None

    def parse(self, value: Any) -> str:
        if self.numbers and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise wrong(f"must be {self.what}", value)
        if "\0" in value:
            raise wrong("must not contain a NUL character")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise wrong(f"must be {self.what}", value)
        if self.test:
            try:
                self.test(value)
            except ValueError:
                raise wrong(f"must be {self.what}", value) from None
        return value

    def schema(self) -> Schema:
        schema: Schema = {"type": ["string", "integer"] if self.numbers else "string"}
        return schema | ({"pattern": rf"^(?:{self.pattern})$|\$\{{"} if self.pattern else {})


@attrs.frozen
class Flag(Form[bool]):
    """true or false, or `only` one of them."""

    only: bool | None = None

    def parse(self, value: Any) -> bool:
        if not isinstance(value, bool) or (self.only is not None and value is not self.only):
            raise wrong(f"must be {'true or false' if self.only is None else shown(self.only)}", value)
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"} if self.only is None else {"const": self.only}


@attrs.frozen
class Whole(Form[int]):
    """A whole number between two bounds, both included."""

    least: int
    most: int = LARGEST

    def parse(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            bounds = f"of at least {self.least}" if self.most == LARGEST else f"from {self.least} to {self.most}"
            raise wrong(f"must be a whole number {bounds}", value)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@attrs.frozen
class Number(Form[float]):
    """A finite number; `above` is excluded, `least` and `most` are included."""

    what: str
    above: float | None = None
    least: float | None = None
    most: float | None = None

    def parse(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._holds(value):
            raise wrong(f"must be {self.what}", value)
        return float(value)

    def _holds(self, value: float) -> bool:
        return (
            abs(value) < 1e15
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
        )

    def schema(self) -> Schema:
        bounds = {"exclusiveMinimum": self.above, "minimum": self.least, "maximum": self.most}
        return {"type": "number"} | {name: bound for name, bound in bounds.items() if bound is not None}


@attrs.frozen
class Choice(Form[str]):
    """One of a few words."""

    words: tuple[str, ...]

    def parse(self, value: Any) -> str:
        if value not in self.words:
            raise wrong(f"must be {either(self.words)}", value, did_you_mean(value, self.words))
        return value

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.words)}, INTERPOLATED]}


@attrs.frozen
class Duration(Form[float]):
    """A time like "10s", as seconds. Code may give seconds."""

    zero: bool = True

    def parse(self, value: Any) -> float:
        try:
            seconds = parse_duration(value) if isinstance(value, str) else None
        except ValueError:
            seconds = None
        if seconds is None or not (seconds or self.zero):
            more = "" if self.zero else ", more than 0"
            raise wrong(f'must be a duration like "100ms", "10s" or "1h30m"{more}', value)
        return seconds

    def __call__(self, value: Any) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e10:
            return float(value) if value or self.zero else self.parse(value)
        return self.parse(value)

    def show(self, value: float) -> str:
        return print_duration(value)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^(?:[0-9]+(?:\.[0-9]+)?(?:ms|us|ns|[dhms]))+$|\$\{"}


@attrs.frozen
class Size(Form[int]):
    """A number of bytes like "512M", or a whole number of bytes."""

    least: int = 1

    def parse(self, value: Any) -> int:
        try:
            size = parse_size(value) if isinstance(value, str) else value
        except ValueError:
            size = None
        if isinstance(size, bool) or not isinstance(size, int) or not self.least <= size < 1 << 63:
            more = f" of at least {print_size(self.least)}" if self.least > 1 else ", more than 0" if self.least else ""
            raise wrong(f'must be a size like "64K", "512M" or "2G"{more}', value)
        return size

    def show(self, value: int) -> str:
        return print_size(value)

    def schema(self) -> Schema:
        pattern = r"^[0-9]+(?:\.[0-9]+)?(?:[kKmMgGtT](?:[iI]?[bB])?|[bB])?$|\$\{"
        return {"anyOf": [{"type": "string", "pattern": pattern}, {"type": "integer", "minimum": self.least}]}


@attrs.frozen
class Maybe(Form["T | None"], Generic[T]):
    """A value that may be left out; JSON shows it as null, TOML leaves it out."""

    form: Form[T]

    def parse(self, value: Any) -> T | None:
        return None if value is None else self.form.parse(value)

    def __call__(self, value: Any) -> T | None:
        return None if value is None else self.form(value)

    def show(self, value: T | None) -> Any:
        return None if value is None else self.form.show(value)

    def schema(self) -> Schema:
        return self.form.schema()

    def merge(self, under: Any, over: Any) -> Any:
        return over if under is None or over is None else self.form.merge(under, over)


@attrs.frozen
class ListOf(Form["tuple[T, ...]"], Generic[T]):
    """A list of one form.

    `single` also takes one string where the list would hold just that.
    """

    form: Form[T]
    what: str = "a list"
    least: int = 0
    single: bool = False
    unique: bool = False

    def parse(self, value: Any) -> tuple[T, ...]:
        return self._all(value, self.form.parse)

    def __call__(self, value: Any) -> tuple[T, ...]:
        return self._all(value, self.form)

    def _all(self, value: Any, read: Callable[[Any], T]) -> tuple[T, ...]:
        if self.single and isinstance(value, str):
            return (read(value),)
        if not isinstance(value, list | tuple):
            raise wrong(f"must be {self.what}", value)
        elements = cast("Sequence[Any]", value)
        if len(elements) < self.least:
            raise wrong(f"must be {self.what}, not an empty one")
        result: list[T] = []
        problems: list[Problem] = []
        for index, element in enumerate(elements):
            try:
                one = read(element)
            except Invalid as error:
                problems += error.below(index).problems
                continue
            if self.unique and one in result:
                problems.append(Problem((index,), "is there twice", shown(element)))
            result.append(one)
        if problems:
            raise Invalid(problems)
        return tuple(result)

    def show(self, value: tuple[T, ...]) -> Any:
        return [self.form.show(element) for element in value]

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "items": self.form.schema()}
        if self.least:
            schema["minItems"] = self.least
        return {"anyOf": [schema, {"type": "string"}]} if self.single else schema


@attrs.frozen
class MapOf(Form["Mapping[str, T]"], Generic[T]):
    """A table whose keys are the user's, in the file's order; `name` is their form, `pair` reads a list's `K=V`."""

    name: Form[str]
    form: Form[T]
    what: str = "a table"
    pair: bool = False

    def parse(self, value: Any) -> Mapping[str, T]:
        return self._all(value, self.form.parse)

    def __call__(self, value: Any) -> Mapping[str, T]:
        return self._all(value, self.form)

    def _all(self, value: Any, read: Callable[[Any], T]) -> Mapping[str, T]:
        result: dict[str, T] = {}
        problems: list[Problem] = []
        for step, name, element in self._pairs(value):
            try:
                self.name.parse(name)
                result[name] = read(element)
            except Invalid as error:
                problems += error.below(step).problems
        if problems:
            raise Invalid(problems)
        return result

    def _pairs(self, value: Any) -> Iterable[tuple[str | int, str, Any]]:
        if isinstance(value, Mapping):
            return [(key, key, element) for key, element in cast("Mapping[str, Any]", value).items()]
        if not self.pair or not isinstance(value, list | tuple):
            raise wrong(f"must be {self.what}", value)
        pairs: list[tuple[str | int, str, Any]] = []
        for index, element in enumerate(cast("Sequence[Any]", value)):
            if not isinstance(element, str) or "=" not in element:
                raise wrong('must be "NAME=value"', element).below(index)
            name, _, text = element.partition("=")
            pairs.append((index, name, text))
        return pairs

    def show(self, value: Mapping[str, T]) -> Any:
        return {name: self.form.show(element) for name, element in value.items()}

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "propertyNames": {key: rule for key, rule in self.name.schema().items() if key != "type"},
            "additionalProperties": self.form.schema(),
        }
        pairs: Schema = {"type": "array", "items": {"type": "string", "pattern": "="}}
        return {"anyOf": [schema, pairs]} if self.pair else schema

    def merge(self, under: Any, over: Any) -> Any:
        try:
            below = {name: element for _, name, element in self._pairs(under)}
            above = {name: element for _, name, element in self._pairs(over)}
        except Invalid:
            return over
        return below | {
            name: self.form.merge(below[name], element) if name in below else element for name, element in above.items()
        }


@attrs.frozen
class Spelled(Form[T], Generic[T]):
    """A value written as one string, or as a table where `table` is given.

    `read` returns the value of a string, and raises ValueError whose text says what the string must be.
    """

    kind: type[T]
    read: Callable[[str], T]
    write: Callable[[T], Any]
    what: str
    table: Form[T] | None = None

    def parse(self, value: Any) -> T:
        if isinstance(value, str):
            try:
                return self.read(value)
            except Invalid:
                raise
            except ValueError as error:
                raise wrong(str(error) or f"must be {self.what}", value) from None
        if self.table and isinstance(value, Mapping):
            return self.table.parse(value)
        raise wrong(f"must be {self.what}", value)

    def __call__(self, value: Any) -> T:
        return value if isinstance(value, self.kind) else self.parse(value)

    def show(self, value: T) -> Any:
        return self.write(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string"}, self.table.schema()]} if self.table else {"type": "string"}


@attrs.frozen
class Spread(Form["tuple[T, ...]"], Generic[T]):
    """A list of strings of which each may stand for several values."""

    kind: type[T]
    read: Callable[[str], Sequence[T]]
    write: Callable[[T], str]
    what: str

    def parse(self, value: Any) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise wrong(f"must be {self.what}", value)
        result: list[T] = []
        problems: list[Problem] = []
        for index, element in enumerate(cast("Sequence[Any]", value)):
            if isinstance(element, self.kind):
                result.append(element)
            elif isinstance(element, str):
                try:
                    result += self.read(element)
                except ValueError as error:
                    problems.append(Problem((index,), str(error), shown(element)))
            else:
                problems.append(Problem((index,), "must be a string", shown(element)))
        if problems:
            raise Invalid(problems)
        return tuple(result)

    def show(self, value: tuple[T, ...]) -> Any:
        return [self.write(element) for element in value]

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string"}}


def either(words: Iterable[str]) -> str:
    """Return `"a", "b" or "c"`."""
    *first, last = (shown(word) for word in words)
    return f"{', '.join(first)} or {last}" if first else last
