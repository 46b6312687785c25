"""Costs against an independent fold, over any events; and each rule of charging by itself."""

from datetime import timedelta
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.ledger.independent_fold import KINDS, independent_costs, reported_costs
from unit.ledger.samples import RUN, START, Author, recorded

from ridges.contracts import events as ev
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.ledger.cost_reports import COST_DIMENSIONS
from ridges.ledger.projections.apply import Projections
from ridges.ledger.projections.schema import open_projections
from ridges.ledger.queries import Queries

RUNS = [f"{n}1111111-1111-4111-8111-111111111111" for n in range(3)]

amounts = st.integers(0, 10**12)
usages = st.builds(TokenUsage, **dict.fromkeys(KINDS, st.integers(0, 10**7)))
attempts = st.lists(
    st.builds(
        lambda provider, cost, usage, outcome, source, price: msgspec.structs.replace(
            Author().attempt(provider=provider, cost=cost, usage=usage, outcome=outcome),
            usage_source=source,
            price=price,
        ),
        st.sampled_from(["chutes", "targon"]),
        amounts,
        usages,
        st.sampled_from(["ok", "cut", "timeout"]),
        st.sampled_from(["provider", "estimated"]),
        st.builds(TokenPrice, **dict.fromkeys(KINDS, st.integers(0, 10**10))),
    ),
    max_size=3,
)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "reserved",
                "made",
                "failed",
                "lost",
                "settled",
                "recorded",
                "refused",
                "requested",
                "started",
                "patched",
                "ended",
            ]
        ),
        st.sampled_from(RUNS),
        st.sampled_from(["c1", "c2", "c3"]),
        st.sampled_from(["model-a", "model-b"]),
        amounts,
        attempts,
        st.integers(0, 5 * 3600),
    ),
    max_size=60,
)


def events_of(script):
    """Random calls; most are wild: outcomes without reservations, twice, after they were settled."""
    author = Author()
    for number, (what, run_id, call_id, model, cost, tried, pause_s) in enumerate(script):
        author.clock.move(seconds=pause_s)
        match what:
            case "requested":
                batch_id = "b" if number % 3 else None
                yield author.requested(
                    run_id, problem_id=f"p{number % 2}", agent_name=f"a{number % 2}.py", batch_id=batch_id
                )
            case "patched":
                yield author.patched(run_id, attempt=1 + cost % 3)
            case "ended":
                yield author.tested(run_id) if cost % 2 else author.event(ev.RunCancelled, run_id, reason="enough")
            case "started":
                yield author.started(run_id, 1 + cost % 3)
            case "reserved":
                yield author.reserved(call_id, run_id, cost, model)
            case "made":
                yield author.made(call_id, run_id, tried, model)
            case "failed" | "lost":
                used = TokenUsage(input=cost % 997, output=number)
                lost = author.lost(call_id, run_id, cost, model, used)
                yield lost if what == "lost" else author.failed(call_id, run_id, tried, model)
            case "settled":
                yield author.settled(call_id, run_id, cost, model)
            case "recorded":
                yield author.settled(
                    call_id, run_id, cost, model, source="provider_record", usage=TokenUsage(input=cost % 1000)
                )
            case "refused":
                yield author.event(ev.InferenceRefused, run_id, reason="cost", status=429, model=model, detail="limit")


IN_MEMORY = Path(":memory:")


@settings(max_examples=150, deadline=None)
@given(script=steps, batch=st.integers(1, 20))
def test_costs_equal_an_independent_fold_over_any_events(script, batch):
    events = list(events_of(script))
    projections = Projections(open_projections(IN_MEMORY))
    queries = Queries(projections._connection)
    try:
        log = recorded(*events)
        for start in range(0, len(log), batch):
            projections.apply(log[start : start + batch])
        assert reported_costs(map(queries.costs, COST_DIMENSIONS)) == independent_costs(events)
        by_run = {row.key: row for row in queries.costs("run").rows}
        for run_id in {event.run_id for event in events if isinstance(event, ev.RunRequested)}:
            assert_open_reservations(queries.record(run_id), run_id, events)
            first = events.index(next(e for e in events if e.run_id == run_id))
            if isinstance(events[first], ev.RunRequested):
                assert queries.row(run_id).cost_nano_usd == (by_run[run_id].cost_nano_usd if run_id in by_run else 0)
    finally:
        projections.close()


