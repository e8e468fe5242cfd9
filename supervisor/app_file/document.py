"""A file's tables, and the app they make: interpolation, defaults, and what is left when some of it is wrong. Pure."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from .check import ROOTS
from .effects import quiet, without_effect
from .forms import Form
from .interpolate import interpolate
from .problems import Invalid, KeyPath, Problem, shown
from .spec import AppSpec, Container, container_form
from .tables import keys_of, unknown_key
from .values import NAME, read_ports

_ATTEMPTS = 4


class Document:
    """The app that a file's tables make. `problems` grows while its parts are read; see `place` for their paths.

    Raises RecursionError for tables that are nested too deeply.
    """

    def __init__(self, data: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.broken: dict[str, set[str]] = {}
        self._data: dict[str, Any] = self._interpolated(data, (), variables)
        self._kept: dict[tuple[str, str], list[int]] = {}
        self._own: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}

    def app(self, name: str, file: Path | None) -> AppSpec:
        """Return the app, `name` where its file has none; what is wrong in it has its default."""
        forms = keys_of(AppSpec)
        for key in self._data:
            if key not in forms and key != "defaults":
                self.problems.append(unknown_key(key, [*forms, "defaults"]))
        values: dict[str, Any] = {"name": name}
        for key, (attribute, form) in forms.items():
            if key != "containers" and key in self._data:
                value = self._section(key, form)
                values |= {} if value is None else {attribute: value}
        return AppSpec(**values, containers=self._containers(), file=file)

    def place(self, problem: Problem) -> Problem:
        """Return the problem of the app with the path that it has in the file."""
        path = problem.path
        if len(path) < 3 or path[0] != "containers" or not isinstance(path[1], str):
            return problem
        name, key, *rest = path[1], str(path[2]), *path[3:]
        if rest and isinstance(rest[0], int):
            path = ("containers", name, key, self._index(name, key, rest[0]), *rest[1:])
        below = path[2:]
        inherited = not _has(self._own.get(name), below) and _has(self._defaults, below)
        return attrs.evolve(problem, path=("defaults", *below) if inherited else path)

    def _index(self, name: str, key: str, index: int) -> int:
        """From an element's index in the app to its index in the file, which has ranges and bad elements."""
        if key == "ports":
            raw = self._own.get(name, {}).get(key, self._defaults.get(key, []))
            owners = [at for at, text in enumerate(raw) for _ in _ports(text)]
            return owners[index] if index < len(owners) else index
        kept = self._kept.get((name, key))
        return kept[index] if kept and index < len(kept) else index

    def _interpolated(self, value: Any, path: KeyPath, variables: Mapping[str, str]) -> Any:
        if isinstance(value, str):
            try:
                return interpolate(value, variables)
            except ValueError as error:
                self.problems.append(Problem(path, str(error)))
                return value
        if isinstance(value, dict):
            items = cast("dict[str, Any]", value).items()
            return {key: self._interpolated(element, (*path, key), variables) for key, element in items}
        if isinstance(value, list):
            elements = enumerate(cast("list[Any]", value))
            return [self._interpolated(element, (*path, index), variables) for index, element in elements]
        return value

    def _section(self, key: str, form: Form[Any]) -> Any:
        raw = copy.deepcopy(self._data[key])
        for _ in range(_ATTEMPTS):
            try:
                return form.parse(raw)
            except Invalid as error:
                self._report(error.below(key))
                if not _prune(raw, error):
                    break
        return None

    def _report(self, error: Invalid) -> None:
        """Keep the error's problems, but those that only follow from a problem at or below the same key."""
        known = [problem.path for problem in self.problems]
        for problem in error.problems:
            if not any(path[: len(problem.path)] == problem.path for path in known):
                self.problems.append(problem)

    def _containers(self) -> list[Container]:
        self._defaults = self._sound_defaults()
        table = self._data.get("containers", {})
        if not isinstance(table, dict):
            self.problems.append(Problem(("containers",), "must be a table name → container", shown(table)))
            return []
        self._own = cast("dict[str, Any]", table)
        if not self._own:
            self.problems.append(Problem((), "has no container; [containers.NAME] makes one"))
        return [self._container(name, own) for name, own in self._own.items()]

    def _sound_defaults(self) -> dict[str, Any]:
        defaults = self._data.get("defaults", {})
        if not isinstance(defaults, dict):
            self.problems.append(Problem(("defaults",), "must be a table", shown(defaults)))
            return {}
        sound = copy.deepcopy(cast("dict[str, Any]", defaults))
        for _ in range(_ATTEMPTS):
            try:
                container_form("defaults").parse(sound)
                return sound
            except Invalid as error:
                self._report(error.below("defaults"))
                _prune(sound, error)
        return {}

    def _container(self, name: str, own: Any) -> Container:
        form = container_form(name)
        try:
            NAME.parse(name)
        except Invalid as error:
            self._report(error.below("containers", name))
        raw = copy.deepcopy(own)
        if isinstance(raw, dict):
            above = cast("dict[str, Any]", raw)
            chosen = any(key in above for key in ROOTS)
            under = {key: value for key, value in self._defaults.items() if not (chosen and key in ROOTS)}
            raw = form.merge(copy.deepcopy(under), above)
        for _ in range(_ATTEMPTS):
            try:
                return self._without_idle_defaults(form.parse(raw), own)
            except Invalid as error:
                self._report(error.below("containers", name))
                broken = self.broken.setdefault(name, set())
                broken |= {str(problem.path[0]) if problem.path else "rootfs" for problem in error.problems}
                self._remember(name, raw, error)
                if not _prune(raw, error):
                    break
        self.broken.setdefault(name, set()).add("rootfs")
        return Container(name=name)

    def _remember(self, name: str, raw: Mapping[str, Any], error: Invalid) -> None:
        """Keep where the elements of a list that lose a bad one stood in the file."""
        gone: dict[str, set[int]] = {}
        for problem in error.problems:
            if len(problem.path) > 1 and isinstance(index := problem.path[1], int):
                gone.setdefault(str(problem.path[0]), set()).add(index)
        for key, indices in gone.items():
            before = self._kept.get((name, key)) or list(range(len(raw[key])))
            self._kept[name, key] = [origin for at, origin in enumerate(before) if at not in indices]

    def _without_idle_defaults(self, container: Container, own: Mapping[str, Any]) -> Container:
        if "links" not in own:
            links = [link for link in container.links if link.app is not None or link.to != container.name]
            container = attrs.evolve(container, links=links)
        if container.name in container.after and not _has(own, ("after", container.name)):
            after = {name: when for name, when in container.after.items() if name != container.name}
            container = attrs.evolve(container, after=after)
        while idle := [problem.path for problem in without_effect(container) if not _has(own, problem.path)]:
            container = quiet(container, idle[0])
        return container


