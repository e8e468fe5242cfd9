"""Commands that show one app: ps and tree."""

import json
import time
from typing import Any

import click

from supervisor.commands.choice import chosen_app
from supervisor.commands.command import Places, command
from supervisor.commands.tables import printable, show, span
from supervisor.control.client import Client, NoSupervisor
from supervisor.moments import unix

_OVER = ("stopped", "completed")


@command("ps", "creche ps\ncreche ps -a --json shop")
@click.argument("app", required=False)
@click.option("-a", "--all", "every", is_flag=True, help="Also those that were stopped or are completed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, always of all containers.")
def ps(places: Places, app: str | None, every: bool, as_json: bool) -> None:
    """List an app's containers.

    Without a supervisor it prints what the journal on disk says of them.
    """
    chosen = chosen_app(places, app)
    statuses = _statuses(places, chosen)
    if as_json:
        click.echo(json.dumps(statuses))
        return
    header = ("NAME", "STATE", "HEALTH", "RESTARTS", "EXIT", "UPTIME", "IP", "PORTS", "IMAGE")
    now = time.time()
    shown = [status for status in statuses if every or status["state"] not in _OVER]
    show(header, [row(status, now) for status in shown])
    if len(shown) < len(statuses):
        click.echo(f"{len(statuses) - len(shown)} stopped or completed; `creche ps -a` shows them", err=True)


def _statuses(places: Places, app: str) -> list[dict[str, Any]]:
    try:
        return Client(places.run, app).get("/creche/containers")
    except NoSupervisor:
        if not (places.state(app) / "app.json").exists():
            raise
        import attrs

        from supervisor.commands.leftovers import statuses

        found = statuses(places.state(app), app)
        if found is None:
            raise
        click.echo(
            f"no supervisor of {app} runs; this is its journal, checked against the living processes. "
            "`creche up` adopts what lives, `creche down` removes it",
            err=True,
        )
        return [attrs.asdict(status) for status in found]


def row(status: dict[str, Any], now: float) -> tuple[str, ...]:
    """A status as a row of the table."""
    waiting = status["waiting_for"]
    state: str = status["state"] + (f": waits for {', '.join(waiting)}" if waiting else "")
    if status["state"] == "backing-off" and status["next_start_at"]:
        state += f" {max(0.0, unix(status['next_start_at']) - now):.1f}s"
    uptime = "-"
    if status["state"] in ("running", "stopping", "paused") and status["started_at"]:
        uptime = span(now - unix(status["started_at"]))
    return (
        status["name"],
        state,
        health(status),
        str(status["restarts"]),
        ending(status),
        uptime,
        status["ip"] or "-",
        ", ".join(status["ports"]) or "-",
        status["image"] or status["rootfs"] or "-",
    )


def health(status: dict[str, Any]) -> str:
    """Its probes' word, and without probes whether it is ready."""
    if status["health"] != "none":
        return str(status["health"])
    return "ready" if status["ready"] else "-"


def ending(status: dict[str, Any]) -> str:
    """How its last run ended: `1`, `137 (SIGKILL)`, `137 (oom)`."""
    if status["exit_code"] is None and status["exit_signal"] is None:
        return "-"
    code = "" if status["exit_code"] is None else str(status["exit_code"])
    if status["oom_killed"]:
        return f"{code} (oom)".strip()
    if status["exit_signal"] is None:
        return code
    import signal

    try:
        name = signal.Signals(status["exit_signal"]).name
    except ValueError:
        name = f"signal {status['exit_signal']}"
    return f"{code} ({name})".strip()


@command("tree", "creche tree\ncreche tree --json shop")
@click.argument("app", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tree(places: Places, app: str | None, as_json: bool) -> None:
    """Show an app's supervision tree: groups with their strategies, containers with their states and restarts."""
    branch: dict[str, Any] = Client(places.run, chosen_app(places, app)).get("/creche/tree")
    click.echo(json.dumps(branch) if as_json else "\n".join(drawn(branch)))


def drawn(branch: dict[str, Any]) -> list[str]:
    """The tree's lines; a node with `children` is a group, every other one a container's status."""
    lines = [_node(branch)]
    children: list[dict[str, Any]] = branch.get("children", [])
    for position, child in enumerate(children):
        last = position == len(children) - 1
        head, *rest = drawn(child)
        lines.append(f"{'└─' if last else '├─'} {head}")
        lines += [f"{'  ' if last else '│ '} {line}" for line in rest]
    return lines


def _node(node: dict[str, Any]) -> str:
    if "children" in node:
        return printable(f"{node['name']} ({node['strategy']})")
    count = node["restarts"]
    restarts = f", {count} restart{'' if count == 1 else 's'}" if count else ""
    reason = f", last death: {node['last_reason']}" if count and node["last_reason"] else ""
    return printable(f"{node['name']}: {node['state']}{', not ready' if _unready(node) else ''}{restarts}{reason}")


def _unready(node: dict[str, Any]) -> bool:
    return node["state"] == "running" and not node["ready"]
