"""What users may ask for: the commands behind ``POST /v1/runs`` and the NATS ingress. Unknown fields are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ridges.contracts.blobs import BlobRef
from ridges.contracts.limits import MIB, Network, Priority

AGENT_MAX_BYTES = 2 * 1024 * 1024


class RequestedSandbox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the run's sandboxes may use, as in ``SandboxLimits``; what is absent comes from the problem."""

    cpus: Annotated[float, Meta(gt=0, le=64)] | None = None
    memory_bytes: Annotated[int, Meta(ge=64 * MIB)] | None = None
    pids: Annotated[int, Meta(ge=8)] | None = None
    disk_bytes: Annotated[int, Meta(ge=MIB)] | None = None
    log_chars: Annotated[int, Meta(ge=0, le=5_000_000)] | None = None
    runtime: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    network: Network | None = None

    @property
    def given(self) -> dict[str, float | int | str]:
        """What is not absent."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class RequestedLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits a user may set; what is absent comes from the problem, then from the defaults in ``limits``."""

    max_cost_usd: Annotated[str, Meta(pattern=r"^\d{1,7}(\.\d{1,9})?$")] | None = None
    """Decimal text, e.g. ``1.00``."""
    max_requests: Annotated[int, Meta(ge=0)] | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    max_requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    end_when_spent: bool | None = None
    """True: the first model call that is refused for its cost ends the agent, and its changes so far are judged."""
    agent_timeout_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    evaluation_timeout_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    sandbox: RequestedSandbox | None = None


class RequestRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Ask for one run of one agent on one problem. Exactly one of ``agent_source`` and ``agent`` is given."""

    problem: str
    """Problem id."""
    agent_source: str | None = None
    """The agent file's text, at most 2 MiB (over NATS: what fits into one message; else upload a blob)."""
    agent: BlobRef | None = None
    """An agent file uploaded before with ``POST /v1/blobs``."""
    agent_name: Annotated[str, Meta(min_length=1, max_length=200)] = "agent.py"
    run_id: str | None = None
    """A UUID of the caller's choice: the same id asked for again is the same run."""
    model: Annotated[str, Meta(max_length=200)] | None = None
    image: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    """Image of the run's sandboxes instead of the problem's; needs a Docker Engine that has it."""
    limits: RequestedLimits = RequestedLimits()
    sandbox: Literal["auto", "docker", "bubblewrap", "process"] = "auto"
    batch_id: Annotated[str, Meta(max_length=200)] | None = None
    requested_by: Annotated[str, Meta(max_length=200)] | None = None
    priority: Priority = 0
    """-100 to 100: of the runs that wait, those with a higher one start first."""


class CancelRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Ask for the end of a run."""

    run_id: str
    reason: Annotated[str, Meta(max_length=500)] = "cancelled by the user"
    cancelled_by: Annotated[str, Meta(max_length=200)] | None = None


class RequestAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes back on the reply subject of an ingress message."""

    accepted: bool
    run_id: str | None = None
    reason: str | None = None
    """Why it was refused and what to do."""
    code: int | None = None
