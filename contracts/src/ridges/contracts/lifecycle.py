"""The states of a run, folded from its events. Pure: every service folds the same way."""

from enum import StrEnum
from typing import Literal

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause, counts_against_agent
from ridges.contracts.limits import RunLimits


class RunState(StrEnum):
    """Source: run states of the public Ridges system."""

    PENDING = "pending"
    INITIALIZING_AGENT = "initializing_agent"
    RUNNING_AGENT = "running_agent"
    INITIALIZING_EVAL = "initializing_eval"
    RUNNING_EVAL = "running_eval"
    FINISHED = "finished"
    ERROR = "error"


ENDED = frozenset({RunState.FINISHED, RunState.ERROR})

Verdict = Literal["resolved", "unresolved"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands."""

    run_id: str
    state: RunState
    limits: RunLimits
    attempt: int = 0
    """Highest attempt that was started."""
    evaluation_id: str | None = None
    verdict: Verdict | None = None
    cause: Cause | None = None
    detail: str | None = None
    partial: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def evolve(run: Run | None, event: ev.AnyEvent) -> Run | None:
    """The run after the event. Events of an ended run, of an overtaken attempt or of no run change nothing."""
    if isinstance(event, ev.RunRequested):
        return run or Run(run_id=event.run_id, state=RunState.PENDING, limits=event.limits)
    if run is None or run.ended:
        return run
    change = msgspec.structs.replace
    match event:
        case ev.RunCancelled():
            return change(run, state=RunState.ERROR, cause=Cause.CANCELLED, detail=event.reason)
        case ev.AgentStarted() if event.attempt > run.attempt:
            return change(run, state=RunState.RUNNING_AGENT, attempt=event.attempt)
        case ev.PatchProduced() if event.attempt == run.attempt and run.state is RunState.RUNNING_AGENT:
            return change(
                run,
                state=RunState.INITIALIZING_EVAL,
                partial=event.partial,
                cause=event.cause,
                detail=event.detail,
            )
        case ev.AgentFailed() if event.attempt in (0, run.attempt):
            return _failed(run, event.cause, event.detail)
        case ev.EvaluationRequested() if run.state is RunState.INITIALIZING_EVAL:
            return change(run, evaluation_id=event.evaluation_id)
        case ev.EvaluationStarted() if run.evaluation_id in (None, event.evaluation_id):
            return change(run, state=RunState.RUNNING_EVAL, evaluation_id=event.evaluation_id)
        case ev.TestsFinished() if _is_void(run, event):
            return change(run, state=RunState.ERROR)
        case ev.TestsFinished():
            return change(
                run,
                state=RunState.FINISHED,
                verdict=event.verdict,
                cause=event.cause or run.cause,
                detail=event.detail or run.detail,
            )
        case ev.EvaluationFailed():
            return _failed(run, event.cause, event.detail)
    return run


def _is_void(run: Run, finished: ev.TestsFinished) -> bool:
    """Unresolved, but the agent could not finish its patch and is not to blame for that."""
    return finished.verdict == "unresolved" and run.cause is not None and not counts_against_agent(run.cause)


def _failed(run: Run, cause: Cause, detail: str) -> Run:
    verdict: Verdict | None = "unresolved" if counts_against_agent(cause) else None
    return msgspec.structs.replace(run, state=RunState.ERROR, cause=cause, detail=detail, verdict=verdict)
