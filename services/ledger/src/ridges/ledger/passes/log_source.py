"""The log for a pass: in bulk where the server allows it, else through the event store."""

import asyncio
from collections.abc import Iterator

from ridges.chassis.jetstream.bulk import NotForBulk, RawEvent, raw_events
from ridges.chassis.jetstream.connection import Connection, Place
from ridges.chassis.jetstream.store import opened
from ridges.chassis.ports import Recorded
from ridges.contracts.codec import encode
from ridges.contracts.events import type_name
from ridges.contracts.subjects import event_subject

SLOW_CHUNK = 1_000


def log_chunks(place: Place, after: int, until: int) -> Iterator[list[RawEvent]]:
    """The events after a position up to another one, in order: of the log, or of the mirror where KurrentDB is it."""
    try:
        yield from raw_events(place, after, until)
    except NotForBulk:
        yield from _through_the_store(place, after, until)


def raw_of(recorded: Recorded) -> RawEvent:
    """The event as it would come in bulk."""
    event = recorded.event
    return (recorded.position, event_subject(event.run_id, type_name(event)).encode(), b"", encode(event))


def _through_the_store(place: Place, after: int, until: int) -> Iterator[list[RawEvent]]:
    with asyncio.Runner() as runner:
        while after < until:
            chunk = runner.run(_chunk(place, after, until))
            if not chunk:
                return
            after = chunk[-1][0]
            yield chunk


async def _chunk(place: Place, after: int, until: int) -> list[RawEvent]:
    found: list[RawEvent] = []
    async with opened(Connection(place)) as store:
        async for recorded in store.read_all(after):
            if recorded.position > until:
                break
            found.append(raw_of(recorded))
            if len(found) == SLOW_CHUNK:
                break
    return found
