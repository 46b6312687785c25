"""Live rows: the current one first, then the changes, never a backlog."""

import asyncio

from unit.ledger.samples import OTHER_RUN, RUN


def rows_of(wired, run_id=None, heartbeat_s=5.0):
    queries, hub = wired.queries, wired.ledger.hub
    first = queries.active if run_id is None else lambda: [queries.row(run_id)]
    return hub.rows(first, queries.row, run_id=run_id, heartbeat_s=heartbeat_s)


async def test_a_run_is_followed_from_now_to_its_end(wired):
    a = wired.author
    await wired.add(a.requested(), a.requested(OTHER_RUN))
    seen = []

    async def follow():
        seen.extend([row async for row in rows_of(wired, RUN)])

    following = asyncio.create_task(follow())
    for event in (a.started(), a.made(), a.started(OTHER_RUN), a.patched(), a.tested()):
        await asyncio.sleep(0.01)
        await wired.add(event)
    await asyncio.wait_for(following, 5)
    assert [row.state.value for row in seen] == [
        "pending",
        "running_agent",
        "running_agent",
        "initializing_eval",
        "finished",
    ]
    assert {row.run_id for row in seen} == {RUN}
    assert not wired.ledger.hub._listeners


async def test_a_run_that_has_ended_is_one_row(wired):
    a = wired.author
    await wired.add(a.requested(), a.started(), a.patched(), a.tested())
    assert [row.state.value async for row in rows_of(wired, RUN)] == ["finished"]


async def test_all_runs_begin_with_the_active_ones(wired):
    a = wired.author
    await wired.add(a.requested(), a.started(), a.patched(), a.tested(), a.requested(OTHER_RUN))
    rows = rows_of(wired)
    assert (await anext(rows)).run_id == OTHER_RUN
    await wired.add(a.made("late", RUN))
    assert (await asyncio.wait_for(anext(rows), 5)).run_id == RUN
    await rows.aclose()


async def test_a_slow_listener_gets_the_newest_row_not_every_row(wired):
    a = wired.author
    await wired.add(a.requested())
    rows = rows_of(wired, RUN)
    await anext(rows)
    for number in range(50):
        await wired.add(a.made(f"c{number}"))
    assert (await anext(rows)).requests == 50
    await rows.aclose()


async def test_silence_is_broken_by_heartbeats_and_the_drain_ends_the_stream(wired):
    await wired.add(wired.author.requested())
    rows = rows_of(wired, RUN, heartbeat_s=0.01)
    assert (await anext(rows)).run_id == RUN
    assert await anext(rows) is None
    wired.ledger.hub.close()
    assert [row async for row in rows if row is not None] == []
