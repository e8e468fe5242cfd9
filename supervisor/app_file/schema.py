"""The JSON Schema (draft 2020-12) of the app file, made from the classes and forms that read it."""

from .forms import Schema
from .spec import AppSpec, container_form
from .tables import TableOf


def schema() -> Schema:
    """Return the schema of a whole file: what each key may be; rules between keys are the reader's."""
    app = TableOf(AppSpec).schema()
    del app["required"]
    app["properties"]["defaults"] = container_form("defaults").schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "creche app file",
        **app,
    }
