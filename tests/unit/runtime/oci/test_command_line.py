"""The command line's words: what is taken as runc takes it, what is refused in one line."""

from typing import Any

import pytest

from runtime.oci import command_line, main
from runtime.oci.log import Log, OciError

SHIM = ["--root", "/run/x/moby", "--log", "/b/log.json", "--log-format", "json"]


def test_containerds_create_is_understood() -> None:
    given = [*SHIM, "create", "--bundle", "/b", "--pid-file", "/b/init.pid", "--console-socket", "/t/pty.sock", "abc"]
    options = command_line.parse(given)
    assert (options.root, options.log, options.log_format) == ("/run/x/moby", "/b/log.json", "json")
    assert (options.bundle, options.pid_file, options.console_socket, options.id) == (
        "/b",
        "/b/init.pid",
        "/t/pty.sock",
        "abc",
    )


def test_containerds_exec_is_understood() -> None:
    options = command_line.parse([*SHIM, "exec", "--process", "/t/p", "--detach", "--pid-file", "/b/e.pid", "abc"])
    assert (options.process, options.detach, options.pid_file, options.id) == ("/t/p", True, "/b/e.pid", "abc")


def test_an_option_may_be_joined_to_its_value() -> None:
    assert command_line.parse(["--root=/x", "delete", "--force", "abc"]).root == "/x"


def test_the_programs_own_options_stay_its_own() -> None:
    options = command_line.parse(["exec", "-t", "abc", "ls", "-l", "--user", "x"])
    assert (options.tty, options.user, options.command_line) == (True, None, ["ls", "-l", "--user", "x"])


def test_no_limit_is_minus_one() -> None:
    options = command_line.parse(["update", "--memory", "512m", "--memory-swap", "-1", "--pids-limit", "-1", "abc"])
    assert (options.memory, options.memory_swap, options.pids_limit) == (512 << 20, -1, -1)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("1m30s", 90.0), ("1.5s", 1.5)])
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert command_line.parse(["events", "--interval", text, "abc"]).interval == seconds


@pytest.mark.parametrize(
    "given",
    [
        ["events", "--interval", "5", "abc"],
        ["events", "--interval", "0s", "abc"],
        ["update", "--memory", "lots", "abc"],
        ["update", "--memory", "-2", "abc"],
        ["list", "--format", "xml"],
        ["--log-format", "yaml", "list"],
        ["start"],
        ["strat", "abc"],
        ["run", "--unknown", "abc"],
    ],
)
def test_what_makes_no_sense_is_one_line(given: list[str]) -> None:
    with pytest.raises(OciError) as raised:
        command_line.parse(given)
    assert "\n" not in str(raised.value)
    assert raised.value.code == 1


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["--systemd-cgroup", "list"], "systemd"),
        (["--cgroup-manager", "systemd", "list"], "systemd"),
        (["--cgroup-manager", "other", "list"], "other"),
        (["--criu", "/x", "list"], "criu"),
        (["--rootless", "true", "list"], "root"),
        (["checkpoint", "abc"], "checkpoint"),
        (["--root", "restore", "restore", "abc"], "restore"),
        (["spec", "--rootless"], "root"),
    ],
)
def test_what_is_not_had_is_refused_with_its_name(given: list[str], word: str) -> None:
    with pytest.raises(OciError, match=f"{word}.*is not supported"):
        main._main(given, Log())


def test_no_command_is_an_error() -> None:
    with pytest.raises(OciError, match="no command"):
        main._main([], Log())


@pytest.mark.parametrize("command", ["create", "run", "exec"])
def test_a_console_socket_needs_a_terminal_and_a_terminal_needs_somebody(command: str) -> None:
    check: Any = main._check_console
    check(True, "/socket", True)
    check(True, None, False)
    check(False, None, True)
    for wrong in ((True, None, True), (False, "/socket", True), (True, "/socket", False)):
        with pytest.raises(OciError, match="cannot"):
            check(*wrong)
