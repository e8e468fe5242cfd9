"""`creche version`."""

import json
import platform
from importlib.metadata import version as of

import click

from supervisor.commands.command import Places, command


@command("version", "creche version --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def version(_places: Places, as_json: bool) -> None:
    """Print the version of creche, of Python and of the kernel."""
    facts = {"version": of("creche"), "python": platform.python_version(), "kernel": platform.release()}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(f"creche {facts['version']} (Python {facts['python']}, Linux {facts['kernel']})")
