"""What one run may use. Every limit is hard: it holds over all attempts of the run together."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ridges.contracts.money import NANO_PER_USD, NanoUsd

MIB = 1024 * 1024
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
Priority = Annotated[int, Meta(ge=-100, le=100)]
"""Runs with a higher one start first; 0 is ordinary."""
Network = Literal["socket", "internal"]
"""Where an agent's way to its models begins: at a socket in its sandbox, or at a relay that shares its network."""


class ModelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of model access, enforced by the gateway."""

    max_cost_nano_usd: NanoUsd = NANO_PER_USD
    max_requests: Annotated[int, Meta(ge=0)] = 1_000
    max_tokens: Annotated[int, Meta(ge=0)] = 100_000_000
    """Sum of all token kinds."""
    max_concurrency: Annotated[int, Meta(ge=1, le=1_000)] = 32
    """Model calls of one run in flight at once."""
    max_requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    """Calls that may begin within any 60 seconds; null = as many as come."""
    end_when_spent: bool = False
    """The first call that is refused for its cost ends the agent; what it has changed by then is judged."""


class SandboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one sandbox, enforced by the sandbox-manager."""

    cpus: Annotated[float, Meta(gt=0, le=64)] = 1.0
    memory_bytes: Annotated[int, Meta(ge=64 * MIB)] = 2048 * MIB
    """Includes the pages of the sandbox's temporary file systems."""
    pids: Annotated[int, Meta(ge=8)] = 256
    disk_bytes: Annotated[int, Meta(ge=MIB)] = 1024 * MIB
    """Size of the temporary file system that holds the working directory."""
    log_chars: Annotated[int, Meta(ge=0, le=5_000_000)] = 500_000
    """How much of the end of stdout and stderr is kept."""
    runtime: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    """OCI runtime that holds it (runc, runsc, kata), where the operator allows that one; null = the manager's."""
    network: Network | None = None
    """``internal`` needs the sandbox docker; null = the manager's. Evaluations have no network in either."""


class RunLimits(msgspec.Struct, frozen=True, kw_only=True):
    """All limits of a run."""

    model: ModelLimits = ModelLimits()
    sandbox: SandboxLimits = SandboxLimits()
    agent_timeout_s: Seconds = 2_400
    evaluation_timeout_s: Seconds = 600
