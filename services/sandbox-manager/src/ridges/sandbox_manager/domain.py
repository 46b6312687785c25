"""What to do about a run. Pure: events in, decisions out."""

from collections.abc import Iterable

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.lifecycle import Run, RunState, evolve
from ridges.contracts.subjects import PROBLEM_STREAM_PREFIX

AGENT_AT_WORK = frozenset({RunState.PENDING, RunState.INITIALIZING_AGENT, RunState.RUNNING_AGENT})


class StartAttempt(msgspec.Struct, frozen=True):
    """Start the agent."""

    attempt: int


class StartEvaluation(msgspec.Struct, frozen=True):
    """Start the evaluation sandbox."""


class GiveUp(msgspec.Struct, frozen=True):
    """End it with a platform's cause."""

    attempt: int
    cause: Cause
    detail: str


class Nothing(msgspec.Struct, frozen=True):
    """There is nothing to do."""

    why: str


def fold(events: Iterable[ev.AnyEvent]) -> Run | None:
    """The run after its events."""
    run: Run | None = None
    for event in events:
        run = evolve(run, event)
    return run


def decide_agent(run: Run | None, max_attempts: int) -> StartAttempt | GiveUp | Nothing:
    """What a delivered RunRequested asks for now.

    An attempt without an end was lost: its message only comes again when its manager went silent or gave it back.
    """
    if run is None:
        return Nothing("the run is not in the log")
    if run.ended:
        return Nothing(f"the run has ended ({run.state})")
    if run.state not in AGENT_AT_WORK:
        return Nothing(f"its agent has ended already (the run is {run.state})")
    if run.attempt >= max_attempts:
        return GiveUp(
            run.attempt,
            Cause.LOST_WHILE_RUNNING_AGENT,
            f"the sandbox-manager was lost in each of {max_attempts} attempts; start the run again",
        )
    return StartAttempt(run.attempt + 1)


def still_ours(run: Run | None, attempt: int) -> bool:
    """Whether the attempt's end is still wanted: not cancelled, not ended, no newer attempt."""
    return run is not None and run.state in AGENT_AT_WORK and run.attempt == attempt


def cancelled_at_work(events: Iterable[ev.AnyEvent], attempt: int) -> bool:
    """Whether the run was cancelled during the attempt, and what that left is not in the log yet."""
    events = list(events)
    run = fold(events)
    if run is None or run.cause is not Cause.CANCELLED or run.attempt != attempt:
        return False
    told = (event for event in events if isinstance(event, ev.PatchProduced | ev.AgentFailed))
    return all(event.attempt != attempt for event in told)


def cancelled_in_evaluation(events: Iterable[ev.AnyEvent], evaluation_id: str) -> bool:
    """Whether the run was cancelled during the evaluation, and what its sandbox left is not in the log yet."""
    events = list(events)
    run = fold(events)
    if run is None or run.cause is not Cause.CANCELLED or run.evaluation_id != evaluation_id:
        return False
    return not any(isinstance(event, ev.EvaluationSandboxExited) for event in _of_evaluation(events, evaluation_id))


def starts_of(events: Iterable[ev.AnyEvent], evaluation_id: str) -> list[str]:
    """Ids of the EvaluationStarted of an evaluation, oldest first."""
    return [event.id for event in _of_evaluation(events, evaluation_id) if isinstance(event, ev.EvaluationStarted)]


def evaluation_is_ours(events: Iterable[ev.AnyEvent], evaluation_id: str, started_id: str | None) -> bool:
    """Whether that is the newest start of the evaluation: an older one was taken for lost. Null = none was made."""
    return started_id is None or starts_of(events, evaluation_id)[-1:] == [started_id]


def decide_evaluation(
    events: Iterable[ev.AnyEvent], requested: ev.EvaluationRequested, max_attempts: int
) -> StartEvaluation | GiveUp | Nothing:
    """What a delivered EvaluationRequested asks for now."""
    events = list(events)
    run = fold(events)
    of_problem = requested.run_id.startswith(PROBLEM_STREAM_PREFIX)  # the check of a problem: there is no run
    if not of_problem and (run is None or run.ended):
        return Nothing("the run has ended" if run else "the run is not in the log")
    ours = _of_evaluation(events, requested.evaluation_id)
    if any(isinstance(event, ev.EvaluationSandboxExited) for event in ours):
        return Nothing("its sandbox has exited already")
    if run is not None and requested.attempt != run.attempt:
        return Nothing(f"it judges attempt {requested.attempt}, but the run is at attempt {run.attempt}")
    if len(starts_of(ours, requested.evaluation_id)) >= max_attempts:
        return GiveUp(
            requested.attempt,
            Cause.LOST_WHILE_RUNNING_EVALUATION,
            f"the sandbox-manager was lost in each of {max_attempts} evaluations; start the run again",
        )
    return StartEvaluation()


def _of_evaluation(events: Iterable[ev.AnyEvent], evaluation_id: str) -> list[ev.AnyEvent]:
    return [event for event in events if getattr(event, "evaluation_id", None) == evaluation_id]
