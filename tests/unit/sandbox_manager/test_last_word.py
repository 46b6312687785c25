"""Who is to blame when an agent ends without a patch: it, its budget, or the providers."""

from itertools import count

import pytest
from unit.sandbox_manager.samples import envelope, requested, started

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.sandbox_manager.last_word import blamed, last_word

_calls = count()


def attempt(outcome: str, status: int | None = None) -> ev.InferenceAttempt:
    return ev.InferenceAttempt(
        provider="p",
        served_model="m",
        outcome=outcome,
        status=status,
        latency_ms=1,
        usage=TokenUsage(),
        usage_source="none",
        price=TokenPrice(input=0, output=0, cached_input=0, reasoning=0),
        price_list="l",
        cost_nano_usd=0,
    )


def call() -> dict[str, object]:
    usage = {"usage": TokenUsage(), "cost_nano_usd": 0}
    return envelope() | {"call_id": str(next(_calls)), "kind": "chat", "model": "m"} | usage


def made() -> ev.InferenceMade:
    return ev.InferenceMade(**call(), streamed=False, attempts=(attempt("ok", 200),))


def failed(outcome: str | None, status: int, provider_status: int | None = None) -> ev.InferenceFailed:
    attempts = (attempt(outcome, provider_status or status),) if outcome else ()
    return ev.InferenceFailed(**call(), attempts=attempts, status=status, detail="d")


def refused(reason: str) -> ev.InferenceRefused:
    return ev.InferenceRefused(**envelope(), reason=reason, status=429, model=None, detail="d")


BEGUN = [requested(), started(1)]
PROVIDER, BUDGET = Cause.PROVIDER_FAILED, Cause.BUDGET_SPENT


@pytest.mark.parametrize(
    ("events", "word"),
    [
        ([], None),
        ([made()], None),
        ([failed("http_error", 500)], PROVIDER),
        ([failed("http_error", 503)], PROVIDER),
        ([failed("http_error", 429)], PROVIDER),
        ([failed("http_error", 401)], PROVIDER),
        ([failed("timeout", 504)], PROVIDER),
        ([failed("connect_error", 502)], PROVIDER),
        ([failed("malformed", 502)], PROVIDER),
        ([failed("cut", 502)], PROVIDER),
        ([failed(None, 503)], PROVIDER),
        ([failed("http_error", 400)], None),
        ([failed("http_error", 413)], None),
        ([failed("abandoned", 499)], None),
        ([failed(None, 499)], None),
        ([failed("http_error", 500), failed("abandoned", 499)], PROVIDER),
        ([failed("http_error", 500), failed("http_error", 400)], None),
        ([failed("http_error", 500), made()], None),
        ([made(), failed("timeout", 504), failed("timeout", 504)], PROVIDER),
        ([refused("cost")], BUDGET),
        ([refused("cost"), refused("concurrency")], BUDGET),
        ([refused("requests")], None),
        ([refused("cost"), made()], None),
        ([failed("http_error", 500), refused("cost")], BUDGET),
    ],
)
def test_the_last_word_about_model_calls(events, word):
    assert last_word([*BEGUN, *events], 1) is word


def test_what_an_earlier_attempt_met_is_not_blamed_on_a_later_one():
    events = [*BEGUN, failed("http_error", 500), started(2)]
    assert last_word(events, 2) is None
    assert last_word(events, 1) is None


@pytest.mark.parametrize("cause", [Cause.AGENT_NOT_LOADABLE, Cause.AGENT_OUT_OF_MEMORY, Cause.AGENT_OUTPUT_UNSAFE])
def test_an_end_that_has_nothing_to_do_with_models_stays_the_agents(cause):
    assert blamed(cause, [*BEGUN, failed("http_error", 500)], 1) is cause


@pytest.mark.parametrize("cause", [Cause.AGENT_RAISED, Cause.AGENT_TIMED_OUT, Cause.PATCH_EMPTY, Cause.AGENT_EXITED])
def test_an_end_for_want_of_a_model_is_the_providers(cause):
    assert blamed(cause, [*BEGUN, failed("http_error", 500)], 1) is PROVIDER
    assert blamed(cause, BEGUN, 1) is cause
