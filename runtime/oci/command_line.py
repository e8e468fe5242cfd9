"""The command line's words: every command with its options, as runc has them, and the refusal of what is not had."""

import argparse
from typing import NoReturn

from runtime.oci.log import OciError

DEFAULT_ROOT = "/run/creche-oci"
REFUSED = {
    "checkpoint": "checkpoint is not supported: creche-oci does not drive CRIU",
    "restore": "restore is not supported: creche-oci does not drive CRIU",
    "init": "init is runc's own inner command: creche-oci has none",
}
"""Commands that runc has and this runtime refuses."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 1."""

    def error(self, message: str) -> NoReturn:
        raise OciError(f"{message}; see {self.prog} --help")


def _size(text: str) -> int:
    """Return bytes from a number with an optional unit (k, m, g, t; powers of 1024), -1 for no limit."""
    words = text.strip().lower().removesuffix("b").removesuffix("i")
    factors = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    factor = factors.get(words[-1:], 1)
    try:
        number = float(words[:-1] if factor > 1 else words)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512m or 1073741824") from error
    if number < 0 and words != "-1":
        raise argparse.ArgumentTypeError(f"{text!r} is negative; only -1 is, which means no limit")
    return int(number * factor)


def _duration(text: str) -> float:
    """Return seconds from Go's form of durations (5s, 500ms, 1m30s)."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    total, number, unit = 0.0, "", ""
    try:
        for letter in f"{text}\0":
            if letter.isalpha():
                unit += letter
                continue
            if unit:
                total, number, unit = total + float(number) * units[unit], "", ""
            number += letter
        if number != "\0" or total <= 0:
            raise ValueError(text)
    except (ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 5s or 500ms") from error
    return total


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the command and its options; raise OciError for what makes no sense, SystemExit for --help."""
    return parser().parse_args(arguments)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = _Parser(prog="creche-oci", description="Run containers from OCI bundles.", allow_abbrev=False)
    top.add_argument("--root", default=DEFAULT_ROOT, help="the directory of the containers' state (%(default)s)")
    top.add_argument("--log", help="a file for the log instead of stderr")
    top.add_argument("--log-format", default="text", choices=("text", "json"))
    top.add_argument("--debug", action="store_true", help="log what is done, step by step")
    top.add_argument("--systemd-cgroup", action="store_true", help="not supported")
    top.add_argument("--cgroup-manager", default="cgroupfs", help="cgroupfs is the one that there is")
    top.add_argument("--rootless", default="auto", help="not supported: auto and false are taken")
    top.add_argument("--criu", help="not supported")
    top.add_argument("-v", "--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, about: str, identifier: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        if identifier:
            made.add_argument("id", help="the container's id")
        return made

    for name, about in (("create", "make a container, ready to start"), ("run", "create and start a container")):
        made = command(name, about)
        made.add_argument("-b", "--bundle", default=".", help="the bundle's directory, which has config.json")
        _starting(made)
        made.add_argument("--no-pivot", action="store_true", help="not supported")
        made.add_argument("--no-new-keyring", action="store_true", help="keep the caller's session keyring")
        if name == "run":
            made.add_argument("-d", "--detach", action="store_true", help="return when the program runs")
            made.add_argument("--keep", action="store_true", help="do not delete the container when it ends")
            made.add_argument("--no-subreaper", action="store_true", help="do not adopt what the container leaves")
    command("start", "let a created container execute its program")
    command("state", "print a container's state")
    made = command("kill", "send a signal to a container")
    made.add_argument("signal", nargs="?", default="SIGTERM", help="a name or a number (%(default)s)")
    made.add_argument("-a", "--all", action="store_true", help="to all its processes")
    made = command("delete", "delete a stopped container")
    made.add_argument("-f", "--force", action="store_true", help="kill it first; no container is no error")
    _exec(command("exec", "run one more process in a container"))
    made = command("list", "list the containers", identifier=False)
    made.add_argument("-f", "--format", default="table", choices=("table", "json"))
    made.add_argument("-q", "--quiet", action="store_true", help="only ids")
    made = command("ps", "list a container's processes")
    made.add_argument("-f", "--format", default="table", choices=("table", "json"))
    made.add_argument("options", nargs=argparse.REMAINDER, help="options of ps(1); -ef without any")
    command("pause", "freeze all processes of a container")
    command("resume", "let a paused container go on")
    _update(command("update", "change a container's limits"))
    made = command("events", "print statistics and out-of-memory events as JSON lines")
    made.add_argument("--interval", type=_duration, default=5.0, help="between two statistics (5s)")
    made.add_argument("--stats", action="store_true", help="print statistics once")
    made = command("spec", "write a config.json to begin with", identifier=False)
    made.add_argument("-b", "--bundle", default=".", help="where to")
    made.add_argument("--rootless", action="store_true", dest="without_root", help="not supported")
    command("features", "print what this runtime can do, as JSON", identifier=False)
    return top


def _starting(made: argparse.ArgumentParser) -> None:
    made.add_argument("--console-socket", help="a unix socket that is sent the terminal's master")
    made.add_argument("--pid-file", help="a file for the pid")
    made.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="descriptors 3 to N+2 stay open")


def _exec(made: argparse.ArgumentParser) -> None:
    _starting(made)
    made.add_argument("command_line", nargs=argparse.REMAINDER, metavar="ARG", help="the program and its arguments")
    made.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    made.add_argument("-u", "--user", help="UID[:GID]")
    made.add_argument("--cwd", help="its working directory")
    made.add_argument("-e", "--env", action="append", default=[], help="NAME=value, added to the container's")
    made.add_argument("-p", "--process", help="a file with OCI's process object")
    made.add_argument("-d", "--detach", action="store_true", help="return when it runs")
    made.add_argument("--process-label", help="SELinux label")
    made.add_argument("--apparmor", help="AppArmor profile")
    made.add_argument("--no-new-privs", action="store_true", help="no privileges by execve")
    made.add_argument("-c", "--cap", action="append", default=[], help="a capability more")
    made.add_argument("-g", "--additional-gids", type=int, action="append", default=[], help="a group more")
    made.add_argument("--ignore-paused", action="store_true", help="also while it is paused; runs when it goes on")
    made.add_argument("--cgroup", action="append", default=[], help="a cgroup below the container's")


def _update(made: argparse.ArgumentParser) -> None:
    made.add_argument("-r", "--resources", help="a file with OCI's resources, - for stdin; then the rest is left out")
    for option, kind, about in (
        ("--memory", _size, "bytes"),
        ("--memory-reservation", _size, "bytes"),
        ("--memory-swap", _size, "bytes of memory and swap together, -1 for no limit"),
        ("--cpu-period", int, "microseconds"),
        ("--cpu-quota", int, "microseconds in a period"),
        ("--cpu-burst", int, "microseconds saved up at most"),
        ("--cpu-share", int, "relative weight"),
        ("--cpuset-cpus", str, "such as 0-2,5"),
        ("--cpuset-mems", str, "such as 0"),
        ("--pids-limit", int, "processes, -1 for no limit"),
        ("--blkio-weight", int, "10 to 1000"),
    ):
        made.add_argument(option, type=kind, help=about)
