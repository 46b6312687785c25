"""The event store in memory: the same semantics as the real one, for tests and for reading exported logs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from ridges.chassis.delivery import AT_ONCE, HandlerPool
from ridges.chassis.identity import NAME, encoded
from ridges.chassis.ports import (
    ANY,
    DEFAULT_POLICY,
    Clock,
    DeliveryPolicy,
    EventRefused,
    Handler,
    LastPosition,
    Queue,
    Recorded,
    Undecoded,
    WrongPosition,
)
from ridges.contracts.codec import decode
from ridges.contracts.events import Event, type_name
from ridges.contracts.parked import Parked
from ridges.contracts.subjects import event_subject

PARKED_SHOWN = 1_000


class _Stored(msgspec.Struct, frozen=True):
    position: int
    subject: str
    content: bytes
    event_id: str | None

    def recorded(self) -> Recorded:
        return Recorded(position=self.position, event=decode(self.content))


class MemoryEventStore:
    """Holds encoded events, so that what comes back went through the codec as it does in the real log."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._log: list[_Stored] = []
        self._by_id: dict[str, _Stored] = {}
        self._grown = asyncio.Condition()
        self._queues: dict[str, _MemoryQueue] = {}
        self._parked: list[Parked] = []

    async def append(self, stream_id: str, events: Sequence[Event], expected: LastPosition | None = ANY) -> int:
        contents = encoded(stream_id, events)
        for event in events:
            self._refuse_taken_id(event)
        missing = [
            (event, content) for event, content in zip(events, contents, strict=True) if event.id not in self._by_id
        ]
        if missing and expected is not None:
            self._check(stream_id, expected)
        for event, content in missing:
            await self.inject(event_subject(stream_id, type_name(event)), content, event.id)
        return max(self._by_id[event.id].position for event in events)

    async def inject(self, subject: str, content: bytes, event_id: str | None = None) -> int:
        """Put any message into the log, as every client that may publish could. For tests of bad messages."""
        stored = _Stored(len(self._log) + 1, subject, content, event_id)
        self._log.append(stored)
        if event_id is not None:
            self._by_id[event_id] = stored
        async with self._grown:
            self._grown.notify_all()
        return stored.position

    async def read_run(self, stream_id: str) -> list[Recorded]:
        return [stored.recorded() for stored in self._log if stored.subject.startswith(f"ev.{stream_id}.")]

    async def read_all(self, after: int = 0, types: Sequence[type[Event]] = ()) -> AsyncIterator[Recorded]:
        for stored in self._log[after:]:
            if _has_type(stored, types):
                yield stored.recorded()

    async def subscribe(
        self,
        after: int | None = 0,
        types: Sequence[type[Event]] = (),
        *,
        own: bool = True,  # noqa: ARG002 - it brings all
    ) -> AsyncIterator[Recorded]:
        position = len(self._log) if after is None else after
        while True:
            await self._wait_beyond(position)
            stored = self._log[position]
            position = stored.position
            if _has_type(stored, types):
                yield stored.recorded()

    async def follow(self, after: int = 0) -> AsyncIterator[list[Undecoded]]:
        while True:
            await self._wait_beyond(after)
            group = [Undecoded(s.position, s.subject.encode(), s.content) for s in self._log[after:]]
            after = group[-1].position
            yield group

    async def last_position(self) -> int:
        return len(self._log)

    @asynccontextmanager
    async def consume(
        self, queue: str, types: Sequence[type[Event]], handler: Handler, policy: DeliveryPolicy = DEFAULT_POLICY
    ) -> AsyncIterator[Queue]:
        if not NAME.fullmatch(queue):
            raise EventRefused(f"{queue!r} cannot name a queue; use letters, digits, '-' and '_'")
        shared = self._queues.setdefault(queue, _MemoryQueue(self, queue))
        shared.configure(types, policy)
        pool = HandlerPool(queue, handler, policy)
        pool.start([shared.fetch] * policy.concurrency)
        try:
            yield pool
        finally:
            await pool.drain(0)

    async def abandon(self, queue: str, types: Sequence[type[Event]], policy: DeliveryPolicy = DEFAULT_POLICY) -> None:
        """Take the queue's next message and never settle it, as a consumer does that is killed. For tests."""
        shared = self._queues.setdefault(queue, _MemoryQueue(self, queue))
        shared.configure(types, policy)
        while await shared.fetch() is None:
            """Wait on."""

    async def parked(self) -> list[Parked]:
        return self._parked[-PARKED_SHOWN:]

    async def ping(self) -> None:
        """Always there."""

    def message(self, position: int) -> _Stored:
        return self._log[position - 1]

    async def wait_beyond(self, position: int, timeout_s: float | None) -> None:
        """Return when something stands after the position, or after the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_beyond(position)
        except TimeoutError:
            return

    def keep_parked(self, parked: Parked) -> None:
        self._parked.append(parked)

    @property
    def clock(self) -> Clock:
        return self._clock

    async def _wait_beyond(self, position: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._log) > position)

    def _check(self, stream_id: str, expected: LastPosition) -> None:
        of_type = type_name(expected.of_type) if expected.of_type else None
        actual = 0
        for stored in self._log:
            stream, event_type = stored.subject.split(".")[1:3]
            if stream == stream_id and of_type in (None, event_type):
                actual = stored.position
        if actual != expected.position:
            raise WrongPosition(stream_id, expected, actual)

    def _refuse_taken_id(self, event: Event) -> None:
        known = self._by_id.get(event.id)
        if known is not None and known.subject != event_subject(event.run_id, type_name(event)):
            raise EventRefused(
                f"{event.run_id}: event id {event.id} is taken by another event at position {known.position}; "
                "ids must be unique"
            )


class _MemoryQueue:
    """The shared state of one durable queue name."""

    def __init__(self, store: MemoryEventStore, name: str) -> None:
        self._store, self._name = store, name
        self._types: Sequence[type[Event]] = ()
        self._policy = DeliveryPolicy()
        self._next = 1
        self._deliveries: dict[int, int] = {}
        self._due: dict[int, float] = {}
        """Unsettled positions and when they are to be delivered again."""
        self._changed = asyncio.Event()

    def configure(self, types: Sequence[type[Event]], policy: DeliveryPolicy) -> None:
        self._types, self._policy = tuple(types), policy

    async def fetch(self) -> "_MemoryDelivery | None":
        now = asyncio.get_running_loop().time()
        due = min((p for p, at in self._due.items() if at <= now), default=None)
        if due is not None:
            return self._deliver(due)
        while self._next <= await self._store.last_position():
            position = self._next
            self._next += 1
            if _has_type(self._store.message(position), self._types):
                return self._deliver(position)
        wake_at = min(self._due.values(), default=None)
        await self._wait_for_more(None if wake_at is None else max(0.0, wake_at - now))
        return None

    async def _wait_for_more(self, timeout_s: float | None) -> None:
        self._changed.clear()
        grown = asyncio.ensure_future(self._store.wait_beyond(self._next - 1, timeout_s))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((grown, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            grown.cancel()
            changed.cancel()

    def _deliver(self, position: int) -> "_MemoryDelivery":
        self._deliveries[position] = self._deliveries.get(position, 0) + 1
        self.put_off(position)
        stored = self._store.message(position)
        return _MemoryDelivery(self, stored.subject, position, stored.content, self._deliveries[position])

    def put_off(self, position: int, delay_s: float | None = None) -> None:
        """Deliver it again after the delay; without one, after the acknowledgement time."""
        delay_s = self._policy.ack_wait_s if delay_s is None else delay_s
        self._due[position] = asyncio.get_running_loop().time() + delay_s
        self._changed.set()

    def settle(self, position: int) -> None:
        self._due.pop(position, None)
        self._deliveries.pop(position, None)

    def unsettled(self, position: int, deliveries: int) -> bool:
        return self._deliveries.get(position) == deliveries

    def park(self, delivery: "_MemoryDelivery", error: str) -> None:
        self._store.keep_parked(
            Parked(
                queue=self._name,
                position=delivery.position,
                subject=delivery.subject,
                error=error,
                deliveries=delivery.deliveries,
                parked_at=self._store.clock.now(),
                content=delivery.content.decode(errors="replace"),
            )
        )
        self.settle(delivery.position)


class _MemoryDelivery:
    def __init__(self, queue: _MemoryQueue, subject: str, position: int, content: bytes, deliveries: int) -> None:
        self._queue = queue
        self.subject, self.position, self.content, self.deliveries = subject, position, content, deliveries

    async def done(self) -> None:
        self._queue.settle(self.position)

    async def again(self, delay_s: float = AT_ONCE) -> None:
        if self._queue.unsettled(self.position, self.deliveries):
            self._queue.put_off(self.position, delay_s)

    async def heartbeat(self) -> None:
        if self._queue.unsettled(self.position, self.deliveries):
            self._queue.put_off(self.position)

    async def park(self, error: str) -> None:
        self._queue.park(self, error)


def _has_type(stored: _Stored, types: Sequence[type[Event]]) -> bool:
    return not types or stored.subject.rpartition(".")[2] in {type_name(cls) for cls in types}
