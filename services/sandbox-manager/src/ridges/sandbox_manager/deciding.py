"""Read a run, decide, append: again and again until nobody interfered between the reading and the appending."""

import asyncio
import random
from collections.abc import Callable, Sequence

import msgspec
import structlog

from ridges.chassis.ports import NEW, EventStore, EventStoreUnavailable, LastPosition, Recorded, WrongPosition
from ridges.contracts.events import AnyEvent

log = structlog.get_logger(__name__)

Decide = Callable[[Sequence[AnyEvent]], AnyEvent | None]
"""The run's events -> the event to append (with the same id each time), or None to append nothing."""


class Appended(msgspec.Struct, frozen=True):
    """An event of ours that stands in the log."""

    entry: Recorded
    run: Sequence[Recorded]
    """The run as it was known when the event was appended, with the event."""


async def surely_read(store: EventStore, run_id: str) -> list[Recorded]:
    """The run's events, whenever the log answers."""
    while True:
        try:
            return await store.read_run(run_id)
        except EventStoreUnavailable as error:
            log.warning("the event log does not answer, trying again", run_id=run_id, error=str(error))
            await asyncio.sleep(1.0)


async def append_decided(
    store: EventStore, run_id: str, event_id: str, decide: Decide, known: Sequence[Recorded] = ()
) -> Appended | None:
    """The event that was appended on the strength of everything before it, or None when the decision was not to.

    Waits for ever while the log does not answer: what a sandbox left is not thrown away for an outage.

    Args:
        store: the log.
        run_id: whose events to decide on.
        event_id: of the event that ``decide`` makes: when the log has it, an earlier try was stored and only its answer
            was lost.
        decide: what to append.
        known: what was read of the run before. It is decided on first: the log refuses that when it has more by now.
    """
    while True:
        try:
            recorded = known or await store.read_run(run_id)
            for entry in recorded:
                if entry.event.id == event_id:
                    return Appended(entry, recorded)
            event = decide([entry.event for entry in recorded])
            if event is not None:
                last = LastPosition(recorded[-1].position) if recorded else NEW
                entry = Recorded(position=await store.append(run_id, [event], last), event=event)
                return Appended(entry, (*recorded, entry))
            if not known:
                return None
        except WrongPosition:
            if not known:
                await asyncio.sleep(random.uniform(0.0, 0.02))  # noqa: S311 - only spreads the retries
        except EventStoreUnavailable as error:
            log.warning("the event log does not answer, trying again", run_id=run_id, error=str(error))
            await asyncio.sleep(1.0)
        known = ()
