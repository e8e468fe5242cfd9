"""Writing an app back in the file's own forms, every key explicit."""

import json
from collections.abc import Mapping
from typing import Any, cast

import tomli_w

from .interpolate import escape
from .spec import AppSpec
from .tables import TableOf


def normalised(spec: AppSpec) -> dict[str, Any]:
    """Return the app as the file's tables: durations "100ms", sizes "16M", None for a key that is not set.

    `read.restore` makes an equal app of it, JSON in between included.
    """
    return TableOf(AppSpec).show(spec)


def to_json(spec: AppSpec) -> str:
    """Return the normalised app as one JSON document; a key that is not set is null."""
    return json.dumps(normalised(spec), indent=2, ensure_ascii=False)


def to_toml(spec: AppSpec) -> str:
    """Return the normalised app as an app file that reads back as an equal app; what is not set is left out."""
    return tomli_w.dumps(_plain(normalised(spec)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("Mapping[str, Any]", value).items()
        return {key: _plain(element) for key, element in items if element is not None}
    if isinstance(value, list):
        return [_plain(element) for element in cast("list[Any]", value)]
    return escape(value) if isinstance(value, str) else value
