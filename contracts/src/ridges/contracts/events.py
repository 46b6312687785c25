"""Every fact that the log can hold. One message = one event, JSON, tagged by ``type``.

Stored events tolerate unknown fields. A compatible addition gets a default; an incompatible change gets a new
``version`` and a pure upcast (see ``codec``). Events hold no prompts, code, logs or keys: those are blobs.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from ridges.contracts.blobs import BlobRef
from ridges.contracts.faults import Cause
from ridges.contracts.limits import RunLimits, SandboxLimits
from ridges.contracts.money import NanoUsd
from ridges.contracts.usage import TokenPrice, TokenUsage

Utc = Annotated[datetime, msgspec.Meta(tz=True, description="UTC, RFC 3339")]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The envelope that every event carries."""

    id: str
    """UUIDv7, unique in the log: appending the same id twice stores it once."""
    run_id: str
    """The stream the event belongs to: the run's UUID, or ``problem-<problem id>``."""
    time: Utc
    """When it was decided, UTC."""
    causation_id: str | None = None
    """Id of the event that led to this one."""
    correlation_id: str | None = None
    """Id shared by all that one request set off."""
    traceparent: str | None = None
    """W3C trace context."""
    version: int = 1
    """Schema version of this type."""


class ProblemPublished(Event, frozen=True, kw_only=True, tag="ProblemPublished"):
    """The evaluator offers a problem (or a new edition of it). Only blobs an agent may see are referenced."""

    problem_id: str
    kind: Literal["fix", "create"]
    title: str
    problem_digest: str
    """Digest over everything in the problem, hidden tests included: results are comparable only under the same one."""
    statement: BlobRef
    workspace: BlobRef
    """Tar of the tree that becomes ``/sandbox/repo``."""
    agent_timeout_s: int | None = None
    evaluation_timeout_s: int | None = None
    image: str | None = None
    """Sandbox image that this problem needs; null = the default image."""
    sandbox: SandboxLimits | None = None
    """What its sandboxes may use, where runs ask for nothing else; null = the defaults."""


class RunRequested(Event, frozen=True, kw_only=True, tag="RunRequested"):
    """A validated request: everything a sandbox-manager needs to run the agent."""

    problem_id: str
    problem_digest: str
    statement: BlobRef
    workspace: BlobRef
    agent: BlobRef
    agent_name: str
    limits: RunLimits
    model: str | None = None
    """Handed to the agent as ``RIDGES_MODEL``."""
    image: str | None = None
    sandbox: Literal["auto", "docker", "bubblewrap", "process"] = "auto"
    batch_id: str | None = None
    requested_by: str | None = None
    idempotency_key: str | None = None
    priority: int = 0
    """Of the runs that wait, those with a higher one start first."""


class RunCancelled(Event, frozen=True, kw_only=True, tag="RunCancelled"):
    """A user ended the run."""

    reason: str
    cancelled_by: str | None = None


class ExitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a sandbox ended."""

    exit_code: int | None
    """Of the command; negative = signal; null when it never ran, or nobody saw its end."""
    timed_out: bool = False
    out_of_memory: bool = False
    cancelled: bool = False
    wall_s: float = 0.0
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    """Of all its processes and temporary file systems together, where a control group counted it; else of the largest
    process."""
    pids_peak: int | None = None
    """Most processes and threads at once; null = nobody counted."""
    written_bytes: int | None = None
    """What its processes passed to write(2), whether or not it stayed: files, pipes, the log. Sockets are not in it."""
    log_truncated_chars: int = 0


class AgentStarted(Event, frozen=True, kw_only=True, tag="AgentStarted"):
    """A sandbox-manager claimed the run; appended before its sandbox starts, so the gateway knows the run in time."""

    attempt: int
    """1 for the first; a higher one replaces an attempt whose manager was lost."""
    manager: str
    sandbox: str
    """Technology: docker, bubblewrap, process."""
    image: str | None = None
    previous_log: BlobRef | None = None
    """The end of the log of the attempt before, whose sandbox or manager was lost; null where nobody has it."""
    previous_patch: BlobRef | None = None
    """What that attempt had changed when somebody last looked; it is not judged. Null where nobody has it."""
    previous_exit: ExitFacts | None = None
    """What that attempt's sandbox had used when somebody last looked; its exit code is null. Likewise."""


