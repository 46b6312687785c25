"""Decides: a request, the published problem and the agent file become ``RunRequested`` or a refusal. Pure."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec

from ridges.contracts.blobs import BlobRef, ref_to
from ridges.contracts.events import ProblemPublished, RunCancelled, RunRequested
from ridges.contracts.faults import RULES, Cause
from ridges.contracts.limits import ModelLimits, RunLimits, SandboxLimits
from ridges.contracts.money import nano_usd
from ridges.contracts.requests import AGENT_MAX_BYTES, CancelRun, RequestedLimits, RequestRun
from ridges.contracts.subjects import INGRESS_STREAM
from ridges.ledger.errors import RequestRefused

KEY_HEADER = "Idempotency-Key"
AGENT_MEDIA_TYPE = "text/x-python"
PROBLEM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")
"""A problem id is one token of a subject of the log."""

MAX_MEMORY_BYTES = 1 << 40
MAX_PIDS = 32_768
MAX_COST_USD = 1_000_000

_IDS = UUID("5a4b1c0e-8f0d-5d2c-9a57-6c6564676572")
"""Namespace of the ids that are derived, so that a retry appends the same event again."""


def delivery_key(sequence: int, stored_at: datetime) -> str:
    """The same text for every delivery of one ingress message, another one for every other message."""
    return f"{INGRESS_STREAM}:{sequence}:{stored_at.isoformat()}"


def run_id_for(idempotency_key: str) -> str:
    """The run that every request with this key means."""
    return str(uuid5(_IDS, f"idempotency-key:{idempotency_key}"))


def derived_event_id(run_id: str, what: str) -> str:
    """The id of the one event of its kind that a run can have."""
    return str(uuid5(_IDS, f"{run_id}:{what}"))


def canonical_run_id(text: str) -> str:
    """The UUID in its canonical form.

    Raises:
        RequestRefused: not a UUID.

    """
    try:
        return str(UUID(text))
    except ValueError as error:
        raise RequestRefused(f"run_id {text!r} is not a UUID; leave it out to get a new one", status=422) from error


def agent_bytes_of(request: RequestRun) -> bytes | None:
    """The agent file in the request itself; None when it names an uploaded blob.

    Raises:
        RequestRefused: neither or both are given, too large, or not encodable.

    """
    if (request.agent_source is None) == (request.agent is None):
        raise RequestRefused(
            "give exactly one of agent_source (the file's text) and agent (an uploaded blob)", status=422
        )
    if request.agent is not None:
        refuse_large_agent(request.agent.size)
        return None
    try:
        content = (request.agent_source or "").encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"agent_source is not UTF-8 text (character {error.start}); save the agent file as UTF-8"
        raise RequestRefused(reason, status=422, code=RULES[Cause.AGENT_NOT_LOADABLE].code) from error
    refuse_large_agent(len(content))
    return content


def refuse_large_agent(size: int) -> None:
    """Raises RequestRefused when an agent file of so many bytes is too large."""
    if size > AGENT_MAX_BYTES:
        reason = f"the agent file has {size:,} bytes; at most {AGENT_MAX_BYTES:,} (2 MiB) are allowed"
        raise RequestRefused(reason, status=413, code=RULES[Cause.AGENT_NOT_LOADABLE].code)


def unknown_problem(problem_id: str) -> RequestRefused:
    """The refusal of a problem that nobody published."""
    return RequestRefused(
        f"no problem {problem_id!r} is published; `ridges problem list` shows them, a running evaluator publishes them",
        status=404,
        code=RULES[Cause.PROBLEM_UNKNOWN].code,
    )


def decide_run(
    request: RequestRun,
    *,
    run_id: str,
    problem: ProblemPublished,
    agent: bytes,
    agent_problem: str | None,
    now: datetime,
    idempotency_key: str | None = None,
) -> RunRequested:
    """The event that starts the run. Its id is derived from the run id: asking twice appends once.

    Raises:
        RequestRefused: with the reason and the status to answer.

    """
    refuse_large_agent(len(agent))
    if agent_problem is not None:
        raise RequestRefused(agent_problem, status=422, code=RULES[Cause.AGENT_NOT_LOADABLE].code)
    return RunRequested(
        id=derived_event_id(run_id, "RunRequested"),
        run_id=run_id,
        time=now,
        correlation_id=run_id,
        problem_id=problem.problem_id,
        problem_digest=problem.problem_digest,
        statement=problem.statement,
        workspace=problem.workspace,
        agent=agent_ref(agent),
        agent_name=request.agent_name,
        limits=decide_limits(request.limits, problem),
        model=request.model,
        image=request.image or problem.image,
        sandbox=request.sandbox,
        batch_id=request.batch_id,
        requested_by=request.requested_by,
        idempotency_key=idempotency_key,
        priority=request.priority,
    )


def agent_ref(agent: bytes) -> BlobRef:
    """The reference of an agent file."""
    return ref_to(agent, AGENT_MEDIA_TYPE)


def decide_limits(asked: RequestedLimits, problem: ProblemPublished) -> RunLimits:
    """The limits of the run: what was asked for, else the problem's, else the defaults.

    Raises:
        RequestRefused: a limit that cannot be meant.

    """
    default, model = RunLimits(), ModelLimits()
    sandbox = msgspec.structs.replace(problem.sandbox or default.sandbox, **_given(asked))
    _refuse_absurd_sandbox(sandbox)
    cost = model.max_cost_nano_usd if asked.max_cost_usd is None else nano_usd(asked.max_cost_usd)
    if cost > nano_usd(MAX_COST_USD):
        raise RequestRefused(f"limits.max_cost_usd {asked.max_cost_usd} is over {MAX_COST_USD:,} USD", status=422)
    return RunLimits(
        model=msgspec.structs.replace(
            model,
            max_cost_nano_usd=cost,
            max_requests=_first(asked.max_requests, model.max_requests),
            max_tokens=_first(asked.max_tokens, model.max_tokens),
            max_requests_per_minute=asked.max_requests_per_minute,
            end_when_spent=bool(asked.end_when_spent),
        ),
        sandbox=sandbox,
        agent_timeout_s=_first(asked.agent_timeout_s, problem.agent_timeout_s, default.agent_timeout_s),
        evaluation_timeout_s=_first(
            asked.evaluation_timeout_s, problem.evaluation_timeout_s, default.evaluation_timeout_s
        ),
    )


def _given(asked: RequestedLimits) -> dict[str, Any]:
    return asked.sandbox.given if asked.sandbox else {}


def _refuse_absurd_sandbox(limits: SandboxLimits) -> None:
    if limits.memory_bytes > MAX_MEMORY_BYTES:
        raise RequestRefused(f"limits.sandbox.memory_bytes {limits.memory_bytes:,} is over 1 TiB", status=422)
    if limits.disk_bytes > MAX_MEMORY_BYTES:
        raise RequestRefused(f"limits.sandbox.disk_bytes {limits.disk_bytes:,} is over 1 TiB", status=422)
    if limits.pids > MAX_PIDS:
        raise RequestRefused(f"limits.sandbox.pids {limits.pids:,} is over {MAX_PIDS:,}", status=422)


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


_COMPARED = (
    *("problem_id", "agent", "agent_name", "model", "image", "sandbox", "batch_id", "requested_by", "priority"),
    "limits",
)


def refuse_other_request(stored: RunRequested, request: RequestRun, agent: BlobRef) -> None:
    """Raises RequestRefused when the run exists already but was asked for with other contents."""
    same = (
        stored.problem_id == request.problem,
        stored.agent.digest == agent.digest,
        stored.agent_name == request.agent_name,
        stored.model == request.model,
        request.image is None or stored.image == request.image,
        stored.sandbox == request.sandbox,
        stored.batch_id == request.batch_id,
        stored.requested_by == request.requested_by,
        stored.priority == request.priority,
        _granted(request.limits, stored.limits),
    )
    other = [name for name, equal in zip(_COMPARED, same, strict=True) if not equal]
    if other:
        raise RequestRefused(
            f"run {stored.run_id} exists already and was asked for with another {', '.join(other)}; "
            f"use a new run_id or Idempotency-Key for a new run",
            status=409,
        )


def _granted(asked: RequestedLimits, limits: RunLimits) -> bool:
    """Whether the run has every limit that is asked for; what is not asked for may differ."""
    return all(
        wanted is None or wanted == given
        for wanted, given in (
            (None if asked.max_cost_usd is None else nano_usd(asked.max_cost_usd), limits.model.max_cost_nano_usd),
            (asked.max_requests, limits.model.max_requests),
            (asked.max_tokens, limits.model.max_tokens),
            (asked.max_requests_per_minute, limits.model.max_requests_per_minute),
            (asked.end_when_spent, limits.model.end_when_spent),
            (asked.agent_timeout_s, limits.agent_timeout_s),
            (asked.evaluation_timeout_s, limits.evaluation_timeout_s),
            *((wanted, getattr(limits.sandbox, name)) for name, wanted in _given(asked).items()),
        )
    )


def decide_cancel(request: CancelRun, *, run_id: str, now: datetime, causation_id: str | None = None) -> RunCancelled:
    """The event that ends the run; one per run, so that asking twice appends once."""
    return RunCancelled(
        id=derived_event_id(run_id, "RunCancelled"),
        run_id=run_id,
        time=now,
        causation_id=causation_id,
        correlation_id=run_id,
        reason=request.reason,
        cancelled_by=request.cancelled_by,
    )
