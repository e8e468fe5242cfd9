"""Tables with known keys: attrs classes whose attributes are the file's keys, and how they are read and printed."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, cast, dataclass_transform

import attrs

from .forms import Form, Schema
from .problems import Invalid, Problem, did_you_mean, wrong

T = TypeVar("T")
C = TypeVar("C")


@attrs.frozen
class TableOf(Form[T], Generic[T]):
    """A table with known keys: an attrs class made by `table`. `short` turns a short form into the long table."""

    kind: type[T]
    short: Callable[[Any], Any] = lambda value: value
    short_schema: Schema | None = None
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda value: value
    construct: Callable[..., T] | None = None
    what: str = "a table"

    def parse(self, value: Any) -> T:
        if isinstance(value, Mapping):
            return self._table(cast("Mapping[str, Any]", value))
        long = self.short(value)
        if not isinstance(long, Mapping):
            raise wrong(f"must be {self.what}", value)
        try:
            return self._table(cast("Mapping[str, Any]", long))
        except Invalid as error:
            raise Invalid(attrs.evolve(problem, path=()) for problem in error.problems) from None

    def _table(self, value: Mapping[str, Any]) -> T:
        forms = keys_of(self.kind)
        given = self.prepare(dict(value))
        native: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, element in given.items():
            if key not in forms:
                problems.append(unknown_key(key, forms))
                continue
            attribute, form = forms[key]
            try:
                native[attribute] = form.parse(element)
            except Invalid as error:
                problems += error.below(key).problems
        for key in required_keys(self.kind):
            if key not in given:
                problems.append(Problem((), f'needs the key "{key}"'))
        if problems:
            raise Invalid(problems)
        return (self.construct or self.kind)(**native)

    def __call__(self, value: Any) -> T:
        return value if isinstance(value, self.kind) else self.parse(value)

    def show(self, value: T) -> Any:
        return {key: form.show(getattr(value, attribute)) for key, (attribute, form) in keys_of(self.kind).items()}

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {key: _with_default(self.kind, *pair) for key, pair in keys_of(self.kind).items()},
            "additionalProperties": False,
        }
        if required := required_keys(self.kind):
            schema["required"] = required
        return {"anyOf": [schema, self.short_schema]} if self.short_schema else schema

    def merge(self, under: Any, over: Any) -> Any:
        below, above = self.short(under), self.short(over)
        if not isinstance(below, Mapping) or not isinstance(above, Mapping):
            return over
        forms = keys_of(self.kind)
        merged = dict(cast("Mapping[str, Any]", below))
        for key, element in cast("Mapping[str, Any]", above).items():
            joins = key in merged and key in forms
            merged[key] = forms[key][1].merge(merged[key], element) if joins else element
        return merged


def unknown_key(key: str, known: Iterable[str]) -> Problem:
    """Return the problem of a key that no table of this kind has."""
    names = list(known)
    allowed = f"allowed here: {', '.join(names)}" if names else "none is allowed here"
    return Problem((key,), "unknown key", advice=did_you_mean(key, names) or allowed)


def keys_of(kind: type[Any]) -> dict[str, tuple[str, Form[Any]]]:
    """Return the keys of a class made by `table` in order: the file's word → (attribute, form)."""
    found = _KEYS.get(kind)
    if found is None:
        found = {
            field.metadata["key"] or field.name: (field.name, field.metadata["form"])
            for field in attrs.fields(kind)
            if field.metadata.get("form")
        }
        _KEYS[kind] = found
    return found


_KEYS: dict[type[Any], dict[str, tuple[str, Form[Any]]]] = {}


def _with_default(kind: type[Any], attribute: str, form: Form[Any]) -> Schema:
    default = attrs.fields_dict(kind)[attribute].default
    known = isinstance(default, bool | int | float | str | tuple)
    return form.schema() | ({"default": form.show(default)} if known else {})


def required_keys(kind: type[Any]) -> list[str]:
    """Return the keys that a class made by `table` cannot do without."""
    fields = attrs.fields_dict(kind)
    return [key for key, (name, _) in keys_of(kind).items() if fields[name].default is attrs.NOTHING]


def key(
    *,
    converter: Form[T],
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    name: str = "",
    kw_only: bool = False,
) -> T:
    """Declare an attribute whose values have that form; `name` is the file's word where Python cannot have it."""
    if factory:
        default = attrs.Factory(factory)
    # attrs from 25.4 on takes an explicit False as stronger than the class's kw_only=True.
    options: dict[str, Any] = {"kw_only": True} if kw_only else {}
    return cast("T", attrs.field(default=default, metadata={"form": converter, "key": name}, **options))


@dataclass_transform(field_specifiers=(key,), frozen_default=True)
def table(*, kw_only: bool = False) -> Callable[[type[C]], type[C]]:
    """Make a class of `key` attributes a frozen attrs class whose converters are the forms.

    A bad value raises Invalid, a ValueError that names the key.
    """
    return lambda kind: attrs.frozen(kind, kw_only=kw_only, field_transformer=_convert)


def _convert(kind: type[Any], fields: list["attrs.Attribute[Any]"]) -> list["attrs.Attribute[Any]"]:
    def converter(form: Form[Any], key: str) -> Callable[[Any], Any]:
        def convert(value: Any) -> Any:
            try:
                return form(value)
            except Invalid as error:
                raise error.below(key) from None

        return convert

    return [
        field.evolve(converter=converter(field.metadata["form"], field.metadata["key"] or field.name))
        if field.metadata.get("form")
        else field
        for field in fields
    ]