class PatchProduced(Event, frozen=True, kw_only=True, tag="PatchProduced"):
    """The agent ended and left a patch."""

    attempt: int
    patch: BlobRef
    """Unified diff against the workspace, as the agent gave it."""
    partial: bool
    """The patch is the difference of the repository after a timeout, crash or kill, not what the agent returned."""
    cause: Cause | None
    """Why it is partial."""
    detail: str | None = None
    log: BlobRef
    exit: ExitFacts


class AgentFailed(Event, frozen=True, kw_only=True, tag="AgentFailed"):
    """The agent (or its sandbox) ended without a patch that can be evaluated.

    After RunCancelled it changes nothing any more: it says what the cancelled agent left.
    """

    attempt: int
    cause: Cause
    detail: str
    log: BlobRef | None = None
    exit: ExitFacts | None = None
    unjudged_patch: BlobRef | None = None
    """What the agent had changed (or returned) when its run was cancelled, or when somebody last looked before its
    sandbox was lost: kept to be read, never judged."""


class SandboxFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to read out of a sandbox after all its processes are dead."""

    path: str
    """Absolute, inside the sandbox."""
    max_bytes: int


class EvaluationRequested(Event, frozen=True, kw_only=True, tag="EvaluationRequested"):
    """The evaluator asks for one fresh sandbox without network that judges a patch."""

    evaluation_id: str
    attempt: int
    bundle: BlobRef
    """Tar, unpacked to ``/sandbox``: pristine workspace, vetted patch, hidden tests, grader."""
    command: tuple[str, ...]
    outputs: tuple[SandboxFile, ...]
    limits: SandboxLimits
    timeout_s: int
    image: str | None = None
    sandbox: Literal["auto", "docker", "bubblewrap", "process"] = "auto"
    mended: tuple[str, ...] = ()
    """What was mended in the patch before use (line ends, last newline)."""


class EvaluationStarted(Event, frozen=True, kw_only=True, tag="EvaluationStarted"):
    """A sandbox-manager is about to start the evaluation sandbox."""

    evaluation_id: str
    manager: str
    sandbox: str


class SandboxOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One file read out of a sandbox, or why it could not be read."""

    path: str
    content: BlobRef | None = None
    problem: Literal["missing", "not_a_regular_file", "too_large"] | None = None


class EvaluationSandboxExited(Event, frozen=True, kw_only=True, tag="EvaluationSandboxExited"):
    """The evaluation sandbox is gone; what it left is in blobs."""

    evaluation_id: str
    exit: ExitFacts
    outputs: tuple[SandboxOutput, ...]
    log: BlobRef | None = None
    cause: Cause | None = None
    """Set when the platform, not the command, is why it ended."""
    detail: str | None = None


class TestResult(msgspec.Struct, frozen=True, kw_only=True):
    """One hidden test."""

    __test__ = False

    name: str
    category: Literal["default", "pass_to_pass", "fail_to_pass"]
    status: Literal["pass", "fail", "skip"]
    duration_s: float | None = None
    message: str | None = None
    """At most 2,000 characters."""


class TestsFinished(Event, frozen=True, kw_only=True, tag="TestsFinished"):
    """The verdict."""

    __test__ = False

    evaluation_id: str
    verdict: Literal["resolved", "unresolved"]
    tests: tuple[TestResult, ...]
    cause: Cause | None = None
    """Why it is unresolved, where that is more than failing tests (does not apply, timed out, forged)."""
    detail: str | None = None
    log: BlobRef | None = None
    flagged: tuple[str, ...] = ()
    """Paths of test infrastructure that the patch touched and that were put back."""


class EvaluationFailed(Event, frozen=True, kw_only=True, tag="EvaluationFailed"):
    """No verdict could be reached, and it is not the agent's fault."""

    evaluation_id: str
    cause: Cause
    detail: str


