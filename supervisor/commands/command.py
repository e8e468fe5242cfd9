"""A command of `creche`: its `--root` and `--run`, its example, and how it fails."""

import os
from collections.abc import Callable, Mapping
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


class Failure(click.ClickException):
    """The operation failed: exit 1, the sentences on stderr."""

    def show(self, file: Any = None) -> None:
        """Print the text, each line once, `creche: ` before the first."""
        click.echo(f"creche: {self.message}", file=file, err=True)


class Wrong(Failure):
    """The command or the app file is wrong: exit 2."""

    exit_code = 2


class Places(NamedTuple):
    """Where state lives (`--root`) and where sockets live (`--run`)."""

    root: Path
    run: Path

    def state(self, app: str) -> Path:
        """An app's directory below the root."""
        return self.root / "apps" / app

    def sockets(self, app: str) -> Path:
        """An app's directory below the run directory."""
        return self.run / app


def default_places(euid: int, environ: Mapping[str, str]) -> Places:
    """The places of cli.md when no option names others; XDG base directories for everyone but root."""
    if euid == 0:
        root, run = Path("/var/lib/creche"), Path("/run/creche")
    else:
        home = Path(environ.get("XDG_DATA_HOME") or Path(environ.get("HOME", "/")) / ".local/share")
        root, run = home / "creche", Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{euid}") / "creche"
    named = (environ.get("CRECHE_ROOT") or root, environ.get("CRECHE_RUN") or run)
    return Places(*(Path(place).absolute() for place in named))


class Chosen(dict[str, Path]):
    """The places that options named so far; one for a command and its group."""


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Chosen)[parameter.name] = Path(value).absolute()


def place_options() -> list[click.Option]:
    """`--root` and `--run`, understood before and after the subcommand; the one nearest to it wins."""
    shared: dict[str, Any] = {"metavar": "DIR", "expose_value": False, "callback": _keep, "is_eager": True}
    return [
        click.Option(["--root"], help="Where state lives (CRECHE_ROOT, default /var/lib/creche).", **shared),
        click.Option(["--run"], help="Where sockets live (CRECHE_RUN, default /run/creche).", **shared),
    ]


class Command(click.Command):
    """A click command with `--root`, `--run` and at least one example in its help."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.params += place_options()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the examples as they would be typed."""
        with formatter.section("Examples" if "\n" in self.example else "Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def command(
    name: str, example: str, *, hidden: bool = False, **settings: Any
) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function whose first argument is `Places`; `settings` are click's of its context."""

    def decorate(function: Callable[Concatenate[Places, P], R]) -> Command:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            chosen = click.get_current_context().ensure_object(Chosen)
            default = default_places(os.geteuid(), os.environ)
            return function(Places(chosen.get("root", default.root), chosen.get("run", default.run)), *args, **kwargs)

        update_wrapper(call, function)
        return click.command(name, cls=Command, example=example, hidden=hidden, context_settings=settings)(call)

    return decorate
