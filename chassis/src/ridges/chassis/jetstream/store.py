"""The event store on NATS JetStream: the stream EVENTS is store and bus at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from nats.aio.client import Client

from ridges.chassis.delivery import HandlerPool
from ridges.chassis.identity import NAME
from ridges.chassis.jetstream.appending import Appender
from ridges.chassis.jetstream.connection import PATIENCE_S, RETRY_PAUSE_S, Connection
from ridges.chassis.jetstream.feed import FedMessage, Feed
from ridges.chassis.jetstream.following import Following
from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.queue import DurableConsumer, PullSource
from ridges.chassis.jetstream.reading import stored_messages
from ridges.chassis.jetstream.verify import storage_trouble
from ridges.chassis.ports import (
    ANY,
    DEFAULT_POLICY,
    DeliveryPolicy,
    EventRefused,
    EventStoreUnavailable,
    Handler,
    LastPosition,
    LogMismatch,
    Queue,
    Recorded,
    Undecoded,
)
from ridges.contracts.codec import decode
from ridges.contracts.events import Event, type_name
from ridges.contracts.parked import Parked
from ridges.contracts.subjects import ALL_PARKED, EVENTS_STREAM, PARKED_STREAM, run_filter, type_filter

ENTER_WAIT_S = 0.5
PING_TIMEOUT_S = 1.5
PARKED_SHOWN = 1_000
STALE_READS = 20


class JetStreamEventStore:
    """See ``ports.EventStore``. Made by ``open_event_store``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._appender = Appender(connection)
        self._consumers: set[DurableConsumer] = set()

    @property
    def nc(self) -> Client:
        """The NATS client, for what is not about events (ingress, control plane). After ``await ready()``.

        Raises:
            EventStoreUnavailable: not connected yet.
        """
        return self._connection.client

    @property
    def epoch(self) -> str | None:
        """Identifies this log: positions of a log with another epoch mean nothing here. None before it is ready."""
        return self._connection.epoch

    async def ready(self) -> None:
        """Wait until the log is there and verified.

        Raises:
            LogMismatch: it is not the configured one.
        """
        await self._connection.ready()

    async def append(self, stream_id: str, events: Sequence[Event], expected: LastPosition | None = ANY) -> int:
        return await self._appender.append(stream_id, events, expected)

    async def read_run(self, stream_id: str) -> list[Recorded]:
        if not NAME.fullmatch(stream_id):
            return []
        for _ in range(STALE_READS):
            found = [
                Recorded(position=stored.position, event=decode(stored.content))
                async for stored in stored_messages(self._connection, EVENTS_STREAM, run_filter(stream_id))
            ]
            if (found[-1].position if found else 0) >= self._appender.reach(stream_id):
                return found
            await asyncio.sleep(RETRY_PAUSE_S)  # a replica that lags behind answered
        raise EventStoreUnavailable(f"{stream_id}: the log's replicas lag behind what was acknowledged; try again")

    async def read_all(self, after: int = 0, types: Sequence[type[Event]] = ()) -> AsyncIterator[Recorded]:
        end = await self.last_position()
        feed = Feed(self._connection, after, [type_filter(type_name(cls)) for cls in types])
        async for message in feed.messages_until(end, PATIENCE_S):
            yield _recorded(message)

    async def subscribe(
        self,
        after: int | None = 0,
        types: Sequence[type[Event]] = (),
        *,
        own: bool = True,
    ) -> AsyncIterator[Recorded]:
        if after is None:
            await self.ready()
            after = await self.last_position()
        skip = None if own else self._appender.skip_own()
        feed = Feed(self._connection, after, [type_filter(type_name(cls)) for cls in types], skip)
        async for message in feed.messages():
            yield _recorded(message)

    def follow(self, after: int = 0) -> AsyncIterator[list[Undecoded]]:
        return Following(self._connection, after).groups()

    async def last_position(self) -> int:
        async def ask() -> int:
            info = await self._connection.api(f"STREAM.INFO.{EVENTS_STREAM}")
            return int(info["state"]["last_seq"])

        return await self._connection.persist("reading the end of the log", ask)

    @asynccontextmanager
    async def consume(
        self, queue: str, types: Sequence[type[Event]], handler: Handler, policy: DeliveryPolicy = DEFAULT_POLICY
    ) -> AsyncIterator[Queue]:
        if not NAME.fullmatch(queue):
            raise EventRefused(f"{queue!r} cannot name a queue; use letters, digits, '-' and '_'")
        consumer = DurableConsumer(self._connection, queue, [type_filter(type_name(cls)) for cls in types], policy)
        pool = HandlerPool(queue, handler, policy)
        self._consumers.add(consumer)
        pool.start([PullSource(consumer).fetch for _ in range(policy.concurrency)])
        try:
            yield pool
        finally:
            await pool.drain(0)
            await consumer.close()
            self._consumers.discard(consumer)

    async def parked(self) -> list[Parked]:
        async def ask() -> int:
            info = await self._connection.api(f"STREAM.INFO.{PARKED_STREAM}")
            return int(info["state"]["last_seq"])

        last = await self._connection.persist("reading what is parked", ask)
        first = max(1, last - PARKED_SHOWN + 1)
        return [
            msgspec.json.decode(stored.content, type=Parked)
            async for stored in stored_messages(self._connection, PARKED_STREAM, ALL_PARKED, first)
        ]

    async def ping(self) -> None:
        self._connection.check_ready()
        for consumer in self._consumers:
            if consumer.trouble is not None:
                raise EventStoreUnavailable(f"queue {consumer.queue}: {consumer.trouble}")
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                _, trouble = await asyncio.gather(
                    self._connection.api(f"STREAM.INFO.{EVENTS_STREAM}"),
                    storage_trouble(self._connection.place.monitor_url),
                )
        except TimeoutError:
            raise EventStoreUnavailable(f"JetStream at {self._connection.place.address} does not answer") from None
        except Exception as error:
            raise EventStoreUnavailable(f"JetStream at {self._connection.place.address}: {error}") from error
        if trouble is not None:
            raise EventStoreUnavailable(trouble)


