"""The app file's reference, docs/app-file.md: made of the classes that read a file, by running this module.

Forms, defaults and what is refused come from the code; only what a key means is written here, one sentence a key.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import attrs

from .forms import Form, ListOf, Maybe
from .problems import Invalid
from .spec import AppSpec, Container, Group, Network, Secret
from .support import APP, CONTAINER, GROUP, Refusal
from .tables import TableOf, keys_of

HEAD = """# The app file

This page is made from the code (`python -m supervisor.app_file.reference > docs/app-file.md`).

One TOML file describes one app. `creche config FILE` checks it and prints it with every key explicit;
`creche config --schema` prints a JSON Schema for your editor. An unknown key, a wrong type, a bad value and a key
without effect where it stands are errors. All errors of a file are told at once, with their lines, and nothing starts.
A key that this version cannot give its effect is refused as "not yet supported", never ignored.

```toml
name = "shop"                        # default: the file's name; for creche.toml its folder's

[defaults]                           # any container key; every container starts from these
rootfs  = "/"
restart = "always"

[containers.store]
command = ["/usr/bin/python3", "/app/store.py"]
volumes = ["data:/data", "./app:/app:ro"]
limits  = { memory = "128M", pids = 64 }

[containers.api]
command = ["/usr/bin/python3", "/app/api.py"]
volumes = ["./app:/app:ro"]
links   = ["store"]                  # reaches it by that name; starts after it is ready
ports   = ["127.0.0.1:8080:8000"]
```

