"""`creche up` and the hidden command that a detached supervisor is started with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.commands.choice import app_file
from supervisor.commands.command import Failure, Places, Wrong, command
from supervisor.commands.containers import seconds
from supervisor.control.client import Client, listens

if TYPE_CHECKING:
    from supervisor.app_file.spec import AppSpec


@command(
    "up",
    "creche up shop.toml\ncreche up -d --wait --timeout 1m shop.toml\ncreche up shop.toml web\ncreche up --dry-run",
)
@click.argument("arguments", metavar="[FILE] [NAME]...", nargs=-1)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="The app file, when it is no argument.")
@click.option("-d", "--detach", is_flag=True, help="Return once the supervisor runs; it goes on in the background.")
@click.option("--wait", is_flag=True, help="Detach, and return once every container is ready (a job: completed).")
@click.option("--timeout", metavar="T", help="With --wait: give up after that time (1m, 30s); exit 1.")
@click.option("--dry-run", is_flag=True, help="Only print what would be started, in which order.")
@click.option("--build", is_flag=True, help="Not yet supported.")
@click.option("--force-recreate", is_flag=True, help="Not yet supported.")
@click.option("--profile", "profiles", multiple=True, metavar="P", help="Not yet supported.")
def up(
    places: Places,
    arguments: tuple[str, ...],
    files: tuple[str, ...],
    detach: bool,
    wait: bool,
    timeout: str | None,
    dry_run: bool,
    build: bool,
    force_recreate: bool,
    profiles: tuple[str, ...],
) -> None:
    """Start the app of a file, with NAME... only these containers and what they wait for.

    FILE has a slash or ends in .toml; without one it is -f FILE, else ./creche.toml. Containers that survived a dead
    supervisor are adopted. In the foreground logs are printed, Ctrl-C stops the app and removes its containers
    (volumes stay), a second Ctrl-C kills.
    """
    for option, given in (("--build", build), ("--force-recreate", force_recreate), ("--profile", profiles)):
        if given:
            raise Wrong(f"{option} is not yet supported")
    if timeout is not None and not wait:
        raise Wrong("--timeout has an effect only with --wait")
    patience = seconds("--timeout", timeout)
    path, names = app_file(arguments, files)
    spec = chosen_spec(path, names)
    if dry_run:
        click.echo(plan(spec))
    elif listens(places.run, spec.name):
        _already_runs(places, spec)
        if wait:
            _wait(places, spec.name, patience)
    elif detach or wait:
        _detach(places, path, names, spec.name)
        if wait:
            _wait(places, spec.name, patience)
    else:
        from supervisor.app import App
        from supervisor.commands.supervise import run

        run(App(spec, root=places.root, run=places.run, survives=True), places, attached=True, started=lambda: None)


@command("supervise", "creche supervise --report 3 /srv/shop/shop.toml", hidden=True)
@click.argument("file")
@click.argument("names", nargs=-1)
@click.option("--report", "descriptor", type=int, required=True)
def supervise(places: Places, file: str, names: tuple[str, ...], descriptor: int) -> None:
    """Be a detached supervisor: tell over the pipe how the start went, then go on until the app ends."""
    from supervisor.commands.supervise import report, run

    os.set_inheritable(descriptor, False)
    told = False

    def started() -> None:
        nonlocal told
        told = True
        report(descriptor, ok=True)

    try:
        from supervisor.app import App

        spec = chosen_spec(Path(file), names)
        run(App(spec, root=places.root, run=places.run, detached=True), places, attached=False, started=started)
    except Failure as failure:
        if told:
            raise
        report(descriptor, ok=False, code=failure.exit_code, message=failure.message)
        raise


def chosen_spec(path: Path, names: tuple[str, ...]) -> "AppSpec":
    """The file's app, with names only these containers and what they wait for; raises `Wrong` for all that is wrong."""
    from supervisor.app_file.problems import AppFileError
    from supervisor.app_file.read import read

    try:
        spec = read(path)
    except AppFileError as error:
        raise Wrong(str(error)) from error
    if not names:
        return spec
    import attrs

    wanted = needed(spec, names)
    return attrs.evolve(spec, containers={name: it for name, it in spec.containers.items() if name in wanted})


