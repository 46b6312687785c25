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


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of one group."""

    key: str
    requests: int
    usage: TokenUsage
    cost_nano_usd: int
    cost_usd: str


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """Costs by one dimension. The rows add up to the total exactly."""

    by: Literal["run", "agent", "problem", "model", "provider", "day"]
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
