"""Reservations that a crash left open are settled, others are not."""

from unit.ledger.samples import OTHER_RUN, RUN

from ridges.contracts import events as ev


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
