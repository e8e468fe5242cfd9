"""Interpolation: `${VAR}`, `${VAR:-default}` and `${VAR:?message}` in the app file's strings. Pure."""

import re
from collections.abc import Mapping

_BEGIN = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<how>\}|:-|:\?)")
_BRACE = re.compile(r"\$\{|\}")


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Return `text` with the braced forms replaced.

    `$${` gives a literal `${`, every other `$` stays. An empty variable counts as unset for `:-` and `:?`; the default
    may hold such forms itself, a variable's value is taken as it is. Raises ValueError, whose text names the variable,
    where one is not set and has no default.
    """
    result: list[str] = []
    position = 0
    while match := _BEGIN.search(text, position):
        result.append(text[position : match.start()])
        position = match.end()
        name, how = match["name"], match["how"]
        if name is None:
            result.append("${")
        elif how == "}":
            if name not in variables:
                raise ValueError(f"the variable {name} is not set; ${{{name}:-default}} gives it a default")
            result.append(variables[name])
        else:
            end = _closing(text, position)
            if end is None:
                result.append(match[0])
                continue
            if value := variables.get(name):
                result.append(value)
            elif how == ":?":
                message = interpolate(text[position:end], variables)
                raise ValueError(f"the variable {name} is not set" + (f": {message}" if message else ""))
            else:
                result.append(interpolate(text[position:end], variables))
            position = end + 1
    return "".join(result) + text[position:]


def _closing(text: str, position: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, position):
        depth += 1 if brace[0] == "${" else -1
        if not depth:
            return brace.start()
    return None


def escape(text: str) -> str:
    """Return what `interpolate` turns into `text`, whatever the variables."""
    return text.replace("${", "$${")
