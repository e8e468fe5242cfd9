"""Cancelled at any moment, the actor and the app leave a clean machine."""

import signal

import pytest
import trio
import trio.testing

from tests.unit.supervisor.scripted import FOREVER, Life, Place, box, virtually


class AfterSteps(trio.abc.Instrument):
    """Cancels a scope when the run has scheduled tasks so many times."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.left = steps
        self.scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


SCENES = {
    "restarts": {"web": [Life(lasts=0.3, code=1)], "db": [FOREVER]},
    "stubborn": {"web": [Life(ignores=(signal.SIGTERM,))], "db": [Life(dies_after=0.5)]},
    "unstartable": {"web": [FOREVER], "db": [Life(lasts=0.1, code=1)]},
}


async def _live(here, steps, ask):
    """Start, restart by policy and by request, stop, start; cancelled after `steps` task steps."""
    scope = trio.CancelScope()
    instrument = AfterSteps(steps, scope)
    trio.lowlevel.add_instrument(instrument)
    stop = {"timeout": "1s"}
    with scope:
        async with here.app(box("web", links=["db"], stop=stop), box("db", stop=stop)) as app:
            await trio.sleep(1.0)
            if ask:
                await app.restart(["web"])
                await app.stop(["db"])
                await app.start_again(["db"])
                await trio.sleep(1.0)
    trio.lowlevel.remove_instrument(instrument)
    return instrument.left <= 0


@pytest.mark.parametrize("scene", SCENES)
def test_cancelled_after_any_number_of_steps(tmp_path, scene):
    """Walk the cancellation through the whole story, step by step, leaving included, until it comes too late."""
    cancelled, steps = True, 0
    while cancelled:
        steps += 1
        here = Place(tmp_path / str(steps), SCENES[scene])
        cancelled = virtually(_live, here, steps, True)
        assert here.machine.left() == [], f"cancelled after {steps} steps"
        assert here.files() == [], f"cancelled after {steps} steps"
        assert not here.machine.serving
    assert steps > 80


def test_cancelled_block_hurries(tmp_path):
    here = Place(tmp_path, {"web": [Life(ignores=(signal.SIGTERM,))]})

    async def main():
        with trio.move_on_after(1):
            async with here.app(box("web", stop={"timeout": "60s"})) as app:
                await app.ready()
                await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(3.0)

    virtually(main)
    assert here.machine.left() == here.files() == []


def test_detached_app_leaves_its_containers_at_any_step(tmp_path):
    """Whenever its supervisor goes, the next one adopts or starts each container once."""
    for steps in range(1, 120, 3):
        here = Place(tmp_path / str(steps), {"web": [FOREVER]})

        async def first(here=here, steps=steps):
            scope = trio.CancelScope()
            instrument = AfterSteps(steps, scope)
            trio.lowlevel.add_instrument(instrument)
            with scope:
                async with here.app(box("web", links=["db"]), box("db"), detached=True) as app:
                    await app.ready()
                    await trio.sleep(1)
            trio.lowlevel.remove_instrument(instrument)

        async def second(here=here):
            async with here.app(box("web", links=["db"]), box("db")) as app:
                await app.ready()
                assert here.machine.alive().keys() == {"web", "db"}
                assert not [event for event in app.history() if event.event == "actor-failed"]

        virtually(first)
        virtually(second)
        assert here.machine.left() == here.files() == []
