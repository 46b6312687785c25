"""The event store and the blobs as a service sees them through a bad network, and as a killed one leaves them."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import msgspec
from simulation.virtual_loop import LIFE, Life

from ridges.chassis.delivery import HandlerPool
from ridges.chassis.memory_store import MemoryEventStore, _has_type, _MemoryDelivery, _MemoryQueue
from ridges.chassis.ports import DEFAULT_POLICY, EventRefused, EventStoreUnavailable, LeftToOthers, WrongPosition
from ridges.contracts import events as ev

PATIENCE_S = 8.0
"""How long the real store retries by itself before it gives up."""
LATE_S = 6.0
SABOTAGES = {
    "no-optimistic-concurrency": "no overspend",
    "acknowledged-too-early": "acknowledged",
    "at-most-once": "every run ends",
    "settled-by-the-overtaken": "every run ends",
    "tokens-miscounted": "books",
    "poison-is-dropped": "poison",
}
"""Ways to break the system on purpose, and the invariant that must find it."""


class Weather(msgspec.Struct, frozen=True):
    """How bad the network is: chances per operation, seconds."""

    delay_s: float = 0.005
    long_delay: float = 0.01
    lost_request: float = 0.0
    lost_answer: float = 0.0
    late_request: float = 0.0
    """The service is told that nothing came; the request arrives later all the same."""
    lost_read: float = 0.0
    twice: float = 0.0
    """A message is delivered to somebody else too, while it is being handled."""
    lost_settlement: float = 0.0
    blob_fails: float = 0.0
    poison: float = 0.0
    """What comes of a queue is no event, but bytes that nobody can read; the real message comes later."""


FAIR = Weather()
ROUGH = Weather(
    delay_s=0.02,
    long_delay=0.03,
    lost_request=0.02,
    lost_answer=0.03,
    late_request=0.01,
    lost_read=0.01,
    twice=0.08,
    lost_settlement=0.05,
    blob_fails=0.01,
    poison=0.02,
)
STORMY = Weather(
    delay_s=0.05,
    long_delay=0.08,
    lost_request=0.08,
    lost_answer=0.1,
    late_request=0.05,
    lost_read=0.05,
    twice=0.2,
    lost_settlement=0.15,
    blob_fails=0.04,
    poison=0.05,
)


POISONS = (
    b"",
    b"\xff\x00 no JSON",
    b'{"type":"NobodyKnowsIt","version":1,"id":"0190a0b0-0000-7000-8000-000000000000","run_id":"r"}',
    b'{"type":"PatchProduced","version":99,"id":"0190a0b0-0000-7000-8000-000000000000","run_id":"r"}',
    b'{"type":"RunRequested","version":1,"run_id":["not","text"]}',
)


class SharedLog(MemoryEventStore):
    """Wakes only those queues for which something came."""

    def __init__(self, clock) -> None:
        super().__init__(clock)
        self.queues: dict[str, ShuffledQueue] = {}

    async def inject(self, subject, content, event_id=None):
        position = await super().inject(subject, content, event_id)
        for queue in self.queues.values():
            queue.look()
        return position


class ShuffledQueue(_MemoryQueue):
    """Hands out any message that is due, not the oldest: runs overtake each other."""

    def __init__(self, memory: SharedLog, name: str, dice: random.Random) -> None:
        super().__init__(memory, name)
        self._dice = dice
        self.poison: dict[int, bytes] = {}
        """What was put among the messages; their positions are negative."""

    def configure(self, types, policy):
        super().configure(types, policy)
        self.look()

    def look(self) -> None:
        """Take in what is new in the log."""
        for stored in self._store._log[self._next - 1 :]:
            if _has_type(stored, self._types):
                self._due[stored.position] = asyncio.get_running_loop().time()
                self._changed.set()
        self._next = len(self._store._log) + 1

    def spoil(self) -> None:
        """Put something among the messages that nobody can read."""
        position = -1 - len(self.poison)
        self.poison[position] = self._dice.choice(POISONS)
        self._due[position] = asyncio.get_running_loop().time()
        self._changed.set()

    @property
    def undigested(self) -> list[int]:
        """Poison that still goes round."""
        return [position for position in self._due if position < 0]

    def _deliver(self, position):
        if position not in self.poison:
            return super()._deliver(position)
        self._deliveries[position] = self._deliveries.get(position, 0) + 1
        self.put_off(position)
        return _MemoryDelivery(self, "ev.poison.Unknown", position, self.poison[position], self._deliveries[position])

    async def fetch(self):
        loop = asyncio.get_running_loop()
        while True:
            due = [position for position, at in self._due.items() if at <= loop.time()]
            if due:
                return self._deliver(self._dice.choice(due))
            self._changed.clear()
            try:
                async with asyncio.timeout_at(min(self._due.values(), default=None)):
                    await self._changed.wait()
            except TimeoutError:
                continue


class Sea:
    """What all lives share: the log, its queues, the weather, and what the log has acknowledged."""

    def __init__(self, memory: SharedLog, blobs, weather: Weather, dice: random.Random) -> None:
        self.memory, self.blobs, self.weather, self.dice = memory, blobs, weather, dice
        self.acknowledged: list[tuple[str, str, int]] = []
        """(service, event id, position at most)."""
        self.sabotage: str | None = None
        self.reachable = asyncio.Event()
        self.reachable.set()

    def queue(self, name: str) -> "ShuffledQueue":
        queues = self.memory.queues
        if name not in queues:
            queues[name] = ShuffledQueue(self.memory, name, self.dice)
        return queues[name]


class FaultyStore:
    """The ``EventStore`` of one life."""

    def __init__(self, sea: Sea, life: Life) -> None:
        self._sea, self._life, self._dice = sea, life, life.dice
        self._own: set[str] = set()

    async def append(self, stream_id, events, expected=None):
        own = {event.id for event in events}
        self._own |= own
        try:
            return await self._append(stream_id, events, expected)
        except BaseException:
            self._own -= own
            raise

    async def _append(self, stream_id, events, expected):
        sea, weather = self._sea, self._sea.weather
        if sea.sabotage == "no-optimistic-concurrency" and isinstance(events[0], ev.InferenceReserved):
            expected = None
        try:
            await self._reach()
        except asyncio.CancelledError:
            if self._dice.random() < 0.5:  # it was on the wire already
                self._arrive_later(stream_id, events, expected)
            raise
        fate = self._dice.random() - weather.lost_request
        if fate < 0:
            await self._give_up()
        fate -= weather.late_request
        if fate < 0:
            self._arrive_later(stream_id, events, expected)
            await self._give_up()
        if sea.sabotage == "acknowledged-too-early" and fate < weather.late_request + 0.02:
            position = await sea.memory.last_position() + 1
        else:
            position = await sea.memory.append(stream_id, events, expected)
        await self._hang_when_dead()
        if fate < weather.lost_answer:
            await self._give_up()
        await self._delay()
        sea.acknowledged += [(self._life.name, event.id, position) for event in events]
        return position

    async def read_run(self, stream_id):
        await self._reach()
        if self._dice.random() < self._sea.weather.lost_read:
            await self._give_up()
        found = await self._sea.memory.read_run(stream_id)
        await self._delay()
        return found

    async def read_all(self, after=0, types=()):
        await self._reach()
        async for recorded in self._sea.memory.read_all(after, types):
            await self._hang_when_dead()
            yield recorded

    async def subscribe(self, after=0, types=(), *, own=True):
        async for recorded in self._sea.memory.subscribe(after, types):
            await self._reach(patience_s=None)
            if own or recorded.event.id not in self._own:
                yield recorded

    async def follow(self, after=0):
        async for group in self._sea.memory.follow(after):
            await self._reach(patience_s=None)
            yield group

    async def last_position(self):
        await self._reach()
        if self._dice.random() < self._sea.weather.lost_read:
            await self._give_up()
        return await self._sea.memory.last_position()

    @asynccontextmanager
    async def consume(self, queue, types, handler, policy=DEFAULT_POLICY):
        shared = self._sea.queue(queue)
        shared.configure(types, policy)
        if self._sea.sabotage == "settled-by-the-overtaken":
            handler = _settling(handler)
        pool = HandlerPool(queue, handler, policy)
        pool.start([lambda: self._fetch(shared)] * policy.concurrency)
        try:
            yield pool
        finally:
            await pool.drain(0)

    async def parked(self):
        return await self._sea.memory.parked()

    async def ping(self):
        await self._reach()

    async def _fetch(self, shared: ShuffledQueue):
        await self._reach(patience_s=None)
        if self._dice.random() < self._sea.weather.poison:
            shared.spoil()
        delivery = await shared.fetch()
        await self._delay()
        if self._sea.sabotage == "at-most-once":
            await delivery.done()
        elif self._dice.random() < self._sea.weather.twice:
            shared.put_off(delivery.position, self._dice.uniform(0.0, 2.0))
        return FaultyDelivery(self._sea, self._life, delivery)

    async def _reach(self, patience_s: float | None = PATIENCE_S) -> None:
        """On the way to the log."""
        await self._delay()
        if not self._sea.reachable.is_set():
            try:
                async with asyncio.timeout(patience_s):
                    await self._sea.reachable.wait()
            except TimeoutError:
                raise EventStoreUnavailable("the simulated log is away") from None
            await self._hang_when_dead()

    async def _delay(self) -> None:
        weather = self._sea.weather
        if self._dice.random() < weather.long_delay:
            await asyncio.sleep(self._dice.uniform(0.0, 3.0))
        else:
            await asyncio.sleep(self._dice.expovariate(1 / weather.delay_s))
        await self._hang_when_dead()

    async def _give_up(self) -> None:
        await asyncio.sleep(self._dice.uniform(0.1, PATIENCE_S))
        await self._hang_when_dead()
        raise EventStoreUnavailable("the simulated log did not answer")

    async def _hang_when_dead(self) -> None:
        if self._life.dead:
            await self._life.never()

    def _arrive_later(self, stream_id, events, expected) -> None:
        async def arrive() -> None:
            await asyncio.sleep(self._dice.uniform(0.0, LATE_S))
            try:
                await self._sea.memory.append(stream_id, events, expected)
            except (WrongPosition, EventRefused):
                """As the server would: nobody is there to hear it."""

        token = LIFE.set(None)
        try:
            self._sea.late = asyncio.get_running_loop().create_task(arrive())
        finally:
            LIFE.reset(token)


def _settling(handler):
    """The mistake of a manager that acknowledges a request which another one works on."""

    async def handle(recorded) -> None:
        with suppress(LeftToOthers):
            await handler(recorded)

    return handle


class FaultyDelivery:
    """A message in the hands of one life."""

    def __init__(self, sea: Sea, life: Life, delivery) -> None:
        self._sea, self._life, self._delivery = sea, life, delivery
        self.subject, self.position, self.content = delivery.subject, delivery.position, delivery.content
        self.deliveries = delivery.deliveries

    async def done(self):
        if await self._gets_through():
            await self._delivery.done()

    async def again(self, delay_s=0.0):
        if await self._gets_through():
            await self._delivery.again(delay_s)

    async def heartbeat(self):
        if await self._gets_through():
            await self._delivery.heartbeat()

    async def park(self, error):
        if await self._gets_through():
            if self._sea.sabotage == "poison-is-dropped":
                await self._delivery.done()
            else:
                await self._delivery.park(error)

    async def _gets_through(self) -> bool:
        if self._life.dead:
            return False
        if not self._sea.reachable.is_set():
            raise EventStoreUnavailable("the simulated log is away")
        return self._life.dice.random() >= self._sea.weather.lost_settlement


class FaultyBlobs:
    """The ``BlobStore`` of one life."""

    def __init__(self, sea: Sea, life: Life) -> None:
        self._sea, self._life = sea, life

    async def put(self, content, media_type):
        await self._reach()
        ref = await self._sea.blobs.put(content, media_type)
        await self._reach(fails=0.0)
        return ref

    async def put_soon(self, content, media_type):
        return await self.put(content, media_type)

    async def flush(self):
        await self._reach(fails=0.0)

    async def get(self, digest):
        await self._reach()
        return await self._sea.blobs.get(digest)

    async def ping(self):
        await self._reach()

    async def _reach(self, fails: float | None = None) -> None:
        dice, weather = self._life.dice, self._sea.weather
        await asyncio.sleep(dice.expovariate(1 / weather.delay_s))
        if self._life.dead:
            await self._life.never()
        if dice.random() < (weather.blob_fails if fails is None else fails):
            raise OSError("the simulated blob store is full")
