"""Applies events to the tables: a batch is one transaction, and the checkpoint is part of it."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ridges.chassis.ports import Recorded
from ridges.ledger.errors import LogGap
from ridges.ledger.projections import storing
from ridges.ledger.projections.fold import Fold
from ridges.ledger.projections.schema import is_outdated, open_fresh, open_projections
from ridges.ledger.projections.slim import Foldable, RunReplay

IN_MEMORY = Path(":memory:")
RUNS_KEPT = 2_000
"""Runs that stay in memory between batches; an event of any other run loads it first."""
BULK_FLUSH_RUNS = 4_000
BULK_FLUSH_EVENTS = 100_000


class Projections:
    """The writer of the tables. One at a time for a file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._fold = Fold(self._load)
        self.reopen(connection)

    def reopen(self, connection: sqlite3.Connection) -> None:
        """Go on with other tables; the old connection is not closed."""
        self._connection = connection
        self._fold.forget()
        row = connection.execute("SELECT position, event_id FROM checkpoint").fetchone()
        self.position: int = row[0]
        """Of the newest event in the tables; 0 = none."""
        self.event_id: str | None = row[1]

    @property
    def connection(self) -> sqlite3.Connection:
        return self._connection

    def apply(self, events: Sequence[Recorded]) -> set[str]:
        """The ids of the runs that changed. Events that are in the tables already change nothing.

        Raises:
            LogGap: a position is missing; nothing of the batch was applied.

        """
        fresh = [recorded for recorded in events if recorded.position > self.position]
        if not fresh:
            return set()
        for expected, recorded in enumerate(fresh, self.position + 1):
            if recorded.position != expected:
                raise LogGap(expected, recorded.position)
        newest = fresh[-1]
        fold = self._fold
        try:
            for recorded in fresh:
                fold.fold(recorded.position, recorded.event)
            changed = {sheet.run_id for sheet in fold.dirty.values() if sheet.record is not None}
            with _transaction(self._connection):
                storing.flush(self._connection, fold, newest.position, newest.event.id)
        except BaseException:
            fold.forget()
            raise
        storing.keep_newest(fold, RUNS_KEPT)
        self.position, self.event_id = newest.position, newest.event.id
        return changed

    def close(self) -> None:
        self._connection.close()

    def _load(self, run_id: str, position: int) -> storing.Sheet:
        return storing.load(self._connection, run_id, position)


class BulkProjections:
    """Fills fresh tables from the first event on, as fast as it goes. Worth nothing before ``finish``."""

    def __init__(self, path: Path) -> None:
        self._connection = open_fresh(path)
        self._fold = Fold(self._load)
        self._stored: set[str] = set()
        self._since_flush = 0
        self._event_id: str | None = None
        self.position = 0

    def fold(self, events: Iterable[tuple[int, Foldable]], newest_event_id: str | None) -> None:
        """Fold events that follow directly; the id is that of the last one.

        Raises:
            LogGap: a position is missing.

        """
        fold, position = self._fold.fold, self.position
        for found, event in events:
            position += 1
            if found != position:
                raise LogGap(position, found)
            fold(position, event)
        self._moved(position, newest_event_id)

    def replay(self, parts: Iterable[RunReplay], first: int, last: int, last_event_id: str) -> None:
        """Fold the replay part of a segment.

        Raises:
            LogGap: the segment does not follow what was folded.
            ReplayClash: fold the events themselves, in fresh tables.

        """
        if first != self.position + 1:
            raise LogGap(self.position + 1, first)
        for part in parts:
            self._fold.replay(part)
        self._moved(last, last_event_id)

    def _moved(self, position: int, event_id: str | None) -> None:
        self._since_flush += position - self.position
        self.position, self._event_id = position, event_id
        if len(self._fold.dirty) >= BULK_FLUSH_RUNS or self._since_flush >= BULK_FLUSH_EVENTS:
            self._flush()
            storing.keep_newest(self._fold, BULK_FLUSH_RUNS // 4)

    def finish(self) -> None:
        """Everything is in the file, and the file is closed."""
        self._flush()
        self._connection.execute("COMMIT")
        self._connection.close()

    def abandon(self) -> None:
        """Close without finishing; the file is worth nothing."""
        self._connection.close()

    def _flush(self) -> None:
        self._stored.update(self._fold.dirty)
        storing.flush(self._connection, self._fold, self.position, self._event_id)
        self._since_flush = 0

    def _load(self, run_id: str, position: int) -> storing.Sheet:
        if run_id in self._stored:
            return storing.load(self._connection, run_id, position)
        return storing.Sheet(run_id, position)


@contextmanager
def opened(path: Path) -> Iterator[Projections]:
    """The writer of the file, closed in the end.

    When the file holds tables of an older or newer version, readers still need them: then this writes to tables in
    memory, until somebody builds the file again and calls ``reopen``.
    """
    projections = Projections(open_projections(IN_MEMORY if is_outdated(path) else path))
    try:
        yield projections
    finally:
        projections.close()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
