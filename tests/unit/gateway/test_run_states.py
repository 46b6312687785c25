"""What a gateway knows of a run stays what the log has, however the run is read again."""

import asyncio

import msgspec
from unit.gateway.support import CLOCK, World
from unit.gateway.test_domain import reserved, settled

from ridges.chassis.memory_store import MemoryEventStore
from ridges.gateway.run_states import RunStates


async def filled(world, run_id, calls, first=0):
    """So many calls of 3 nano-USD in the log."""
    for number in range(first, first + calls):
        for event in (reserved(f"{run_id}-{number}", 5, 1, CLOCK.now()), settled(f"{run_id}-{number}", 3, 1)):
            await world.store.append(run_id, [msgspec.structs.replace(event, run_id=run_id, id=CLOCK.new_id())])


class SlowReading(MemoryEventStore):
    """Reads, and hands out what it read a while later."""

    def __init__(self, clock):
        super().__init__(clock)
        self.read, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def read_run(self, stream_id):
        found = await super().read_run(stream_id)
        self.read.set()
        await self.go_on.wait()
        return found


async def test_a_run_of_many_calls_is_read_again_without_counting_twice():
    world = World()
    run_id = await world.run()
    states = RunStates(world.store, 10)
    view = await states.view(run_id)
    await filled(world, run_id, 5_000)
    for recorded in await world.store.read_run(run_id):
        view.apply(recorded)
    await states.catch_up(view)
    await states.catch_up(view)
    assert (view.spending.requests, view.spending.used_nano) == (5_000, 15_000)


async def test_what_comes_while_a_run_is_read_again_is_kept():
    world = World()
    world.store = SlowReading(CLOCK)
    run_id = await world.run()
    states = RunStates(world.store, 10)
    view = await states.view(run_id)
    await filled(world, run_id, 3)
    world.store.read.clear()
    world.store.go_on.clear()
    reading = asyncio.create_task(states.catch_up(view))
    await world.store.read.wait()
    await filled(world, run_id, 2, first=3)
    for recorded in await MemoryEventStore.read_run(world.store, run_id):
        view.apply(recorded)
    world.store.go_on.set()
    await reading
    assert (view.spending.requests, view.spending.used_nano, view.spending.reserved_nano) == (5, 15, 0)


async def test_a_reading_that_is_older_than_what_is_known_changes_nothing():
    world = World()
    run_id = await world.run()
    states = RunStates(world.store, 10)
    view = await states.view(run_id)
    old = await world.store.read_run(run_id)
    await filled(world, run_id, 2)
    for recorded in await world.store.read_run(run_id):
        view.apply(recorded)

    async def lagging(_):
        return old

    await view.catch_up(lagging)
    assert view.spending.requests == 2
