"""The group `creche`: which commands there are, and what becomes of their errors. Imports click and nothing heavier."""

from importlib import import_module
from typing import Any, NamedTuple

import click

from supervisor.commands.command import Chosen, Failure, Wrong, place_options


class Entry(NamedTuple):
    """A command that is imported when it is used: its module, its object there and its line in `creche --help`."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "up": Entry("up", "up", "Start the app of a file, or adopt what survived of it."),
    "down": Entry("down", "down", "Stop an app and remove its containers and networks."),
    "ps": Entry("apps", "ps", "List an app's containers."),
    "tree": Entry("apps", "tree", "Show the supervision tree."),
    "logs": Entry("streams", "logs", "Print what containers wrote, in time order."),
    "events": Entry("streams", "events", "Print every state change with its cause."),
    "stop": Entry("containers", "stop", "Stop containers."),
    "start": Entry("containers", "start", "Start containers that were stopped or gave up."),
    "restart": Entry("containers", "restart", "Restart containers."),
    "kill": Entry("containers", "kill", "Send a signal to containers."),
    "pause": Entry("containers", "pause", "Stop all processes of containers where they are."),
    "unpause": Entry("containers", "unpause", "Let paused containers go on."),
    "exec": Entry("exec", "exec_", "Run a command in a running container."),
    "stats": Entry("usage", "stats", "Show what containers use."),
    "top": Entry("usage", "top", "List the processes of containers."),
    "inspect": Entry("containers", "inspect", "Print all that is known of a container."),
    "config": Entry("config", "config", "Check an app file and print it normalised."),
    "doctor": Entry("doctor", "doctor", "Say what this machine allows, and what to do about the rest."),
    "version": Entry("version", "version", "Print the version."),
    "supervise": Entry("up", "supervise", ""),
}
HIDDEN = frozenset({"supervise"})


class LazyGroup(click.Group):
    """Imports a command's module when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands for people, in the order of their table."""
        return [name for name in COMMANDS if name not in HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one; None when there is none of that name."""
        entry = COMMANDS.get(cmd_name)
        return entry and getattr(import_module(f"supervisor.commands.{entry.module}"), entry.attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with a near miss in the error."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; `creche --help` lists them"
            raise click.UsageError(f"No such command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; the errors that it may meet become sentences and an exit status."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except _wrong() as error:
            raise Wrong(str(error)) from error
        except _failed() as error:
            raise Failure(str(error)) from error


def _wrong() -> type[Exception]:
    """Evaluated only when there is an error to compare, so that a command that succeeds imports nothing for it."""
    from supervisor.app_file.problems import AppFileError

    return AppFileError


def _failed() -> type[Exception]:
    from supervisor.control.client import ControlError

    return ControlError


@click.group(
    "creche",
    cls=LazyGroup,
    params=place_options(),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Run `creche COMMAND --help` for a command's options and an example.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Run a multi-container app from one TOML file and keep it running."""
    context.ensure_object(Chosen)


def main() -> None:
    """Run the command line of this process and exit with its status."""
    cli.main(prog_name="creche")
