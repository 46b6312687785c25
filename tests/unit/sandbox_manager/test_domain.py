"""What to do about a run, decided from its events alone."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.sandbox_manager.samples import (
    cancelled,
    evaluation_exited,
    evaluation_requested,
    evaluation_started,
    failed,
    produced,
    requested,
    started,
)

from ridges.contracts.faults import Cause
from ridges.sandbox_manager.domain import (
    GiveUp,
    Nothing,
    StartAttempt,
    StartEvaluation,
    decide_agent,
    decide_evaluation,
    fold,
    still_ours,
)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], Nothing),
        ([requested()], StartAttempt(1)),
        ([requested(), started(1)], StartAttempt(2)),
        ([requested(), started(1), started(2)], StartAttempt(3)),
        ([requested(), started(1), started(2), started(3)], GiveUp),
        ([requested(), started(1), produced(1)], Nothing),
        ([requested(), started(1), failed(1)], Nothing),
        ([requested(), cancelled()], Nothing),
        ([requested(), started(1), cancelled()], Nothing),
        ([requested(), started(1), started(2), produced(1)], StartAttempt(3)),
        ([requested(), started(1), produced(1), evaluation_started()], Nothing),
    ],
)
def test_what_a_delivered_request_asks_for(events, expected):
    decision = decide_agent(fold(events), max_attempts=3)
    assert decision == expected or type(decision) is expected


def test_the_last_lost_attempt_is_given_up_with_its_cause():
    decision = decide_agent(fold([requested(), started(1), started(2)]), max_attempts=2)
    assert isinstance(decision, GiveUp)
    assert (decision.attempt, decision.cause) == (2, Cause.LOST_WHILE_RUNNING_AGENT)


@pytest.mark.parametrize(
    ("events", "attempt", "ours"),
    [
        ([requested()], 0, True),
        ([requested(), started(1)], 1, True),
        ([requested(), started(1)], 0, False),
        ([requested(), started(1), started(2)], 1, False),
        ([requested(), started(1), started(2)], 2, True),
        ([requested(), started(1), cancelled()], 1, False),
        ([requested(), started(1), produced(1)], 1, False),
        ([], 0, False),
    ],
)
def test_only_the_newest_attempt_of_a_run_at_work_may_end_it(events, attempt, ours):
    assert still_ours(fold(events), attempt) is ours


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], StartEvaluation),
        ([evaluation_started()], StartEvaluation),
        ([evaluation_started(), evaluation_started()], GiveUp),
        ([evaluation_started(), evaluation_exited()], Nothing),
        ([evaluation_started("another"), evaluation_exited("another")], StartEvaluation),
        ([cancelled()], Nothing),
    ],
)
def test_what_a_delivered_evaluation_asks_for(more, expected):
    asked = evaluation_requested()
    events = [requested(), started(1), produced(1), asked, *more]
    assert type(decide_evaluation(events, asked, max_attempts=2)) is expected


def test_an_evaluation_of_an_overtaken_attempt_is_not_started():
    asked = evaluation_requested(attempt=1)
    decision = decide_evaluation([requested(), started(1), started(2), produced(2)], asked, max_attempts=2)
    assert isinstance(decision, Nothing)


def test_the_check_of_a_problem_is_evaluated_without_a_run():
    asked = msgspec.structs.replace(evaluation_requested(attempt=0), run_id="problem-p")
    assert isinstance(decide_evaluation([asked], asked, max_attempts=2), StartEvaluation)
    assert isinstance(decide_evaluation([asked, evaluation_exited()], asked, max_attempts=2), Nothing)


EVENTS = st.lists(
    st.one_of(
        st.builds(started, st.integers(1, 4)),
        st.builds(produced, st.integers(1, 4)),
        st.builds(failed, st.integers(0, 4)),
        st.builds(cancelled),
        st.builds(evaluation_started),
    ),
    max_size=8,
)


@given(EVENTS)
def test_whatever_happened_an_attempt_is_new_and_within_the_limit(events):
    run = fold([requested(), *events])
    decision = decide_agent(run, max_attempts=3)
    if isinstance(decision, StartAttempt):
        assert run.attempt < decision.attempt <= 3
        assert not run.ended
    if isinstance(decision, GiveUp):
        assert still_ours(run, decision.attempt)
