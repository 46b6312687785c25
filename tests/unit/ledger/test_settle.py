"""Reservations that a crash left open are settled, others are not."""

import pytest
from unit.ledger.samples import OTHER_RUN, RUN

from ridges.chassis.memory_store import MemoryEventStore
from ridges.chassis.ports import EventRefused
from ridges.contracts import events as ev
from ridges.ledger.errors import RequestRefused
from ridges.ledger.settle import Settler


def settlements(wired):
    from ridges.contracts.codec import decode

    events = [decode(stored.content) for stored in wired.store._log]
    return [(event.run_id, event.call_id) for event in events if isinstance(event, ev.InferenceSettled)]


def move_to(wired, seconds):
    """The given time after the newest event."""
    wired.clock.time = wired.author.clock.now()
    wired.clock.move(seconds=seconds)


async def test_an_open_call_of_an_ended_run_is_settled_with_its_maximum_after_the_grace_time(wired):
    a = wired.author
    await wired.add(a.requested(), a.started(), a.reserved("lost", cost=500), a.patched(), a.tested())
    move_to(wired, 59)
    assert await wired.ledger.settler.settle() == 0
    move_to(wired, 60)
    assert await wired.ledger.settler.settle() == 1
    await wired.caught_up()
    run = wired.queries.row(RUN)
    assert (run.cost_nano_usd, run.reserved_nano_usd, run.usage.total) == (500, 0, 0)
    assert await wired.ledger.settler.settle() == 0


async def test_calls_of_a_live_run_are_never_settled(wired):
    a = wired.author
    await wired.add(a.requested(), a.started(), a.reserved("in flight"), a.patched())
    move_to(wired, 10**6)
    assert await wired.ledger.settler.settle() == 0


async def test_only_what_is_open_is_settled(wired):
    a = wired.author
    await wired.add(
        a.requested(),
        a.reserved("made"),
        a.made("made"),
        a.reserved("failed"),
        a.failed("failed"),
        a.reserved("open"),
        a.event(ev.RunCancelled, reason="enough"),
        a.requested(OTHER_RUN),
        a.reserved("live", OTHER_RUN),
    )
    move_to(wired, 61)
    await wired.ledger.settler.settle()
    assert settlements(wired) == [(RUN, "open")]


async def test_a_call_reserved_after_the_end_has_the_grace_time_too(wired):
    a = wired.author
    await wired.add(a.requested(), a.event(ev.RunCancelled, reason="enough"))
    a.clock.move(seconds=300)
    await wired.add(a.reserved("late"))
    move_to(wired, 30)
    assert await wired.ledger.settler.settle() == 0


async def test_settling_twice_before_the_tables_know_is_one_event(wired):
    a = wired.author
    await wired.add(a.requested(), a.reserved("open"), a.event(ev.RunCancelled, reason="enough"))
    move_to(wired, 61)
    due = wired.queries.open_reservations()
    for _ in range(2):
        await wired.store.append(RUN, [wired.ledger.settler._settled(due[0])])
    assert settlements(wired) == [(RUN, "open")]


async def test_what_turns_up_after_the_settlement_replaces_it(wired):
    a = wired.author
    await wired.add(a.requested(), a.reserved("open", cost=500), a.event(ev.RunCancelled, reason="enough"))
    move_to(wired, 61)
    await wired.ledger.settler.settle()
    await wired.add(a.made("open"))
    assert wired.queries.row(RUN).cost_nano_usd == wired.queries.costs("provider").total.cost_nano_usd == 10


class Provider:
    """Keeps its own books: what each call that reached it did cost, whatever became of the answer."""

    def __init__(self):
        self.books = {}

    def bill(self, call_id, cost):
        self.books[call_id] = cost

    @property
    def total(self):
        return sum(self.books.values())


