"""A bundle: a directory with a config.json, read and checked as far as creche-oci itself must understand it."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from runtime.oci.log import OciError

CONFIG = "config.json"
_LARGEST = 16 << 20  # bytes of a config.json that is still read


class Bundle(NamedTuple):
    """The bundle's real path, its config and the real path of its root."""

    path: str
    config: dict[str, Any]
    root: str


def load(path: str) -> Bundle:
    """Read the bundle at `path`; raise OciError naming the file or the field."""
    place = os.path.realpath(path)
    config = read_object(f"{place}/{CONFIG}")
    version = config.get("ociVersion")
    if not isinstance(version, str) or version.split(".")[0] != "1":
        raise OciError(f"{place}/{CONFIG}: ociVersion {version!r} is not supported: it must be 1.something")
    root: Any = config.get("root")
    if not isinstance(root, dict) or not isinstance(root.get("path"), str) or not root["path"]:  # pyright: ignore[reportUnknownMemberType]
        raise OciError(f"{place}/{CONFIG}: root.path is missing")
    if not isinstance(config.get("process"), dict):
        raise OciError(f"{place}/{CONFIG}: process is missing: there is nothing that start could run")
    for key in ("linux", "annotations", "hooks"):
        if not isinstance(config.get(key) or {}, dict):
            raise OciError(f"{place}/{CONFIG}: {key} must be an object")
    directory = os.path.realpath(os.path.join(place, root["path"]))  # pyright: ignore[reportUnknownArgumentType]
    if not os.path.isdir(directory):
        raise OciError(f"{place}/{CONFIG}: root.path: {directory} is no directory")
    return Bundle(place, config, directory)


def read_object(path: str) -> dict[str, Any]:
    """Read a JSON object from a file; raise OciError naming it."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise OciError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if len(text) > _LARGEST:
        raise OciError(f"{path} is longer than {_LARGEST} bytes")
    return parse_object(text, path)


def parse_object(text: bytes, path: str) -> dict[str, Any]:
    """Read a JSON object; raise OciError naming `path`."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OciError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise OciError(f"{path}: there must be a JSON object in it")
    return found  # pyright: ignore[reportUnknownVariableType]
