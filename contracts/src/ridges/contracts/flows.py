"""Which service appends and consumes which events; the AsyncAPI document follows from it."""

from types import MappingProxyType

import msgspec

from ridges.contracts import events as ev


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """One service's part in the log."""

    owns: str
    appends: tuple[type[ev.Event], ...]
    consumes: tuple[type[ev.Event], ...]
    queues: tuple[str, ...] = ()
    """Its durable consumers of the log; no other service may touch them."""


FLOWS = MappingProxyType(
    {
        "gateway": Flow(
            owns="model access: identity, limits, providers, prices",
            appends=(ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed, ev.InferenceRefused),
            consumes=(
                ev.RunRequested,
                ev.RunCancelled,
                ev.AgentStarted,
                ev.PatchProduced,
                ev.AgentFailed,
                ev.EvaluationRequested,
                ev.EvaluationStarted,
                ev.TestsFinished,
                ev.EvaluationFailed,
                ev.InferenceReserved,
                ev.InferenceMade,
                ev.InferenceFailed,
                ev.InferenceRefused,
                ev.InferenceSettled,
            ),
        ),
        "sandbox-manager": Flow(
            owns="sandboxes, their networks and proxies",
            appends=(
                ev.AgentStarted,
                ev.PatchProduced,
                ev.AgentFailed,
                ev.EvaluationStarted,
                ev.EvaluationSandboxExited,
            ),
            consumes=(
                ev.RunRequested,
                ev.EvaluationRequested,
                ev.RunCancelled,
                ev.AgentStarted,
                ev.EvaluationStarted,
                ev.InferenceRefused,
            ),
            queues=("sandbox-manager", "sandbox-manager-evaluations"),
        ),
        "evaluator": Flow(
            owns="problems, hidden tests, verdicts",
            appends=(ev.ProblemPublished, ev.EvaluationRequested, ev.TestsFinished, ev.EvaluationFailed),
            consumes=(ev.PatchProduced, ev.EvaluationSandboxExited),
            queues=("evaluator-patches", "evaluator-exits"),
        ),
        "ledger": Flow(
            owns="runs, token usage, costs",
            appends=(ev.RunRequested, ev.RunCancelled, ev.PriceListPublished, ev.InferenceSettled),
            consumes=tuple(ev.EVENT_TYPES.values()),
        ),
    }
)
