"""The event store on KurrentDB: events are appended there and read back from there; everything that follows the log
follows its mirror on NATS, whose sequence numbers are the positions.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from kurrentdbclient import RecordedEvent
from msgspec import structs
from nats.aio.client import Client

from ridges.chassis.identity import NAME
from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.store import PING_TIMEOUT_S, JetStreamEventStore, opened
from ridges.chassis.jetstream.streams import RECORDED_IN_KURRENTDB
from ridges.chassis.kurrent.appending import Appender, learn
from ridges.chassis.kurrent.connection import KurrentConnection
from ridges.chassis.kurrent.epoch import MirrorCheck, log_identity
from ridges.chassis.kurrent.mirror import Mirror
from ridges.chassis.kurrent.names import stream_name
from ridges.chassis.kurrent.relay import Relay
from ridges.chassis.ports import (
    ANY,
    DEFAULT_POLICY,
    DeliveryPolicy,
    EventStoreUnavailable,
    Handler,
    LastPosition,
    Queue,
    Recorded,
    Undecoded,
)
from ridges.contracts.codec import decode
from ridges.contracts.events import Event
from ridges.contracts.parked import Parked


class KurrentEventStore:
    """See ``ports.EventStore``. Made by ``open_kurrent_store``."""

    def __init__(
        self, kurrent: KurrentConnection, connection: Connection, mirrored: JetStreamEventStore, relay: Relay
    ) -> None:
        self._kurrent, self._connection, self._mirrored = kurrent, connection, mirrored
        self._mirror = Mirror(connection)
        self._appender = Appender(kurrent, connection, self._mirror)
        self.relay = relay
        """Not running. The ledger runs it; several at once do no harm."""

    @property
    def nc(self) -> Client:
        """See ``JetStreamEventStore.nc``."""
        return self._mirrored.nc

    @property
    def epoch(self) -> str | None:
        """See ``JetStreamEventStore.epoch``."""
        return self._mirrored.epoch

    async def ready(self) -> None:
        """Wait until KurrentDB and its mirror are there and belong together.

        Raises:
            LogMismatch: they do not, or are not the configured ones.
        """
        await self._mirrored.ready()

    async def append(self, stream_id: str, events: Sequence[Event], expected: LastPosition | None = ANY) -> int:
        return await self._appender.append(stream_id, events, expected)

    async def read_run(self, stream_id: str) -> list[Recorded]:
        if not NAME.fullmatch(stream_id):
            return []
        stream = self._appender.known(stream_id)

        async def read() -> tuple[RecordedEvent, ...]:
            return await self._kurrent.read(stream_name(stream_id))

        found = await self._connection.persist(f"reading {stream_id}", read)
        if not found:
            return []
        learn(stream, found)
        await self._mirror.position_of(stream, len(found) - 1)
        return [
            Recorded(position=stream.position(revision), event=decode(event.data))
            for revision, event in enumerate(found)
        ]

    def read_all(self, after: int = 0, types: Sequence[type[Event]] = ()) -> AsyncIterator[Recorded]:
        return self._mirrored.read_all(after, types)

    def subscribe(
        self,
        after: int | None = 0,
        types: Sequence[type[Event]] = (),
        *,
        own: bool = True,  # noqa: ARG002 - it brings all
    ) -> AsyncIterator[Recorded]:
        return self._mirrored.subscribe(after, types)

    def follow(self, after: int = 0) -> AsyncIterator[list[Undecoded]]:
        return self._mirrored.follow(after)

    async def last_position(self) -> int:
        return await self._mirrored.last_position()

    def consume(
        self, queue: str, types: Sequence[type[Event]], handler: Handler, policy: DeliveryPolicy = DEFAULT_POLICY
    ) -> AbstractAsyncContextManager[Queue]:
        return self._mirrored.consume(queue, types, handler, policy)

    async def parked(self) -> list[Parked]:
        return await self._mirrored.parked()

    async def ping(self) -> None:
        await self._mirrored.ping()
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await log_identity(self._kurrent)
        except TimeoutError:
            raise EventStoreUnavailable(f"KurrentDB at {self._kurrent.address} does not answer") from None


@asynccontextmanager
async def open_kurrent_store(
    event_store_url: str,
    nats_url: str,
    *,
    name: str,
    monitor_url: str | None = None,
    user: str | None = None,
    password: str | None = None,
    relay_user: str | None = None,
    relay_password: str | None = None,
    allow_lossy: bool = False,
    log_epoch: str | None = None,
) -> AsyncIterator[KurrentEventStore]:
    """The event store. Like ``jetstream.open_event_store``; both servers are waited for.

    The relay writes as ``relay_user``, over a connection of its own, where one is named.

    Raises:
        LogMismatch: as there; also when the mirror is not the mirror of this KurrentDB.
        SettingsError: the URL is not one of KurrentDB's.
    """
    kurrent = KurrentConnection(event_store_url, name)
    place = Place(
        url=nats_url,
        name=name,
        monitor_url=monitor_url,
        user=user,
        password=password,
        allow_lossy=allow_lossy,
        log_of_record=RECORDED_IN_KURRENTDB,
        log_epoch=log_epoch,
    )
    check = MirrorCheck(kurrent)
    connection = Connection(place, also_verify=check.verify)
    as_relay = structs.replace(place, name=f"{name}-relay", user=relay_user, password=relay_password)
    writing = Connection(as_relay, also_verify=check.verify) if relay_user else connection
    try:
        async with opened(connection) as mirrored:
            if writing is not connection:
                await writing.open(0)
            yield KurrentEventStore(kurrent, connection, mirrored, Relay(event_store_url, writing))
    finally:
        if writing is not connection:
            await writing.close()
        await kurrent.close()
