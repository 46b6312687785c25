"""The ``runs`` table: one record a run, folded from its events. Pure but for ``load`` and ``store``."""

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.lifecycle import Run, RunState, Verdict, evolve
from ridges.contracts.limits import RunLimits

_NONE = b"[]"
_limits = msgspec.json.Decoder(RunLimits)
_json = msgspec.json.Encoder()


class RunRecord(msgspec.Struct, kw_only=True, gc=False):
    """A row of ``runs``: fields are columns, in the order of the table."""

    run_id: str
    requested_position: int
    position: int
    problem: str
    agent: str
    agent_name: str
    batch_id: str | None
    model: str | None
    limits: bytes
    state: str
    verdict: Verdict | None = None
    cause: str | None = None
    detail: str | None = None
    attempt: int = 0
    evaluation_id: str | None = None
    partial: int = 0
    sandbox: str | None = None
    requests: int = 0
    requests_failed: int = 0
    requests_refused: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0
    reserved_nano_usd: int = 0
    tests_passed: int = 0
    tests_total: int = 0
    requested_at: str
    started_at: str | None = None
    finished_at: str | None = None
    patch_digest: str | None = None
    log_digest: str | None = None
    evaluation_log_digest: str | None = None
    exit: bytes | None = None
    tests: bytes = _NONE
    flagged: bytes = _NONE
    mended: bytes = _NONE


COLUMNS = RunRecord.__struct_fields__
SUMS = (
    "position",
    "requests",
    "requests_failed",
    "requests_refused",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nano_usd",
    "reserved_nano_usd",
)
"""What model calls change; no index holds any of it."""
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM runs WHERE run_id = ?"  # noqa: S608 - our own column names
_STORE = (
    f"INSERT INTO runs ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (requested_position) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[2:])}"
)
_STORE_SUMS = f"UPDATE runs SET {', '.join(f'{name} = ?' for name in SUMS)} WHERE requested_position = ?"  # noqa: S608
_sums_of = attrgetter(*SUMS, "requested_position")


def load(connection: sqlite3.Connection, run_id: str) -> RunRecord | None:
    """The stored record."""
    row = connection.execute(_SELECT, (run_id,)).fetchone()
    return None if row is None else record_of(row)


def record_of(row: tuple[object, ...]) -> RunRecord:
    """The record in a row that was selected by COLUMNS."""
    return RunRecord(**dict(zip(COLUMNS, row, strict=True)))  # type: ignore[arg-type]  # SQLite types by column


def store(connection: sqlite3.Connection, records: Iterable[RunRecord]) -> None:
    """Write the records."""
    connection.executemany(_STORE, map(msgspec.structs.astuple, records))


def store_sums(connection: sqlite3.Connection, records: Iterable[RunRecord]) -> None:
    """Write what model calls changed in records that are stored already."""
    connection.executemany(_STORE_SUMS, map(_sums_of, records))


def time_text(time: datetime) -> str:
    """ISO 8601 in UTC; sorts as text."""
    return utc(time).isoformat(timespec="microseconds")


def utc(time: datetime) -> datetime:
    """The time in UTC; one without a zone is taken as UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def begin(event: ev.RunRequested, position: int) -> RunRecord:
    """The record of a run that was just requested."""
    return RunRecord(
        run_id=event.run_id,
        requested_position=position,
        position=position,
        problem=event.problem_id,
        agent=event.agent.digest,
        agent_name=event.agent_name,
        batch_id=event.batch_id,
        model=event.model,
        limits=_json.encode(event.limits),
        state=RunState.PENDING.value,
        requested_at=time_text(event.time),
    )


def advance(record: RunRecord, before: Run, event: ev.AnyEvent) -> Run:
    """Fold one event of the run's life into its record (model calls are ``costs``' part). The run after it."""
    _keep_evidence(record, event)
    after = evolve(before, event)
    if after is None or after is before:
        return before
    record.state, record.attempt, record.evaluation_id = after.state.value, after.attempt, after.evaluation_id
    record.verdict, record.detail, record.partial = after.verdict, after.detail, int(after.partial)
    record.cause = None if after.cause is None else after.cause.value
    if after.ended:
        record.finished_at = time_text(event.time)
    match event:
        case ev.AgentStarted():
            record.sandbox = event.sandbox
            record.started_at = record.started_at or time_text(event.time)
            record.patch_digest = record.log_digest = record.exit = None
        case ev.EvaluationRequested():
            record.mended = _json.encode(event.mended)
        case ev.TestsFinished():
            record.tests = _json.encode(event.tests)
            record.tests_total = len(event.tests)
            record.tests_passed = sum(test.status == "pass" for test in event.tests)
            record.flagged = _json.encode(event.flagged)
    return after


def _keep_evidence(record: RunRecord, event: ev.AnyEvent) -> None:
    """Patch, logs and exit facts of the current attempt, also when they arrive after a cancel has ended the run."""
    match event:
        case ev.PatchProduced() if event.attempt == record.attempt:
            record.patch_digest = record.patch_digest or event.patch.digest
            record.log_digest = record.log_digest or event.log.digest
            record.exit = record.exit or _json.encode(event.exit)
        case ev.AgentFailed() if event.attempt == record.attempt:
            if event.log is not None:
                record.log_digest = record.log_digest or event.log.digest
            if event.exit is not None:
                record.exit = record.exit or _json.encode(event.exit)
            if event.unjudged_patch is not None and record.patch_digest is None:
                record.patch_digest, record.partial = event.unjudged_patch.digest, 1
        case ev.EvaluationSandboxExited() | ev.TestsFinished() if _is_evaluation(record, event.evaluation_id):
            if event.log is not None:
                record.evaluation_log_digest = event.log.digest


def _is_evaluation(record: RunRecord, evaluation_id: str) -> bool:
    return record.evaluation_id in (None, evaluation_id)


def run_of(record: RunRecord) -> Run:
    """The run as the record has it."""
    return Run(
        run_id=record.run_id,
        state=RunState(record.state),
        limits=_limits.decode(record.limits),
        attempt=record.attempt,
        evaluation_id=record.evaluation_id,
        verdict=record.verdict,
        cause=None if record.cause is None else Cause(record.cause),
        detail=record.detail,
        partial=bool(record.partial),
    )
