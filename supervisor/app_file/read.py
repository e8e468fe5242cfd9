"""Reading an app file: from its text to an AppSpec, or to all that is wrong with it."""

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from .check import check
from .document import Document
from .environment import EnvironmentSyntaxError, parse_environment
from .paths import absolute
from .positions import line_of, scan
from .problems import AppFileError, Invalid, KeyPath, Problem
from .spec import AppSpec
from .support import refused
from .tables import TableOf
from .values import APP_NAME

_SYNTAX = re.compile(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def read(path: str | Path, environ: Mapping[str, str] | None = None) -> AppSpec:
    """Return the app of a file; `environ` (default: the process's) and then the `.env` beside it fill `${…}`.

    Raises AppFileError with every problem of the file and of the files of variables that it needs.
    """
    path = Path(path)
    environ = os.environ if environ is None else environ
    text = _text(path, str(path), ())
    variables = dict(environ)
    dot_env = path.parent / ".env"
    if dot_env.is_file():
        try:
            variables = parse_environment(_text(dot_env, str(dot_env), ()), environ) | variables
        except EnvironmentSyntaxError as error:
            raise AppFileError([Problem((), str(error), file=str(dot_env), line=error.line)]) from None
    return parse(text, file=path, environ=variables)


def parse(text: str, *, file: str | Path, environ: Mapping[str, str]) -> AppSpec:
    """Return the app of a file's text. `file` names it in problems and is where relative paths begin.

    The files of `env_file` are read; their variables become part of `env`. Raises AppFileError.
    """
    shown, file = str(file), Path(os.path.abspath(file))
    try:
        data = tomllib.loads(text)
        document = Document(data, environ)
    except (ValueError, RecursionError) as error:
        raise AppFileError([_syntax(error, text, shown)]) from None
    name = file.stem if file.name != "creche.toml" else file.parent.name
    spec = absolute(document.app("app", file), file.parent)
    problems = document.problems
    if "name" not in data:
        if re.fullmatch(APP_NAME.pattern, name):
            spec = attrs.evolve(spec, name=name)
        else:
            problems.append(
                Problem(("name",), f"must be {APP_NAME.what}", advice=f'the file gives "{name}", write one')
            )
    spec = _with_env_files(spec, environ, problems)
    known = {problem.path for problem in problems}
    later = [document.place(problem) for problem in _broken_or_refused(spec, document.broken)]
    problems += [problem for problem in later if not _follows(problem, known)]
    if problems:
        raise AppFileError(_placed(problems, text, shown))
    return spec


def complete(spec: AppSpec, directory: Path, environ: Mapping[str, str] | None = None) -> AppSpec:
    """Return an app that was built in code as if it came from a file in `directory`: paths absolute, files read.

    Raises AppFileError where it breaks a rule or needs what is not yet supported.
    """
    problems: list[Problem] = []
    spec = absolute(spec, Path(os.path.abspath(directory)))
    spec = _with_env_files(spec, os.environ if environ is None else environ, problems)
    problems += _broken_or_refused(spec, {})
    if problems:
        raise AppFileError(problems)
    return spec


def restore(normalised: Mapping[str, Any], file: Path | None = None) -> AppSpec:
    """Return the app that `write.normalised` (or its JSON) describes, as it is: nothing is interpolated or looked up.

    Raises AppFileError where it is not of that form.
    """
    try:
        return attrs.evolve(TableOf(AppSpec).parse(normalised), file=file)
    except Invalid as error:
        raise AppFileError(error.problems) from None


def _text(path: Path, file: str, key: KeyPath) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AppFileError([Problem(key, f"{path} cannot be read: {error.strerror}", file=file)]) from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise AppFileError([Problem(key, f"{path} is not UTF-8 text", file=file, line=line)]) from None


def _syntax(error: ValueError | RecursionError, text: str, file: str) -> Problem:
    if isinstance(error, RecursionError):
        return Problem((), "is no TOML that can be read: something in it is nested too deeply", file=file)
    match = _SYNTAX.fullmatch(str(error))
    what, line = (match[1], match[2]) if match else (str(error), None)
    line = int(line) if line else text.count("\n", 0, len(text.rstrip())) + 1 if match else None
    column = f" at column {match[3]}" if match and match[3] else ""
    return Problem((), f"is no valid TOML{column}: {what[:1].lower()}{what[1:]}", file=file, line=line)


def _with_env_files(spec: AppSpec, environ: Mapping[str, str], problems: list[Problem]) -> AppSpec:
    containers = dict(spec.containers)
    for name, container in spec.containers.items():
        variables: dict[str, str] = {}
        for index, file in enumerate(container.env_file):
            key = ("containers", name, "env_file", index)
            try:
                variables |= parse_environment(_text(Path(file), "", ()), environ)
            except AppFileError as error:
                problems += [Problem(key, problem.message) for problem in error.problems]
            except EnvironmentSyntaxError as error:
                problems.append(Problem(key, f"{file}:{error.line}: {error}"))
        if container.env_file:
            containers[name] = attrs.evolve(container, env=variables | dict(container.env), env_file=())
    return attrs.evolve(spec, containers=containers)


def _broken_or_refused(spec: AppSpec, broken: Mapping[str, Collection[str]]) -> list[Problem]:
    """All that the app breaks and needs; a key that is not yet supported is told as just that."""
    unsupported = refused(spec)
    paths = {problem.path for problem in unsupported}
    return [*(problem for problem in check(spec, broken) if problem.path not in paths), *unsupported]


def _follows(problem: Problem, known: Collection[KeyPath]) -> bool:
    """Whether a rule is broken only because something at the same key, or below a secret's, could not be read."""
    path = problem.path
    return path in known or (path[:1] == ("secrets",) and any(other[: len(path)] == path for other in known))


def _placed(problems: Iterable[Problem], text: str, file: str) -> list[Problem]:
    lines = scan(text)
    placed: dict[tuple[object, str], Problem] = {}
    for problem in problems:
        line = problem.line or line_of(problem.path, lines)
        placed.setdefault((problem.path, problem.message), attrs.evolve(problem, file=file, line=line))
    return sorted(placed.values(), key=lambda problem: (problem.line or 0, [_rank(step) for step in problem.path]))


def _rank(step: str | int) -> str:
    return f"{step:08d}" if isinstance(step, int) else step
