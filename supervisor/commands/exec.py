"""The command exec: one more process in a running container, its streams those of this command."""

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from supervisor.commands.choice import chosen_app, reference
from supervisor.commands.command import Failure, Places, command
from supervisor.control.client import Client, ControlError

_LOST = 255


class NotExecuted(Failure):
    """Nothing was executed, and not for want of the program: exit 125, as Docker has it."""

    exit_code = 125


def variables(entries: tuple[str, ...], environ: Mapping[str, str]) -> list[str]:
    """`-e KEY=VALUE` as it is, `-e KEY` with this command's own value, left out where there is none."""
    found = [
        entry if "=" in entry else f"{entry}={environ[entry]}" for entry in entries if "=" in entry or entry in environ
    ]
    for entry in found:
        if entry.startswith("="):
            raise NotExecuted(f"-e {entry!r} has no name; write KEY=VALUE")
    return found


@command(
    "exec",
    "creche exec web ls -l /srv\ncreche exec -it shop/db sh\ncreche exec -i db pg_restore < dump",
    allow_interspersed_args=False,
)
@click.argument("name")
@click.argument("words", metavar="CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-i", "--interactive", is_flag=True, help="Pass this command's standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the process a terminal.")
@click.option("-e", "--env", "env", multiple=True, metavar="KEY=VALUE", help="Set a variable; may be repeated.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Run as this user instead of the container's.")
@click.option("-w", "--workdir", metavar="DIR", help="Run in this directory of the container.")
@click.option("-d", "--detach", is_flag=True, help="Return once it runs; its output is dropped.")
def exec_(
    places: Places,
    name: str,
    words: tuple[str, ...],
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    detach: bool,
) -> None:
    """Run a command in a running container, confined as the container's own program is.

    Options after CMD belong to CMD. The exit status is the process's own, 126 when it cannot be executed, 127 when
    there is no such program, 125 when nothing came to that.
    """
    import os

    from supervisor.commands import relay

    relay.occupy_standard_streams()
    if tty and interactive and not detach and not os.isatty(0):
        raise NotExecuted("-t with -i needs a terminal as standard input; leave -t out to pass a pipe or a file on")
    size = relay.size_of(0) or relay.size_of(1) if tty else None
    asked: dict[str, Any] = {
        "AttachStdin": interactive and not detach,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": tty,
        "Cmd": list(words),
        "Env": variables(env, os.environ),
        "User": user or "",
        "WorkingDir": workdir or "",
    }
    if size is not None:
        asked["ConsoleSize"] = list(size)
    app, bare = reference(name)
    client = Client(places.run, chosen_app(places, app))
    try:
        identity: str = client.post(f"/containers/{bare}/exec", body=asked)["Id"]
        if detach:
            _detach(client, identity)
        peer, early = client.hijack(f"/exec/{identity}/start", {"Detach": False, "Tty": tty})
        with peer:
            relay.relay(
                peer,
                early,
                stdin=interactive,
                terminal=tty,
                resized=lambda rows, columns: client.post(f"/exec/{identity}/resize", h=rows, w=columns),
            )
        code: int | None = client.get(f"/exec/{identity}/json")["ExitCode"]
    except ControlError as error:
        raise NotExecuted(str(error)) from error
    sys.exit(_LOST if code is None else code)


def _detach(client: Client, identity: str) -> NoReturn:
    try:
        client.post(f"/exec/{identity}/start", body={"Detach": True})
    except ControlError as error:
        NotExecuted(str(error)).show()
        sys.exit(client.get(f"/exec/{identity}/json")["ExitCode"] or NotExecuted.exit_code)
    sys.exit(0)