def needed(spec: "AppSpec", names: tuple[str, ...]) -> set[str]:
    """These containers and, transitively, all that they link to or come after; raises `Wrong` for an unknown one."""
    from difflib import get_close_matches

    found: set[str] = set()
    open_names = list(names)
    while open_names:
        name = open_names.pop()
        if name not in spec.containers:
            near = get_close_matches(name, list(spec.containers), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has: {', '.join(spec.containers)}"
            raise Wrong(f"app {spec.name} has no container {name!r}{hint}")
        if name not in found:
            found.add(name)
            container = spec.containers[name]
            open_names += [*(link.to for link in container.links if link.app is None), *container.after]
    return found


def plan(spec: "AppSpec") -> str:
    """What a start would do, for eyes: one line per container in the order of start."""
    from supervisor.graph import layers, waits

    graph = waits(spec.containers)
    lines = [f"{spec.name}: {len(spec.containers)} containers would be started, in this order:"]
    for number, layer in enumerate(layers(graph), 1):
        for name in layer:
            needs = ", ".join(f"{other} is {condition}" for other, condition in graph[name].items())
            lines.append(f"  {number}. {name}" + (f", once {needs}" if needs else ""))
    return "\n".join(lines)


def _already_runs(places: Places, spec: "AppSpec") -> None:
    """Say that the app runs as its file says; raises `Wrong` or `Failure` when it is another one."""
    from supervisor.app_file.write import normalised

    about: dict[str, Any] = Client(places.run, spec.name).get("/creche/app")
    file = None if spec.file is None else str(spec.file)
    if about["file"] != file:
        whose = about["file"] or "a program that embeds creche"
        raise Wrong(
            f"an app named {spec.name} runs already, from {whose}; "
            f"give this one another `name`, or take that one down: creche down {spec.name}"
        )
    if about["spec"] != json.loads(json.dumps(normalised(spec))):
        raise Failure(
            f"{spec.name} is running from another version of this file; `creche down {spec.name}` it first; "
            "updating a running app is not yet supported"
        )
    click.echo(f"{spec.name} runs already as {file} says (supervisor: pid {about['pid']})")


def _detach(places: Places, path: Path, names: tuple[str, ...], app: str) -> None:
    """Start a supervisor in a session of its own; returns when it runs, raises `Failure` with its own words if not."""
    import creche

    directory = places.sockets(app)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        why = f"{directory} for the sockets of {app} cannot be made: {error.strerror}"
        raise Failure(f"{why}; name a directory that can with --run") from error
    log = directory / "supervisor.log"
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                argv = [sys.executable, "-P", creche.__file__, "--root", str(places.root), "--run", str(places.run)]
                subprocess.Popen(
                    [*argv, "supervise", "--report", str(writing), str(path), *names],
                    stdin=subprocess.DEVNULL,
                    stdout=descriptor,
                    stderr=descriptor,
                    pass_fds=(writing,),
                    start_new_session=True,
                ).returncode = 0  # it is not waited for: it outlives this command
            finally:
                os.close(descriptor)
        finally:
            os.close(writing)
        answer = pipe.read()
    if not answer:
        last = log.read_text(errors="backslashreplace")[-4000:] if log.exists() else ""
        raise Failure(f"the supervisor of {app} ended before it ran; its last words ({log}):\n{last}".rstrip())
    told: dict[str, Any] = json.loads(answer)
    if not told["ok"]:
        _remove_log(log)
        raise (Wrong if told["code"] == Wrong.exit_code else Failure)(told["message"])
    click.echo(f"{app} is up (supervisor: pid {told['pid']}); `creche ps {app}` shows it, `creche down {app}` ends it")


def _remove_log(log: Path) -> None:
    """Take away what only a failed start left behind."""
    log.unlink(missing_ok=True)
    try:
        log.parent.rmdir()
    except OSError:
        return  # it holds something of a launcher or another supervisor: theirs


def _wait(places: Places, app: str, patience: float | None) -> None:
    for answer in Client(places.run, app).lines("/creche/wait-ready", timeout=patience):
        if not answer["ready"]:
            raise Failure(answer["message"])
        return
    raise Failure(f"{app} was taken down before it was ready")
