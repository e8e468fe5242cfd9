"""Commands that print streams: logs (read from disk, with or without a supervisor) and events."""

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import click

from runtime.logs import Line, Reader, json_form, merge, timestamp
from supervisor.commands.choice import app_name, chosen_app, reference
from supervisor.commands.command import Failure, Places, Wrong, command
from supervisor.commands.tables import clock, printable
from supervisor.moments import unix

POLL_SECONDS = 0.1
_COLOURS = (36, 33, 32, 35, 34, 31)  # SGR foregrounds, one container after the other
SINCE = click.option(
    "--since", metavar="WHEN", help="Only what is newer: a span back from now (10m) or a moment (2026-01-31T12:00:00Z)."
)


def moment(text: str | None, now: float) -> float | None:
    """A moment in unix seconds: a span back from `now`, RFC 3339 or unix seconds; raises `Wrong`."""
    if text is None:
        return None
    from supervisor.app_file.quantities import parse_duration

    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        return unix(text) if "-" in text else now - parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise Wrong(f"--since {text!r} is no moment; write 10m, 2026-01-31T12:00:00Z or unix seconds") from error


def pause(took: float) -> float:
    """How long to wait before logs are looked at again, when looking took so many seconds: a twentieth of the time."""
    return max(POLL_SECONDS, 20 * took)


