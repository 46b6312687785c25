"""Applies events to the tables: a batch is one transaction, and the checkpoint is part of it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ridges.chassis.ports import Recorded
from ridges.contracts import events as ev
from ridges.ledger.errors import LogGap
from ridges.ledger.projections import problems, runs
from ridges.ledger.projections.costs import Call, CallChange, CallEvent, Charge, change_call
from ridges.ledger.projections.runs import RunRecord
from ridges.ledger.projections.schema import open_projections

_CALL_EVENTS = (ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed, ev.InferenceSettled)
_ADD_COSTS = """
INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run_id, provider, model, day) DO UPDATE SET
    requests = requests + excluded.requests,
    input_tokens = input_tokens + excluded.input_tokens,
    cached_input_tokens = cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = output_tokens + excluded.output_tokens,
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd
"""

CostKey = tuple[str, str, str, str]
"""run id, provider, model, day."""


class Projections:
    """The writer of the tables. One at a time for a file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        row = connection.execute("SELECT position, event_id FROM checkpoint").fetchone()
        self.position: int = row[0]
        """Of the newest event in the tables; 0 = none."""
        self.event_id: str | None = row[1]

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
        batch = _Batch(self._connection)
        with _transaction(self._connection):
            for recorded in fresh:
                batch.fold(recorded)
            batch.write()
            newest = fresh[-1]
            self._connection.execute(
                "UPDATE checkpoint SET position = ?, event_id = ?", (newest.position, newest.event.id)
            )
        self.position, self.event_id = newest.position, newest.event.id
        return set(batch.runs)

    def close(self) -> None:
        self._connection.close()


@contextmanager
def opened(path: Path) -> Iterator[Projections]:
    """The writer of the file, closed in the end."""
    projections = Projections(open_projections(path))
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


class _Batch:
    """What a batch touches, read once and written once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.runs: dict[str, RunRecord] = {}
        self._calls: dict[tuple[str, str], Call] = {}
        self._costs: dict[CostKey, list[int]] = {}

    def fold(self, recorded: Recorded) -> None:
        event = recorded.event
        match event:
            case ev.ProblemPublished():
                problems.publish(self._connection, event, recorded.position)
                return
            case ev.PriceListPublished():
                return
            case ev.RunRequested() if self._run(event.run_id) is None:
                self.runs[event.run_id] = runs.begin(event, recorded.position)
                return
        run = self._run(event.run_id)
        if isinstance(event, _CALL_EVENTS):
            self._fold_call(run, event)
        elif isinstance(event, ev.InferenceRefused):
            if run is not None:
                run.requests_refused += 1
        elif run is not None:
            runs.advance(run, event)
        if run is not None:
            run.position = recorded.position

    def _run(self, run_id: str) -> RunRecord | None:
        record = self.runs.get(run_id)
        if record is None:
            record = runs.load(self._connection, run_id)
            if record is not None:
                self.runs[run_id] = record
        return record

    def _fold_call(self, run: RunRecord | None, event: CallEvent) -> None:
        call = self._call(event.run_id, event.call_id)
        change = change_call(call, event)
        if change is None:
            return
        self._calls[event.run_id, event.call_id] = change.call
        for charge in change.charges:
            self._charge(event.run_id, charge)
        if run is not None:
            _add_to_run(run, call, change)

    def _charge(self, run_id: str, charge: Charge) -> None:
        sums = self._costs.setdefault((run_id, charge.provider, charge.model, charge.day), [0] * 6)
        usage = charge.usage
        amounts = (
            charge.requests,
            usage.input,
            usage.cached_input,
            usage.output,
            usage.reasoning,
            charge.cost_nano_usd,
        )
        for index, amount in enumerate(amounts):
            sums[index] += amount

    def _call(self, run_id: str, call_id: str) -> Call | None:
        call = self._calls.get((run_id, call_id))
        if call is not None:
            return call
        row = self._connection.execute(
            "SELECT status, model, reserved_nano_usd, reserved_at, settled FROM calls WHERE run_id = ? AND call_id = ?",
            (run_id, call_id),
        ).fetchone()
        if row is None:
            return None
        return Call(
            status=row[0],
            model=row[1],
            reserved_nano_usd=row[2],
            reserved_at=row[3],
            settled=None if row[4] is None else msgspec.json.decode(row[4], type=Charge),
        )

    def write(self) -> None:
        runs.store(self._connection, self.runs.values())
        self._connection.executemany(
            "REPLACE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    run_id,
                    call_id,
                    call.status,
                    call.model,
                    call.reserved_nano_usd,
                    call.reserved_at,
                    None if call.settled is None else msgspec.json.encode(call.settled),
                )
                for (run_id, call_id), call in self._calls.items()
            ),
        )
        self._connection.executemany(_ADD_COSTS, ((*key, *sums) for key, sums in self._costs.items()))


def _add_to_run(run: RunRecord, before: Call | None, change: CallChange) -> None:
    run.reserved_nano_usd += change.call.open_nano_usd - (0 if before is None else before.open_nano_usd)
    run.requests += change.call.status == "made"
    run.requests_failed += change.call.status == "failed"
    for charge in change.charges:
        run.input_tokens += charge.usage.input
        run.cached_input_tokens += charge.usage.cached_input
        run.output_tokens += charge.usage.output
        run.reasoning_tokens += charge.usage.reasoning
        run.cost_nano_usd += charge.cost_nano_usd
