"""Follows the log into the tables and tells who waits for a change. Stops for good rather than skip an event.

What comes is not written into the tables at once but when somebody looks at them (``catch_up``), else after half a
second: one transaction for many events costs much less. Whoever reads sees all that has come.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NoReturn

import structlog

from ridges.chassis.ports import EventStore, EventStoreUnavailable, Recorded, Undecoded
from ridges.contracts.codec import UndecodableEvent
from ridges.ledger.errors import ForeignLog, ProjectionStopped
from ridges.ledger.projections.apply import Projections
from ridges.ledger.stream import Hub

log = structlog.get_logger(__name__)

BATCH_EVENTS = 500
"""In one transaction, at most."""
RETRY_DELAY_S = 2.0
FILLING_PAUSE_S = 0.2
UNREAD_S = 0.5
"""How long events that nobody asks for may wait to be written."""


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
        self._unread: list[Undecoded] = []
        """Has come and is not in the tables yet."""
        self._failure: asyncio.Future[NoReturn] | None = None
        """Ends the following when events cannot be applied."""

    @property
    def position(self) -> int:
        """What readers see: of the newest event in the tables once they are caught up."""
        return self._unread[-1].position if self._unread else self._projections.position

    async def run(self) -> None:
        """Follow the log until cancelled. While ``stopped`` or ``held`` say why not, reads keep the old state."""
        while True:
            self._called.clear()
            if self.stopped is not None or self.held is not None:
                await self._called.wait()
                continue
            try:
                await self._follow_until_failure()
            except (EventStoreUnavailable, sqlite3.OperationalError) as error:
                self._trouble = f"cannot go on right now: {error}"
                log.warning("the projection waits", position=self.position, reason=str(error))
                await asyncio.sleep(RETRY_DELAY_S)
            except UndecodableEvent as error:
                await self._stop(f"cannot read the event after position {self.position}: {error}")
            except ProjectionStopped as error:
                await self._stop(str(error))

    def catch_up(self) -> None:
        """Write what has come into the tables, for whoever reads them now. When that fails, they stay as they are."""
        if self._unread and not self._applying.locked():
            self._apply()

    def _apply(self) -> None:
        failure = self._failure
        while self._unread and failure is not None and not failure.done():
            some, self._unread = self._unread[:BATCH_EVENTS], self._unread[BATCH_EVENTS:]
            try:
                events, unreadable = _decoded(some)
                self._projections.apply(events)
            except Exception as error:  # noqa: BLE001 - whoever reads is not to blame; ``run`` decides
                unreadable = error
            if unreadable is None:
                self._trouble = None
            else:
                self._unread = []
                failure.set_exception(unreadable)

    async def _follow_until_failure(self) -> None:
        self._unread = []
        failure = self._failure = asyncio.get_running_loop().create_future()
        following = asyncio.create_task(self._follow(), name="projection")
        try:
            await asyncio.wait((following, failure), return_when=asyncio.FIRST_COMPLETED)
            await (failure if failure.done() else following)
        finally:
            following.cancel()
            if not failure.cancel():
                failure.exception()  # retrieved, whichever came first
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self) -> None:
        """Take in what comes, from the newest event in the tables on: it must be the same one in this log."""
        checkpoint = self.position
        await self._reachable(checkpoint)
        loop = asyncio.get_running_loop()
        async with aclosing(self._store.follow(max(checkpoint - 1, 0))) as groups:  # type: ignore[type-var]
            async for group in groups:
                if group[0].position == checkpoint:
                    if group[0].recorded().event.id != self._projections.event_id:
                        raise ForeignLog(checkpoint, self._path)
                    group = group[1:]  # noqa: PLW2901 - the tables have it
                async with self._applying:
                    if self._called.is_set():
                        return  # the tables were swapped: begin again where they stand
                    if not self._unread:
                        loop.call_later(UNREAD_S, self.catch_up)
                    self._unread += group
                if len(self._unread) >= BATCH_EVENTS:
                    self.catch_up()
                async with self._moved:
                    self._moved.notify_all()
                if self._hub.has_listeners:
                    self._hub.publish({undecoded.stream_id for undecoded in group})

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

        def is_there() -> bool:
            if self.position >= position:
                self.catch_up()
            return self._projections.position >= position

        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: is_there() or self.stopped is not None)
        return is_there()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is applied within; ``position`` stands still."""
        async with self._applying:
            self._apply()
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


def _decoded(events: Sequence[Undecoded]) -> tuple[list[Recorded], Exception | None]:
    """All, or those before the first that cannot be read, and why."""
    decoded: list[Recorded] = []
    try:
        for undecoded in events:
            decoded.append(undecoded.recorded())  # noqa: PERF401 - those before an error count
    except UndecodableEvent as error:
        return decoded, error
    return decoded, None
