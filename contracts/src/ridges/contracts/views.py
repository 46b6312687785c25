"""What the ledger shows of runs and costs: bodies of its HTTP API and of the command line's ``--json``."""

from datetime import datetime
from typing import Literal

import msgspec

from ridges.contracts.events import AnyEvent, ExitFacts, TestResult
from ridges.contracts.faults import Cause, Fault
from ridges.contracts.lifecycle import RunState, Verdict
from ridges.contracts.limits import RunLimits
from ridges.contracts.usage import TokenUsage


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list of runs. Also what the live stream sends after each event of the run."""

    run_id: str
    problem: str
    agent: str
    """Digest of the agent file."""
    agent_name: str
    batch_id: str | None
    state: RunState
    verdict: Verdict | None
    cause: Cause | None
    fault: Fault | None
    code: int | None
    """Code of the public Ridges system for the cause."""
    attempt: int
    partial: bool
    sandbox: str | None
    """Technology of the latest attempt."""
    requests: int
    """Answered model calls."""
    usage: TokenUsage
    cost_nano_usd: int
    cost_usd: str
    """Decimal text."""
    reserved_nano_usd: int
    """Set aside for calls in flight."""
    tests_passed: int
    tests_total: int
    requested_at: datetime
    started_at: datetime | None
    """First attempt."""
    finished_at: datetime | None
    position: int
    """Of the newest event in the log that this row contains."""


class RunDetail(RunRow, frozen=True, kw_only=True):
    """Everything about one run."""

    detail: str | None
    model: str | None
    limits: RunLimits
    requests_failed: int
    requests_refused: int
    tests: tuple[TestResult, ...]
    patch: str | None
    """Unified diff; undecodable bytes replaced."""
    patch_digest: str | None
    log_digest: str | None
    evaluation_log_digest: str | None
    exit: ExitFacts | None
    flagged: tuple[str, ...]
    mended: tuple[str, ...]


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs, newest first."""

    runs: tuple[RunRow, ...]
    next_cursor: str | None


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """An event with its place in the log."""

    position: int
    event: AnyEvent


CostDimension = Literal["run", "attempt", "agent", "problem", "batch", "model", "provider", "day", "token_kind"]


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of one group. Every amount adds up to the total exactly."""

    key: str
    requests: int
    """Answered model calls."""
    usage: TokenUsage
    cost_nano_usd: int
    """Everything that is charged, the parts below included."""
    cost_usd: str
    requests_failed: int = 0
    """Calls that no provider answered."""
    requests_refused: int = 0
    """Calls that never reached a provider: a limit, an unknown model."""
    failed_nano_usd: int = 0
    """Part of the cost: attempts at a provider that failed (cut streams, errors that were billed)."""
    estimated_nano_usd: int = 0
    """Part of the cost: attempts whose tokens the provider did not report."""
    settled_nano_usd: int = 0
    """Part of the cost: calls whose outcome was lost."""
    reserved_nano_usd: int = 0
    """Not in the cost: set aside for calls whose outcome is not in the log (yet)."""


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """Costs by one dimension. The rows add up to the total exactly."""

    by: CostDimension
    rows: tuple[CostRow, ...]
    total: CostRow
    position: int


class ProblemRow(msgspec.Struct, frozen=True, kw_only=True):
    """A published problem."""

    problem_id: str
    kind: Literal["fix", "create"]
    title: str
    problem_digest: str
    agent_timeout_s: int | None
    evaluation_timeout_s: int | None


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A request from the NATS ingress that was refused."""

    received_at: datetime
    subject: str
    reason: str
    content: str
    """The start of the message as text."""


class Problem9457(msgspec.Struct, frozen=True, kw_only=True):
    """Error body of the HTTP APIs. Source: RFC 9457."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    instance: str | None = None


class PriceListRow(msgspec.Struct, frozen=True, kw_only=True):
    """A price list that was published, or that calls were charged by."""

    price_list: str
    source: str
    effective_at: datetime
    published_at: datetime
    models: int


class RepricedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One group's cost as recorded and with other prices."""

    model: str
    agent: str
    day: str
    requests: int
    usage: TokenUsage
    recorded_nano_usd: int
    repriced_nano_usd: int


class RepriceReport(msgspec.Struct, frozen=True, kw_only=True):
    """History with other prices; the record itself is untouched."""

    price_list: str
    since: str | None
    rows: tuple[RepricedRow, ...]
    recorded_nano_usd: int
    repriced_nano_usd: int
    unpriced: tuple[str, ...]
    """``provider/served model`` that the list has no price for: they keep their recorded cost."""
    kept_nano_usd: int
    """Part of both sums that has no tokens to price (settled calls) or no price in the list."""
    position: int


class VoidRuns(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of one agent in a batch that ended without a verdict for one cause."""

    agent: str
    """Digest of its source."""
    agent_name: str
    cause: Cause | None
    fault: Fault | None
    runs: int
    of: int
    """All of the agent's runs in the batch that have ended."""


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of one batch."""

    batch_id: str
    runs: int
    ended: int
    resolved: int
    errors: int
    void: tuple[VoidRuns, ...]
    """By agent and cause, the most frequent first. An agent that is void more often than the others of its batch had no
    worse luck with the same providers: look at its calls (ADR 21)."""
    requests: int
    usage: TokenUsage
    cost_nano_usd: int
    cost_usd: str
    reserved_nano_usd: int
    requested_at: datetime
    """Of the first run."""
    finished_at: datetime | None
    """Of the last run; null while one goes on."""


class PassProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pass over the whole log is."""

    what: Literal["rebuild", "verify", "archive", "restore", "migrate"]
    phase: str
    done: int
    total: int
    rate_per_s: float
    eta_s: float | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the log, its blobs or its archive that is not as it must be."""

    kind: str
    severity: Literal["error", "warning"]
    detail: str
    """What is wrong and what to do."""
    position: int | None = None
    event_id: str | None = None
    run_id: str | None = None


class PassResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a pass over the log ended."""

    what: Literal["rebuild", "verify", "archive", "restore"]
    ok: bool
    summary: str
    events: int
    seconds: float
    findings: tuple[Finding, ...] = ()


class MigrationResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a move of the whole log to another store ended."""

    ok: bool
    summary: str
    events: int
    """Compared in both stores."""
    seconds: float
    moved_from: str | None = None
    """Addresses without credentials; null when nothing was changed."""
    moved_to: str | None = None
    epoch: str | None = None
    """Of the log of record."""
    digest: str | None = None
    """SHA-256 over id, type, run and payload of every event, the same on both sides."""
    next_steps: tuple[str, ...] = ()
