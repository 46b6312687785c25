"""A reservation that may be stored though nobody said so counts like any other one."""

import asyncio

import msgspec
import pytest
from unit.gateway.support import CLOCK, World, chat, until
from unit.gateway.test_domain import reserved
from unit.gateway.test_pipeline import ask

from ridges.chassis.memory_store import MemoryEventStore
from ridges.chassis.ports import EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.gateway import reservations
from ridges.gateway.errors import LogUnavailable


class OneProcess:
    """The log as one process sees it: its subscription leaves out what it appends, and answers may not come."""

    def __init__(self, log):
        self._log, self._own = log, set()
        self.answers = asyncio.Event()
        self.answers.set()
        self.lost = False
        self._left_out = set()

    def __getattr__(self, name):
        return getattr(self._log, name)

    async def append(self, stream_id, events, expected=None):
        ids = {event.id for event in events}
        self._own |= ids
        try:
            if self.lost and isinstance(events[0], ev.InferenceFailed):
                raise EventStoreUnavailable("nothing gets through")
            position = await self._log.append(stream_id, events, expected)
            if self.lost:
                await until(lambda: ids <= self._left_out)
                raise EventStoreUnavailable("stored, but the answer is lost")
            if isinstance(events[0], ev.InferenceReserved):
                await self.answers.wait()
        except BaseException:
            self._own -= ids
            raise
        return position

    async def subscribe(self, after=0, types=(), *, own=True, **_):
        async for recorded in self._log.subscribe(after, types):
            if own or recorded.event.id not in self._own:
                yield recorded
            else:
                self._left_out.add(recorded.event.id)


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(reservations, "AWAY_S", 0.0)
    made = World(budget_wait_s=0.0)
    made.store = OneProcess(MemoryEventStore(CLOCK))
    async with made.running():
        yield made


async def room_for_two(world):
    """A run whose budget holds two and a half calls at once, and the cost of one."""
    probe = await world.run(max_cost_nano_usd=10**12)
    await ask(world, probe)
    [one] = await world.events(probe, ev.InferenceReserved)
    return await world.run(max_cost_nano_usd=one.cost_nano_usd * 5 // 2), one.cost_nano_usd


async def taken_by_another_gateway(world, run_id, cost):
    """Its reservation stands behind ours, and our subscription has brought it."""
    event = reserved("of another gateway", cost, 1, CLOCK.now())
    event = msgspec.structs.replace(event, run_id=run_id, id=CLOCK.new_id())
    position = await world.store._log.append(run_id, [event])
    view = await world.gateways[0].states.view(run_id)
    await until(lambda: view.spending.last_reserved_position >= position)


async def most_at_once(world, run_id):
    """Used and reserved together, at its highest."""
    used, held, most = 0, {}, 0
    for event in await world.events(run_id, ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed):
        if isinstance(event, ev.InferenceReserved):
            held[event.call_id] = event.cost_nano_usd
        else:
            held.pop(event.call_id, None)
            used += event.cost_nano_usd
        most = max(most, used + sum(held.values()))
    return most


async def test_one_whose_answer_was_lost(world):
    run_id, cost = await room_for_two(world)
    world.store.lost = True
    with pytest.raises(LogUnavailable):
        await ask(world, run_id)
    await taken_by_another_gateway(world, run_id, cost)
    world.store.lost = False
    await ask(world, run_id)
    assert await most_at_once(world, run_id) <= cost * 5 // 2


async def test_one_whose_caller_left_before_the_answer_came(world):
    run_id, cost = await room_for_two(world)
    world.store.answers.clear()
    leaving = asyncio.create_task(ask(world, run_id))
    while not await world.events(run_id, ev.InferenceReserved):  # noqa: ASYNC110
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await taken_by_another_gateway(world, run_id, cost)
    asking = asyncio.create_task(ask(world, run_id, chat()))
    for _ in range(50):
        await asyncio.sleep(0)
    world.store.answers.set()
    await asking
    assert await most_at_once(world, run_id) <= cost * 5 // 2
