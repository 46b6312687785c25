"""What every durable queue does with a delivered message: decode, handle, acknowledge, try again later, park."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import structlog

from ridges.chassis.ports import DeliveryPolicy, GiveBack, Handler, LeftToOthers, Recorded
from ridges.contracts.codec import UndecodableEvent, decode

log = structlog.get_logger(__name__)

AT_ONCE = 0.0
UNSETTLED_PAUSE_S = 1.0


class Delivery(Protocol):
    """One message in the hands of this consumer until it is settled by ``done``, ``again`` or ``park``."""

    subject: str
    position: int
    content: bytes
    deliveries: int
    """Counts up from 1."""

    async def done(self) -> None:
        """Never deliver it to this queue again."""

    async def again(self, delay_s: float) -> None:
        """Deliver it again, not before the delay is over."""

    async def heartbeat(self) -> None:
        """The handler is at work: start the acknowledgement time anew."""

    async def park(self, error: str) -> None:
        """Put it aside with the error, durably, then never deliver it again."""


Fetch = Callable[[], Awaitable[Delivery | None]]
"""Waits for a message; None = none came in a while, ask again. Cancelling it gives back what may have arrived."""


class HandlerPool:
    """A running queue: up to ``concurrency`` workers. One is free and asks for a message; when it got one, the next."""

    def __init__(self, queue: str, handler: Handler, policy: DeliveryPolicy) -> None:
        self._queue, self._handler, self._policy = queue, handler, policy
        self._workers: set[asyncio.Task[None]] = set()
        self._unused: list[Fetch] = []
        self._asking = False
        self._stopping = asyncio.Event()
        self._in_hand: dict[int, Delivery] = {}
        """By position, the newest delivery of each message that is being handled."""

    def start(self, sources: list[Fetch]) -> None:
        """Each worker has a source of its own; no more workers than there is work for, and one that asks."""
        self._unused = list(sources)
        self._ask_for_more()

    def stop_fetching(self) -> None:
        self._stopping.set()

    async def drain(self, timeout_s: float) -> None:
        self.stop_fetching()
        if self._workers:
            _, unfinished = await asyncio.wait(self._workers, timeout=timeout_s)
            for worker in unfinished:
                worker.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def _ask_for_more(self) -> None:
        if not self._asking and self._unused and not self._stopping.is_set():
            self._asking = True
            worker = asyncio.create_task(self._work(self._unused.pop()), name=self._queue)
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self, fetch: Fetch) -> None:
        """Comes with its place among those who ask; ends when another one asks already."""
        while not self._stopping.is_set():
            try:
                try:
                    delivery = await self._next(fetch)
                finally:
                    self._asking = False
                if delivery is not None:
                    self._ask_for_more()
                    await self._handle(delivery)
            except Exception as error:  # noqa: BLE001 - the message comes again; the worker must live to see it
                log.warning("a message could not be settled, it will come again", queue=self._queue, error=repr(error))
                await asyncio.sleep(UNSETTLED_PAUSE_S)
            if self._asking:
                break
            self._asking = True
        self._unused.append(fetch)

    async def _next(self, fetch: Fetch) -> Delivery | None:
        """The next message, or None when the queue stops."""
        fetching = asyncio.ensure_future(fetch())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((fetching, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not fetching.done():
                fetching.cancel()
                with suppress(asyncio.CancelledError):
                    await fetching
        return None if fetching.cancelled() else fetching.result()

    async def _handle(self, delivery: Delivery) -> None:
        bound = log.bind(queue=self._queue, subject=delivery.subject, position=delivery.position)
        if delivery.position in self._in_hand:
            bound.info("delivered again while it is being handled: the log was away for long")
            self._in_hand[delivery.position] = delivery
            await delivery.heartbeat()
            return
        if delivery.deliveries > self._policy.max_deliver:
            await delivery.park(f"{self._policy.max_deliver} consumers were lost while they handled it")
            bound.error("parked", deliveries=delivery.deliveries)
            return
        try:
            event = decode(delivery.content)
        except UndecodableEvent as error:
            await delivery.park(str(error))
            bound.error("parked", error=str(error))
            return
        self._in_hand[delivery.position] = delivery
        try:
            await self._handle_event(Recorded(position=delivery.position, event=event), bound.bind(run_id=event.run_id))
        finally:
            del self._in_hand[delivery.position]

    async def _handle_event(self, recorded: Recorded, bound: structlog.stdlib.BoundLogger) -> None:
        """Run the handler and settle the newest delivery of its message."""
        beating = asyncio.create_task(self._beat(recorded.position))
        failure: BaseException | None = None
        given_back = False
        try:
            await self._handler(recorded)
        except LeftToOthers:
            bound.info("left to others, who have the message by now")
            return
        except GiveBack:
            given_back = True
        except asyncio.CancelledError as error:
            worker = asyncio.current_task()
            if worker is not None and worker.cancelling():
                await self._in_hand[recorded.position].again(AT_ONCE)
                raise
            failure = error  # the handler let a cancellation of its own escape
        except Exception as error:  # noqa: BLE001 - whatever a handler raises, the message must be settled
            failure = error
        finally:
            beating.cancel()
        delivery = self._in_hand[recorded.position]
        if given_back:
            await delivery.again(AT_ONCE)
        elif failure is None:
            await delivery.done()
        else:
            await self._failed(delivery, failure, bound)

    async def _beat(self, position: int) -> None:
        while True:
            await asyncio.sleep(self._policy.ack_wait_s / 3)
            try:
                await self._in_hand[position].heartbeat()
            except Exception as error:  # noqa: BLE001 - the next one may get through
                log.debug("a heartbeat did not get through", queue=self._queue, error=repr(error))

    async def _failed(self, delivery: Delivery, error: BaseException, bound: structlog.stdlib.BoundLogger) -> None:
        told = f"{type(error).__name__}: {error}"
        if delivery.deliveries >= self._policy.max_deliver:
            await delivery.park(told)
            bound.error("parked", error=told, deliveries=delivery.deliveries, exc_info=error)
            return
        delay_s = retry_delay_s(self._policy, delivery.deliveries)
        bound.warning("handler failed, will try again", error=told, delay_s=delay_s, exc_info=error)
        await delivery.again(delay_s)


def retry_delay_s(policy: DeliveryPolicy, deliveries: int) -> float:
    """How long to wait after the n-th failed delivery."""
    delays = policy.retry_delays_s
    return delays[min(deliveries, len(delays)) - 1] if delays else AT_ONCE
