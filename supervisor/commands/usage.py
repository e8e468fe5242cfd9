"""Commands that show what containers use: stats and top."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from supervisor.commands.choice import by_app, chosen_app, reference
from supervisor.commands.command import Places, command
from supervisor.commands.tables import aligned, printable, show
from supervisor.control.client import Client

PAUSE = 1.0
"""Seconds between two looks at an app's processes."""
_HOME, _CLEAR_LINE, _CLEAR_BELOW, _CLEAR_ALL = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"


def size(count: int | None) -> str:
    """Bytes as people read them: `512B`, `1.5KiB`, `20MiB`; a dash for None."""
    if count is None:
        return "-"
    amount, units = float(count), ("B", "KiB", "MiB", "GiB", "TiB")
    for unit in units:
        if amount < 1024 or unit == units[-1]:
            return f"{amount:.0f}{unit}" if unit == "B" or amount >= 100 else f"{amount:.3g}{unit}"
        amount /= 1024
    raise AssertionError("the last unit takes everything")


def figures_row(figures: dict[str, Any]) -> tuple[str, ...]:
    """One container's figures as a row of the table."""
    cpu = figures["cpu_percent"]
    limit = figures["pids_limit"]
    return (
        figures["name"],
        "-" if cpu is None else f"{cpu:.2f}%",
        f"{size(figures['memory'])} / {size(figures['memory_limit'])}",
        f"{figures['memory_percent']:.2f}%",
        f"{figures['pids']}" + ("" if limit is None else f" / {limit}"),
        f"{size(figures['network_received'])} / {size(figures['network_sent'])}",
        f"{size(figures['block_read'])} / {size(figures['block_written'])}",
    )


_STATS = ("NAME", "CPU", "MEMORY / LIMIT", "MEMORY", "PIDS", "NET IN / OUT", "BLOCK IN / OUT")
_TOP = ("CONTAINER", "PID", "INSIDE", "USER", "TIME", "MEMORY", "COMMAND")


@command("stats", "creche stats\ncreche stats --no-stream web db\ncreche stats --json --no-stream")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--no-stream", "once", is_flag=True, help="Print one round of figures and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for each container.")
def stats(places: Places, names: tuple[str, ...], once: bool, as_json: bool) -> None:
    """Show what running containers use, each second anew.

    CPU is per cent of one processor. Memory leaves out the page cache that the kernel would give up first.
    """
    apps: dict[str, list[str]] = by_app(places, names) if names else {chosen_app(places, None): []}
    streams = [
        Client(places.run, app).lines("/creche/stats", name=chosen, stream=not once) for app, chosen in apps.items()
    ]
    live = Refresh(enabled=not as_json and not once and sys.stdout.isatty())
    with live:
        for rounds in zip(*streams, strict=True):
            found = [figures for each in rounds for figures in each["containers"]]
            if as_json:
                click.echo("".join(f"{json.dumps(figures)}\n" for figures in found), nl=False)
            else:
                live.show(_STATS, [figures_row(figures) for figures in found])


def process_row(process: dict[str, Any]) -> tuple[str, ...]:
    """One process as a row of the table."""
    minutes, seconds = divmod(process["cpu_seconds"], 60)
    return (
        process["container"],
        str(process["pid"]),
        str(process["inner_pid"]),
        "root" if process["uid"] == 0 else str(process["uid"]),
        f"{int(minutes)}:{seconds:05.2f}",
        size(process["memory"]),
        printable(process["command"]),
    )


@command("top", "creche top web\ncreche top\ncreche top --json shop/api.1")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def top(places: Places, name: str | None, as_json: bool) -> None:
    """List the processes of a container: their pids on the host and inside, user, processor time and command.

    Without a name those of the whole app; on a terminal again each second, the busiest first.
    """
    app, bare = reference(name) if name is not None else (None, None)
    client = Client(places.run, chosen_app(places, app))

    def look() -> list[dict[str, Any]]:
        return client.get("/creche/top", name=[bare] if bare is not None else [])

    found = look()
    if as_json:
        click.echo(json.dumps(found))
    elif bare is not None or not sys.stdout.isatty():
        show(_TOP, [process_row(process) for process in found])
    else:
        _live_top(look, found)


def _live_top(look: Callable[[], list[dict[str, Any]]], found: list[dict[str, Any]]) -> None:
    spent: dict[int, float] = {}
    with Refresh(enabled=True) as live:
        while True:
            busiest = sorted(found, key=lambda each: spent.get(each["pid"], 0.0) - each["cpu_seconds"])
            live.show(_TOP, [process_row(process) for process in busiest])
            spent = {each["pid"]: each["cpu_seconds"] for each in found}
            time.sleep(PAUSE)
            found = look()


class Refresh:
    """Tables one after the other: in place on a terminal, as much as fits; else below each other. Ctrl-C ends them."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._shown = False

    def __enter__(self) -> "Refresh":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, KeyboardInterrupt)

    def show(self, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        """Print the next table."""
        text = aligned(header, rows)
        if self._enabled:
            text = "".join(self._placed(text))
            self._shown = True
        sys.stdout.write(text)
        sys.stdout.flush()

    def _placed(self, text: str) -> Iterator[str]:
        import shutil

        columns, lines = shutil.get_terminal_size()
        yield _HOME if self._shown else _CLEAR_ALL + _HOME
        for line in text.splitlines()[: max(1, lines - 1)]:
            yield f"{line[:columns]}{_CLEAR_LINE}\n"
        yield _CLEAR_BELOW
