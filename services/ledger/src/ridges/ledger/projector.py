"""Follows the log into the tables and tells who waits for a change. Stops for good rather than skip an event."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import structlog

from ridges.chassis.ports import EventStore, EventStoreUnavailable, Recorded
from ridges.contracts.codec import UndecodableEvent
from ridges.ledger.errors import ForeignLog, ProjectionStopped
from ridges.ledger.projections.apply import Projections
from ridges.ledger.stream import Hub

log = structlog.get_logger(__name__)

BATCH_EVENTS = 500
QUEUED_EVENTS = 2_000
RETRY_DELAY_S = 2.0
FILLING_PAUSE_S = 0.2
GATHER_S = 0.02
"""In busy times events come in groups so far apart, a transaction each: one for many events costs much less."""


class Projector:
    """One running projection."""

    def __init__(
        self,
        store: EventStore,
        projections: Projections,
        hub: Hub,
        *,
        path: str,
        filling: Callable[[], bool] = lambda: False,
    ) -> None:
        """``filling``: whether the log may still be shorter than it is, as the mirror of another store."""
        self._store, self._projections, self._hub, self._path = store, projections, hub, path
        self._filling = filling
        self._moved = asyncio.Condition()
        self.stopped: str | None = None
        """Why it does not go on; None while it does."""
        self.held: str | None = None
        """Why it has not begun: the tables are of another version."""
        self._applying = asyncio.Lock()
        self._called = asyncio.Event()
        self._trouble: str | None = None
        """Why it waits at the moment."""

    @property
    def position(self) -> int:
        return self._projections.position

    async def run(self) -> None:
        """Follow the log until cancelled. While ``stopped`` or ``held`` say why not, reads keep the old state."""
        while True:
            self._called.clear()
            if self.stopped is not None or self.held is not None:
                await self._called.wait()
                continue
            try:
                await self._follow()
            except (EventStoreUnavailable, sqlite3.OperationalError) as error:
                self._trouble = f"cannot go on right now: {error}"
                log.warning("the projection waits", position=self.position, reason=str(error))
                await asyncio.sleep(RETRY_DELAY_S)
            except UndecodableEvent as error:
                await self._stop(f"cannot read the event after position {self.position}: {error}")
            except ProjectionStopped as error:
                await self._stop(str(error))

    async def _follow(self) -> None:
        """Apply what comes, from the newest event in the tables on: it must be the same one in this log."""
        checkpoint = self.position
        await self._reachable(checkpoint)
        events = self._store.subscribe(max(checkpoint - 1, 0), gather_s=GATHER_S)
        async with aclosing(_batches(events)) as batches:
            async for batch in batches:
                first = batch[0]
                if first.position == checkpoint and first.event.id != self._projections.event_id:
                    raise ForeignLog(checkpoint, self._path)
                async with self._applying:
                    if self._called.is_set():
                        return  # the tables were swapped: begin again where they stand
                    changed = self._projections.apply(batch)
                self._trouble = None
                async with self._moved:
                    self._moved.notify_all()
                self._hub.publish(changed)

    async def _reachable(self, checkpoint: int) -> None:
        """Wait while the log is shorter only because it is still being filled. Raises ForeignLog."""
        while True:
            filling = self._filling()
            if await self._store.last_position() >= checkpoint:
                self._trouble = None
                return
            if not filling:
                raise ForeignLog(checkpoint, self._path)
            self._trouble = f"the relay fills the mirror, which has not reached position {checkpoint} yet"
            await asyncio.sleep(FILLING_PAUSE_S)

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Wait until the tables hold the event at the position; False when that did not happen in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self.position >= position or self.stopped is not None)
        return self.position >= position

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is applied within; ``position`` stands still."""
        async with self._applying:
            yield

    def hold(self, why: str) -> None:
        """Do not begin before ``go_on``."""
        self.held = why

    def go_on(self) -> None:
        """Begin again with the tables as they are now."""
        self.stopped = self.held = self._trouble = None
        self._called.set()

    async def check(self) -> None:
        """Returns while the projection goes on. Raises ProjectionStopped otherwise (for /readyz)."""
        why = self.stopped or self.held or self._trouble
        if why is not None:
            raise ProjectionStopped(why)

    async def _stop(self, why: str) -> None:
        log.error("the projection stopped; reads keep its old state", position=self.position, reason=why)
        async with self._moved:
            self.stopped = why
            self._moved.notify_all()


async def _batches(events: AsyncIterator[Recorded]) -> AsyncGenerator[list[Recorded], None]:
    """Everything that is there already, at most BATCH_EVENTS at once."""
    queue: asyncio.Queue[Recorded | Exception] = asyncio.Queue(QUEUED_EVENTS)
    reader = asyncio.create_task(_read(events, queue), name="log reader")
    try:
        while True:
            batch: list[Recorded] = []
            item: Recorded | Exception = await queue.get()
            while isinstance(item, Recorded):
                batch.append(item)
                if queue.empty() or len(batch) == BATCH_EVENTS:
                    break
                item = queue.get_nowait()
            if batch:
                yield batch
            if isinstance(item, Exception):
                raise item
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _read(events: AsyncIterator[Recorded], queue: asyncio.Queue[Recorded | Exception]) -> None:
    try:
        async for recorded in events:
            await queue.put(recorded)
    except Exception as error:  # noqa: BLE001 - handed to the projector, which decides
        await queue.put(error)
