"""Limits: what is granted never exceeds what is left; the texts are the contract's."""

import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.contracts import events as ev
from ridges.contracts.limits import ModelLimits
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.gateway import domain, errors

RUN = "7b0f1a52-0000-4000-8000-000000000001"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRICE = TokenPrice(input=1_000_000_000, output=4_000_000_000, cached_input=500_000_000, reasoning=5_000_000_000)


def reserved(call_id, cost=0, tokens=0, at=NOW):
    return ev.InferenceReserved(
        id=f"r-{call_id}", run_id=RUN, time=at, call_id=call_id, model="m", cost_nano_usd=cost, tokens=tokens
    )


def settled(call_id, cost=0, tokens=0):
    usage = TokenUsage(input=tokens)
    fields = {"call_id": call_id, "model": "m", "usage": usage, "cost_nano_usd": cost}
    return ev.InferenceSettled(id=f"s-{call_id}", run_id=RUN, time=NOW, source="maximum", **fields)


def spending(*events):
    state = domain.Spending()
    for position, event in enumerate(events, start=1):
        state.apply(event, position)
    return state


def demand(prompt=1_000, output=100, answers=1, price=PRICE):
    return domain.Demand(prompt_tokens=prompt, output_tokens=output, answers=answers, price=price)


def decide(limits, state, wanted, *, in_flight=0, may_wait=False):
    return domain.decide(RUN, limits, state, wanted, in_flight=in_flight, may_wait=may_wait, now=NOW)


def test_the_worst_case_takes_the_dearer_of_output_and_reasoning():
    """1,000 prompt tokens at 1 USD and 100 of output at 5 USD (reasoning) per million."""
    assert domain.worst_cost_nano(demand(), 100) == 1_000 * 1_000 + 100 * 5_000


def test_a_reservation_is_open_until_its_call_ends_in_whatever_order_the_events_come():
    in_order = spending(reserved("a", 50, 10), settled("a", 30, 5))
    turned = spending(settled("a", 30, 5), reserved("a", 50, 10))
    twice = spending(reserved("a", 50, 10), settled("a", 30, 5), reserved("a", 50, 10), settled("a", 30, 5))
    for state in (in_order, turned, twice):
        assert (state.used_nano, state.used_tokens, state.reserved_nano, state.requests) == (30, 5, 0, 1)


def test_what_a_run_remembers_does_not_grow_with_its_calls():
    state = spending()
    sizes = []
    tracemalloc.start()
    for number in range(20_000):
        at = NOW + timedelta(seconds=number)
        state.apply(reserved(f"call-{number}", 5, 1, at), 2 * number + 1)
        state.apply(settled(f"call-{number}", 3, 1), 2 * number + 2)
        if number in (6_000, 19_999):
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert (state.requests, state.used_nano, state.reserved_nano) == (20_000, 60_000, 0)
    assert sizes[1] - sizes[0] < 300_000, "14,000 ids alone would be more than a megabyte"


def test_calls_of_the_last_minute_are_counted_once_in_whatever_order_they_come():
    """The next reservation of another gateway may come before the log's answer to one's own."""
    state = domain.Spending()
    for position, call_id in ((2, "b"), (1, "a"), (2, "b"), (1, "a"), (3, "c")):
        state.apply(reserved(call_id), position)
    assert state.last_reserved_position == 3
    assert state.rate_wait_s(NOW, 4) == 0
    assert state.rate_wait_s(NOW, 3) == 60
    assert state.rate_wait_s(NOW + timedelta(seconds=61), 1) == 0


def test_a_whole_reading_is_not_counted_again():
    events = [event for n in range(6_000) for event in (reserved(f"call-{n}", 5, 1), settled(f"call-{n}", 3, 1))]
    state = spending(*events)
    state.whole_until(len(events))
    for position, event in enumerate(events, start=1):
        state.apply(event, position)
    assert (state.requests, state.used_nano, state.reserved_nano) == (6_000, 18_000, 0)


def test_a_call_that_used_nothing_does_not_count_as_a_request():
    assert spending(reserved("a"), settled("a")).requests == 0


def test_reservations_left_by_a_crash_hold_money_but_no_place():
    old = reserved("a", 50, 10, at=NOW - timedelta(hours=1))
    state = spending(old, reserved("b", 5, 1))
    assert state.in_flight(NOW, longest_call_s=600) == 1
    assert state.reserved_nano == 55


def test_a_budget_of_zero_refuses_the_first_call_with_the_exact_text():
    refusal = decide(ModelLimits(max_cost_nano_usd=0), spending(), demand())
    assert isinstance(refusal, errors.CostLimitReached)
    assert refusal.detail == (
        f"The evaluation run with ID {RUN} has reached or exceeded the evaluation run cost limit of 0.00 USD "
        "(current cost: 0.00 USD)."
    )


