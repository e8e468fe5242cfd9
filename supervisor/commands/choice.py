"""Which app file, app and containers a command line means: the rules of cli.md."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from supervisor.commands.command import Places, Wrong
from supervisor.control import client

DEFAULT_FILE = Path("creche.toml")
_APP = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


def is_file(argument: str) -> bool:
    """Whether a first argument is a FILE: it has a slash or ends in `.toml`."""
    return "/" in argument or argument.endswith(".toml")


def app_file(arguments: Sequence[str], options: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """The app file, absolute, and the names that stand beside it.

    `arguments` are the command's own, `options` the `-f FILE`s. Raises `Wrong` when there is no such file.
    """
    names = tuple(arguments)
    if len(options) > 1:
        raise Wrong("several -f are not yet supported; give one file")
    if names and is_file(names[0]):
        if options:
            raise Wrong(f"the app file is named twice: {names[0]} and -f {options[0]}; give one of them")
        chosen, names = Path(names[0]), names[1:]
    elif options:
        chosen = Path(options[0])
    else:
        chosen = DEFAULT_FILE
        if not chosen.exists():
            raise Wrong("there is no ./creche.toml here; name an app file (it has a slash or ends in .toml)")
    if not chosen.exists():
        raise Wrong(f"{chosen}: there is no such file")
    return chosen.absolute(), names


def app_name(text: str) -> str:
    """Check an app's name as a person typed it; it becomes part of paths. Raises `Wrong`."""
    if not _APP.fullmatch(text):
        raise Wrong(f"{text[:60]!r} is no app's name: lower-case letters, digits and -, at most 31 of them")
    return text


def left_over(places: Places) -> dict[str, Path | None]:
    """The apps that have state on disk, running or not, each with its app file."""
    try:
        directories = sorted(entry for entry in (places.root / "apps").iterdir() if (entry / "app.json").is_file())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        raise Wrong(f"{places.root} may not be read ({error.strerror}); run as its owner, as root for now") from error
    return {entry.name: _recorded_file(entry) for entry in directories}


def _recorded_file(directory: Path) -> Path | None:
    try:
        recorded = json.loads((directory / "app.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    file = recorded.get("file") if isinstance(recorded, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return Path(file) if isinstance(file, str) else None


def choose(running: Mapping[str, Path | None], default: Path, kind: str = "running") -> str:
    """The app that a command without APP means; `running` gives each app's file, `default` is `./creche.toml`.

    The app of `./creche.toml` when it runs, else the only running one; raises `Wrong` that lists them.
    """
    here = [name for name, file in running.items() if file is not None and _same(file, default)]
    if len(here) == 1:
        return here[0]
    if len(running) == 1:
        return next(iter(running))
    if not running:
        raise Wrong("no app is running; start one with `creche up FILE`")
    listed = "\n".join(f"  {name}" + (f"  ({file})" if file else "") for name, file in sorted(running.items()))
    raise Wrong(f"several apps are {kind}; say which one:\n{listed}")


def _same(file: Path, default: Path) -> bool:
    return file.resolve() == default.resolve()


def running_apps(places: Places) -> dict[str, Path | None]:
    """The running apps, each with its app file (null for one built in code); asks only where there is a choice."""
    names = client.running(places.run)
    if len(names) == 1:
        return {names[0]: None}
    return {name: _served_file(places, name) for name in names}


def _served_file(places: Places, name: str) -> Path | None:
    try:
        file: str | None = client.Client(places.run, name).get("/creche/app", patience=5.0)["file"]
    except client.ControlError:  # it ends at this very moment, or hangs: its name is enough to be listed
        return None
    return Path(file) if file else None


def chosen_app(places: Places, app: str | None) -> str:
    """The app that a command means: the one named, else the choice among the running ones, else among those on disk."""
    if app is not None:
        return app_name(app)
    running = running_apps(places)
    if running:
        return choose(running, DEFAULT_FILE)
    return choose(left_over(places), DEFAULT_FILE, "on disk, none running")


def reference(text: str) -> tuple[str | None, str]:
    """`APP/NAME` or `NAME` → app or None, name."""
    app, slash, name = text.rpartition("/")
    if not slash:
        return None, text
    return app_name(app), name


def by_app(places: Places, names: Sequence[str]) -> dict[str, list[str]]:
    """The containers that the arguments name, by app, in the order given, each once."""
    found: dict[str, list[str]] = {}
    default: str | None = None
    for text in names:
        app, name = reference(text)
        if app is None:
            app = default = default or chosen_app(places, None)
        chosen = found.setdefault(app, [])
        if name not in chosen:
            chosen.append(name)
    return found
