"""Programs that embed creche: the block's end, however it comes, leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from supervisor import App, Container
from supervisor.app_file.problems import AppFileError
from supervisor.failures import AppFailed
from tests import leaks
from tests.system.driver import REPOSITORY, Creche

PROGRAM = """
import sys, trio
from supervisor import App, Container
async def main():
    async with App("program", root=sys.argv[1], run=sys.argv[2]) as app:
        box = await app.start(Container(name="box", rootfs="/", command=["sleep", "1000"]))
        print(box.status().pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@attrs.frozen
class Place:
    """Where a test's apps live."""

    creche: Creche

    def app(self, name: str = "embedded", detached: bool = False) -> App:
        self.creche.scope.apps.add(name)
        return App(name, root=self.creche.root, run=self.creche.run, detached=detached)

    def open(self, file: str) -> App:
        return App.open(file, root=self.creche.root, run=self.creche.run)

    def left(self) -> None:
        self.creche.nothing_left()


@pytest.fixture
def place(creche: Creche, leak_scope: leaks.Scope) -> Place:
    leak_scope.apps.update({"embedded", "program"})
    return Place(creche)


def lives(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


def box(name: str = "box", command: str = "sleep 1000", restart: str = "never") -> Container:
    return Container(name=name, rootfs="/", command=["sh", "-c", command], restart=restart)


def test_a_container_is_started_and_seen_and_the_end_leaves_nothing(place: Place) -> None:
    async def main() -> None:
        async with place.app() as app:
            handle = await app.start(box())
            status = handle.status()
            assert (status.state, status.ready, handle.address) == ("running", True, status.ip)
            assert status.pid is not None
            assert lives(status.pid)
            assert {each.name for each in app.statuses()} == {"box"}

    trio.run(main)
    place.left()


def test_a_file_is_opened_ready_and_its_events_are_followed(place: Place) -> None:
    path = place.creche.file("filed", '[containers.one]\nrootfs = "/"\ncommand = ["sleep", "60"]\n')
    seen: list[str] = []

    async def main() -> None:
        async with place.open(path) as app:
            await app.ready()
            with trio.fail_after(10):
                async for event in app.events(since=0):
                    seen.append(event.event)
                    if event.event == "ready":
                        break

    trio.run(main)
    assert seen == ["created", "started", "ready"]
    place.left()


def test_the_command_line_does_not_show_what_it_cannot_reach(place: Place) -> None:
    """An embedded app has a journal and no socket: ps reads the one."""

    async def main() -> None:
        async with place.app() as app:
            await app.start(box())
            shown = await trio.to_thread.run_sync(lambda: place.creche.ps("embedded"))
            assert shown["box"]["state"] == "running"

    trio.run(main)
    place.left()


def test_an_exception_in_the_block_leaves_nothing_and_arrives_as_itself(place: Place) -> None:
    async def main() -> None:
        async with place.app() as app:
            await app.start(box())
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        trio.run(main)
    place.left()


def test_cancellation_leaves_nothing(place: Place) -> None:
    async def main() -> bool:
        with trio.move_on_after(1.0) as scope:
            async with place.app() as app:
                await app.start(box(command="trap '' TERM; sleep 1000 & wait; sleep 1000"))
                await trio.sleep_forever()
        return scope.cancelled_caught

    assert trio.run(main)
    place.left()


@pytest.mark.parametrize("after", (0.0, 0.03, 0.1, 0.2))
def test_cancellation_while_it_starts_leaves_nothing(place: Place, after: float) -> None:
    async def main() -> None:
        with trio.move_on_after(after):
            async with place.app() as app:
                async with trio.open_nursery() as nursery:
                    for number in range(3):
                        nursery.start_soon(app.start, box(f"box-{number}"))
                await trio.sleep_forever()

    trio.run(main)
    place.left()


def test_a_container_that_fails_is_raised_with_its_story(place: Place) -> None:
    async def main() -> None:
        async with place.app() as app:
            with pytest.raises(AppFailed, match="/no/such/program"):
                await app.start(Container(name="box", rootfs="/", command=["/no/such/program"], restart="never"))

    trio.run(main)
    place.left()


def test_what_is_not_supported_is_refused_before_anything_runs(place: Place) -> None:
    async def main() -> None:
        async with place.app() as app:
            with pytest.raises(AppFileError, match="not yet supported"):
                await app.start(Container(name="box", image="redis:7"))
            assert app.statuses() == []

    trio.run(main)
    place.left()


def test_handles_stop_start_restart_and_kill(place: Place) -> None:
    async def main() -> None:
        async with place.app() as app:
            handle = await app.start(box(restart="always"))
            pids = [handle.status().pid]
            await handle.stop(timeout=1)
            assert handle.status().state == "stopped"
            await handle.start()
            pids.append(handle.status().pid)
            await handle.restart(timeout=1)
            pids.append(handle.status().pid)
            assert len(set(pids)) == 3
            await handle.kill(9)
            with trio.fail_after(5):
                async for event in app.events():
                    if event.event == "started":
                        break

    trio.run(main)
    place.left()


def test_wait_tells_how_it_ended(place: Place) -> None:
    async def main() -> int | None:
        async with place.app() as app:
            handle = await app.start(box(command="sleep 0.2; exit 3"))
            return (await handle.wait()).exit_code

    assert trio.run(main) == 3
    place.left()


def test_two_apps_in_one_program(place: Place) -> None:
    async def main() -> None:
        async with place.app() as one, place.app("program") as other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.start, box())
                nursery.start_soon(other.start, box())
            assert one.statuses()[0].ip != other.statuses()[0].ip

    trio.run(main)
    place.left()


def test_the_death_of_the_program_ends_its_containers(place: Place) -> None:
    """The launcher of an embedded app ends everything with its connection; the next user of the name finds it clean."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(place.creche.root), str(place.creche.run)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    place.creche.scope.apps.add("program")
    descriptor = os.pidfd_open(pid)
    child.kill()
    child.wait(10)
    child.stdout.close()
    ended = subprocess.run(["timeout", "10", "tail", f"--pid={pid}", "-f", "/dev/null"], check=False).returncode
    os.close(descriptor)
    assert ended == 0, "the container outlived the program by 10 s"
    place.creche("down", "program")
    place.left()


def test_a_detached_app_is_left_running_and_taken_down_later(place: Place) -> None:
    async def main() -> int | None:
        async with place.app(detached=True) as app:
            return (await app.start(box())).status().pid

    pid = trio.run(main)
    assert lives(pid)
    assert place.creche.ps("embedded")["box"]["pid"] == pid
    (launcher,) = [each.pid for each in place.creche.processes() if each.name == "creche-launcher"]
    place.creche("down", "embedded")
    os.waitpid(launcher, 0)  # a child of the program that made it, until that ends
    place.left()