def test_the_text_names_the_current_cost():
    limits = ModelLimits(max_cost_nano_usd=1_000_000_000)
    refusal = decide(limits, spending(reserved("a"), settled("a", 1_250_000_000, 7)), demand())
    assert refusal.detail.endswith("cost limit of 1.00 USD (current cost: 1.25 USD).")


@pytest.mark.parametrize(
    ("limits", "state", "kind", "words"),
    [
        (
            ModelLimits(max_requests=1),
            spending(reserved("a"), settled("a", 1, 1)),
            errors.RequestLimitReached,
            "budget",
        ),
        (ModelLimits(max_requests=1), spending(reserved("a")), errors.RequestLimitReached, "budget"),
        (ModelLimits(max_requests=0), spending(), errors.RequestLimitReached, "budget"),
        (ModelLimits(max_tokens=5), spending(reserved("a"), settled("a", 1, 5)), errors.TokenLimitReached, "budget"),
    ],
)
def test_other_limits_refuse_with_a_text_that_stops_agents(limits, state, kind, words):
    refusal = decide(limits, state, demand())
    assert isinstance(refusal, kind)
    assert refusal.status == 429
    assert words in refusal.detail
    assert RUN in refusal.detail


def test_too_many_calls_at_once_is_no_word_about_budget_or_cost():
    """Agents stop for good at a 429 that speaks of those."""
    refusal = decide(ModelLimits(max_concurrency=2), spending(), demand(), in_flight=2)
    assert isinstance(refusal, errors.TooManyCalls)
    assert refusal.headers["Retry-After"] == "1"
    assert not any(word in refusal.detail.lower() for word in ("budget", "cost"))


def test_a_call_waits_while_others_hold_what_it_needs():
    limits = ModelLimits(max_cost_nano_usd=2_000_000)
    state = spending(reserved("a", 1_000_000, 10))
    assert decide(limits, state, demand(), in_flight=1, may_wait=True) == domain.WaitForOthers()
    assert isinstance(decide(limits, state, demand(output=16), in_flight=1, may_wait=False), errors.CostLimitReached)


def test_output_is_cut_down_to_what_is_left():
    limits = ModelLimits(max_cost_nano_usd=1_000 * 1_000 + 20 * 5_000 + 4_999)
    grant = decide(limits, spending(), demand())
    assert (grant.output_tokens, grant.lowered) == (20, True)


def test_below_the_least_output_the_call_is_refused_with_the_amounts():
    limits = ModelLimits(max_cost_nano_usd=1_000 * 1_000 + 15 * 5_000)
    refusal = decide(limits, spending(), demand())
    assert isinstance(refusal, errors.CostLimitReached)
    assert "could cost 0.00108 USD, more than the 0.001075 USD left" in refusal.detail


def test_tokens_are_cut_down_and_refused_in_the_same_way():
    assert decide(ModelLimits(max_tokens=1_050), spending(), demand()).output_tokens == 50
    assert isinstance(decide(ModelLimits(max_tokens=1_010), spending(), demand()), errors.TokenLimitReached)


def test_an_embedding_needs_no_output():
    grant = decide(ModelLimits(), spending(), demand(output=0))
    assert (grant.cost_nano_usd, grant.output_tokens, grant.lowered) == (1_000_000, 0, False)


prices = st.integers(0, 100_000_000_000)


@given(
    limit=st.integers(0, 10**10),
    tokens=st.integers(0, 10**6),
    used=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**5), st.booleans()), max_size=8),
    prompt=st.integers(0, 200_000),
    output=st.integers(0, 70_000),
    answers=st.integers(1, 4),
    price=st.tuples(prices, prices, prices, prices, prices),
)
def test_what_is_granted_always_fits(limit, tokens, used, prompt, output, answers, price):
    """Used, reserved and granted together stay within both limits, whatever was granted before."""
    limits = ModelLimits(max_cost_nano_usd=limit, max_tokens=tokens)
    events = []
    for number, (cost, count, ended) in enumerate(used):
        events.append(reserved(str(number), cost, count))
        events += [settled(str(number), cost, count)] if ended else []
    state = spending(*events)
    wanted = demand(prompt, output, answers, TokenPrice(**dict(zip(TokenPrice.__struct_fields__, price, strict=True))))
    decision = decide(limits, state, wanted)
    if isinstance(decision, domain.Grant):
        assert state.used_nano + state.reserved_nano + decision.cost_nano_usd <= limit
        assert state.used_tokens + state.reserved_tokens + decision.tokens <= tokens
        assert min(domain.MIN_OUTPUT_TOKENS, output) <= decision.output_tokens <= output
