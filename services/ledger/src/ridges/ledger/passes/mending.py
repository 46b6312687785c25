"""Prove the blobs of sealed segments; make damaged ones again from the log, as long as it is as it was sealed.

A segment's place in the chain depends on its events alone: made again it has the same link, and later ones stay valid.
"""

import asyncio
from collections.abc import Callable, Iterator

from msgspec import structs

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.chassis.ports import BlobMissing, NamedBlobStore
from ridges.contracts.blobs import digest_of
from ridges.contracts.views import Finding
from ridges.ledger import archive
from ridges.ledger.archive import Segment
from ridges.ledger.passes.reporting import Pace, Report
from ridges.ledger.passes.sealing import archived, replay_of_events
from ridges.ledger.projections.schema import VERSION

ReadLog = Callable[[int, int], Iterator[list[RawEvent]]]
"""The events after a position up to another one."""


def mend_segments(segments: list[Segment], read: ReadLog, *, store: NamedBlobStore, report: Report) -> list[Finding]:
    """What was wrong: a warning where it was mended, an error where the log does not have the events any more."""
    pace = Pace("archive", "proving the archive", sum(segment.count for segment in segments), report)
    findings = []
    for segment in segments:
        damage = asyncio.run(_damage(store, segment))
        if damage is not None:
            findings.append(_mended(segment, damage, read, store))
        pace.add(segment.count)
    return findings


async def _damage(store: NamedBlobStore, segment: Segment) -> str | None:
    for ref in (segment.events, segment.replay):
        try:
            await store.get(ref.digest)
        except BlobMissing as error:
            return f"{segment.title}: {error}"
    return None


def _mended(segment: Segment, damage: str, read: ReadLog, store: NamedBlobStore) -> Finding:
    raw = [event for chunk in read(segment.first - 1, segment.last) for event in chunk]
    events = [archived(event) for event in raw]
    content = archive.packed(events)
    if digest_of(content) != segment.content_digest:
        detail = (
            f"{damage}; the log is not as it was sealed either, so the segment cannot be made again: bring its blobs "
            "back from a backup of the blob store"
        )
        return Finding(kind="archive", severity="error", detail=detail, position=segment.first)
    asyncio.run(_write(store, segment, archive.compressed(content), archive.compressed(replay_of_events(raw))))
    return Finding(
        kind="archive", severity="warning", detail=f"{damage}; made again from the log", position=segment.first
    )


async def _write(store: NamedBlobStore, segment: Segment, events: bytes, replay: bytes) -> None:
    made = structs.replace(
        segment,
        events=await store.put(events, archive.MEDIA_TYPE),
        replay=await store.put(replay, archive.MEDIA_TYPE),
        replay_version=VERSION,
    )
    if made != segment:
        await store.put_named(segment.name, archive.described(made))
