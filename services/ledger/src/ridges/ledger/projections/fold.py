"""Folds events into what is known of their runs. The one fold: live, rebuilding and replaying an archive all use it."""

from collections.abc import Callable
from typing import Any

from ridges.contracts import codec
from ridges.contracts import events as ev
from ridges.contracts.lifecycle import Run
from ridges.ledger.projections import runs
from ridges.ledger.projections.costs import Calls, Change
from ridges.ledger.projections.runs import RunRecord
from ridges.ledger.projections.slim import (
    FinishedCalls,
    Foldable,
    RunReplay,
    SlimFailed,
    SlimMade,
    SlimRefused,
    SlimReserved,
    Whole,
    WholeRun,
)


class Sheet:
    """What the fold knows of one run. ``record`` is None for a run that nobody requested."""

    __slots__ = ("calls", "changed", "known", "number", "record", "run", "run_id", "stored")

    def __init__(
        self,
        run_id: str,
        number: int,
        record: RunRecord | None = None,
        calls: Calls | None = None,
        *,
        known: bool = False,
    ) -> None:
        self.run_id, self.number, self.record = run_id, number, record
        self.known = known
        """The table of streams has it. ``number`` is the position of its first event."""
        self.calls = calls or Calls()
        self.run: Run | None = None if record is None else runs.run_of(record)
        self.stored = record is not None
        """The table has the record."""
        self.changed = False
        """More than the sums of the record changed since the last flush."""


class Fold:
    """The state in memory, written to the tables by ``Projections``."""

    def __init__(self, load: Callable[[str, int], Sheet]) -> None:
        self._load = load
        self.sheets: dict[str, Sheet] = {}
        """Runs at hand; others are loaded when an event of theirs comes."""
        self.dirty: dict[str, Sheet] = {}
        """Runs that changed since the last flush."""
        self.problems: dict[str, tuple[int, bytes]] = {}
        self.price_lists: dict[str, tuple[int, bytes]] = {}
        by_type: dict[type[Any], Callable[[Sheet, Any], None]] = dict.fromkeys(ev.AnyEvent.__args__, _advance)
        by_type |= {
            ev.InferenceReserved: _reserve,
            SlimReserved: _reserve,
            ev.InferenceMade: _made,
            SlimMade: _made,
            ev.InferenceFailed: _failed,
            SlimFailed: _failed,
            ev.InferenceRefused: _refused,
            SlimRefused: _refused,
            ev.InferenceSettled: _settled,
        }
        self._by_type = by_type

    def fold(self, position: int, event: Foldable) -> None:
        """Fold one event; positions must rise."""
        run_id = event.run_id
        sheet = self.dirty.get(run_id)
        if sheet is None:
            if isinstance(event, ev.ProblemPublished):
                self.problems[event.problem_id] = (position, codec.encode(event))
                return
            if isinstance(event, ev.PriceListPublished):
                self.price_lists.setdefault(event.price_list, (position, codec.encode(event)))
                return
            sheet = self._sheet(run_id, position)
        if sheet.record is None and isinstance(event, ev.RunRequested):
            sheet.record = runs.begin(event, position)
            sheet.run = runs.run_of(sheet.record)
            sheet.changed = True
            return
        self._by_type[type(event)](sheet, event)
        if sheet.record is not None:
            sheet.record.position = position

    def replay(self, part: RunReplay) -> None:
        """Fold everything of one stream within a segment of the archive.

        Raises:
            ReplayClash: a call stands in two segments: fold the events themselves.

        """
        run_id, last = part.run_id, part.last_position
        for item in part.items:
            kind = type(item)
            if kind is Whole:
                self.fold(item.position, codec.decode(item.content))  # type: ignore[union-attr]
                continue
            sheet = self.dirty.get(run_id)
            if sheet is None:
                sheet = self._sheet(run_id, part.first_position)
            if kind is FinishedCalls:
                _add_finished(sheet, item)  # type: ignore[arg-type]
            elif kind is WholeRun:
                _take_over(sheet, item)  # type: ignore[arg-type]
            else:
                self._by_type[kind](sheet, item)
        sheet = self.dirty.get(run_id)
        if sheet is not None and sheet.record is not None:
            sheet.record.position = last

    def _sheet(self, run_id: str, position: int) -> Sheet:
        sheet = self.sheets.get(run_id)
        if sheet is None:
            sheet = self.sheets[run_id] = self._load(run_id, position)
        self.dirty[run_id] = sheet
        return sheet

    def forget(self) -> None:
        """Drop everything in memory: what was not flushed is lost, what is stored will be loaded again."""
        for held in (self.sheets, self.dirty, self.problems, self.price_lists):
            held.clear()


