"""The relay: follows all of KurrentDB's events of ours and writes them to the stream EVENTS, each once, in order.

It keeps no checkpoint. Where to go on stands in the mirror itself: its last message names the commit position it came
from. The next events are published on condition that this message still is the last one. So the mirror's n-th message
is the log's n-th event whoever wrote it: relays may race, crash anywhere and repeat themselves.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import pairwise, takewhile

import structlog
from kurrentdbclient import RecordedEvent
from nats import errors
from nats.js.errors import APIError

from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.jetstream.verify import NotYet
from ridges.chassis.kurrent.connection import KurrentConnection
from ridges.chassis.kurrent.epoch import check_mirror
from ridges.chassis.kurrent.mirror_writer import EMPTY, MAX_MIRRORED_BYTES, LostRace, MirrorWriter, Tail
from ridges.chassis.kurrent.names import stream_id_of, stream_name
from ridges.chassis.ports import EventRefused, EventStoreUnavailable, LogMismatch

log = structlog.get_logger(__name__)

WINDOW = 256
WINDOW_BYTES = 4 * 1024 * 1024
RETRY_PAUSE_S = 0.3
NAME = "relay"


class Relay:
    """Runs until it is cancelled, in the ledger."""

    def __init__(self, event_store_url: str, connection: Connection) -> None:
        self._url, self._connection = event_store_url, connection
        self._writer = MirrorWriter(connection)
        self._tail = EMPTY
        self._trouble: str | None = "the relay has not started"
        self.mirrored = 0
        """Events that this relay has written."""
        self.complete = False
        """It has seen the mirror hold all that KurrentDB held."""

    async def check(self) -> None:
        """For /readyz. Raises EventStoreUnavailable while events do not reach the mirror."""
        if self._trouble is not None:
            raise EventStoreUnavailable(f"relay: {self._trouble}")

    async def run(self) -> None:
        """Mirror for ever.

        Raises:
            LogMismatch: KurrentDB and the mirror do not belong together; nothing was written since.
        """
        source = KurrentConnection(self._url, NAME)
        try:
            while True:
                try:
                    await self._follow(source)
                except (EventStoreUnavailable, EventRefused, NotYet, APIError, errors.Error, OSError) as error:
                    told = str(error) or repr(error)
                    if told != self._trouble:
                        log.warning("the mirror does not advance, will try again", reason=told)
                    self._trouble = told
                await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            await source.close()

    async def _follow(self, source: KurrentConnection) -> None:
        await self._connection.ready()
        await check_mirror(source, self._connection.epoch or "")
        self._tail = await self._writer.tail()
        await _check_descent(source, self._tail)
        after = self._tail.commit_position if self._tail.sequence else None
        async with source.following(after) as events, aclosing(_windows(events)) as windows:
            async for window in windows:
                await self._write([event for event in window if stream_id_of(event.stream_name)])
                self._trouble = None
                if window[-1].is_caught_up:
                    self.complete = True
                    log.info("the mirror is complete", position=self._tail.sequence)

    async def _write(self, events: list[RecordedEvent]) -> None:
        """Return when all of them are in the mirror, whoever wrote them."""
        _check_order(events)
        fitting = list(takewhile(lambda event: len(event.data) <= MAX_MIRRORED_BYTES, events))
        while rest := [event for event in fitting if event.commit_position > self._tail.commit_position]:
            try:
                self._tail = await self._writer.write(rest, self._tail)
                self.mirrored += len(rest)
            except LostRace:
                self._tail = await self._writer.tail()
        if len(fitting) < len(events):
            unfit = events[len(fitting)]
            raise EventRefused(
                f"event {unfit.id} of the KurrentDB stream {unfit.stream_name} has {len(unfit.data)} bytes, at most "
                f"{MAX_MIRRORED_BYTES} can be mirrored: it was not appended by Ridges; nothing behind it is mirrored"
            )


async def _check_descent(source: KurrentConnection, tail: Tail) -> None:
    """The mirror's last event must stand in KurrentDB, at the same place."""
    if not tail.sequence:
        return
    found = await source.read(stream_name(tail.stream_id), tail.revision, limit=1)
    if not found or (str(found[0].id), found[0].commit_position) != (tail.event_id, tail.commit_position):
        raise LogMismatch(
            f"the mirror's last event ({tail.event_id} of stream {tail.stream_id}) is not in KurrentDB at "
            f"{source.address}: was KurrentDB restored from a backup? Delete the stream EVENTS, run the migrate step, "
            "then `ridges ledger rebuild`"
        )


def _check_order(events: list[RecordedEvent]) -> None:
    for one, following in pairwise(events):
        if following.commit_position <= one.commit_position:
            raise LogMismatch(
                f"KurrentDB has two events at commit position {following.commit_position} ({following.stream_name}): "
                "an append to several streams at once, which Ridges never makes; the mirror cannot number them"
            )


async def _windows(events: AsyncIterator[RecordedEvent]) -> AsyncGenerator[list[RecordedEvent], None]:
    """What has arrived since the last time, within limits; waits for at least one. Ends as the source ends."""
    arrived: asyncio.Queue[RecordedEvent] = asyncio.Queue(WINDOW)

    async def pump() -> None:
        async for event in events:
            await arrived.put(event)

    pumping = asyncio.create_task(pump(), name="relay-subscription")
    try:
        while True:
            getting = asyncio.create_task(arrived.get())
            try:
                await asyncio.wait((getting, pumping), return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    pumping.result()
                    return
                window = [getting.result()]
            finally:
                getting.cancel()
            size = len(window[0].data)
            while not arrived.empty() and len(window) < WINDOW and size < WINDOW_BYTES:
                window.append(arrived.get_nowait())
                size += len(window[-1].data)
            yield window
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)  # which a cancellation of ours ends, too
