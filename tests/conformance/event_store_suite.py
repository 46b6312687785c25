"""What every event store must do. Inherited by one class for each adapter, which gives the fixture ``log``."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from uuid import uuid4

import pytest

from ridges.chassis.clock import SystemClock
from ridges.chassis.ports import NEW, EventRefused, LastPosition, WrongPosition
from ridges.contracts.codec import UndecodableEvent
from ridges.contracts.events import AgentStarted, EvaluationStarted, Event, RunCancelled

clock = SystemClock()


def cancelled(run_id: str, reason: str = "test", event_id: str | None = None) -> RunCancelled:
    return RunCancelled(id=event_id or clock.new_id(), run_id=run_id, time=clock.now(), reason=reason)


def started(run_id: str, attempt: int = 1) -> AgentStarted:
    return AgentStarted(
        id=clock.new_id(), run_id=run_id, time=clock.now(), attempt=attempt, manager="m-1", sandbox="process"
    )


def evaluating(run_id: str) -> EvaluationStarted:
    return EvaluationStarted(
        id=clock.new_id(), run_id=run_id, time=clock.now(), evaluation_id="e-1", manager="m-1", sandbox="process"
    )


async def eventually(condition, timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a condition is anything
            await asyncio.sleep(0.01)


@asynccontextmanager
async def collecting(iterator, into: list):
    """Append to the list in the background."""

    async def collect() -> None:
        async for recorded in iterator:
            into.append(recorded)  # noqa: PERF401 - one by one as they come

    task = asyncio.create_task(collect())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await iterator.aclose()


async def ungrouped(groups):
    """One by one what comes in groups."""
    async with aclosing(groups):
        async for group in groups:
            for undecoded in group:
                yield undecoded


class EventStoreSuite:
    """``log.open()`` gives one more store on the same log, ``log.inject`` writes a raw message past the port,
    ``log.interrupt()`` takes the log away and brings it back (where that is possible).
    """

    # --- append

    async def test_positions_count_up_from_one_over_the_whole_log(self, log):
        store = await log.open()
        assert await store.last_position() == 0
        assert [await store.append(run, [cancelled(run)]) for run in ("a", "b", "a")] == [1, 2, 3]
        assert await store.last_position() == 3

    async def test_an_event_comes_back_as_it_was(self, log):
        store = await log.open()
        event = cancelled("a", "because ünïcode \x00 \U0001f9ea")
        await store.append("a", [event])
        assert [recorded.event for recorded in await store.read_run("a")] == [event]

    async def test_the_same_id_is_stored_once(self, log):
        store = await log.open()
        event = cancelled("a")
        assert await store.append("a", [event]) == await store.append("a", [event]) == 1
        assert await store.last_position() == 1

    async def test_the_same_id_is_stored_once_when_two_append_at_once(self, log):
        stores = [await log.open(), await log.open()]
        event = cancelled("a")
        positions = await asyncio.gather(*(store.append("a", [event]) for store in stores for _ in range(5)))
        assert set(positions) == {1}
        assert await stores[0].last_position() == 1

    async def test_an_id_of_another_event_is_refused(self, log):
        store = await log.open()
        event = cancelled("a")
        await store.append("a", [event])
        with pytest.raises(EventRefused, match="ids must be unique"):
            await store.append("b", [cancelled("b", event_id=event.id)])

    async def test_an_append_with_a_stale_expectation_succeeds_when_its_events_are_stored(self, log):
        """The caller lost the first answer and asks again; somebody else appended meanwhile."""
        store = await log.open()
        event = cancelled("a")
        await store.append("a", [event], NEW)
        await store.append("a", [started("a")])
        assert await store.append("a", [event], NEW) == 1

    async def test_several_events_are_appended_in_order(self, log):
        store = await log.open()
        events = [cancelled("a"), started("a"), cancelled("a"), evaluating("a")]
        assert await store.append("a", events, NEW) == 4
        assert [recorded.event for recorded in await store.read_run("a")] == events

    async def test_several_events_appended_again_are_stored_once(self, log):
        store = await log.open()
        events = [cancelled("a"), started("a")]
        assert await store.append("a", events, NEW) == 2
        assert await store.append("a", events, NEW) == 2
        assert await store.append("a", events) == 2
        assert await store.last_position() == 2

    async def test_what_is_missing_of_several_events_is_added(self, log):
        store = await log.open()
        events = [started("a", attempt) for attempt in range(1, 5)]
        await store.append("a", [events[1]])
        assert await store.append("a", events) == 4
        assert {recorded.event.id for recorded in await store.read_run("a")} == {event.id for event in events}
        assert await store.last_position() == 4

    async def test_several_events_are_all_refused_when_somebody_else_was_first(self, log):
        store = await log.open()
        await store.append("a", [cancelled("a")])
        with pytest.raises(WrongPosition):
            await store.append("a", [started("a"), evaluating("a")], NEW)
        assert await store.last_position() == 1

    @pytest.mark.parametrize("count", [0, 1_001])
    async def test_too_few_or_too_many_events_are_refused(self, log, count):
        store = await log.open()
        with pytest.raises(EventRefused, match="1 to 1000"):
            await store.append("a", [cancelled("a") for _ in range(count)])

    async def test_a_thousand_events_at_once_fit(self, log):
        store = await log.open()
        assert await store.append("a", [cancelled("a") for _ in range(1_000)], NEW) == 1_000
        assert len(await store.read_run("a")) == 1_000

    async def test_an_event_that_is_too_large_is_refused(self, log):
        store = await log.open()
        with pytest.raises(EventRefused, match="blob"):
            await store.append("a", [cancelled("a", "x" * 300_000)])
        assert await store.last_position() == 0

    @pytest.mark.parametrize("stream_id", ["", "a.b", "a b", "*", ">", "a\nb"])
    async def test_a_stream_id_that_is_no_name_is_refused(self, log, stream_id):
        store = await log.open()
        with pytest.raises(EventRefused):
            await store.append(stream_id, [cancelled(stream_id)])

    async def test_an_event_of_another_stream_is_refused(self, log):
        store = await log.open()
        with pytest.raises(EventRefused, match="run_id 'b'"):
            await store.append("a", [cancelled("b")])

    # --- optimistic concurrency

    async def test_new_fails_when_the_stream_exists(self, log):
        store = await log.open()
        await store.append("other", [cancelled("other")])
        assert await store.append("a", [cancelled("a")], NEW) == 2
        with pytest.raises(WrongPosition) as caught:
            await store.append("a", [cancelled("a")], NEW)
        assert caught.value.actual == 2
        assert caught.value.stream_id == "a"

    async def test_the_expected_position_is_the_newest_of_the_stream(self, log):
        store = await log.open()
        first = await store.append("a", [cancelled("a")])
        await store.append("other", [cancelled("other")])
        second = await store.append("a", [started("a")], LastPosition(first))
        with pytest.raises(WrongPosition):
            await store.append("a", [cancelled("a")], LastPosition(first))
        assert await store.append("a", [cancelled("a")], LastPosition(second)) == 4

    async def test_the_expectation_may_look_at_one_type_only(self, log):
        store = await log.open()
        first = await store.append("a", [started("a")], LastPosition(0, AgentStarted))
        await store.append("a", [cancelled("a"), cancelled("a")])
        second = await store.append("a", [started("a", 2)], LastPosition(first, AgentStarted))
        with pytest.raises(WrongPosition):
            await store.append("a", [started("a", 3)], LastPosition(first, AgentStarted))
        assert await store.append("a", [cancelled("a"), started("a", 3)], LastPosition(second, AgentStarted)) == 6

    async def test_of_many_that_expect_the_same_one_wins(self, log):
        stores = [await log.open() for _ in range(3)]
        asked = [store.append("a", [cancelled("a")], NEW) for store in stores for _ in range(5)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sorted(map(type, answers), key=str) == sorted([int] + [WrongPosition] * 14, key=str)
        assert await stores[0].last_position() == 1

    # --- many callers at once

    async def test_of_many_at_once_each_is_told_where_its_own_stands(self, log):
        store = await log.open()
        events = [cancelled(f"run-{number % 7}") for number in range(100)]
        positions = await asyncio.gather(*(store.append(event.run_id, [event]) for event in events))
        assert sorted(positions) == list(range(1, 101))
        stored = {r.event.id: r.position for run in range(7) for r in await store.read_run(f"run-{run}")}
        assert [stored[event.id] for event in events] == positions

    async def test_of_many_at_once_a_wrong_expectation_fails_by_itself(self, log):
        store = await log.open()
        await store.append("run-3", [started("run-3")])
        expected = LastPosition(0, AgentStarted)
        runs = [f"run-{number}" for number in range(40)]
        asked = (store.append(run, [started(run)], expected) for run in runs)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failed = [answer for answer in answers if not isinstance(answer, int)]
        assert [type(answer) for answer in failed] == [WrongPosition]
        assert (failed[0].stream_id, failed[0].actual) == ("run-3", 1)
        assert await store.last_position() == 40

    async def test_of_many_at_once_an_id_that_is_stored_already_is_no_failure(self, log):
        store = await log.open()
        known = cancelled("a")
        await store.append("a", [known])
        events = [known, *(cancelled(f"run-{number}") for number in range(30)), known]
        positions = await asyncio.gather(*(store.append(event.run_id, [event]) for event in events))
        assert positions[0] == positions[-1] == 1
        assert sorted(positions[1:-1]) == list(range(2, 32))
        assert await store.last_position() == 31

    async def test_of_many_at_once_that_expect_the_same_of_many_runs_one_of_each_wins(self, log):
        stores = [await log.open() for _ in range(2)]
        runs = [f"run-{number}" for number in range(20)]
        asked = [
            store.append(run, [started(run)], LastPosition(0, AgentStarted))
            for run in runs
            for store in stores
            for _ in range(3)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sorted(map(type, answers), key=str) == sorted([int] * 20 + [WrongPosition] * 100, key=str)
        assert [len(await stores[0].read_run(run)) for run in runs] == [1] * 20

    # --- read

    async def test_a_run_that_is_not_there_is_empty(self, log):
        store = await log.open()
        assert await store.read_run(str(uuid4())) == []

    async def test_read_run_gives_that_run_only(self, log):
        store = await log.open()
        for run in ("a", "ab", "a", "b"):
            await store.append(run, [cancelled(run)])
        assert [(r.position, r.event.run_id) for r in await store.read_run("a")] == [(1, "a"), (3, "a")]

    async def test_read_all_gives_what_is_there_and_ends(self, log):
        store = await log.open()
        assert [r async for r in store.read_all()] == []
        for run in ("a", "b", "c"):
            await store.append(run, [cancelled(run), started(run)])
        assert [r.position async for r in store.read_all()] == [1, 2, 3, 4, 5, 6]
        assert [r.position async for r in store.read_all(after=4)] == [5, 6]
        assert [r.position async for r in store.read_all(after=6)] == []
        assert [r.position async for r in store.read_all(after=1, types=[RunCancelled])] == [3, 5]
        assert [r.position async for r in store.read_all(types=[RunCancelled, AgentStarted])] == [1, 2, 3, 4, 5, 6]
        assert [r.position async for r in store.read_all(types=[EvaluationStarted])] == []

    async def test_read_all_reads_a_long_log_in_order(self, log):
        store = await log.open()
        for run in ("a", "b"):
            await store.append(run, [cancelled(run) for _ in range(1_000)])
        assert [r.position async for r in store.read_all()] == list(range(1, 2_001))
        assert len(await store.read_run("b")) == 1_000

    async def test_readers_stop_at_an_event_they_do_not_know(self, log):
        store = await log.open()
        await store.append("a", [cancelled("a")])
        await log.inject("ev.a.Unheard", b'{"type":"Unheard","id":"x","run_id":"a","time":"2026-01-01T00:00:00Z"}')
        with pytest.raises(UndecodableEvent, match="Unheard"):
            await store.read_run("a")
        with pytest.raises(UndecodableEvent):
            [r async for r in store.read_all()]

    # --- subscribe

    async def test_a_subscription_gives_the_past_and_then_what_comes(self, log):
        store, writer = await log.open(), await log.open()
        await writer.append("a", [cancelled("a"), started("a")])
        seen = []
        async with collecting(store.subscribe(), seen):
            await eventually(lambda: len(seen) == 2)
            await writer.append("b", [cancelled("b")])
            await eventually(lambda: len(seen) == 3)
        assert [r.position for r in seen] == [1, 2, 3]

    async def test_a_subscription_may_start_anywhere_and_look_at_some_types(self, log):
        store = await log.open()
        await store.append("a", [cancelled("a"), started("a"), cancelled("a"), evaluating("a")])
        seen = []
        async with collecting(store.subscribe(after=1, types=[RunCancelled, AgentStarted]), seen):
            await eventually(lambda: len(seen) == 2)
            await store.append("b", [evaluating("b"), started("b")])
            await eventually(lambda: len(seen) == 3)
        assert [r.position for r in seen] == [2, 3, 6]

    async def test_following_brings_all_in_order_the_past_and_what_comes(self, log):
        store, writer = await log.open(), await log.open()
        for _ in range(3):
            await writer.append("a", [cancelled("a") for _ in range(200)])
        seen: list = []
        async with collecting(ungrouped(store.follow()), seen):
            await eventually(lambda: len(seen) == 600)
            for number in range(601, 606):
                await asyncio.sleep(0.02 * (number % 3))
                await writer.append("b", [cancelled("b"), started("b")])
            await eventually(lambda: len(seen) == 610)
            await asyncio.sleep(0.3)
            await writer.append("c", [cancelled("c")])
            await eventually(lambda: len(seen) == 611)
        assert [r.position for r in seen] == list(range(1, 612))

    async def test_what_is_followed_is_as_it_stands_in_the_log_also_what_nobody_can_read(self, log):
        store = await log.open()
        event = cancelled("a")
        await store.append("a", [event])
        await log.inject("ev.b.Unknown", b'{"type":"Unknown"}')
        seen: list = []
        async with collecting(ungrouped(store.follow()), seen):
            await eventually(lambda: len(seen) == 2)
        assert [(u.position, u.stream_id, u.subject) for u in seen] == [
            (1, "a", b"ev.a.RunCancelled"),
            (2, "b", b"ev.b.Unknown"),
        ]
        assert seen[0].recorded().event == event
        with pytest.raises(UndecodableEvent):
            seen[1].recorded()

    async def test_following_survives_interruptions(self, log):
        store, writer = await log.open(), await log.open()
        seen: list = []
        async with collecting(ungrouped(store.follow()), seen):
            for number in range(1, 4):
                await writer.append("a", [cancelled("a"), started("a")])
                await log.interrupt()
                await writer.append("a", [cancelled("a")])
                await eventually(lambda expected=3 * number: len(seen) == expected)
        assert [r.position for r in seen] == list(range(1, 10))

    async def test_a_subscription_without_a_past_starts_now(self, log):
        store = await log.open()
        await store.append("a", [cancelled("a")])
        subscription = store.subscribe(after=None)
        coming = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.3)
        await store.append("b", [cancelled("b")])
        assert (await asyncio.wait_for(coming, 10)).position == 2
        await subscription.aclose()

    async def test_a_subscription_without_its_own_brings_what_others_append(self, log):
        store, writer = await log.open(), await log.open()
        seen: list = []
        async with collecting(store.subscribe(own=False), seen):
            for _ in range(3):
                await store.append("a", [cancelled("a")])
                await writer.append("b", [cancelled("b")])
            await eventually(lambda: sum(r.event.run_id == "b" for r in seen) == 3)
        positions = [r.position for r in seen]
        assert positions == sorted(set(positions))
        assert {2, 4, 6} <= set(positions)

    async def test_a_subscription_and_appends_survive_interruptions(self, log):
        store, writer = await log.open(), await log.open()
        seen: list = []
        written: list[Event] = []

        async def write() -> None:
            while True:
                event = cancelled("a")
                await writer.append("a", [event])
                written.append(event)
                await asyncio.sleep(0.005)

        async with collecting(store.subscribe(), seen):
            writing = asyncio.create_task(write())
            for _ in range(3):
                await asyncio.sleep(0.4)
                await log.interrupt()
            await asyncio.sleep(0.4)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            last = await store.last_position()
            await eventually(lambda: bool(seen) and seen[-1].position >= last)
        assert [r.position for r in seen] == list(range(1, last + 1))
        ids = [r.event.id for r in seen]
        assert ids[: len(written)] == [event.id for event in written]
        assert last - len(written) in (0, 1)
