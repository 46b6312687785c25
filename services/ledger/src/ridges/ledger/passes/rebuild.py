"""Fold the log from its first event into a fresh file of tables."""

import gc
import os
from collections.abc import Iterable
from pathlib import Path

from ridges.chassis.jetstream.bulk import RawEvent
from ridges.contracts.codec import UndecodableEvent, decode
from ridges.contracts.views import PassResult
from ridges.ledger.errors import LogGap
from ridges.ledger.passes.reporting import Pace, PassFailed, Report
from ridges.ledger.projections.apply import BulkProjections


def rebuild(chunks: Iterable[list[RawEvent]], path: Path, *, total: int, report: Report) -> PassResult:
    """The result; the file is whole, closed and on the disk.

    Raises:
        PassFailed: an event is missing or unreadable; the file is worth nothing.

    """
    pace = Pace("rebuild", "folding the log", total, report)
    tables = BulkProjections(path)
    collecting = gc.isenabled()
    gc.disable()  # nothing in the fold makes cycles, and its many objects would be walked again and again
    try:
        fold_chunks(tables, pace.over(chunks))
        tables.finish()
    finally:
        tables.abandon()
        if collecting:
            gc.enable()
    sync(path)
    return PassResult(
        what="rebuild",
        ok=True,
        summary=f"folded {tables.position:,} events",
        events=tables.position,
        seconds=round(pace.seconds, 3),
    )


def fold_chunks(tables: BulkProjections, chunks: Iterable[list[RawEvent]]) -> None:
    """Fold what follows. Raises PassFailed."""
    for chunk in chunks:
        try:
            events = [(position, decode(content)) for position, _, _, content in chunk]
            if events:
                tables.fold(events, events[-1][1].id)
        except UndecodableEvent as error:
            raise PassFailed(unreadable(chunk, error)) from error
        except LogGap as error:
            raise PassFailed(str(error)) from error


def unreadable(chunk: list[RawEvent], error: UndecodableEvent) -> str:
    """Names the first event of the chunk that cannot be decoded."""
    for position, subject, _, content in chunk:
        try:
            decode(content)
        except UndecodableEvent as reason:
            return f"cannot read the event at position {position} ({subject.decode(errors='replace')}): {reason}"
    return f"cannot read an event after position {chunk[0][0] - 1}: {error}"


def sync(path: Path) -> None:
    """The file's content is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
