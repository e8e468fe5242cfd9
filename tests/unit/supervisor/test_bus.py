"""The bus: order, bounded memory, readers that never hold up the teller."""

import pytest
import trio

from supervisor.bus import Bus
from supervisor.events import Event
from tests.unit.supervisor.scripted import virtually


def tell(bus, *details):
    for detail in details:
        bus.publish(Event(bus.reserve(), 1.0, "shop", "web", "started", detail=detail))


async def take(events, count):
    return [await anext(events) for _ in range(count)]


def test_json_round_trip():
    event = Event(3, 1.5, "shop", "web", "died", "exit", 2, "web died: it exited with code 1")
    assert Event.from_json(event.to_json()) == event
    with pytest.raises(ValueError, match="not an event"):
        Event.from_json({"seq": 1})


def test_reader_gets_what_was_and_what_comes():
    async def main():
        bus = Bus("shop")
        tell(bus, "a", "b")
        events = bus.follow(1)
        assert (await anext(events)).detail == "b"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            nursery.start_soon(take, events, 1)
            await trio.testing.wait_all_tasks_blocked()
            tell(bus, "c")
        assert [event.detail for event in bus.history(1)] == ["b", "c"]

    virtually(main)


def test_only_new_events_by_default():
    async def main():
        bus = Bus("shop", [Event(7, 1.0, "shop", None, "started")])
        events = bus.follow()
        with trio.move_on_after(1) as scope:
            await anext(events)
        assert scope.cancelled_caught
        events = bus.follow()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, events, 1)
            await trio.testing.wait_all_tasks_blocked()
            tell(bus, "new")
        assert bus.history()[-1].seq == 8

    virtually(main)


def test_slow_reader_gets_a_marked_gap_and_holds_up_nobody():
    async def main():
        bus = Bus("shop", history=3)
        tell(bus, "1")
        events = bus.follow(0)
        assert (await anext(events)).detail == "1"
        tell(bus, *"23456789")
        gap, *rest = await take(events, 4)
        assert (gap.event, gap.seq) == ("gap", 6)
        assert gap.detail.startswith("5 earlier events")
        assert [event.detail for event in rest] == ["7", "8", "9"]

    virtually(main)
