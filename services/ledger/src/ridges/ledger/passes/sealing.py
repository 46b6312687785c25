"""Seal the log into the archive, and read it back: for a rebuild, for a proof, for a restore."""

import asyncio
import gc
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.chassis.ports import NamedBlobStore
from ridges.contracts.blobs import digest_of
from ridges.contracts.views import Finding, PassResult
from ridges.ledger import archive
from ridges.ledger.archive import ArchiveDamaged, ArchivedEvent, Segment
from ridges.ledger.errors import INTO_NEW
from ridges.ledger.passes.check import event_id_of
from ridges.ledger.passes.rebuild import fold_chunks, sync
from ridges.ledger.passes.reporting import Pace, PassFailed, Report
from ridges.ledger.projections.apply import BulkProjections
from ridges.ledger.projections.fold import ReplayClash
from ridges.ledger.projections.replay import read_replay_part, replay_part
from ridges.ledger.projections.schema import VERSION

Result = TypeVar("Result")


class Sealer:
    """Appends segments to the archive."""

    def __init__(self, store: NamedBlobStore, sealed: list[Segment], now: datetime) -> None:
        self._store, self._now = store, now
        self.sealed = list(sealed)
        self._waiting: list[tuple[int, ArchivedEvent]] = []
        self._bytes = 0

    @property
    def last(self) -> int:
        """Position of the newest event in the archive."""
        return self.sealed[-1].last if self.sealed else 0

    def add(self, chunk: list[RawEvent]) -> None:
        """Take events that follow; seals a segment whenever one is full."""
        for raw in chunk:
            expected = self._waiting[-1][0] + 1 if self._waiting else self.last + 1
            if raw[0] != expected:
                raise PassFailed(
                    f"the log jumps from position {expected - 1} to {raw[0]}; a log with a gap is not sealed"
                )
            self._waiting.append((raw[0], archived(raw)))
            self._bytes += len(raw[3])
            if len(self._waiting) >= archive.SEGMENT_EVENTS or self._bytes >= archive.SEGMENT_BYTES:
                self.seal()

    def seal(self) -> None:
        """Write what waits as a segment: first the blobs, then the description that makes them count."""
        if not self._waiting:
            return
        events = [event for _, event in self._waiting]
        content = archive.packed(events)
        replay = replay_part((place, event.run_id, event.content) for place, event in self._waiting)
        asyncio.run(self._write(events, content, replay))
        self._waiting, self._bytes = [], 0

    async def _write(self, events: list[ArchivedEvent], content: bytes, replay: bytes) -> None:
        digest, previous = digest_of(content), self.sealed[-1].chain if self.sealed else archive.START
        segment = Segment(
            format=archive.FORMAT,
            first=self._waiting[0][0],
            last=self._waiting[-1][0],
            count=len(events),
            content_digest=digest,
            previous=previous,
            chain=archive.chain_of(previous, digest),
            last_event_id=events[-1].event_id,
            events=await self._store.put(archive.compressed(content), archive.MEDIA_TYPE),
            replay=await self._store.put(archive.compressed(replay), archive.MEDIA_TYPE),
            replay_version=VERSION,
            sealed_at=self._now,
        )
        await self._store.put_named(segment.name, archive.described(segment))
        self.sealed.append(segment)


def sealed_segments(store: NamedBlobStore) -> list[Segment]:
    """See ``archive.segments``."""
    return _awaited(archive.segments(store))


def seal_log(
    chunks: Iterable[list[RawEvent]],
    sealed: list[Segment],
    *,
    store: NamedBlobStore,
    total: int,
    now: datetime,
    report: Report,
    findings: Sequence[Finding] = (),
) -> PassResult:
    """Archive the log from the last sealed event on (the chunks begin with that one, to prove that it is this log).

    ``findings``: of what was sealed before.
    """
    pace = Pace("archive", "sealing", total, report)
    sealer = Sealer(store, sealed, now)
    known = sealer.last
    for chunk in pace.over(chunks):
        fresh = chunk
        if known and chunk[0][0] == known:
            if event_id_of(chunk[0]) != sealed[-1].last_event_id:
                raise PassFailed(
                    f"the archive is of another log: its event at position {known} is {sealed[-1].last_event_id}; "
                    "use another blob store, or restore the archived log"
                )
            fresh = chunk[1:]
        if fresh:
            sealer.add(fresh)
    sealer.seal()
    added = sealer.sealed[len(sealed) :]
    size = sum(segment.events.size + segment.replay.size for segment in added)
    damaged = sum(finding.severity == "error" for finding in findings)
    return PassResult(
        what="archive",
        ok=not damaged,
        summary=f"sealed {sealer.last - known:,} events in {len(added)} segments ({size:,} bytes); "
        f"the archive ends at position {sealer.last:,}"
        + (f"; {damaged:,} older segments are damaged" if damaged else "")
        + (f"; {len(findings) - damaged:,} damaged segments were made again" if len(findings) > damaged else ""),
        events=sealer.last - known,
        seconds=round(pace.seconds, 3),
        findings=tuple(findings),
    )


