"""The fold of a run's states: total, and final where it must be."""

from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.contracts import event_strategies as make

from ridges.contracts import events as ev
from ridges.contracts.faults import RULES, Cause
from ridges.contracts.lifecycle import ENDED, RunState, evolve


def fold(events, start=None):
    return reduce(evolve, events, start)


def event(cls, **fields):
    envelope = {"id": "1", "run_id": make.RUN_ID, "time": make.NOW}
    return cls(**envelope, **fields)


REQUESTED = event(
    ev.RunRequested,
    problem_id="p",
    problem_digest="d",
    statement=make.BLOB,
    workspace=make.BLOB,
    agent=make.BLOB,
    agent_name="a.py",
    limits=make.RunLimits(),
)
EXIT = ev.ExitFacts(exit_code=0)


def started(attempt=1):
    return event(ev.AgentStarted, attempt=attempt, manager="m", sandbox="docker")


def patch(attempt=1, *, partial=False, cause=None):
    return event(
        ev.PatchProduced, attempt=attempt, patch=make.BLOB, partial=partial, cause=cause, log=make.BLOB, exit=EXIT
    )


def asked(evaluation="e-1"):
    return event(
        ev.EvaluationRequested,
        evaluation_id=evaluation,
        attempt=1,
        bundle=make.BLOB,
        command=("x",),
        outputs=(),
        limits=make.SandboxLimits(),
        timeout_s=1,
    )


def evaluating(evaluation="e-1"):
    return event(ev.EvaluationStarted, evaluation_id=evaluation, manager="m", sandbox="docker")


def finished(verdict="resolved"):
    return event(ev.TestsFinished, evaluation_id="e-1", verdict=verdict, tests=())


@settings(max_examples=300)
@given(st.lists(make.any_event, max_size=12))
def test_no_order_of_events_raises_and_nothing_exists_before_its_request(events):
    run = fold(events)
    assert (run is None) == (not any(isinstance(e, ev.RunRequested) for e in events))


@settings(max_examples=300)
@given(st.lists(make.any_event, max_size=12), st.lists(make.any_event, max_size=12))
def test_what_ended_stays_as_it_ended(before, after):
    run = fold([REQUESTED, *before])
    if run.ended:
        assert fold(after, run) is run


@settings(max_examples=300)
@given(st.lists(make.any_event, max_size=12))
def test_the_attempt_never_goes_back_and_a_verdict_means_an_end(events):
    run = fold([REQUESTED])
    for each in events:
        following = evolve(run, each)
        assert following.attempt >= run.attempt
        run = following
    assert (run.state in ENDED) or run.verdict is None


def test_the_plain_way():
    states = []
    run = None
    for each in (REQUESTED, started(), patch(), asked(), evaluating(), finished()):
        run = evolve(run, each)
        states.append(str(run.state))
    assert states == [
        "pending",
        "running_agent",
        "initializing_eval",
        "initializing_eval",
        "running_eval",
        "finished",
    ]
    assert (run.verdict, run.cause, run.attempt, run.evaluation_id) == ("resolved", None, 1, "e-1")


def test_a_patch_of_an_overtaken_attempt_is_ignored():
    run = fold([REQUESTED, started(1), started(2), patch(1)])
    assert (run.state, run.attempt) == (RunState.RUNNING_AGENT, 2)
    assert fold([patch(2)], run).state is RunState.INITIALIZING_EVAL


def test_a_failure_of_an_overtaken_attempt_is_ignored():
    failed = event(ev.AgentFailed, attempt=1, cause=Cause.AGENT_RAISED, detail="x")
    assert fold([REQUESTED, started(1), started(2), failed]).state is RunState.RUNNING_AGENT


@pytest.mark.parametrize("cause", Cause)
def test_a_failure_is_a_verdict_exactly_when_it_is_the_agents_fault(cause):
    run = fold([REQUESTED, started(), event(ev.AgentFailed, attempt=1, cause=cause, detail="x")])
    assert run.state is RunState.ERROR
    assert run.verdict == ("unresolved" if RULES[cause].fault == "agent" else None)


@pytest.mark.parametrize(
    ("cause", "verdict", "state"),
    [
        (Cause.BUDGET_SPENT, "unresolved", RunState.FINISHED),
        (Cause.AGENT_TIMED_OUT, "unresolved", RunState.FINISHED),
        (Cause.PROVIDER_FAILED, None, RunState.ERROR),
    ],
)
def test_an_unresolved_partial_patch_counts_only_where_the_agent_is_to_blame(cause, verdict, state):
    begun = [REQUESTED, started(), patch(partial=True, cause=cause), asked(), evaluating()]
    unresolved, resolved = fold([*begun, finished("unresolved")]), fold([*begun, finished("resolved")])
    assert (unresolved.verdict, unresolved.state, unresolved.cause) == (verdict, state, cause)
    assert (resolved.verdict, resolved.state, resolved.cause) == ("resolved", RunState.FINISHED, cause)


def test_a_cancelled_run_has_no_verdict():
    run = fold([REQUESTED, started(), event(ev.RunCancelled, reason="enough"), patch(), finished()])
    assert (run.state, run.cause, run.verdict, run.detail) == (RunState.ERROR, Cause.CANCELLED, None, "enough")


def test_a_partial_patch_keeps_its_cause_to_the_verdict():
    run = fold([REQUESTED, started(), patch(partial=True, cause=Cause.AGENT_TIMED_OUT), finished("unresolved")])
    assert (run.verdict, run.cause, run.partial) == ("unresolved", Cause.AGENT_TIMED_OUT, True)