Durations are written `100ms`, `10s`, `1h30m`; sizes `64K`, `512M`, `2G`. `${VAR}`, `${VAR:-default}` and
`${VAR:?message}` are replaced in every string, from the environment and then from the file `.env` beside the app file.
Only these braced forms are touched: `$${` gives a literal `${`, every other `$` stays. Paths are relative to the app
file.
"""

TOP = {
    "name": "The app's name. Two running apps under one root cannot share it.",
    "containers": "`[containers.NAME]`: one container each, see below.",
    "defaults": "Container keys that every container starts from. A table is merged key by key.",
    "groups": "`[groups.NAME]`: groups, see below.",
    "group": "`[group]`: the root group, see below.",
    "volumes": "`[volumes.NAME]`: named volumes. Optional: a volume exists once a container mentions it.",
    "secrets": "`[secrets.NAME]`: where a secret comes from.",
    "network.subnet": "The containers' addresses. Default: a free range, remembered.",
    "include": "Other files to merge with this one.",
}
MEANINGS = {
    "image": "An OCI image. Exactly one of `image`, `build` and `rootfs` is required.",
    "build": "An image that is built.",
    "rootfs": 'A directory, used read-only as the lower layer. `"/"` is the host\'s own root, without its secrets: '
    "see [security](security.md).",
    "pull": "When the registry is asked.",
    "command": "The program and its arguments. A string is split as a shell would, but no shell runs.",
    "entrypoint": "What stands before `command`.",
    "env": "The environment. `PATH`, `HOSTNAME` and `HOME` are there by default.",
    "env_file": "Files of `NAME=value` lines; `env` wins over them.",
    "workdir": "The working directory; default `/`.",
    "user": "Who the program runs as; default root of the container. Names are looked up in the root filesystem.",
    "hostname": "Default: the container's name.",
    "labels": "For people and tools; shown by `creche inspect`.",
    "volumes": "A named volume outlives `creche down`; a path (`/…` or `./…`) is a bind mount; `tmpfs` is memory.",
    "writable": "Where all else that it writes is kept: on disk until `down`, or in memory until its run ends.",
    "secrets": "Files below /run/secrets.",
    "links": "Reach that container by its name or alias, and start after it is ready unless `wait = false`. Today all "
    "containers of one app can talk; links give names and order.",
    "accept": "Containers of other apps that may link to this one.",
    "after": "Order without a name: start once the others are `started`, `ready` (a list means this) or `completed`.",
    "ports": "Publish ports; the address defaults to 127.0.0.1, the protocol to tcp. Ranges must be equally long.",
    "affinity": "Whether a client's connections stay with one replica.",
    "network": '`"none"`: a network namespace with nothing but loopback.',
    "egress": "Connections outside the app.",
    "dns": "Name servers, instead of the host's.",
    "extra_hosts": "Further lines of /etc/hosts.",
    "limits.memory": "Memory. Over it the OOM killer ends the container: `oom_killed`, reason `oom`.",
    "limits.swap": "Swap beyond `memory`.",
    "limits.cpus": "Processors' worth of time.",
    "limits.cpu_weight": "Share of the processors when they are busy; 100 is usual.",
    "limits.cpuset": "Which processors.",
    "limits.io_weight": "Share of the disks.",
    "limits.pids": "Processes and threads.",
    "ulimits": "Resource limits (setrlimit), one number or `{ soft, hard }`; -1 is no limit.",
    "shm_size": "Size of /dev/shm; default 64M.",
    "sysctls": "Kernel settings of the container.",
    "devices": "Devices of the host.",
    "group_add": "Further groups of the user.",
    "read_only": "The root filesystem cannot be written; volumes can.",
    "tty": "A terminal.",
    "stdin": "An open standard input.",
    "init": "pid 1 is a small init that reaps and forwards signals; `false`: the program itself is pid 1.",
    "stop.signal": "What asks it to end; default SIGTERM.",
    "stop.timeout": "How long it may take; then everything in it is killed.",
    "restart.policy": "What follows an end. `on-failure`: a restart unless it succeeded. `always`, `unless-stopped`: a "
    "restart; they differ when it was stopped by request and the app comes up again: only `always` starts it then. "
    'A policy alone is short for the table: `restart = "always"`.',
    "restart.delay": "Before the first restart.",
    "restart.factor": "Each further delay is that many times longer.",
    "restart.max_delay": "The longest delay.",
    "restart.jitter": "Each delay is shortened by chance, by up to this fraction.",
    "restart.reset_after": "A run longer than this clears the back-off.",
    "restart.max_restarts": "More than this many `within` that time: the container is `exhausted` and rests.",
    "restart.within": "See `max_restarts`.",
    "restart.success_codes": "Exit codes that count as success.",
    "restart.fatal_codes": "Exit codes that are never retried.",
    "on_exhausted": "A command on the host.",
    "essential": "When it ends for good, so does the app.",
    "readiness": "When it may be used. Without a probe a container is ready once it runs.",
    "liveness": "When it must be restarted.",
    "startup": "What holds the other two probes back.",
    "security.privileged": "Everything allowed.",
    "security.capabilities.add": "Capabilities beyond the default ones, with or without `CAP_`; `ALL` for all.",
    "security.capabilities.drop": "Capabilities taken away; `ALL` leaves those of `add`.",
    "security.seccomp": '`"default"`, or `"unconfined"` for no filter.',
    "security.userns": '`"auto"`: a user namespace with ids of its own, where the filesystems can be idmapped; '
    '`"required"`: else it does not start; `"host"`: the host\'s ids.',
    "security.no_new_privileges": "`true`: setuid and file capabilities do nothing.",
    "security.masked": "`false` uncovers the masked and read-only paths of /proc and /sys.",
    "logs.max_size": "Size of one log file.",
    "logs.max_files": "How many are kept: all take at most `max_size` × `max_files`, index included. `0` keeps none.",
    "kind": "A job runs to completion.",
    "schedule": "When a job runs.",
    "concurrency": "What a job does whose last run is not over.",
    "timeout": "Ends a job's run that lasts longer.",
    "catch_up": "Run once for what was missed.",
    "replicas": "How many of it there are.",
    "scale": "Replicas by load.",
    "update": "How a change is rolled out.",
    "watch": "Paths whose changes restart, rebuild or copy.",
    "group": "The group it belongs to; default the root group.",
    "profiles": "When the container is part of the app.",
}
GROUP_MEANINGS = {
    "strategy": "What restarts together.",
    "max_restarts": "More than this many `within` that time: the group gives up.",
    "within": "See `max_restarts`.",
    "parent": "The group above; default the root group.",
    "limits": "One budget for all members.",
    "on_exhausted": "A command on the host.",
}


@attrs.frozen
class Row:
    """One key: its form and its default in the file's words, what it means, and why it is refused, if it is."""

    key: str
    form: str
    default: str
    meaning: str
    refusals: tuple[Refusal, ...]

    @property
    def refused(self) -> bool:
        """Whether no value but the default is supported."""
        return any(refusal.which is None for refusal in self.refusals)