def assert_open_reservations(record, run_id, events):
    """What is set aside: reservations made after the request whose call has no outcome."""
    started = next(n for n, e in enumerate(events) if isinstance(e, ev.RunRequested) and e.run_id == run_id)
    open_calls, closed = {}, set()
    for number, event in enumerate(events):
        if event.run_id != run_id or not hasattr(event, "call_id"):
            continue
        if isinstance(event, ev.InferenceReserved):
            if event.call_id not in open_calls and event.call_id not in closed:
                open_calls[event.call_id] = (number, event.cost_nano_usd)
        else:
            open_calls.pop(event.call_id, None)
            closed.add(event.call_id)
    if all(number > started for number, _ in open_calls.values()) and not any(
        e.run_id == run_id for e in events[:started]
    ):
        assert record.reserved_nano_usd == sum(cost for _, cost in open_calls.values())


def totals(*events):
    projections = Projections(open_projections(IN_MEMORY))
    try:
        projections.apply(recorded(*events))
        queries = Queries(projections._connection)
        return {row.key: row.cost_nano_usd for row in queries.costs("provider").rows}, queries.row(RUN)
    finally:
        projections.close()


def test_a_failover_bills_each_provider_its_own_part():
    a = Author()
    cut = a.attempt("chutes", cost=7, usage=TokenUsage(output=7), outcome="cut")
    by_provider, run = totals(a.requested(), a.reserved(), a.made(attempts=[cut, a.attempt("targon", 20)]))
    assert by_provider == {"targon": 20, "chutes": 7}
    assert (run.requests, run.cost_nano_usd, run.reserved_nano_usd) == (1, 27, 0)


def test_a_failed_call_costs_what_its_attempts_cost():
    a = Author()
    by_provider, run = totals(a.requested(), a.failed(attempts=[a.attempt("chutes", 7, outcome="cut")]))
    assert by_provider == {"chutes": 7}
    assert (run.requests, run.cost_nano_usd) == (0, 7)


def test_an_outcome_after_the_settlement_replaces_it():
    a = Author()
    by_provider, run = totals(a.requested(), a.reserved(cost=100), a.settled(cost=100), a.made())
    assert by_provider == {"p": 10}
    assert (run.cost_nano_usd, run.reserved_nano_usd) == (10, 0)


def test_a_settled_call_is_charged_and_no_longer_reserved():
    a = Author()
    by_provider, run = totals(a.requested(), a.reserved(cost=100), a.settled(cost=100), a.settled(cost=100))
    assert by_provider == {"(settled)": 100}
    assert (run.cost_nano_usd, run.reserved_nano_usd, run.requests) == (100, 0, 0)


def test_a_repeated_outcome_is_charged_once():
    a = Author()
    by_provider, run = totals(a.requested(), a.made(), a.made(), a.settled(), a.failed())
    assert by_provider == {"p": 10}
    assert run.requests == 1


def test_what_an_event_charges_beyond_its_attempts_is_shown_not_lost():
    a = Author()
    by_provider, run = totals(a.requested(), a.made(cost_nano_usd=15))
    assert by_provider == {"p": 10, "(unattributed)": 5}
    assert run.cost_nano_usd == 15


def test_the_day_of_a_cost_is_the_day_in_utc():
    a = Author()
    late = START.astimezone(tz=None) + timedelta(minutes=59)
    projections = Projections(open_projections(IN_MEMORY))
    try:
        projections.apply(recorded(a.made("c1", time=late), a.made("c2", time=late + timedelta(minutes=2))))
        assert [row.key for row in Queries(projections._connection).costs("day").rows] == ["2026-01-31", "2026-02-01"]
    finally:
        projections.close()


def test_an_independent_event_is_its_own_witness():
    """The fold above is not fooled by an empty log."""
    assert independent_costs([]) == {}
    assert independent_costs([Author().made()])["provider", "p"] == [1, 5, 0, 3, 0, 10, *[0] * 6]
