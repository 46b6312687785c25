"""`ridges ledger migrate --abort`: whenever the move is given up, nothing of it is carried out at the new server."""

import asyncio
import random

import pytest
from integration.ledger_process import LedgerProcess, publish_problem
from integration.migration_world import (
    Copier,
    ask_for_runs,
    both,
    closed_half_way,
    filled,
    migrated,
    one_more,
    stream_of,
    three_runs,
    told,
    until_log_says,
    waiting,
)
from integration.test_ledger_service import log_of

from ridges.chassis.moving.jetstream import JetStreamSource, JetStreamTarget
from ridges.chassis.moving.ports import CannotMove
from ridges.chassis.ports import LogMismatch
from ridges.ledger.passes.migrate import Migration

pytestmark = pytest.mark.timeout(240)


async def test_a_move_that_is_given_up_leaves_the_log_as_it_was_and_can_begin_again(old, new):
    last = await filled(old, 5)
    before = (await stream_of(old))["config"]
    await closed_half_way(old, new)
    with pytest.raises(LogMismatch, match="is being moved to"):
        async with log_of(old) as store:
            await store.ready()
    code, result = await migrated(old, new, "--abort")
    assert (code, result["ok"]) == (0, True), result
    assert (await stream_of(old))["config"] == before
    assert await stream_of(new) is None, "nobody can take the half for a log"
    async with log_of(old) as store:
        event = one_more()
        assert await store.append(event.run_id, [event]) == last + 1
    code, result = await migrated(old, new)
    assert (code, result["events"]) == (0, last + 1), result
    code, result = await migrated(old, new, "--abort")
    assert code == 1
    assert "has moved" in result["summary"]


class Dies(Exception):
    """As kill -9 at this very place."""


class DiesBeforeAcceptance(JetStreamTarget):
    async def accept(self, migration):
        raise Dies


class DiesAfterAcceptance(JetStreamTarget):
    async def accept(self, migration):
        await super().accept(migration)
        raise Dies


class IsGivenUpBeforeAcceptance(JetStreamTarget):
    """Somebody gives the move up while this copier is about to hand over, and the old log is open again."""

    given_up = None

    async def accept(self, migration):
        old, new = self.given_up
        code, result = await migrated(old, new, "--abort")
        assert (code, result["ok"]) == (0, True), result
        await super().accept(migration)


async def moved_with(old, new, target):
    """The result of a run of the pass with such a target, here in the test's process."""
    async with both(old, new) as (here, there):
        target = target(there, allow_lossy=False)
        target.given_up = (old, new)
        return await Migration(JetStreamSource(here), target, here, there, lambda _: None).run()


async def test_a_move_given_up_in_its_last_moment_leaves_no_request_at_the_new_server(old, new, tmp_path):
    """The new server may become another log's: a request that was left there would be carried out for it."""
    await publish_problem(old, "fix-a", f"file://{tmp_path}/ledger/blobs")
    await ask_for_runs(old, 3)
    for last_moment, ending in ((DiesBeforeAcceptance, Dies), (IsGivenUpBeforeAcceptance, CannotMove)):
        with pytest.raises(ending):
            await moved_with(old, new, last_moment)
        code, result = await migrated(old, new, "--abort")
        assert (code, result["ok"]) == (0, True), result
        assert await stream_of(new) is None
        assert (await waiting(old), await waiting(new)) == (3, 0)
    ledger = LedgerProcess(old, tmp_path / "ledger").start()
    try:
        await three_runs(ledger)
    finally:
        ledger.kill9()


async def test_a_copier_killed_right_after_the_handover_leaves_the_requests_to_the_next_one(old, new, tmp_path):
    folder = tmp_path / "ledger"
    await publish_problem(old, "fix-a", f"file://{folder}/blobs")
    await ask_for_runs(old, 3)
    with pytest.raises(Dies):
        await moved_with(old, new, DiesAfterAcceptance)
    code, result = await migrated(old, new, "--abort")
    assert code == 1
    assert "once more without --abort" in result["summary"]
    ledger = LedgerProcess(new, folder).start()
    try:
        for _ in range(2):
            code, result = await migrated(old, new)
            assert code == 0, result
        await three_runs(ledger)
        assert (await waiting(old), await waiting(new)) == (0, 0)
    finally:
        ledger.kill9()


async def test_killed_at_any_moment_and_given_up_nothing_is_lost_and_nothing_is_left(old, new, tmp_path):
    last = await filled(old, 20)
    await ask_for_runs(old, 3)
    dice = random.Random(12)
    for _ in range(4):
        copier = await Copier(old, new.url, RIDGES_TARGET_NATS_MONITOR_URL=new.monitor_url).start()
        arriving = asyncio.create_task(until_log_says(new, "arriving"))
        ended = asyncio.create_task(copier.process.wait())
        await asyncio.wait((arriving, ended), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(dice.uniform(0, 0.08))
        for task in (arriving, ended):
            task.cancel()
        await copier.kill9()
        aborting = await Copier(old, new.url, "--abort", RIDGES_TARGET_NATS_MONITOR_URL=new.monitor_url).start()
        await asyncio.sleep(dice.uniform(0.2, 0.6))
        await aborting.kill9()
        code, result = await migrated(old, new, "--abort")
        if code == 1:
            assert "once more without --abort" in result["summary"] or "has moved" in result["summary"], result
            break
        assert await stream_of(new) is None
        assert (await waiting(old), await waiting(new)) == (3, 0)
        async with log_of(old) as store:
            await store.ready()
    code, result = await migrated(old, new)
    assert code == 0, result
    assert told(new) == told(old)
    assert len(told(new)) == last
    assert (await waiting(old), await waiting(new)) == (0, 3)