@asynccontextmanager
async def open_event_store(
    url: str,
    *,
    name: str,
    monitor_url: str | None = None,
    user: str | None = None,
    password: str | None = None,
    allow_lossy: bool = False,
    log_epoch: str | None = None,
) -> AsyncIterator[JetStreamEventStore]:
    """The event store. Enters within half a second also when the server is not up yet, and goes on trying.

    Until then ``ping()`` says what is missing (for /readyz), readers and queues wait, other calls fail after some
    seconds with EventStoreUnavailable. ``monitor_url`` (``http://host:8222``) is needed unless ``allow_lossy``.

    Raises:
        LogMismatch: at once or later, when the log is not the configured one: out of every call, and the body of the
            ``async with`` is cancelled, so that a service ends with the reason.
    """
    place = Place(
        url=url,
        name=name,
        monitor_url=monitor_url,
        user=user,
        password=password,
        allow_lossy=allow_lossy,
        log_epoch=log_epoch,
    )
    async with opened(Connection(place)) as store:
        yield store


@asynccontextmanager
async def opened(connection: Connection) -> AsyncIterator[JetStreamEventStore]:
    """See ``open_event_store``."""
    body = asyncio.current_task()
    try:
        await connection.open(ENTER_WAIT_S)
        connection.on_refusal = body.cancel if body is not None else None
        yield JetStreamEventStore(connection)
    except asyncio.CancelledError:
        if connection.refused and body is not None and body.uncancel() == 0:
            raise LogMismatch(connection.trouble) from None
        raise
    finally:
        await connection.close()


def _recorded(message: FedMessage) -> Recorded:
    return Recorded(position=message.position, event=decode(message.content))