class InferenceReserved(Event, frozen=True, kw_only=True, tag="InferenceReserved"):
    """The worst case of one model call, set aside before any provider is asked."""

    call_id: str
    model: str
    cost_nano_usd: NanoUsd
    tokens: int
    """Most tokens the call can use, all kinds."""
    idempotency_key: str | None = None
    idempotency_digest: str | None = None
    """Digest of the request that the key stands for: another request under the same key is refused."""
    gateway: str | None = None
    """Name of the gateway that makes the call. One that is started again settles what it left open."""
    prompt_tokens: int | None = None
    """The part of ``tokens`` that is set aside for the prompt."""
    price: TokenPrice | None = None
    """The price that the worst case was computed with."""
    kind: Literal["chat", "embedding"] = "chat"
    """What was asked for."""


LOST = "(unknown)"
"""Provider of a call whose gateway was lost while it waited: nobody knows whom it had asked."""


class InferenceAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One request to one provider."""

    provider: str
    served_model: str
    outcome: Literal["ok", "connect_error", "timeout", "http_error", "malformed", "cut", "abandoned"]
    status: int | None = None
    latency_ms: int
    first_token_ms: int | None = None
    usage: TokenUsage
    usage_source: Literal["provider", "estimated", "none"]
    price: TokenPrice
    price_list: str
    """Id of the price list that the price is from."""
    cost_nano_usd: NanoUsd
    detail: str | None = None


class InferenceMade(Event, frozen=True, kw_only=True, tag="InferenceMade"):
    """One answered model call, whatever number of providers it took. Releases its reservation."""

    call_id: str
    kind: Literal["chat", "embedding"]
    model: str
    streamed: bool
    attempts: tuple[InferenceAttempt, ...]
    usage: TokenUsage
    """Sum over the attempts."""
    cost_nano_usd: NanoUsd
    """Sum over the attempts, with the prices they carry."""
    request: BlobRef | None = None
    reply: BlobRef | None = None


class InferenceFailed(Event, frozen=True, kw_only=True, tag="InferenceFailed"):
    """No provider answered. Releases its reservation; what the attempts cost stays charged."""

    call_id: str
    kind: Literal["chat", "embedding"]
    model: str
    attempts: tuple[InferenceAttempt, ...]
    usage: TokenUsage
    cost_nano_usd: NanoUsd
    status: int
    """HTTP status the caller got."""
    detail: str
    request: BlobRef | None = None
    reply: BlobRef | None = None
    """A streamed answer, as far as it came."""


class InferenceRefused(Event, frozen=True, kw_only=True, tag="InferenceRefused"):
    """A call that never reached a provider: limit, unknown model, another run's identity."""

    reason: Literal["cost", "requests", "tokens", "concurrency", "model", "identity", "state", "price"]
    status: int
    model: str | None
    detail: str


class InferenceSettled(Event, frozen=True, kw_only=True, tag="InferenceSettled"):
    """The ledger closed a reservation that a crash left open."""

    call_id: str
    model: str
    source: Literal["provider_record", "maximum"]
    cost_nano_usd: NanoUsd
    usage: TokenUsage


class PriceListPublished(Event, frozen=True, kw_only=True, tag="PriceListPublished"):
    """A dated list of prices, for re-pricing history."""

    price_list: str
    prices: dict[str, TokenPrice]
    """``provider/served model`` -> price."""
    source: str
    effective_at: Utc


AnyEvent = (
    ProblemPublished
    | RunRequested
    | RunCancelled
    | AgentStarted
    | PatchProduced
    | AgentFailed
    | EvaluationRequested
    | EvaluationStarted
    | EvaluationSandboxExited
    | TestsFinished
    | EvaluationFailed
    | InferenceReserved
    | InferenceMade
    | InferenceFailed
    | InferenceRefused
    | InferenceSettled
    | PriceListPublished
)

EVENT_TYPES: dict[str, type[Event]] = {cls.__name__: cls for cls in AnyEvent.__args__}


def type_name(event: Event | type[Event]) -> str:
    """The event's type as it stands in subjects and in the ``type`` field."""
    return event.__name__ if isinstance(event, type) else type(event).__name__
