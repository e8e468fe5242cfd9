"""`creche down`: through the supervisor when one runs, else in this process from the journal."""

import time
from pathlib import Path

import click

from supervisor.commands.choice import DEFAULT_FILE, app_name, choose, left_over, running_apps
from supervisor.commands.command import Failure, Places, command
from supervisor.commands.containers import seconds
from supervisor.control.client import Client, ControlError, NoSupervisor, Refusal, listens

FAREWELL_SECONDS = 30.0  # for a supervisor's process to end once all of its app is gone


@command("down", "creche down\ncreche down shop --volumes --timeout 5s")
@click.argument("app", required=False)
@click.option("--volumes", is_flag=True, help="Also remove the app's named volumes and all that is in them.")
@click.option("-t", "--timeout", metavar="T", help="How long stopping may take in all before what is left is killed.")
def down(places: Places, app: str | None, volumes: bool, timeout: str | None) -> None:
    """Stop an app in reverse order and remove its containers and networks; named volumes stay.

    It is no error when nothing runs.
    """
    patience = seconds("--timeout", timeout)
    chosen = app_name(app) if app is not None else _chosen(places)
    if chosen is None:
        click.echo("no app is running", err=True)
    elif listens(places.run, chosen):
        _through_supervisor(places, chosen, patience, volumes)
    elif (places.state(chosen) / "app.json").exists():
        _from_journal(places, chosen, patience, volumes)
    else:
        removed = volumes and _remove_volumes(places.root / "volumes" / chosen)
        click.echo(f"{chosen} is not running" + ("; its volumes are removed" if removed else ""), err=True)


def _chosen(places: Places) -> str | None:
    running = running_apps(places)
    if running:
        return choose(running, DEFAULT_FILE)
    rest = left_over(places)
    return choose(rest, DEFAULT_FILE, "on disk, none running") if rest else None


def _through_supervisor(places: Places, app: str, patience: float | None, volumes: bool) -> None:
    client = Client(places.run, app)
    try:
        with client.outliving() as departure:
            try:
                client.post("/creche/down", timeout=patience, volumes=volumes)
            except Refusal:
                raise
            except ControlError:
                # Cut off: it was going already, or died. Which of them shows below.
                if not departure.wait(FAREWELL_SECONDS):
                    raise
            if not departure.wait(FAREWELL_SECONDS):
                raise Failure(f"all of {app} is gone, but its supervisor (pid {departure.pid}) does not end")
    except NoSupervisor:
        if not (places.state(app) / "app.json").exists():
            return
    if (places.state(app) / "app.json").exists():
        _from_journal(places, app, patience, volumes)
    _await_gone(places.sockets(app))


def _from_journal(places: Places, app: str, patience: float | None, volumes: bool) -> None:
    """Without a supervisor: open the app from its journal, take over what survived, and take it down."""
    from supervisor.commands.supervise import take_down

    take_down(app, places, patience, volumes)
    _await_gone(places.sockets(app))


def _await_gone(directory: Path) -> None:
    deadline = time.monotonic() + 5.0
    while directory.exists():
        if time.monotonic() > deadline:
            left = ", ".join(sorted(entry.name for entry in directory.iterdir()))
            raise Failure(f"{directory} is still there, with: {left or 'nothing'}")
        time.sleep(0.01)


def _remove_volumes(directory: Path) -> bool:
    import shutil

    if not directory.exists():
        return False
    shutil.rmtree(directory)
    return True