def allow_many_files() -> None:
    """Raise the soft limit on open files to the hard one: each followed container needs four."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def line_count(text: str) -> int | None:
    """`--tail`: a number of lines, None for `all`; raises `Wrong`."""
    if text == "all":
        return None
    if not re.fullmatch("[0-9]{1,12}", text):
        raise Wrong(f"--tail {text!r} is neither a number of lines nor all")
    return int(text)


class Printer:
    """Lines of one or several containers as bytes for stdout."""

    def __init__(self, names: Sequence[str], *, timestamps: bool = False, colour: bool = False) -> None:
        self._timestamps = timestamps
        self._prefixes: dict[str, bytes] = {}
        for position, name in enumerate(names if len(names) > 1 else ()):
            prefix = f"{name} | "
            if colour:
                prefix = f"\x1b[{_COLOURS[position % len(_COLOURS)]}m{prefix}\x1b[0m"
            self._prefixes[name] = prefix.encode()
        self._unfinished: tuple[str, str] | None = None

    def render(self, name: str, line: Line) -> bytes:
        """One line, or a piece of one: its bytes as written, with a prefix only where there are several containers."""
        parts: list[bytes] = []
        goes_on = not line.start and self._unfinished == (name, line.stream)
        if self._prefixes and self._unfinished and not goes_on:
            parts.append(b"\n")  # the other container's line is not finished: keep this one off it
        if not goes_on:
            parts.append(self._prefixes.get(name, b""))
            if self._timestamps:
                parts.append(timestamp(line.time_ns).encode() + b" ")
        parts += [line.text, b"\n" if line.complete else b""]
        self._unfinished = None if line.complete else (name, line.stream)
        return b"".join(parts)


class JsonPrinter:
    """Lines as JSON objects with their app and container."""

    def __init__(self, app: str) -> None:
        self._app = app

    def render(self, name: str, line: Line) -> bytes:
        """One object: `app`, `container`, `time`, `stream`, `text` (or `base64`), `complete`."""
        return json.dumps({"app": self._app, "container": name, **json.loads(json_form(line))}).encode() + b"\n"


def logged(places: Places, app: str, names: Sequence[str]) -> list[str]:
    """The containers of an app that have a log, all of them for no names; raises `Failure` for unknown ones."""
    directory = places.state(app) / "logs"
    try:
        there = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        raise Failure(f"app {app} has no logs: nothing is at {directory}; `creche ps` shows what runs") from None
    except PermissionError as error:
        raise Failure(f"{directory} may not be read ({error.strerror}); run as its owner, as root for now") from error
    for name in names:
        if name not in there:
            from difflib import get_close_matches

            near = get_close_matches(name, there, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(there) or 'none'}"
            raise Failure(f"app {app} has no log of a container {name!r}{hint}")
    return list(names) or there


def _chosen(places: Places, names: Sequence[str]) -> tuple[str, list[str]]:
    """The one app and the containers that NAME… mean; `APP/` alone is all of that app."""
    references = [reference(name) for name in names]
    apps = {app for app, _ in references}
    if len(apps) > 1:
        raise Wrong("logs prints one app at a time; the names given are of several")
    app = chosen_app(places, next(iter(apps), None))
    return app, logged(places, app, list(dict.fromkeys(name for _, name in references if name)))


@command("logs", "creche logs -f api web\ncreche logs --since 10m --tail 100 -t shop/db")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@SINCE
@click.option("-n", "--tail", default="all", metavar="N", help="Only the last N lines of each container.")
@click.option("-t", "--timestamps", is_flag=True, help="The time before each line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def logs(
    places: Places,
    names: tuple[str, ...],
    follow: bool,
    since: str | None,
    tail: str,
    timestamps: bool,
    as_json: bool,
) -> None:
    """Print what containers wrote, merged in time order, byte for byte; all containers for no NAME.

    Both streams go to stdout. Lines have a `NAME | ` prefix when there is more than one container. `APP/` is all of
    an app.
    """
    start = moment(since, time.time())
    since_ns = None if start is None else int(start * 1e9)
    lines = line_count(tail)
    app, chosen = _chosen(places, names)
    printer = JsonPrinter(app) if as_json else Printer(chosen, timestamps=timestamps, colour=sys.stdout.isatty())
    allow_many_files()
    with ExitStack() as stack:
        readers = {
            name: stack.enter_context(Reader(places.state(app) / "logs" / name, since_ns, lines)) for name in chosen
        }
        try:
            while follow:
                began = time.monotonic()
                write(printer, merge({name: reader.lines() for name, reader in readers.items()}))
                if not places.state(app).exists():
                    return  # the app was taken down: there is nothing to follow any more
                time.sleep(pause(time.monotonic() - began))
        except KeyboardInterrupt:
            return
        write(printer, merge({name: reader.finish() for name, reader in readers.items()}))


def write(printer: Printer | JsonPrinter, lines: Iterable[tuple[str, Line]]) -> None:
    """Write rendered lines to stdout in large pieces, flushed at the end."""
    out = sys.stdout.buffer
    for piece in pieces(printer, lines):
        out.write(piece)
    out.flush()


def pieces(printer: Printer | JsonPrinter, lines: Iterable[tuple[str, Line]]) -> Iterator[bytes]:
    """Rendered lines in pieces of about 256 KiB."""
    buffer = bytearray()
    for name, line in lines:
        buffer += printer.render(name, line)
        if len(buffer) >= 256 << 10:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


@command("events", "creche events\ncreche events -f --json --since 5m shop")
@click.argument("app", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@SINCE
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def events(places: Places, app: str | None, follow: bool, since: str | None, as_json: bool) -> None:
    """Print an app's state changes, each with its cause."""
    start = moment(since, time.time())
    from supervisor.control.client import Client

    chosen = chosen_app(places, None if app is None else app_name(app.removesuffix("/")))
    client = Client(places.run, chosen)
    try:
        for event in client.lines("/creche/events", since=start, follow=follow):
            click.echo(json.dumps(event) if as_json else story(event))
    except KeyboardInterrupt:
        return


def story(event: dict[str, Any]) -> str:
    """An event as a line for people: time, container, what happened."""
    who = event["container"] or event["app"]
    reason = f" ({event['reason']})" if event["reason"] and not event["detail"] else ""
    return printable(f"{clock(unix(event['time']))}  {who:<16} {event['event']:<11} {event['detail']}{reason}".rstrip())
