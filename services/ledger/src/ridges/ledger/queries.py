"""Reads of the tables: views of runs, costs and problems. Every answer is one consistent snapshot."""

import asyncio
import base64
import binascii
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from ridges.contracts import codec
from ridges.contracts.events import ExitFacts, PriceListPublished, ProblemPublished, TestResult
from ridges.contracts.faults import RULES, Cause
from ridges.contracts.lifecycle import ENDED, RunState
from ridges.contracts.limits import RunLimits
from ridges.contracts.money import usd_text
from ridges.contracts.usage import TokenUsage
from ridges.contracts.views import (
    BatchRow,
    CostDimension,
    CostReport,
    PriceListRow,
    ProblemRow,
    RepriceReport,
    RunDetail,
    RunList,
    RunRow,
)
from ridges.ledger.cost_reports import batch_rows, cost_report, recorded_price_lists, repriced
from ridges.ledger.errors import AmbiguousRun, RequestRefused, UnknownRun
from ridges.ledger.projections.runs import COLUMNS, RunRecord, record_of
from ridges.ledger.projections.schema import open_reader

Answer = TypeVar("Answer")

MIN_PREFIX = 4
CANDIDATES_SHOWN = 10

_RUNS = f"SELECT {', '.join(COLUMNS)} FROM runs"  # noqa: S608 - our own column names
_ENDED = tuple(sorted(state.value for state in ENDED))
_NOT_ENDED = f"state NOT IN ({', '.join('?' * len(_ENDED))})"


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs to list; every part that is set must fit."""

    states: Sequence[RunState] = ()
    problem: str | None = None
    agent: str | None = None
    """Name of the agent, or its digest or the beginning of it (with or without ``sha256:``)."""
    batch_id: str | None = None


class OpenReservation(msgspec.Struct, frozen=True, kw_only=True):
    """Money set aside for a call of an ended run whose outcome is not in the log."""

    run_id: str
    call_id: str
    model: str
    reserved_nano_usd: int
    since: datetime
    """When the run ended or the call was reserved, whichever was later."""


class Queries:
    """The reader of the tables."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None = None) -> None:
        self._tables, self._path = connection, path
        self.before_reading: Callable[[], None] = lambda: None
        """Called before each look at the tables, so that they hold all that is known."""

    @property
    def _connection(self) -> sqlite3.Connection:
        self.before_reading()
        return self._tables

    def close(self) -> None:
        self._tables.close()

    def reopen(self, connection: sqlite3.Connection) -> None:
        """Go on with other tables; the old connection is not closed."""
        self._tables = connection

    async def beside(self, read: "Callable[[Queries], Answer]") -> Answer:
        """What the function reads, in a thread with a reader of its own, for what takes long."""
        path = self._path
        assert path is not None, "tables in memory have one reader"
        self.before_reading()

        def reading() -> Answer:
            with opened(path) as queries:
                return read(queries)

        return await asyncio.to_thread(reading)

    def position(self) -> int:
        """Of the newest event in the tables."""
        position: int = self._connection.execute("SELECT position FROM checkpoint").fetchone()[0]
        return position

    def resolve(self, id_or_prefix: str) -> str:
        """The run id that the text means: a whole id, or at least four characters that begin exactly one.

        Raises:
            UnknownRun: none, or the text is too short.
            AmbiguousRun: several.

        """
        prefix = id_or_prefix.lower()
        if len(prefix) < MIN_PREFIX:
            raise UnknownRun(id_or_prefix)
        rows = self._connection.execute(
            "SELECT run_id FROM runs WHERE run_id >= ? AND run_id < ? LIMIT ?",
            (prefix, prefix + "\U0010ffff", CANDIDATES_SHOWN),
        ).fetchall()
        found = [row[0] for row in rows]
        if prefix in found or len(found) == 1:
            return prefix if prefix in found else str(found[0])
        if not found:
            raise UnknownRun(id_or_prefix)
        raise AmbiguousRun(id_or_prefix, found)

    def record(self, run_id: str) -> RunRecord | None:
        """The stored record of a run, by its whole id."""
        row = self._connection.execute(f"{_RUNS} WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None else record_of(row)

    def row(self, run_id: str) -> RunRow | None:
        """One run, by its whole id."""
        record = self.record(run_id)
        return None if record is None else run_row(record)

    def active(self) -> list[RunRow]:
        """Every run that has not ended, oldest first."""
        rows = self._connection.execute(f"{_RUNS} WHERE {_NOT_ENDED} ORDER BY requested_position", _ENDED)
        return [run_row(record_of(row)) for row in rows]

    def runs(self, which: RunFilter, *, limit: int, cursor: str | None = None) -> RunList:
        """A page of runs, newest first.

        Raises:
            RequestRefused: the cursor is not one of ours.

        """
        conditions, values = _conditions(which)
        if cursor is not None:
            conditions.append("requested_position < ?")
            values.append(_position_in(cursor))
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self._connection.execute(
            f"{_RUNS}{where} ORDER BY requested_position DESC LIMIT ?", (*values, limit + 1)
        ).fetchall()
        records = [record_of(row) for row in rows[:limit]]
        more = len(rows) > limit
        return RunList(
            runs=tuple(run_row(record) for record in records),
            next_cursor=_cursor_after(records[-1].requested_position) if more else None,
        )

    def costs(self, by: CostDimension) -> CostReport:
        """Costs by one dimension, the most expensive first (days: in order). The rows add up to the total exactly."""
        with self._snapshot():
            return cost_report(self._connection, by, self.position())

    def batches(self, batch_id: str | None = None) -> list[BatchRow]:
        """Batches, newest first; or the one."""
        return batch_rows(self._connection, batch_id)

    def going_on(self, batch_id: str) -> list[str]:
        """The runs of a batch that have not ended, oldest first."""
        rows = self._connection.execute(
            f"SELECT run_id FROM runs WHERE batch_id = ? AND {_NOT_ENDED} ORDER BY requested_position",  # noqa: S608
            (batch_id, *_ENDED),
        )
        return [row[0] for row in rows]

    def price_lists(self) -> list[PriceListPublished]:
        """Every published price list, newest first."""
        rows = self._connection.execute("SELECT event FROM price_lists ORDER BY position DESC")
        return [_price_list_in(row[0]) for row in rows]

    def price_list(self, price_list: str) -> PriceListPublished | None:
        """A published price list by its id."""
        row = self._connection.execute("SELECT event FROM price_lists WHERE price_list = ?", (price_list,)).fetchone()
        return None if row is None else _price_list_in(row[0])

    def recorded_price_lists(self) -> list[PriceListRow]:
        """Lists that calls were charged by and nobody published, newest first."""
        return recorded_price_lists(self._connection)

    def runs_charged_by(self, price_list: str) -> list[str]:
        """Runs whose calls hold every price of the list that was ever asked for: one run for each."""
        rows = self._connection.execute(
            "SELECT DISTINCT run_id FROM (SELECT min(run_id) AS run_id FROM costs WHERE price_list = ? "
            "GROUP BY provider, served_model)",
            (price_list,),
        )
        return [row[0] for row in rows]

    def reprice(self, prices: PriceListPublished, since: str | None) -> RepriceReport:
        """All costs since a day with other prices beside the recorded ones."""
        with self._snapshot():
            return repriced(self._connection, prices, since, self.position())

    def problems(self) -> list[ProblemRow]:
        """The newest edition of each published problem, by id."""
        rows = self._connection.execute("SELECT event FROM problems ORDER BY problem_id")
        return [_problem_row(_problem_in(row[0])) for row in rows]

    def problem(self, problem_id: str) -> ProblemPublished | None:
        """The newest edition of a problem."""
        row = self._connection.execute("SELECT event FROM problems WHERE problem_id = ?", (problem_id,)).fetchone()
        return None if row is None else _problem_in(row[0])

    def open_reservations(self) -> list[OpenReservation]:
        """The reservations of ended runs (and of runs that nobody requested) that nothing has released."""
        rows = self._connection.execute(
            "SELECT calls.run_id, call_id, calls.model, calls.reserved_nano_usd, "  # noqa: S608
            "max(coalesce(finished_at, ''), reserved_at) "
            "FROM calls LEFT JOIN runs ON runs.run_id = calls.run_id "
            f"WHERE calls.status = 'reserved' AND (state IS NULL OR NOT ({_NOT_ENDED})) LIMIT 1000",
            _ENDED,
        )
        return [
            OpenReservation(
                run_id=row[0],
                call_id=row[1],
                model=row[2],
                reserved_nano_usd=row[3],
                since=datetime.fromisoformat(row[4]),
            )
            for row in rows
        ]

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._tables.execute("COMMIT")


@contextmanager
def opened(path: Path) -> Iterator[Queries]:
    """The reader of the file, closed in the end."""
    queries = Queries(open_reader(path), path)
    try:
        yield queries
    finally:
        queries.close()


def run_row(record: RunRecord) -> RunRow:
    """The list's view of a record."""
    cause = None if record.cause is None else Cause(record.cause)
    rule = None if cause is None else RULES[cause]
    return RunRow(
        run_id=record.run_id,
        problem=record.problem,
        agent=record.agent,
        agent_name=record.agent_name,
        batch_id=record.batch_id,
        state=RunState(record.state),
        verdict=record.verdict,
        cause=cause,
        fault=None if rule is None else rule.fault,
        code=None if rule is None else rule.code,
        attempt=record.attempt,
        partial=bool(record.partial),
        sandbox=record.sandbox,
        requests=record.requests,
        usage=TokenUsage(
            input=record.input_tokens,
            cached_input=record.cached_input_tokens,
            output=record.output_tokens,
            reasoning=record.reasoning_tokens,
        ),
        cost_nano_usd=record.cost_nano_usd,
        cost_usd=usd_text(record.cost_nano_usd),
        reserved_nano_usd=record.reserved_nano_usd,
        tests_passed=record.tests_passed,
        tests_total=record.tests_total,
        requested_at=datetime.fromisoformat(record.requested_at),
        started_at=_time(record.started_at),
        finished_at=_time(record.finished_at),
        position=record.position,
    )


def run_detail(record: RunRecord, patch: str | None) -> RunDetail:
    """The full view of a record; the patch's text comes from its blob."""
    return RunDetail(
        **msgspec.structs.asdict(run_row(record)),
        detail=record.detail,
        model=record.model,
        limits=msgspec.json.decode(record.limits, type=RunLimits),
        requests_failed=record.requests_failed,
        requests_refused=record.requests_refused,
        tests=msgspec.json.decode(record.tests, type=tuple[TestResult, ...]),
        patch=patch,
        patch_digest=record.patch_digest,
        log_digest=record.log_digest,
        evaluation_log_digest=record.evaluation_log_digest,
        exit=None if record.exit is None else msgspec.json.decode(record.exit, type=ExitFacts),
        flagged=msgspec.json.decode(record.flagged, type=tuple[str, ...]),
        mended=msgspec.json.decode(record.mended, type=tuple[str, ...]),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _conditions(which: RunFilter) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    values: list[object] = []
    if which.states:
        conditions.append(f"state IN ({', '.join('?' * len(which.states))})")
        values += [state.value for state in which.states]
    if which.problem is not None:
        conditions.append("problem = ?")
        values.append(which.problem)
    if which.batch_id is not None:
        conditions.append("batch_id = ?")
        values.append(which.batch_id)
    if which.agent is not None:
        digits = which.agent.removeprefix("sha256:").lower()
        conditions.append("(agent_name = ? OR substr(agent, 8, ?) = ?)")
        values += [which.agent, max(len(digits), MIN_PREFIX), digits]
    return conditions, values


def _cursor_after(position: int) -> str:
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def _position_in(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        return min(int(text), 2**63 - 1)
    except (ValueError, binascii.Error) as error:
        raise RequestRefused(f"{cursor!r} is no cursor; take next_cursor of the page before", status=422) from error


def _price_list_in(content: bytes) -> PriceListPublished:
    event = codec.decode(content)
    assert isinstance(event, PriceListPublished)
    return event


def _problem_in(content: bytes) -> ProblemPublished:
    event = codec.decode(content)
    assert isinstance(event, ProblemPublished)
    return event


def _problem_row(event: ProblemPublished) -> ProblemRow:
    return ProblemRow(
        problem_id=event.problem_id,
        kind=event.kind,
        title=event.title,
        problem_digest=event.problem_digest,
        agent_timeout_s=event.agent_timeout_s,
        evaluation_timeout_s=event.evaluation_timeout_s,
    )
