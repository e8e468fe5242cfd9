"""`creche config`: an app file checked and printed normalised."""

import json

import click

from supervisor.commands.choice import app_file, is_file
from supervisor.commands.command import Places, Wrong, command


@command("config", "creche config shop.toml\ncreche config --json ./shop.toml\ncreche config --schema")
@click.argument("file", required=False)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="The app file, when it is no argument.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of TOML.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of app files; reads no file.")
def config(_places: Places, file: str | None, files: tuple[str, ...], as_json: bool, schema: bool) -> None:
    """Check an app file and print it normalised: every key explicit, in its usual form.

    All errors of the file are printed at once, each with its line; the exit status is 2 then.
    """
    if schema:
        if file is not None or files or as_json:
            raise Wrong("--schema prints the schema of all app files: it takes no FILE and is JSON already")
        from supervisor.app_file.schema import schema as of_app_files

        click.echo(json.dumps(of_app_files(), indent=2))
        return
    if file is not None and not is_file(file):
        raise Wrong(f"{file!r} is no FILE: it has no slash and does not end in .toml; write ./{file}")
    path, _ = app_file([file] if file is not None else [], files)
    from supervisor.app_file.read import read
    from supervisor.app_file.write import to_json, to_toml

    spec = read(path)
    click.echo(to_json(spec) if as_json else to_toml(spec), nl=as_json)
