"""Bring archived events back into a stream that has lost them: same order, same positions, same ids, same bytes."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from ridges.chassis.jetstream.bulk import last_position, raw_events
from ridges.chassis.jetstream.connection import read_reply
from ridges.chassis.jetstream.denials import Denials
from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.streams import RECORDED_HERE
from ridges.chassis.ports import NamedBlobStore
from ridges.contracts.subjects import EVENT_ID_HEADER
from ridges.contracts.views import Finding, PassResult
from ridges.ledger import archive
from ridges.ledger.archive import ArchivedEvent, Segment
from ridges.ledger.errors import INTO_NEW
from ridges.ledger.passes.check import event_id_of
from ridges.ledger.passes.reporting import Pace, PassFailed, Report
from ridges.ledger.passes.salvage import Salvage

EXPECTED_LAST = "Nats-Expected-Last-Sequence"
BATCH = 200
ACK_TIMEOUT_S = 30.0


def restore(
    place: Place, segments: list[Segment], *, store: NamedBlobStore, report: Report, salvage: Sequence[Path] = ()
) -> PassResult:
    """Publish every archived event that stands after the end of the log, then what damaged logs still hold.

    Each carries the position that it must get, so nothing can come between and a second restore cannot double it.
    ``salvage``: folders with nats-server's files of this log as it was before, the oldest copy first.

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
    saved = Salvage(salvage, _archived_ids(segments, store), archived) if salvage else None
    rest = saved.events if saved else []
    findings = list(saved.findings) if saved else []
    _refuse_other_log(place, present, segments, store, rest)
    if present and not salvage:
        findings += _gaps(place, min(present, archived), report)
    pace = Pace("restore", "publishing archived events", max(archived + len(rest) - present, 0), report)
    lost = sum(finding.severity == "error" for finding in findings)
    if not lost or salvage:
        asyncio.run(_publish_all(place, present, segments, store, rest, pace))
    return PassResult(
        what="restore",
        ok=not lost,
        summary=_summary(pace.done, present + pace.done, archived, len(rest), lost, salvaged=bool(salvage)),
        events=pace.done,
        seconds=round(pace.seconds, 3),
        findings=tuple(findings),
    )


def _summary(done: int, end: int, archived: int, rest: int, lost: int, *, salvaged: bool) -> str:
    if lost and not salvaged:
        return f"published nothing: the log lacks events before its end at position {end:,}, which the archive has"
    told = f"published {done:,} events; the log ends at position {end:,}"
    if salvaged:
        told += f": {archived:,} events of the archive, {rest:,} of the files of the damaged log"
    elif not done:
        told += " (nothing of the archive was missing)"
    return told + (f"; {lost:,} ranges of positions are lost" if lost else "")


def _gaps(place: Place, end: int, report: Report) -> Iterator[Finding]:
    """Which positions up to the archive's end the log lacks."""
    pace = Pace("restore", "comparing the log with its archive", end, report)
    expected = 1
    for chunk in pace.over(raw_events(place, 0, end)):
        for position, *_ in chunk:
            if position > expected:
                yield _gap(expected, position - 1)
            expected = position + 1


def _gap(first: int, last: int) -> Finding:
    return Finding(
        kind="gap",
        severity="error",
        detail=f"the archive has the events at positions {first} to {last}, the log lacks them, and a stream takes "
        f"events at its end alone. To get it whole again: {INTO_NEW}",
        position=first,
    )


def _archived_ids(segments: list[Segment], store: NamedBlobStore) -> Iterator[str]:
    for segment in segments:
        for event in asyncio.run(archive.events_of(store, segment)):
            yield event.event_id


def _refuse_other_log(
    place: Place, present: int, segments: list[Segment], store: NamedBlobStore, rest: list[ArchivedEvent]
) -> None:
    """What is in the log must be the beginning of what was archived, and of what was saved."""
    for segment in segments:
        if segment.first <= present:
            position = min(present, segment.last)
            sealed = asyncio.run(archive.events_of(store, segment))[position - segment.first]
            _refuse_other_event(place, position, sealed.event_id)
    beyond = present - (segments[-1].last if segments else 0)
    if rest and beyond > 0:
        _refuse_other_event(place, present, rest[beyond - 1].event_id if beyond <= len(rest) else None)


def _refuse_other_event(place: Place, position: int, event_id: str | None) -> None:
    found = [raw for chunk in raw_events(place, position - 1, position) for raw in chunk]
    if not found or event_id_of(found[0]) != event_id:
        raise PassFailed(
            f"the log has another event at position {position} than the archive: it is not the log that was "
            f"archived, or nats-server cut it off at damage and services went on. To get it whole again: {INTO_NEW}"
        )


async def _publish_all(
    place: Place, present: int, segments: list[Segment], store: NamedBlobStore, rest: list[ArchivedEvent], pace: Pace
) -> None:
    client = Client()
    mend = "set RIDGES_NATS_ADMIN_USER and RIDGES_NATS_ADMIN_PASSWORD in the ledger's environment"
    denials = Denials(place.user, mend)
    await client.connect(
        place.url,
        name="ledger-restore",
        user=place.user,
        password=place.password,
        inbox_prefix=place.inbox_prefix,
        error_cb=denials.on_error,
    )
    try:
        for segment in segments:
            if segment.last > present:
                events = await archive.events_of(store, segment)
                await denials.heeded(_publish_after(client, present, segment.first, events, pace))
        archived = segments[-1].last if segments else 0
        await denials.heeded(_publish_after(client, present, archived + 1, rest, pace))
    except (NatsError, APIError, TimeoutError) as error:
        raise PassFailed(
            f"the restore stopped: {error or type(error).__name__}. No other service may write meanwhile; "
            "mend that and restore again: it goes on where it stopped"
        ) from error
    finally:
        await client.close()


async def _publish_after(client: Client, present: int, first: int, events: list[ArchivedEvent], pace: Pace) -> None:
    for at in range(max(present + 1 - first, 0), len(events), BATCH):
        batch = events[at : at + BATCH]
        await _publish(client, first + at, batch)
        pace.add(len(batch))


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
