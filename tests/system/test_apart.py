"""Two apps of one name under two roots; broken files; one app's name held twice."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.system.driver import Creche, answered, driven, free_port, get


@pytest.fixture
def other(leak_scope: leaks.Scope, leaves_nothing: None) -> Iterator[Creche]:
    """A second root and run directory."""
    with driven(leak_scope) as made:
        yield made


def serving(port: int, text: str) -> str:
    return f"""
[containers.web]
rootfs = "/"
command = ["/usr/bin/python3", "-m", "http.server", "-d", "/data", "8000"]
volumes = ["site:/data"]
ports = ["127.0.0.1:{port}:8000"]
restart = "always"
[containers.author]
rootfs = "/"
command = ["sh", "-c", "echo {text} > /data/index.html"]
volumes = ["site:/data"]
"""


def completed(status: dict[str, Any]) -> bool:
    return status["state"] == "completed"


def test_two_apps_of_one_name_live_side_by_side(creche: Creche, other: Creche) -> None:
    ports = free_port(), free_port()
    creche.up("twin", serving(ports[0], "first"))
    other.up("twin", serving(ports[1], "second"))
    for each in (creche, other):
        each.wait_for("author", completed)
    assert (answered(ports[0]), answered(ports[1])) == ("first\n", "second\n")
    ours, theirs = creche.status("web"), other.status("web")
    assert all(ours[key] != theirs[key] for key in ("pid", "ip", "cgroup"))
    maps = [Path(f"/proc/{each['pid']}/uid_map").read_text() for each in (ours, theirs)]
    assert maps[0] != maps[1]


def test_taking_one_twin_down_leaves_the_other_as_it_was(creche: Creche, other: Creche) -> None:
    port = free_port()
    creche.up("twin", serving(free_port(), "first"))
    other.up("twin", serving(port, "second"))
    other.wait_for("author", completed)
    answered(port)
    before = other.status("web")
    creche("down", "--volumes")
    assert (get(port), other.status("web")) == ("second\n", before)
    other("restart", "web")
    assert answered(port) == "second\n"


def test_two_apps_under_one_root_do_not_reach_each_other(creche: Creche) -> None:
    port = free_port()
    creche.up("server", serving(port, "text"))
    answered(port)
    address = creche.ps("server")["web"]["ip"]
    script = (
        f"import socket; s = socket.socket(); s.settimeout(1); print(s.connect_ex(('{address}', 8000)), flush=True)"
    )
    text = f'[containers.stranger]\nrootfs = "/"\ncommand = ["/usr/bin/python3", "-c", "{script}"]\n'
    creche.up("stranger", text)
    seen = creche.last_word("stranger/stranger")
    assert seen != 0


BROKEN = """
[containers.web]
rootfs = "/"
comand = ["true"]
command = ["true"]
links = ["nobody"]
ports = ["8000:80"]
[containers.other]
rootfs = 7
command = ["true"]
links = ["third"]
ports = ["8000:81"]
[containers.third]
rootfs = "/"
command = ["true"]
links = ["other"]
"""


def test_everything_wrong_in_a_file_is_told_at_once_and_nothing_starts(creche: Creche) -> None:
    path = creche.file("broken", BROKEN)
    result = creche("up", "-d", path, code=2)
    lines = BROKEN.splitlines()

    def line(text: str) -> int:
        return lines.index(text) + 2  # the driver's first line names the app

    for number, word in [
        (line('comand = ["true"]'), "comand"),
        (line('links = ["nobody"]'), "nobody"),
        (line("rootfs = 7"), "rootfs"),
    ]:
        assert any(f":{number}:" in told and word in told for told in result.err.splitlines()), (number, result.err)
    assert "did you mean" in result.err
    assert "8000" in result.err
    assert result.raw == b""
    assert creche.apps() == set()
    creche.nothing_left(settle=0)


def test_a_cycle_of_waiting_links_is_told(creche: Creche) -> None:
    cycle = "".join(
        f'[containers.{name}]\nrootfs = "/"\ncommand = ["true"]\nlinks = ["{to}"]\n' for name, to in ("ab", "bc", "ca")
    )
    result = creche("up", creche.file("cycle", cycle), code=2)
    assert all(name in result.err for name in "abc")
    assert creche.apps() == set()


def test_config_tells_the_same_and_nothing_starts(creche: Creche) -> None:
    path = creche.file("broken", BROKEN)
    assert creche("config", path, code=2).err == creche("up", path, code=2).err


def test_up_refuses_a_name_that_another_files_app_holds(creche: Creche) -> None:
    creche.up("held", '[containers.one]\nrootfs = "/"\ncommand = ["sleep", "60"]\n')
    (creche.directory / "elsewhere").mkdir()
    file = creche.directory / "elsewhere/held.toml"
    file.write_text('name = "held"\n[containers.two]\nrootfs = "/"\ncommand = ["sleep", "60"]\n')
    result = creche("up", "-d", str(file), code=2)
    assert f"{creche.directory}/held.toml" in result.err
    assert set(creche.ps()) == {"one"}


def test_a_second_up_of_a_running_app_changes_nothing(creche: Creche) -> None:
    path = creche.up("again", '[containers.one]\nrootfs = "/"\ncommand = ["sleep", "60"]\n')
    before = creche.ps()
    creche("up", "-d", "--wait", path)
    assert creche.ps() == before


def test_down_is_no_error_when_nothing_runs(creche: Creche) -> None:
    assert creche("down").code == 0
    assert creche("down", "nobody").code == 0


def test_a_command_without_a_name_lists_the_apps_where_there_are_two(creche: Creche) -> None:
    for name in ("one", "two"):
        creche.up(name, '[containers.box]\nrootfs = "/"\ncommand = ["sleep", "60"]\n')
    told = creche("ps", code=2).err
    assert "one" in told and "two" in told
    assert json.loads(creche("ps", "--json", "two").out)[0]["app"] == "two"


def test_a_taken_port_is_told_before_anything_runs(creche: Creche) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        path = creche.file("taken", serving(port, "x"))
        result = creche("up", "-d", path, code=1)
    assert str(port) in result.err
    assert "Traceback" not in result.err
    creche.nothing_left()
