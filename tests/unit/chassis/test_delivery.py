"""The worker pool, with a fake source: what cannot be brought about with a real queue."""

import asyncio

import pytest

from ridges.chassis.clock import SystemClock
from ridges.chassis.delivery import HandlerPool, retry_delay_s
from ridges.chassis.ports import DeliveryPolicy, GiveBack, LeftToOthers
from ridges.contracts.codec import encode
from ridges.contracts.events import RunCancelled

clock = SystemClock()


@pytest.mark.parametrize(
    ("delays", "deliveries", "delay"),
    [((1.0, 5.0), 1, 1.0), ((1.0, 5.0), 2, 5.0), ((1.0, 5.0), 9, 5.0), ((), 1, 0.0)],
)
def test_the_last_delay_repeats(delays, deliveries, delay):
    assert retry_delay_s(DeliveryPolicy(retry_delays_s=delays), deliveries) == delay


class FakeDelivery:
    subject, position, deliveries = "ev.a.RunCancelled", 1, 1
    content = encode(RunCancelled(id="1", run_id="a", time=clock.now(), reason="x"))

    def __init__(self, told, *, broken=False):
        self._told, self._broken = told, broken

    async def done(self):
        if self._broken:
            raise ConnectionError("the log is away")
        self._told.append("done")

    async def again(self, delay_s):
        self._told.append("again")

    async def heartbeat(self):
        self._told.append("heartbeat")

    async def park(self, error):
        self._told.append("parked")


async def test_a_handler_that_lets_a_cancellation_escape_has_failed():
    told = []
    coming = asyncio.Queue()
    coming.put_nowait(FakeDelivery(told))
    coming.put_nowait(FakeDelivery(told))
    handled = []

    async def handle(_recorded):
        handled.append(1)
        if len(handled) == 1:
            raise asyncio.CancelledError

    pool = HandlerPool("q", handle, DeliveryPolicy())
    pool.start([coming.get])
    async with asyncio.timeout(5):
        while told != ["again", "done"]:  # noqa: ASYNC110 - the fake has no event to wait for
            await asyncio.sleep(0.01)
    await pool.drain(1)


async def test_a_worker_outlives_an_acknowledgement_that_fails(monkeypatch):
    monkeypatch.setattr("ridges.chassis.delivery.UNSETTLED_PAUSE_S", 0.01)
    told = []
    coming = asyncio.Queue()
    coming.put_nowait(FakeDelivery(told, broken=True))
    coming.put_nowait(FakeDelivery(told))

    async def handle(_recorded):
        """Handles."""

    pool = HandlerPool("q", handle, DeliveryPolicy())
    pool.start([coming.get])
    async with asyncio.timeout(5):
        while told != ["done"]:  # noqa: ASYNC110 - the fake has no event to wait for
            await asyncio.sleep(0.01)
    await pool.drain(1)


async def test_a_message_that_is_given_back_comes_again_at_once_and_has_not_failed():
    told = []
    coming = asyncio.Queue()
    coming.put_nowait(FakeDelivery(told))
    coming.put_nowait(FakeDelivery(told))
    handled = []

    async def handle(_recorded):
        handled.append(1)
        if len(handled) == 1:
            raise GiveBack

    pool = HandlerPool("q", handle, DeliveryPolicy(max_deliver=1))
    pool.start([coming.get])
    async with asyncio.timeout(5):
        while told != ["again", "done"]:  # noqa: ASYNC110 - the fake has no event to wait for
            await asyncio.sleep(0.01)
    await pool.drain(1)


async def test_a_message_that_is_left_to_others_is_not_settled():
    told = []
    coming = asyncio.Queue()
    coming.put_nowait(FakeDelivery(told))
    second = FakeDelivery(told)
    second.position += 1
    coming.put_nowait(second)
    handled = []

    async def handle(recorded):
        handled.append(recorded.position)
        if len(handled) == 1:
            raise LeftToOthers

    pool = HandlerPool("q", handle, DeliveryPolicy(max_deliver=1))
    pool.start([coming.get])
    async with asyncio.timeout(5):
        while told != ["done"]:  # noqa: ASYNC110 - the fake has no event to wait for
            await asyncio.sleep(0.01)
    await pool.drain(1)
    assert len(handled) == 2


async def test_only_one_worker_asks_and_as_many_work_as_there_is_work_for():
    told, at_work, most = [], [], []
    coming = asyncio.Queue()
    asking = []

    async def fetch():
        asking.append(1)
        most.append(len(asking))
        try:
            return await coming.get()
        finally:
            asking.pop()

    async def handle(_recorded):
        at_work.append(1)
        await asyncio.sleep(0.05)

    pool = HandlerPool("q", handle, DeliveryPolicy(concurrency=3))
    pool.start([fetch, fetch, fetch])
    for position in range(1, 8):
        delivery = FakeDelivery(told)
        delivery.position = position
        coming.put_nowait(delivery)
    await asyncio.sleep(0.03)
    assert len(at_work) == 3
    async with asyncio.timeout(5):
        while told != ["done"] * 7:  # noqa: ASYNC110 - the fake has no event to wait for
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    assert (max(most), len(asking)) == (1, 1)
    await pool.drain(1)
