"""What every durable queue of an event store must do. Inherited by one class for each adapter (fixture ``log``)."""

import asyncio
import time

import pytest
from conformance.event_store_suite import cancelled, evaluating, eventually, started

from ridges.chassis.ports import DeliveryPolicy, EventRefused, LeftToOthers
from ridges.contracts.events import AgentStarted, RunCancelled

QUICK = DeliveryPolicy(ack_wait_s=1.0, max_deliver=3, retry_delays_s=(0.1, 0.3))


class QueueSuite:
    """``log.abandon(queue, types, policy)`` takes a message and dies with it."""

    async def test_a_queue_gets_each_event_of_its_types_once_from_the_beginning(self, log):
        store = await log.open()
        await store.append("a", [cancelled("a"), started("a"), evaluating("a")])
        seen = []

        async def handle(recorded):
            seen.append(recorded.position)

        async with store.consume("q", [RunCancelled, AgentStarted], handle):
            await eventually(lambda: len(seen) == 2)
            await store.append("b", [evaluating("b"), cancelled("b")])
            await eventually(lambda: len(seen) == 3)
            await asyncio.sleep(0.2)
        assert seen == [1, 2, 5]

    async def test_a_queue_goes_on_where_it_was(self, log):
        store = await log.open()
        seen = []

        async def handle(recorded):
            seen.append(recorded.position)

        await store.append("a", [cancelled("a")])
        async with store.consume("q", [RunCancelled], handle):
            await eventually(lambda: seen == [1])
        await store.append("a", [cancelled("a")])
        async with (await log.open()).consume("q", [RunCancelled], handle):
            await eventually(lambda: seen == [1, 2])

    async def test_two_queues_each_get_everything(self, log):
        store = await log.open()
        seen: dict[str, list[int]] = {"one": [], "two": []}

        async def one(recorded):
            seen["one"].append(recorded.position)

        async def two(recorded):
            seen["two"].append(recorded.position)

        async with store.consume("one", [RunCancelled], one), store.consume("two", [RunCancelled], two):
            await store.append("a", [cancelled("a"), cancelled("a")])
            await eventually(lambda: seen == {"one": [1, 2], "two": [1, 2]})

    async def test_the_handler_may_append(self, log):
        store = await log.open()
        done = asyncio.Event()

        async def start(recorded):
            await store.append("a", [started("a")])

        async def note(recorded):
            done.set()

        async with store.consume("one", [RunCancelled], start), store.consume("two", [AgentStarted], note):
            await store.append("a", [cancelled("a")])
            await asyncio.wait_for(done.wait(), 10)

    async def test_a_failed_message_comes_again_after_its_delay_and_others_go_on(self, log):
        store = await log.open()
        tries: list[tuple[int, float]] = []

        async def handle(recorded):
            tries.append((recorded.position, time.monotonic()))
            if recorded.position == 1 and len([p for p, _ in tries if p == 1]) < 3:
                raise RuntimeError("not yet")

        await store.append("a", [cancelled("a"), cancelled("a")])
        async with store.consume("q", [RunCancelled], handle, QUICK):
            await eventually(lambda: len(tries) == 4)
        assert [p for p, _ in tries] == [1, 2, 1, 1]
        first, second, third = (at for p, at in tries if p == 1)
        assert second - first >= 0.09
        assert third - second >= 0.29
        assert await store.parked() == []

    async def test_a_message_that_always_fails_is_parked(self, log):
        store = await log.open()
        tries = []

        async def handle(recorded):
            tries.append(recorded.position)
            if recorded.event.run_id == "bad":
                raise ValueError("cannot handle this")

        await store.append("bad", [cancelled("bad")])
        await store.append("good", [cancelled("good")])
        async with store.consume("q", [RunCancelled], handle, QUICK):
            await eventually(lambda: tries.count(1) == 3)
            await asyncio.sleep(1.3)
        assert tries.count(1) == 3
        assert tries.count(2) == 1
        [parked] = await store.parked()
        assert (parked.queue, parked.position, parked.deliveries) == ("q", 1, 3)
        assert parked.subject == "ev.bad.RunCancelled"
        assert parked.error == "ValueError: cannot handle this"
        assert '"run_id":"bad"' in parked.content

    @pytest.mark.parametrize("content", [b"no json", b"", b'{"type":"Unheard"}', b"\xff\xfe\x00"])
    async def test_an_undecodable_message_is_parked_at_once(self, log, content):
        store = await log.open()
        await log.inject("ev.a.RunCancelled", content)
        await store.append("b", [cancelled("b")])
        seen = []

        async def handle(recorded):
            seen.append(recorded.position)

        async with store.consume("q", [RunCancelled], handle, QUICK):
            await eventually(lambda: seen == [2])
            await asyncio.sleep(0.1)
        [parked] = await store.parked()
        assert (parked.position, parked.deliveries) == (1, 1)
        assert parked.error
        assert parked.content == content.decode(errors="replace")

    async def test_a_message_whose_consumers_die_is_delivered_again_and_at_last_parked(self, log):
        store = await log.open()
        await store.append("a", [cancelled("a")])
        seen = []

        async def handle(recorded):
            seen.append(recorded.position)

        await log.abandon("q", [RunCancelled], QUICK)
        async with store.consume("q", [RunCancelled], handle, QUICK):
            await eventually(lambda: seen == [1])
        await store.append("deadly", [cancelled("deadly")])
        for _ in range(QUICK.max_deliver):
            await log.abandon("q", [RunCancelled], QUICK)
        async with store.consume("q", [RunCancelled], handle, QUICK):
            await asyncio.sleep(2)
        assert seen == [1]
        [parked] = await store.parked()
        assert parked.subject == "ev.deadly.RunCancelled"
        assert "lost" in parked.error

    async def test_heartbeats_keep_the_message_of_a_long_handler(self, log):
        store, other = await log.open(), await log.open()
        begun, ended = [], []

        async def handle(recorded):
            begun.append(recorded.position)
            await asyncio.sleep(2.5)
            ended.append(recorded.position)

        await store.append("a", [cancelled("a")])
        async with store.consume("q", [RunCancelled], handle, QUICK), other.consume("q", [RunCancelled], handle, QUICK):
            await eventually(lambda: ended == [1])
            await asyncio.sleep(0.3)
        assert begun == [1]

    async def test_a_long_handler_is_not_doubled_by_a_long_interruption(self, log):
        """The log could not hear heartbeats for longer than the acknowledgement time, and delivers again."""
        store = await log.open()
        begun, ended = [], []

        async def handle(recorded):
            begun.append(recorded.position)
            await asyncio.sleep(4)
            ended.append(recorded.position)

        await store.append("a", [cancelled("a")])
        policy = DeliveryPolicy(concurrency=3, ack_wait_s=1.0)
        async with store.consume("q", [RunCancelled], handle, policy):
            await asyncio.sleep(0.5)
            await log.interrupt(outage_s=1.8)
            await eventually(lambda: ended == [1])
            await asyncio.sleep(1.5)
        assert begun == [1]
        async with store.consume("q", [RunCancelled], handle, policy):
            await asyncio.sleep(1.5)
        assert begun == [1], "it was acknowledged"

    async def test_never_more_handlers_than_allowed(self, log):
        store = await log.open()
        running, most, ended = 0, 0, 0

        async def handle(recorded):
            nonlocal running, most, ended
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.1)
            running -= 1
            ended += 1

        await store.append("a", [cancelled("a") for _ in range(12)])
        async with store.consume("q", [RunCancelled], handle, DeliveryPolicy(concurrency=3)):
            await eventually(lambda: ended == 12)
        assert most == 3

    async def test_a_busy_consumer_holds_no_message_that_another_could_handle(self, log):
        store, other = await log.open(), await log.open()
        release = asyncio.Event()
        busy, free = [], []

        async def block(recorded):
            busy.append(recorded.position)
            await release.wait()

        async def handle(recorded):
            free.append(recorded.position)

        async with store.consume("q", [RunCancelled], block):
            await store.append("a", [cancelled("a")])
            await eventually(lambda: busy == [1])
            await store.append("a", [cancelled("a") for _ in range(10)])
            async with other.consume("q", [RunCancelled], handle):
                await eventually(lambda: len(free) == 10, timeout_s=5)
                release.set()
        assert busy == [1]

    async def test_drain_waits_for_handlers_and_takes_nothing_more(self, log):
        store = await log.open()
        begun, ended = [], []

        async def handle(recorded):
            begun.append(recorded.position)
            await asyncio.sleep(0.5)
            ended.append(recorded.position)

        await store.append("a", [cancelled("a"), cancelled("a")])
        async with store.consume("q", [RunCancelled], handle) as queue:
            await eventually(lambda: begun == [1])
            await queue.drain(5)
            assert ended == [1]
            await asyncio.sleep(0.3)
        assert begun == [1]

    async def test_after_stop_fetching_handlers_go_on_and_others_get_the_rest(self, log):
        store, other = await log.open(), await log.open()
        begun, ended, rest = [], [], []

        async def handle(recorded):
            begun.append(recorded.position)
            await asyncio.sleep(0.3)
            ended.append(recorded.position)

        async def take(recorded):
            rest.append(recorded.position)

        async with store.consume("q", [RunCancelled], handle) as queue:
            await store.append("a", [cancelled("a")])
            await eventually(lambda: begun == [1])
            queue.stop_fetching()
            await store.append("a", [cancelled("a"), cancelled("a")])
            async with other.consume("q", [RunCancelled], take):
                await eventually(lambda: rest == [2, 3] and ended == [1], timeout_s=5)
        assert begun == [1]

    async def test_an_idle_consumer_that_stopped_takes_nothing_with_it(self, log):
        store, other = await log.open(), await log.open()
        taken, rest = [], []

        async def handle(recorded):
            taken.append(recorded.position)

        async def take(recorded):
            rest.append(recorded.position)

        async with store.consume("q", [RunCancelled], handle, DeliveryPolicy(concurrency=4)) as queue:
            await asyncio.sleep(0.2)
            await queue.drain(1)
            await other.append("a", [cancelled("a") for _ in range(4)])
            async with other.consume("q", [RunCancelled], take):
                await eventually(lambda: rest == [1, 2, 3, 4], timeout_s=3)
        assert taken == []

    async def test_a_message_that_is_left_to_others_stays_theirs(self, log):
        """Settled where it was overtaken, it would be lost with the consumer that has it."""
        store, other = await log.open(), await log.open()
        policy = DeliveryPolicy(ack_wait_s=1.0)
        begun, taken_over = asyncio.Event(), asyncio.Event()
        handled = []

        async def overtaken(_recorded):
            begun.set()
            await taken_over.wait()
            raise LeftToOthers

        async def handle(recorded):
            handled.append(recorded.position)

        await store.append("a", [cancelled("a")])
        async with store.consume("q", [RunCancelled], overtaken, policy) as queue:
            await begun.wait()
            queue.stop_fetching()
            taken_over.set()
            await queue.drain(5)
        async with other.consume("q", [RunCancelled], handle, policy):
            await eventually(lambda: handled == [1], timeout_s=10)

    async def test_after_the_drain_timeout_handlers_are_cancelled_and_their_messages_come_again_at_once(self, log):
        store, other = await log.open(), await log.open()
        begun, again = [], []

        async def hang(recorded):
            begun.append(recorded.position)
            await asyncio.sleep(60)

        async def handle(recorded):
            again.append(recorded.position)

        await store.append("a", [cancelled("a")])
        async with store.consume("q", [RunCancelled], hang) as queue:
            await eventually(lambda: begun == [1])
            await queue.drain(0.1)
            async with other.consume("q", [RunCancelled], handle):
                await eventually(lambda: again == [1], timeout_s=5)

    async def test_a_queue_survives_interruptions(self, log):
        store, writer = await log.open(), await log.open()
        seen = []

        async def handle(recorded):
            seen.append(recorded.position)

        async with store.consume("q", [RunCancelled], handle, DeliveryPolicy(concurrency=2)):
            for number in range(3):
                for _ in range(5):
                    await writer.append("a", [cancelled("a")])
                await log.interrupt()
                wanted = 5 * (number + 1)
                await eventually(lambda wanted=wanted: len(set(seen)) == wanted)
        assert set(seen) == set(range(1, 16))

    async def test_a_queue_name_that_is_no_name_is_refused(self, log):
        store = await log.open()

        async def handle(recorded):
            """Never called."""

        with pytest.raises(EventRefused):
            async with store.consume("a.b", [RunCancelled], handle):
                pass
