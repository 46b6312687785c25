"""The projector follows the log, and stops rather than skip."""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from unit.ledger.samples import OTHER_RUN, RUN, Author, wired_ledger

from ridges.chassis.ports import EventStoreUnavailable
from ridges.ledger import projector as module
from ridges.ledger.app import TABLES
from ridges.ledger.errors import ProjectionStopped
from ridges.ledger.projections.schema import open_reader
from ridges.ledger.queries import Queries


async def stopped(wired):
    """Why the projection stopped, as /readyz says it."""
    await wired.ledger.projector.reached(10**9, 5)
    with pytest.raises(ProjectionStopped) as error:
        await wired.ledger.projector.check()
    return str(error.value)


async def test_what_is_appended_gets_into_the_tables(wired):
    a = wired.author
    await wired.add(*(a.requested(f"{n:08d}-0000-4000-8000-000000000000") for n in range(1200)))
    assert wired.queries.position() == 1200
    await wired.ledger.projector.check()


async def test_whoever_reads_sees_what_has_come_before_it_is_written_by_itself(wired, monkeypatch):
    monkeypatch.setattr(module, "UNREAD_S", 3600)
    with closing(open_reader(wired.config.state_dir / TABLES)) as file:
        await wired.append(wired.author.requested())
        await _until(lambda: wired.ledger.projector.position == 1)
        assert Queries(file).position() == 0
        assert wired.queries.position() == 1
        assert Queries(file).position() == 1


async def test_what_nobody_asks_for_is_written_all_the_same(wired):
    with closing(open_reader(wired.config.state_dir / TABLES)) as file:
        await wired.append(wired.author.requested())
        await _until(lambda: Queries(file).position() == 1)


async def _until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a condition is anything
            await asyncio.sleep(0.01)


async def test_waiting_for_a_position_that_does_not_come_ends(wired):
    assert not await wired.ledger.projector.reached(1, 0.01)


async def test_an_unreadable_event_stops_the_projection_and_reads_keep_the_old_state(wired):
    a = wired.author
    await wired.add(a.requested(), a.made("c1"))
    await wired.store.inject(f"ev.{RUN}.InferenceMade", b'{"type":"Unknown"}')
    await wired.append(a.made("c2"))
    told = await stopped(wired)
    assert "after position 2" in told
    assert "Unknown" in told
    assert wired.queries.row(RUN).cost_nano_usd == 10


async def test_a_gap_in_the_log_stops_the_projection(wired):
    a = wired.author
    await wired.add(a.requested())
    async with wired.store._grown:  # a position that nobody can read any more
        wired.store._log.append(wired.store._log[0])
        wired.store._log[1] = type(wired.store._log[0])(3, f"ev.{RUN}.AgentStarted", *_encoded(a.started()))
        wired.store._grown.notify_all()
    assert "jumps from position 1 to 3" in await stopped(wired)
    assert wired.queries.position() == 1


def _encoded(event):
    from ridges.contracts.codec import encode

    return encode(event), event.id


async def test_tables_of_another_log_are_not_continued(tmp_path):
    async with wired_ledger(tmp_path) as first:
        await first.add(first.author.requested(RUN))
    async with wired_ledger(tmp_path) as other:
        other.author.clock.ids = 1000
        await other.append(other.author.requested(OTHER_RUN), other.author.started(OTHER_RUN))
        assert "another log" in await stopped(other)
        assert other.queries.position() == 1


async def test_tables_that_are_ahead_of_an_empty_log_are_not_continued(tmp_path):
    async with wired_ledger(tmp_path) as first:
        await first.add(first.author.requested(RUN))
    async with wired_ledger(tmp_path) as other:
        assert "another log" in await stopped(other)


async def test_the_same_log_is_continued_after_a_restart(tmp_path):
    async with wired_ledger(tmp_path) as first:
        await first.add(first.author.requested(RUN), first.author.made("c1"))
        log, author = first.store._log, first.author
    async with wired_ledger(tmp_path, log=log) as second:
        await second.add(author.made("c2"))
        assert second.queries.row(RUN).cost_nano_usd == 20


async def test_a_log_that_does_not_answer_is_waited_for(wired, monkeypatch):
    monkeypatch.setattr(module, "RETRY_DELAY_S", 0.01)
    await wired.add(wired.author.requested())
    apply, failures = (
        wired.projections.apply,
        iter([EventStoreUnavailable("gone"), sqlite3.OperationalError("disk full")]),
    )

    def failing(events):
        for failure in failures:
            raise failure
        return apply(events)

    monkeypatch.setattr(wired.projections, "apply", failing)
    position = await wired.append(wired.author.made())
    assert await wired.ledger.projector.reached(position, 5)
    assert wired.queries.row(RUN).cost_nano_usd == 10
    await wired.ledger.projector.check()


async def test_trouble_shows_while_it_lasts(wired, monkeypatch):
    monkeypatch.setattr(module, "RETRY_DELAY_S", 30)

    def full(_events):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(wired.projections, "apply", full)
    await wired.append(Author().requested())
    for _ in range(500):
        await asyncio.sleep(0.01)
        if wired.ledger.projector._trouble:
            break
    with pytest.raises(ProjectionStopped, match="disk is full"):
        await wired.ledger.projector.check()
