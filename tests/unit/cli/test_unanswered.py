"""Why model calls had no answer: counted by reason, told with the newest detail."""

from datetime import UTC, datetime

import pytest

from ridges.cli.unanswered import by_reason
from ridges.contracts.events import InferenceAttempt, InferenceFailed, InferenceRefused
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.contracts.views import EventRow

RUN = "0190a1b2-0000-4000-8000-000000000001"


def envelope(number):
    fields = {"id": f"0190a1b2-0000-4000-8000-{number:012}", "run_id": RUN, "correlation_id": RUN}
    return fields | {"time": datetime(2026, 1, 2, tzinfo=UTC)}


def refused(number, reason, detail, status=429):
    event = InferenceRefused(**envelope(number), reason=reason, status=status, model="m", detail=detail)
    return EventRow(position=number, event=event)


def failed(number, outcomes, status, detail, said=None):
    attempts = tuple(
        InferenceAttempt(
            provider="mine",
            served_model="m",
            outcome=outcome,
            status=None,
            latency_ms=1,
            first_token_ms=None,
            usage=TokenUsage(),
            usage_source="none",
            price=TokenPrice(input=1, output=1, cached_input=1, reasoning=1),
            price_list="p",
            cost_nano_usd=0,
            detail=said,
        )
        for outcome in outcomes
    )
    event = InferenceFailed(
        **envelope(number),
        call_id="c",
        kind="chat",
        model="m",
        attempts=attempts,
        usage=TokenUsage(),
        cost_nano_usd=0,
        status=status,
        detail=detail,
    )
    return EventRow(position=number, event=event)


def test_reasons_are_counted_and_the_newest_detail_is_told():
    rows = [
        refused(1, "model", "no model m"),
        refused(2, "cost", "0.9 of 1"),
        failed(3, ["connect_error"], 502, "mine: down"),
        refused(4, "cost", "1 of 1"),
        refused(5, "cost", "1.1 of 1"),
    ]
    first, *others = by_reason(rows)
    assert (first.outcome, first.reason, first.calls, first.detail) == ("refused", "cost", 3, "1.1 of 1")
    assert {(each.outcome, each.reason, each.calls) for each in others} == {
        ("refused", "model", 1),
        ("failed", "connect_error", 1),
    }


def test_a_run_without_any_tells_nothing():
    assert by_reason([]) == ()


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        (failed(1, ["timeout", "connect_error"], 502, "x"), "connect_error", "cannot be reached"),
        (failed(1, ["http_error"], 503, "x"), "http_error", "HTTP 503"),
        (failed(1, ["malformed"], 502, "x"), "malformed", "made no sense"),
        (failed(1, ["timeout"], 504, "x"), "timeout", "in time"),
        (failed(1, [], 503, "x"), "no_provider", "no provider was asked"),
        (refused(1, "cost", "x"), "cost", "over the cost limit"),
        (refused(1, "model", "x", 404), "model", "no provider serves the model"),
        (refused(1, "price", "x"), "price", "no price"),
    ],
)
def test_every_reason_has_words(row, reason, words):
    (told,) = by_reason([row])
    assert told.reason == reason
    assert words in told.words


def test_what_the_provider_said_is_told_once():
    (told,) = by_reason([failed(1, ["http_error"], 500, "mine failed", said="on fire")])
    assert told.detail == "mine failed (on fire)"
    (told,) = by_reason([failed(1, ["http_error"], 500, "mine failed: on fire", said="on fire")])
    assert told.detail == "mine failed: on fire"


def test_different_errors_of_a_provider_are_different_reasons():
    rows = [failed(1, ["http_error"], 500, "a"), failed(2, ["http_error"], 429, "b"), failed(3, ["timeout"], 504, "c")]
    assert len(by_reason([*rows, failed(4, ["timeout"], 503, "d")])) == 3
