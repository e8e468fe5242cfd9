"""Commands on single containers: stop, start, restart, kill, pause, unpause, inspect."""

import json
from typing import Any

import click

from supervisor.commands.choice import by_app, chosen_app, reference
from supervisor.commands.command import Failure, Places, Wrong, command
from supervisor.control.client import Client, ControlError
from supervisor.control.signals import signal_number

NAMES = click.argument("names", metavar="NAME...", nargs=-1, required=True)
TIMEOUT = click.option(
    "-t", "--timeout", metavar="T", help="How long a container may take to stop (10s) before it is killed."
)


def seconds(option: str, text: str | None) -> float | None:
    """A duration of an option: `10s`, `1m30s`, a bare number of seconds; raises `Wrong`."""
    if text is None:
        return None
    from supervisor.app_file.quantities import parse_duration

    try:
        return parse_duration(text if text[-1:].isalpha() else f"{text}s")
    except ValueError as error:
        raise Wrong(f"{option} {text!r} is no duration; write 10s, 500ms or 1m30s") from error


def _each_app(places: Places, verb: str, names: tuple[str, ...], **query: Any) -> None:
    """Ask for one change of containers, of one or several apps; each refusal is told, the others still happen."""
    refusals: list[str] = []
    for app, chosen in by_app(places, names).items():
        try:
            done: list[str] = Client(places.run, app).post(f"/creche/{verb}", name=chosen, **query)
            click.echo("\n".join(done))
        except ControlError as error:
            refusals.append(str(error))
    if refusals:
        raise Failure("\n".join(refusals))


@command("stop", "creche stop web\ncreche stop --timeout 30s shop/db shop/cache")
@NAMES
@TIMEOUT
def stop(places: Places, names: tuple[str, ...], timeout: str | None) -> None:
    """Stop containers: their stop signal, after their timeout SIGKILL. They stay stopped until they are started."""
    _each_app(places, "stop", names, timeout=seconds("--timeout", timeout))


@command("start", "creche start web")
@NAMES
def start(places: Places, names: tuple[str, ...]) -> None:
    """Start containers that were stopped, are completed, or gave up; one that backs off starts at once."""
    _each_app(places, "start", names)


@command("restart", "creche restart api.1 web")
@NAMES
@TIMEOUT
def restart(places: Places, names: tuple[str, ...], timeout: str | None) -> None:
    """Stop containers and start them again; this counts as no failure."""
    _each_app(places, "restart", names, timeout=seconds("--timeout", timeout))


@command("kill", "creche kill web\ncreche kill -s HUP proxy")
@NAMES
@click.option("-s", "--signal", "signal_name", default="KILL", metavar="SIG", help="The signal: KILL, SIGHUP, 1…")
def kill(places: Places, names: tuple[str, ...], signal_name: str) -> None:
    """Send a signal to containers' processes with pid 1; what follows from a death is the restart policy's business."""
    try:
        number = signal_number(signal_name)
    except ValueError as error:
        raise Wrong(str(error)) from error
    _each_app(places, "kill", names, signal=number)


@command("pause", "creche pause worker\ncreche pause shop/api shop/web")
@NAMES
def pause(places: Places, names: tuple[str, ...]) -> None:
    """Stop all processes of containers where they are: they keep their memory and connections and get no processor."""
    _each_app(places, "pause", names)


@command("unpause", "creche unpause worker")
@NAMES
def unpause(places: Places, names: tuple[str, ...]) -> None:
    """Let paused containers go on."""
    _each_app(places, "unpause", names)


@command("inspect", "creche inspect web\ncreche inspect shop/api.1\ncreche inspect --plan web")
@click.argument("name")
@click.option("--plan", "planned", is_flag=True, help="Print the steps that make a run of it, one a line.")
def inspect(places: Places, name: str, planned: bool) -> None:
    """Print all that is known of a container as JSON: its state, its spec, its last deaths and their causes."""
    app, bare = reference(name)
    client = Client(places.run, chosen_app(places, app))
    from urllib.parse import quote

    quoted = quote(bare, safe="")
    if planned:
        click.echo("\n".join(client.get(f"/creche/plan/{quoted}")))
    else:
        click.echo(json.dumps(client.get(f"/creche/inspect/{quoted}"), indent=2))