async def test_what_the_provider_charges_is_settled_plus_unsettled_at_every_moment(wired):
    """Calls of a run, some of whose outcomes are lost in a crash after the provider did the work."""
    a, provider, lost = wired.author, Provider(), {"c2", "c5", "c7"}
    await wired.add(a.requested(), a.started())

    def balanced(unsettled):
        total = wired.queries.costs("provider").total
        assert provider.total == total.cost_nano_usd - total.settled_nano_usd + known_of(total) + unsettled

    records = {}

    def known_of(_total):
        return sum(records.values())

    for number in range(8):
        call_id = f"c{number}"
        await wired.add(a.reserved(call_id, cost=500))
        provider.bill(call_id, 40 + number)
        if call_id not in lost:
            await wired.add(a.made(call_id, attempts=[a.attempt(cost=40 + number)]))
        balanced(sum(provider.books[name] for name in lost if name in provider.books))
    await wired.add(a.patched(), a.tested())
    move_to(wired, 61)
    assert await wired.ledger.settler.settle() == 3
    await wired.caught_up()
    assert wired.queries.row(RUN).reserved_nano_usd == 0
    assert wired.queries.costs("provider").total.settled_nano_usd == 3 * 500, "the maximum, marked"
    for call_id in sorted(lost):
        await wired.ledger.settler.settle_from(record(call_id, provider.books[call_id]))
        await wired.caught_up()
        records[call_id] = provider.books[call_id]
        balanced(sum(provider.books[name] for name in lost - set(records)))
    total = wired.queries.costs("provider").total
    assert (total.cost_nano_usd, total.reserved_nano_usd) == (provider.total, 0), "unsettled has reached 0"


def record(call_id, cost, **fields):
    from ridges.contracts.money import usd_text
    from ridges.ledger.settle import ProviderRecord

    return ProviderRecord(run_id=RUN, call_id=call_id, cost_usd=usd_text(cost), **fields)


async def test_a_provider_record_settles_once_and_never_against_a_known_outcome(wired):
    a = wired.author
    await wired.add(a.requested(), a.reserved("lost"), a.reserved("known"), a.made("known"))
    settler = wired.ledger.settler
    first = await settler.settle_from(record("lost", 70, input=9))
    assert await settler.settle_from(record("lost", 70, input=9)) == first
    for call_id, cost, status in (("lost", 71, 409), ("known", 70, 409), ("unheard", 70, 404)):
        with pytest.raises(RequestRefused) as refused:
            await settler.settle_from(record(call_id, cost))
        assert refused.value.status == status
    await wired.caught_up()
    run = wired.queries.row(RUN)
    assert (run.cost_nano_usd, run.usage.input, run.reserved_nano_usd) == (80, 14, 0)


async def test_a_provider_record_replaces_what_a_lost_gateway_estimated(wired):
    a, settler = wired.author, wired.ledger.settler
    await wired.add(a.requested(), a.started(), a.reserved("lost", cost=500), a.lost("lost", cost=300), a.tested())
    before = wired.queries.costs("run").total
    assert (before.cost_nano_usd, before.estimated_nano_usd, before.requests_failed) == (300, 300, 1)
    move_to(wired, 61)
    assert await settler.settle() == 0, "an estimate is no open reservation"
    await settler.settle_from(record("lost", 70, input=9))
    await wired.caught_up()
    run, total = wired.queries.row(RUN), wired.queries.costs("run").total
    assert (run.cost_nano_usd, run.usage.total) == (70, 9)
    assert (total.cost_nano_usd, total.estimated_nano_usd, total.settled_nano_usd) == (70, 0, 70)
    assert total.requests_failed == 0
    await wired.add(a.lost("lost", cost=300), a.made("lost"))
    assert wired.queries.row(RUN).cost_nano_usd == 10, "an outcome that turns up after all is better than any record"


async def test_one_reservation_that_the_log_refuses_does_not_keep_the_others_open(wired):
    a = wired.author
    await wired.add(a.requested(), a.reserved("a"), a.reserved("b"), a.reserved("c"))
    await wired.add(a.event(ev.RunCancelled, reason="enough"))
    move_to(wired, 61)

    class Picky(MemoryEventStore):
        async def append(self, stream_id, events, expected=None):
            if events[0].call_id == "b":
                raise EventRefused("no")
            return await wired.store.append(stream_id, events, expected)

    settler = Settler(store=Picky(wired.clock), queries=wired.queries, clock=wired.clock, grace_s=60)
    assert await settler.settle() == 2
    await wired.caught_up()
    assert [each.call_id for each in wired.queries.open_reservations()] == ["b"]


async def test_a_reservation_of_a_run_that_nobody_requested_is_settled_too(wired):
    await wired.add(wired.author.reserved("stray", OTHER_RUN))
    move_to(wired, 61)
    assert await wired.ledger.settler.settle() == 1
    await wired.caught_up()
    assert wired.queries.costs("run").total.reserved_nano_usd == 0
