"""What cannot start says so in one clear sentence, with the exit codes of a shell."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.driver import Creche, busybox_root


def told(creche: Creche, name: str = "box") -> tuple[dict[str, Any], str]:
    """The failed container's status, and what its events and `inspect` say."""
    status = creche.wait_for(name, lambda seen: seen["state"] == "failed")
    died = creche.events(name=name, event="died")
    assert len(died) == 1
    assert died[0]["reason"] == "start-error"
    shown = json.dumps(json.loads(creche("inspect", name).out))
    assert json.dumps(died[0]["detail"])[1:-1] in shown
    return status, died[0]["detail"]


def box(command: list[str], rootfs: object = "/", more: str = "", name: str = "box") -> str:
    shown = json.dumps(command)
    return f'[containers.{name}]\nrootfs = "{rootfs}"\ncommand = {shown}\nrestart = "never"\n{more}\n'


REFUSED = {
    "missing": (["/no/such/program"], "", 127, ["/no/such/program", "no such program"]),
    "missing-in-path": (["nonesuch", "-x"], "", 127, ["nonesuch", "PATH"]),
    "not-executable": (["/etc/hostname"], "", 126, ["/etc/hostname", "not executable"]),
    "directory": (["/etc"], "", 126, ["/etc", "not a regular file"]),
    "script": (["/run-me"], "", 127, ["/opt/none/python", "/run-me"]),
    "workdir": (["true"], 'workdir = "/no/such/place"', 125, ["working directory", "/no/such/place"]),
    "user": (["true"], 'user = "nobody-here"', 125, ["nobody-here"]),
    "group": (["true"], 'group_add = ["no-such-group"]', 125, ["no-such-group"]),
    "bind": (["true"], 'volumes = ["./absent:/data"]', 125, ["absent"]),
    "bind-on-file": (["true"], 'volumes = ["./fs:/run-me"]', 125, ["/run-me"]),
}
"""The command, what else stands in the file, the exit code, and words of the sentence."""


@pytest.fixture(scope="module")
def refused(shared: Creche) -> Creche:
    """One app with a container of each kind, with an init and without."""
    root = busybox_root(shared.directory / "fs")
    (root / "etc/hostname").write_text("text")
    (root / "run-me").write_text("#!/opt/none/python\n")
    (root / "run-me").chmod(0o755)
    shared.up(
        "refused",
        "".join(
            box(command, root, f"{more}\ninit = {init}", f"{name}-{init}")
            for name, (command, more, _, _) in REFUSED.items()
            for init in ("true", "false")
        ),
        wait=False,
    )
    return shared


@pytest.mark.parametrize("init", ("true", "false"))
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_start_says_why_in_one_sentence(refused: Creche, kind: str, init: str) -> None:
    _, _, code, words = REFUSED[kind]
    status, sentence = told(refused, f"{kind}-{init}")
    assert (status["exit_code"], status["last_reason"]) == (code, "start-error")
    assert all(word in sentence for word in words), sentence
    assert "Traceback" not in sentence and "\n" not in sentence


def test_a_program_whose_loader_is_missing(creche: Creche) -> None:
    root = busybox_root(creche.directory / "fs")
    (root / "bin/dynamic").write_bytes(Path("/bin/ls").read_bytes())
    (root / "bin/dynamic").chmod(0o755)
    creche.up("loader", box(["dynamic"], root, "init = false"), wait=False)
    status, sentence = told(creche)
    assert status["exit_code"] == 127
    assert "loader" in sentence


def test_a_root_filesystem_that_is_not_there(creche: Creche) -> None:
    path = creche.file("rootless", box(["true"], creche.directory / "nowhere"))
    result = creche("up", "-d", "--wait", path, code=None)
    assert result.code in (1, 2)
    assert "nowhere" in result.err


def test_wait_returns_1_and_says_why(creche: Creche) -> None:
    path = creche.file("waiting", box(["/no/such/program"]))
    result = creche("up", "-d", "--wait", path, code=1)
    assert "/no/such/program" in result.err
    assert "Traceback" not in result.err


def test_wait_gives_up_after_its_timeout(creche: Creche) -> None:
    text = box(["true"], more="").replace('"never"', '{ policy = "always", delay = "30s" }')
    text = text.replace("[containers.box]", "[containers.box]") + (
        '[containers.late]\nrootfs = "/"\ncommand = ["sleep", "60"]\nafter = { box = "completed" }\n'
    )
    path = creche.file("slow", text)
    result = creche("up", "-d", "--wait", "--timeout", "1s", path, code=1)
    assert result.seconds < 10
    assert "late" in result.err or "1s" in result.err or "1 s" in result.err


def test_a_start_error_is_retried_by_the_restart_policy(creche: Creche) -> None:
    text = box(["/no/such/program"]).replace('"never"', '{ policy = "on-failure", delay = "50ms" }')
    creche.up("retry", text, wait=False)
    status = creche.wait_for("box", lambda seen: seen["restarts"] >= 2)
    assert status["exit_code"] == 127


def test_down_leaves_nothing_of_what_never_started(creche: Creche) -> None:
    text = box(["/no/such/program"]).replace('"never"', '{ policy = "on-failure", delay = "50ms" }')
    creche.up("retry", text, wait=False)
    creche.wait_for("box", lambda seen: seen["restarts"] >= 2)
    creche("down")
    creche.nothing_left()
