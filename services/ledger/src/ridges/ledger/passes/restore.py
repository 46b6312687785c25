"""Bring archived events back into a stream that has lost them: same order, same positions, same ids, same bytes."""

import asyncio

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from ridges.chassis.jetstream.bulk import last_position, raw_events
from ridges.chassis.jetstream.connection import Place, read_reply
from ridges.chassis.jetstream.denials import Denials
from ridges.chassis.jetstream.streams import RECORDED_HERE
from ridges.chassis.ports import NamedBlobStore
from ridges.contracts.subjects import EVENT_ID_HEADER
from ridges.contracts.views import PassResult
from ridges.ledger import archive
from ridges.ledger.archive import ArchivedEvent, Segment
from ridges.ledger.passes.check import event_id_of
from ridges.ledger.passes.reporting import Pace, PassFailed, Report

EXPECTED_LAST = "Nats-Expected-Last-Sequence"
BATCH = 200
ACK_TIMEOUT_S = 30.0


def restore(place: Place, segments: list[Segment], *, store: NamedBlobStore, report: Report) -> PassResult:
    """Publish every archived event that stands after the end of the log.

    Each carries the position that it must get, so nothing can come between and a second restore cannot double it.

    Raises:
        PassFailed: the log holds other events, or somebody writes to it meanwhile.
        ArchiveDamaged: names the segment; what was published before it stays.

    """
    if place.log_of_record != RECORDED_HERE:
        raise PassFailed(
            "KurrentDB is the log of record, the stream EVENTS only mirrors it and the relay fills it by itself. "
            "Restore KurrentDB from its own backup"
        )
    present = last_position(place)
    archived = segments[-1].last if segments else 0
    _refuse_other_log(place, present, segments, store)
    pace = Pace("restore", "publishing archived events", max(archived - present, 0), report)
    asyncio.run(_publish_all(place, present, segments, store, pace))
    return PassResult(
        what="restore",
        ok=True,
        summary=f"published {pace.done:,} events; the log ends at position {max(present, archived):,}"
        + (" (nothing was missing)" if archived <= present else ""),
        events=pace.done,
        seconds=round(pace.seconds, 3),
    )


def _refuse_other_log(place: Place, present: int, segments: list[Segment], store: NamedBlobStore) -> None:
    """What is in the log must be the beginning of what was archived."""
    for segment in segments:
        if segment.first <= present:
            position = min(present, segment.last)
            [found] = [raw for chunk in raw_events(place, position - 1, position) for raw in chunk]
            sealed = asyncio.run(archive.events_of(store, segment))[position - segment.first]
            if event_id_of(found) != sealed.event_id:
                raise PassFailed(
                    f"the log has another event at position {position} than the archive: it is not the log that was "
                    "archived. Restore into an empty stream, before any service writes to it"
                )


async def _publish_all(place: Place, present: int, segments: list[Segment], store: NamedBlobStore, pace: Pace) -> None:
    client = Client()
    mend = "set RIDGES_NATS_ADMIN_USER and RIDGES_NATS_ADMIN_PASSWORD in the ledger's environment"
    denials = Denials(place.user, mend)
    await client.connect(
        place.url, name="ledger-restore", user=place.user, password=place.password, error_cb=denials.on_error
    )
    try:
        for segment in segments:
            if segment.last <= present:
                continue
            events = await archive.events_of(store, segment)
            start = max(present + 1 - segment.first, 0)
            for at in range(start, len(events), BATCH):
                batch = events[at : at + BATCH]
                await denials.heeded(_publish(client, segment.first + at, batch))
                pace.add(len(batch))
    except (NatsError, APIError, TimeoutError) as error:
        raise PassFailed(
            f"the restore stopped: {error or type(error).__name__}. No other service may write meanwhile; "
            "mend that and restore again: it goes on where it stopped"
        ) from error
    finally:
        await client.close()


async def _publish(client: Client, first: int, events: list[ArchivedEvent]) -> None:
    """The server takes each only at its position: when the last is acknowledged there, all are stored."""
    *before, last = events
    for position, event in enumerate(before, first):
        await client.publish(event.subject, event.content, headers=_headers(event, position))
    position = first + len(before)
    answer = await client.request(last.subject, last.content, timeout=ACK_TIMEOUT_S, headers=_headers(last, position))
    stored = read_reply(answer)
    if stored.get("seq") != position:
        raise PassFailed(f"event {last.event_id} was stored at position {stored.get('seq')}, it belongs to {position}")


def _headers(event: ArchivedEvent, position: int) -> dict[str, str]:
    return {EVENT_ID_HEADER: event.event_id, EXPECTED_LAST: str(position - 1)}