def rebuild_from_archive(
    segments: list[Segment],
    tail: Iterable[list[RawEvent]],
    path: Path,
    *,
    store: NamedBlobStore,
    total: int,
    report: Report,
    whole_events: bool = False,
) -> PassResult:
    """Like ``rebuild``, from the archive and the rest of the log. ``whole_events``: without the replay parts.

    Raises:
        PassFailed: an event cannot be read.
        ArchiveDamaged: name the segment; rebuild from the log instead.

    """
    pace = Pace("rebuild", "folding the archive", total, report)
    tables = BulkProjections(path)
    gc.disable()
    try:
        for segment in segments:
            if whole_events or segment.replay_version != VERSION:
                events = _awaited(archive.events_of(store, segment))
                fold_chunks(tables, [_raw(segment, events)])
            else:
                content = _awaited(archive.replay_of(store, segment))
                tables.replay(read_replay_part(content), segment.first, segment.last, segment.last_event_id)
            pace.add(segment.count)
        fold_chunks(tables, pace.over(tail))
        tables.finish()
    except ReplayClash:
        tables.abandon()
        return rebuild_from_archive(segments, tail, path, store=store, total=total, report=report, whole_events=True)
    finally:
        tables.abandon()
        gc.enable()
    sync(path)
    archived = segments[-1].last if segments else 0
    return PassResult(
        what="rebuild",
        ok=True,
        summary=f"folded {tables.position:,} events, {archived:,} of them from the archive",
        events=tables.position,
        seconds=round(pace.seconds, 3),
    )


class ArchiveProof:
    """Compares the archive with the log that streams by."""

    def __init__(self, store: NamedBlobStore) -> None:
        self._store = store
        self.findings: list[Finding] = []
        try:
            self._segments = sealed_segments(store)
        except ArchiveDamaged as error:
            self._segments = []
            self._find(str(error), None)
        self._open = list(reversed(self._segments))
        self._events: list[ArchivedEvent] = []

    @property
    def count(self) -> int:
        return sum(segment.count for segment in self._segments)

    def watch(self, chunks: Iterable[list[RawEvent]]) -> Iterator[list[RawEvent]]:
        """The chunks as they are; what is sealed is compared on the way."""
        last = 0
        for chunk in chunks:
            for raw in chunk:
                if not self._open:
                    break
                self._events.append(archived(raw))
                if raw[0] >= self._open[-1].last:
                    self._compare(self._open.pop())
            last = chunk[-1][0]
            yield chunk
        if self._open:
            self._find(lost_end(last, self._open[0].last), last)

    def _compare(self, segment: Segment) -> None:
        in_log, self._events = self._events, []
        same = digest_of(archive.packed(in_log)) == segment.content_digest
        try:
            sealed = _awaited(archive.events_of(self._store, segment))
            _awaited(archive.replay_of(self._store, segment))
        except ArchiveDamaged as error:
            whose = (
                "the log itself is as it was sealed: `ridges ledger archive` makes the segment again"
                if same
                else "and the log is not as it was sealed either: bring the blobs back from a backup of the blob store"
            )
            self._find(f"the archive is damaged: {error}; {whose}", None)
            return
        if same:
            return
        for place, (logged, kept) in enumerate(zip(in_log, sealed, strict=False), segment.first):
            if logged != kept:
                self._find(
                    f"the event {kept.event_id} ({kept.subject}) is not as it was sealed in {segment.title}: "
                    f"the log was changed. To bring the sealed one back: {INTO_NEW}",
                    place,
                    kept.event_id,
                )
                return
        self._find(f"the log has {len(in_log)} events where {segment.title} has {len(sealed)}", segment.first)

    def _find(self, detail: str, position: int | None, event_id: str | None = None) -> None:
        self.findings.append(
            Finding(kind="archive", severity="error", detail=detail, position=position, event_id=event_id)
        )


def _awaited(work: Awaitable[Result]) -> Result:
    """The result. Not returned through ``asyncio.run``: when it puts the signal handler back, Python makes the ``repr``
    of the task, and thereby of its result, which has megabytes here.
    """
    results: list[Result] = []

    async def keep() -> None:
        results.append(await work)

    asyncio.run(keep())
    return results[0]


def archived(raw: RawEvent) -> ArchivedEvent:
    """As it stands in a segment."""
    return ArchivedEvent(subject=raw[1].decode(), event_id=event_id_of(raw), content=raw[3])


def lost_end(end: int, archived_to: int) -> str:
    """For people."""
    return (
        f"the log ends at position {end}, the archive holds events up to {archived_to}: the log has lost events; "
        "bring them back with `ridges ledger restore`"
    )


def replay_of_events(events: list[RawEvent]) -> bytes:
    """The replay part of a segment that holds them, uncompressed."""
    return replay_part((raw[0], archived(raw).run_id, raw[3]) for raw in events)


def _raw(segment: Segment, events: list[ArchivedEvent]) -> list[RawEvent]:
    return [
        (position, event.subject.encode(), b"", event.content) for position, event in enumerate(events, segment.first)
    ]
