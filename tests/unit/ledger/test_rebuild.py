"""Tables that are built again are the same as the live ones, and take their place without a pause for readers."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.ledger.samples import OTHER_RUN, RUN, Author, recorded, wired_ledger
from unit.ledger.test_costs import events_of, steps

from ridges.contracts.views import PassProgress, PassResult
from ridges.ledger.errors import PassRunning
from ridges.ledger.passes.log_source import raw_of
from ridges.ledger.passes.rebuild import rebuild
from ridges.ledger.passes.reporting import PassFailed
from ridges.ledger.projections import apply
from ridges.ledger.projections.apply import Projections
from ridges.ledger.projections.compare import Snapshots, first_difference
from ridges.ledger.projections.schema import VERSION, open_projections


def live_tables(path, log, batch=7):
    projections = Projections(open_projections(path))
    for start in range(0, len(log), batch):
        projections.apply(log[start : start + batch])
    projections.close()


def a_whole_run(author, run_id=RUN):
    return [
        author.requested(run_id),
        author.started(run_id),
        author.reserved("c1", run_id),
        author.made("c1", run_id),
        author.reserved("lost", run_id),
        author.patched(run_id),
        author.tested(run_id),
        author.settled("lost", run_id),
    ]


@settings(max_examples=60, deadline=None)
@given(script=steps, batch=st.integers(1, 20), kept=st.integers(1, 3), flush=st.integers(1, 9))
def test_rebuilt_tables_equal_the_live_ones_over_any_events(script, batch, kept, flush):
    log = recorded(*events_of(script))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "RUNS_KEPT", kept)  # runs are forgotten and loaded again
        patch.setattr(apply, "BULK_FLUSH_RUNS", 4)
        patch.setattr(apply, "BULK_FLUSH_EVENTS", flush)
        live, again = Path(folder, "live"), Path(folder, "again")
        live_tables(live, log, batch)
        chunks = [list(map(raw_of, log[start : start + 5])) for start in range(0, len(log), 5)]
        result = rebuild(chunks, again, total=len(log), report=lambda _: None)
        assert (result.ok, result.events) == (True, len(log))
        assert first_difference(live, again) is None


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            "UPDATE runs SET cost_nano_usd = cost_nano_usd + 1",
            f"runs requested_position 1, run_id {RUN}: cost_nano_usd is 111 live, 110 rebuilt",
        ),
        ("DELETE FROM costs WHERE provider = 'p'", "only in the rebuilt tables"),
        ("INSERT INTO closed_calls VALUES (99, x'00')", "closed_calls stream 99: only in the live tables"),
        ("CREATE TABLE extra (a)", "extra"),
    ],
)
def test_the_first_difference_is_named(tmp_path, damage, named):
    log = recorded(*a_whole_run(Author()))
    for name in ("live", "again"):
        live_tables(tmp_path / name, log)
    assert first_difference(tmp_path / "live", tmp_path / "again") is None
    with closing(sqlite3.connect(tmp_path / "live")) as connection:
        connection.execute(damage)
        connection.commit()
    assert named in first_difference(tmp_path / "live", tmp_path / "again")


def test_an_unreadable_event_is_named_and_nothing_is_made_of_the_rest(tmp_path):
    chunk = [raw_of(each) for each in recorded(*a_whole_run(Author()))]
    chunk[3] = (4, b"ev.x.Unheard", b"", b'{"type":"Unheard"}')
    with pytest.raises(PassFailed, match=r"position 4 \(ev.x.Unheard\).*Unheard"):
        rebuild([chunk], tmp_path / "t", total=8, report=lambda _: None)
    with pytest.raises(PassFailed, match="jumps from position 1 to 3"):
        rebuild([[chunk[0], chunk[2]]], tmp_path / "t", total=8, report=lambda _: None)


async def result_of(messages):
    seen = [message async for message in messages]
    assert all(isinstance(message, PassProgress) for message in seen[:-1])
    assert isinstance(seen[-1], PassResult)
    return seen[-1]


async def test_a_rebuild_swaps_the_tables_and_the_ledger_goes_on(wired):
    await wired.add(*a_whole_run(wired.author))
    before = wired.queries.row(RUN)
    result = await result_of(wired.ledger.rebuilder.rebuild(verify=True))
    assert (result.ok, result.events) == (True, 8), result
    assert "every row is the same" in result.summary
    assert wired.queries.row(RUN) == before
    await wired.add(*a_whole_run(wired.author, OTHER_RUN))
    assert wired.queries.row(OTHER_RUN).cost_nano_usd == before.cost_nano_usd
    assert [path.name for path in wired.config.state_dir.glob("rebuilt*")] == []


async def test_tables_that_lie_are_found_replaced_and_kept(wired):
    await wired.add(*a_whole_run(wired.author))
    wired.projections.connection.execute("UPDATE runs SET cost_nano_usd = 1")
    result = await result_of(wired.ledger.rebuilder.rebuild(verify=True))
    assert not result.ok
    assert f"runs requested_position 1, run_id {RUN}: cost_nano_usd is 1 live, 110 rebuilt" in result.findings[0].detail
    assert wired.queries.row(RUN).cost_nano_usd == 110
    assert (wired.config.state_dir / "differing-projections.sqlite").exists()


async def test_events_that_come_during_a_rebuild_are_neither_lost_nor_doubled(wired):
    await wired.add(*a_whole_run(wired.author))
    rebuilding = asyncio.create_task(result_of(wired.ledger.rebuilder.rebuild(verify=True)))
    for number in range(150):
        await wired.append(wired.author.made(f"more-{number}"))
        await asyncio.sleep(0.001)
    result = await rebuilding
    assert result.ok, result
    await wired.caught_up()
    assert wired.queries.row(RUN).cost_nano_usd == 110 + 1500
    again = await result_of(wired.ledger.rebuilder.rebuild(verify=True))
    assert again.ok, again


async def test_the_live_tables_go_on_while_they_are_compared(wired, monkeypatch):
    await wired.add(*a_whole_run(wired.author))
    comparing, go_on, compare = asyncio.Event(), threading.Event(), Snapshots.first_difference
    loop = asyncio.get_running_loop()

    def at_leisure(snapshots):
        loop.call_soon_threadsafe(comparing.set)
        assert go_on.wait(60)
        return compare(snapshots)

    monkeypatch.setattr(Snapshots, "first_difference", at_leisure)
    rebuilding = asyncio.create_task(result_of(wired.ledger.rebuilder.rebuild(verify=True)))
    await asyncio.wait_for(comparing.wait(), 60)
    for number in range(20):
        await wired.add(wired.author.made(f"meanwhile-{number}"))  # returns when the tables have it
    assert wired.queries.row(RUN).cost_nano_usd == 110 + 200
    go_on.set()
    result = await rebuilding
    assert (result.ok, result.events) == (True, 28), result
    assert wired.queries.row(RUN).cost_nano_usd == 110 + 200


async def test_one_rebuild_at_a_time(wired):
    first = wired.ledger.rebuilder.rebuild(verify=False)
    await wired.add(wired.author.requested())
    running = asyncio.create_task(result_of(first))
    await asyncio.sleep(0)
    with pytest.raises(PassRunning, match="running already"):
        await result_of(wired.ledger.rebuilder.rebuild(verify=False))
    assert (await running).ok


async def test_a_rebuild_that_fails_leaves_the_live_tables_alone(wired):
    await wired.add(*a_whole_run(wired.author))
    await wired.store.inject(f"ev.{RUN}.Unheard", b'{"type":"Unheard"}')
    result = await result_of(wired.ledger.rebuilder.rebuild(verify=False))
    assert not result.ok
    assert wired.queries.row(RUN).cost_nano_usd == 110


def downgrade(path):
    """What an older release may have left: another version, without what is new since."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"DROP TABLE price_lists; ALTER TABLE costs DROP COLUMN usages; ALTER TABLE runs DROP COLUMN flagged;"
            f"PRAGMA user_version = {VERSION - 1};"
        )


async def test_tables_of_another_version_are_read_until_the_new_ones_take_their_place(tmp_path):
    async with wired_ledger(tmp_path) as first:
        await first.add(*a_whole_run(first.author))
        log, author, before = first.store._log, first.author, first.queries.row(RUN)
    downgrade(tmp_path / "projections.sqlite")
    async with wired_ledger(tmp_path, log=log) as second:
        await second.append(author.made("later"))
        assert second.queries.row(RUN) == before
        assert second.queries.costs("token_kind").total.cost_nano_usd == 110
        assert second.queries.price_lists() == []
        with pytest.raises(Exception, match="another version"):
            await second.ledger.projector.check()
        await second.ledger.rebuilder.upgrade()
        await second.caught_up()
        await second.ledger.projector.check()
        assert second.queries.row(RUN).cost_nano_usd == 120