def markdown() -> str:
    """The whole page."""
    container = list(rows(Container(name="NAME"), CONTAINER, MEANINGS))
    return "\n".join(
        [
            HEAD,
            "## The file\n",
            *_table(_top()),
            "\n## Container keys\n",
            *_table(row for row in container if not row.refused),
            "\n## Container keys that are not yet supported\n",
            *_table(row for row in container if row.refused),
            "\n## Group keys\n",
            "Groups shape `creche tree`. What restarts is the container that died (one-for-one).\n",
            *_table(rows(Group(), GROUP, GROUP_MEANINGS)),
            "",
        ]
    )


def rows(
    thing: Any, refusals: Mapping[str, tuple[Refusal, ...]], meanings: Mapping[str, str], above: str = ""
) -> Iterator[Row]:
    """Yield a row for each key of a thing with its defaults. Raises KeyError for a key without a meaning."""
    for word, (attribute, form) in keys_of(cast("type[Any]", type(thing))).items():
        key, value = above + word, getattr(thing, attribute)
        if key in meanings:
            yield Row(key, _form(form), _default(form, value), meanings[key], refusals.get(key, ()))
        else:  # a table that is told key by key
            yield from rows(value, refusals, meanings, f"{key}.")


def _top() -> Iterator[Row]:
    spec = AppSpec(name="shop")
    for word, (attribute, form) in keys_of(AppSpec).items():
        if word == "network":
            inner = keys_of(Network)["subnet"][1]
            yield Row("network.subnet", _form(inner), "", TOP["network.subnet"], ())
            continue
        value = None if word == "name" else getattr(spec, attribute)
        text = f"a table of tables {{ {', '.join(keys_of(Secret))} }}" if word == "secrets" else _form(form)
        yield Row(word, text, _default(form, value), TOP[word], APP.get(word, ()))
        if word == "containers":
            yield Row("defaults", "a table", "", TOP["defaults"], ())


def _form(form: Form[Any]) -> str:
    """What a form takes, in the words of its own error, and the keys of a table inside."""
    try:
        form.parse(_Nothing())
    except Invalid as error:
        words = error.problems[0].message.removeprefix("must be ")
    else:
        raise AssertionError(f"{form} takes anything")
    inside: Any = form
    while isinstance(inside, Maybe | ListOf):
        inside = cast("Maybe[Any] | ListOf[Any]", inside).form
    if isinstance(inside, TableOf) and words in ("a table", "a list of tables"):
        words += f" {{ {', '.join(keys_of(cast('TableOf[Any]', inside).kind))} }}"
    return words


class _Nothing:
    """A value that no form takes."""


def _default(form: Form[Any], value: Any) -> str:
    shown = form.show(value) if value is not None else None
    if shown is None or shown in ([], {}, "") or isinstance(shown, dict):
        return ""
    return f"`{json.dumps(shown, ensure_ascii=False)}`"


def _table(found: Iterable[Row]) -> list[str]:
    lines = ["| key | form | default | meaning |", "|---|---|---|---|"]
    for row in found:
        notes = [f"{refusal.why[:1].upper()}{refusal.why[1:]}." for refusal in row.refusals]
        notes = [note.replace("It is not yet", "Not yet") for note in notes]
        cells = [f"`{row.key}`", row.form, row.default, " ".join([row.meaning, *(f"*{note}*" for note in notes)])]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


if __name__ == "__main__":
    print(markdown(), end="")