class ReplayClash(Exception):
    """A call of the replay part is known already."""


def _add_finished(sheet: Sheet, finished: FinishedCalls) -> None:
    calls, record, ids = sheet.calls, sheet.record, finished.call_ids
    if not calls.closed.isdisjoint(ids) or not calls.open.keys().isdisjoint(ids):
        raise ReplayClash(f"run {sheet.run_id}: a call stands in the log twice")
    calls.closed.update(ids)
    calls.newly_closed.extend(ids)
    attempt = 0 if record is None else record.attempt
    for cell in finished.cells:
        calls.add_cell((attempt, *cell.key), cell.sums, cell.usages)
    if record is not None:
        record.requests += finished.answered
        record.requests_failed += finished.failed
        fresh, cached, output, reasoning, cost = finished.amounts
        record.input_tokens += fresh
        record.cached_input_tokens += cached
        record.output_tokens += output
        record.reasoning_tokens += reasoning
        record.cost_nano_usd += cost


def _take_over(sheet: Sheet, whole: WholeRun) -> None:
    if sheet.known or sheet.record is not None or sheet.calls.closed or sheet.calls.open:
        raise ReplayClash(f"run {sheet.run_id}: it has events before it was requested")
    record = RunRecord(**dict(zip(runs.COLUMNS, whole.record, strict=True)))
    sheet.record, sheet.run, sheet.changed = record, runs.run_of(record), True
    sheet.calls.closed.update(whole.call_ids)
    sheet.calls.newly_closed.extend(whole.call_ids)
    for key, sums, usages in whole.cells:
        sheet.calls.add_cell(key, sums, usages)


def _attempt(sheet: Sheet) -> int:
    return 0 if sheet.record is None else sheet.record.attempt


def _advance(sheet: Sheet, event: ev.AnyEvent) -> None:
    if sheet.record is None or sheet.run is None:
        return
    sheet.run = runs.advance(sheet.record, sheet.run, event)
    sheet.changed = True


def _reserve(sheet: Sheet, event: ev.InferenceReserved | SlimReserved) -> None:
    record = sheet.record
    if record is None:
        sheet.calls.reserve(event, 0)
    else:
        record.reserved_nano_usd += sheet.calls.reserve(event, record.attempt)


def _made(sheet: Sheet, event: ev.InferenceMade | SlimMade) -> None:
    change = sheet.calls.finish(event, _attempt(sheet), answered=True)
    if change is not None and sheet.record is not None:
        sheet.record.requests += 1
        _add(sheet.record, change)


def _failed(sheet: Sheet, event: ev.InferenceFailed | SlimFailed) -> None:
    change = sheet.calls.finish(event, _attempt(sheet), answered=False)
    if change is not None and sheet.record is not None:
        sheet.record.requests_failed += 1
        _add(sheet.record, change)


def _settled(sheet: Sheet, event: ev.InferenceSettled) -> None:
    change = sheet.calls.settle(event, _attempt(sheet))
    if change is not None and sheet.record is not None:
        sheet.record.requests_failed += change.failed
        _add(sheet.record, change)


def _refused(sheet: Sheet, event: ev.InferenceRefused | SlimRefused) -> None:
    sheet.calls.refuse(event, _attempt(sheet))
    if sheet.record is not None:
        sheet.record.requests_refused += 1


def _add(record: RunRecord, change: Change) -> None:
    record.reserved_nano_usd -= change.released_nano_usd
    record.input_tokens += change.input
    record.cached_input_tokens += change.cached_input
    record.output_tokens += change.output
    record.reasoning_tokens += change.reasoning
    record.cost_nano_usd += change.cost_nano_usd
