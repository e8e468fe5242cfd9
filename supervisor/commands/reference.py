"""The command reference, docs/commands.md: made of the commands' own help by running this module."""

import click

from supervisor.commands.command import Command
from supervisor.commands.main import cli

HEAD = """# Commands

This page is made from the commands' own help (`python -m supervisor.commands.reference > docs/commands.md`).

`--root DIR` and `--run DIR` (`CRECHE_ROOT`, `CRECHE_RUN`) may stand before or after any command: where state lives
and where sockets live. Errors go to stderr; the exit status is 0 for success, 1 when the operation failed, 2 when the
command or the app file is wrong.
"""


def markdown() -> str:
    """The whole page."""
    root = click.Context(cli, info_name="creche")
    return "\n".join([HEAD, *(_section(root, name) for name in cli.list_commands(root))])


def _section(root: click.Context, name: str) -> str:
    found = cli.get_command(root, name)
    assert isinstance(found, Command), name
    context = click.Context(found, info_name=name, parent=root, max_content_width=100, terminal_width=100)
    pieces = found.collect_usage_pieces(context)
    options = [
        record
        for parameter in found.params
        if isinstance(parameter, click.Option)
        and parameter.name not in ("root", "run", "help")
        and (record := parameter.get_help_record(context))
    ]
    lines = [f"## creche {name}", "", f"    {' '.join(['creche', name, *pieces])}", ""]
    lines += [" ".join(part.split()) + "\n" for part in (found.help or "").split("\n\n")]
    if options:
        lines += ["| option | |", "|---|---|", *(f"| `{_cell(flag)}` | {_cell(text)} |" for flag, text in options), ""]
    return "\n".join([*lines, "```console", *(f"$ {line}" for line in found.example.splitlines()), "```", ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(markdown(), end="")