def _ports(text: Any) -> list[Any]:
    try:
        return list(read_ports(text)) if isinstance(text, str) else []
    except ValueError:
        return []


def _has(table: Any, path: KeyPath) -> bool:
    for at, step in enumerate(path):
        if isinstance(table, Mapping) and step in table:
            table = cast("Mapping[Any, Any]", table)[step]
        else:
            # A list's elements all belong to whoever wrote the list.
            return at > 0 and isinstance(table, list)
    return True


def _prune(raw: Any, error: Invalid) -> bool:
    """Remove from `raw` what the error's paths lead to, list elements as a whole; False where one leads nowhere."""
    places: set[KeyPath] = set()
    for problem in error.problems:
        place: KeyPath = ()
        value = raw
        for step in problem.path:
            if not _holds(value, step):
                break
            value = value[step]
            place = (*place, step)
            if isinstance(step, int):
                break
        if not place:
            return False
        places.add(place)
    # From the last element on, so that none that is still to go moves.
    for place in sorted(
        places, key=lambda place: [str(step) for step in place[:-1]] + [_rank(place[-1])], reverse=True
    ):
        *above, last = place
        value: Any = raw
        for step in above:
            value = value[step] if _holds(value, step) else {}
        if _holds(value, last):
            del value[last]
    return True


def _rank(step: str | int) -> str:
    return f"{step:08d}" if isinstance(step, int) else step


def _holds(value: Any, step: str | int) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(cast("list[Any]", value))
