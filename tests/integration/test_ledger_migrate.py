"""`ridges ledger migrate` from one NATS server to another: nothing acknowledged is lost, whoever is killed when."""

import asyncio
import json
import random
import shutil

import pytest
from integration.ledger_process import LedgerProcess, publish_problem
from integration.migration_world import (
    Copier,
    Writers,
    ask_for_runs,
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
from integration.test_ledger_passes import result_of
from integration.test_ledger_service import log_of
from nats_process import NatsServer

from ridges.chassis.event_store import open_event_store
from ridges.chassis.jetstream.fence import next_epoch
from ridges.chassis.ports import LogMismatch

pytestmark = pytest.mark.timeout(240)


async def metadata_of(server):
    found = await stream_of(server)
    return {} if found is None else found["config"]["metadata"]


async def test_the_copy_is_the_log_and_the_old_place_names_the_new_one(old, new):
    last = await filled(old, 20)
    epoch = (await metadata_of(old))["epoch"]
    code, result = await migrated(old, new)
    assert (code, result["ok"], result["events"]) == (0, True, last), result
    assert told(new) == told(old)
    assert result["epoch"] == next_epoch(epoch) == (await metadata_of(new))["epoch"]
    assert any(f"RIDGES_NATS_URL={new.url}" in step for step in result["next_steps"])
    with pytest.raises(LogMismatch) as refused:
        async with log_of(old) as store:
            await store.ready()
    assert f"has moved to {new.url}" in str(refused.value)
    assert f"set RIDGES_NATS_URL={new.url}" in str(refused.value)
    assert f"RIDGES_LOG_EPOCH={result['epoch']}" in str(refused.value)
    again, repeated = await migrated(old, new)
    assert (again, repeated["ok"]) == (0, True), "asking again is no error"
    async with log_of(new) as store:
        event = one_more()
        assert await store.append(event.run_id, [event]) == last + 1


async def test_nothing_acknowledged_is_lost_while_services_write_and_the_copier_is_killed(old, new):
    await filled(old, 60)
    writers = Writers(old, 3)
    dice = random.Random(8)
    watched = [("arriving", new), ("moving", old)]
    try:
        for record, server in watched:
            copier = await Copier(old, new.url, RIDGES_TARGET_NATS_MONITOR_URL=new.monitor_url).start()
            seen = asyncio.create_task(until_log_says(server, record))
            ended = asyncio.create_task(copier.process.wait())
            await asyncio.wait((seen, ended), return_when=asyncio.FIRST_COMPLETED)
            await copier.kill9()
            for task in (seen, ended):
                task.cancel()
        for _ in range(4):
            copier = await Copier(old, new.url, RIDGES_TARGET_NATS_MONITOR_URL=new.monitor_url).start()
            await asyncio.sleep(dice.uniform(0.3, 1.2))
            await copier.kill9()
        code, result = await migrated(old, new)
        assert (code, result["ok"]) == (0, True), result
        reasons = await writers.ended()
    finally:
        await writers.stop()
    assert all(isinstance(reason, LogMismatch) and new.url in str(reason) for reason in reasons), reasons
    copied = told(new)
    assert copied == told(old)
    assert [position for position, *_ in copied] == list(range(1, len(copied) + 1))
    assert len({event_id for _, _, event_id, _ in copied}) == len(copied)
    assert len(writers.acknowledged) > 100
    assert writers.acknowledged.items() <= {event_id: position for position, _, event_id, _ in copied}.items()


async def test_the_ledger_refuses_the_old_log_and_has_the_same_figures_on_the_new_one(old, new, tmp_path):
    ledger = LedgerProcess(old, tmp_path / "ledger", RIDGES_SETTLE_GRACE_S="0").start()
    try:
        await filled(old, 8)
        await ledger.until_run("00000007", lambda run: run["state"] == "error" and run["reserved_nano_usd"] == 0)
        assert (await result_of(ledger, "/v1/admin/archive"))["ok"]
        await ledger.until("/v1/costs", lambda answer: answer.json()["position"] == told(old)[-1][0])
        before = [(await ledger.get(f"/v1/costs?by={by}")).json() for by in ("run", "model", "provider", "day")]
        code, result = await migrated(old, new)
        assert code == 0, result
        assert await asyncio.to_thread(ledger.wait) == 4, "it only reads, and is told all the same"
        assert f"set RIDGES_NATS_URL={new.url}" in ledger.log
        ledger.start()
        assert await asyncio.to_thread(ledger.wait) == 4
        ledger.settings |= {"RIDGES_NATS_URL": new.url, "RIDGES_NATS_MONITOR_URL": new.monitor_url}
        ledger.settings["RIDGES_LOG_EPOCH"] = (await metadata_of(old))["epoch"]
        ledger.start()
        assert await asyncio.to_thread(ledger.wait) == 4
        assert result["epoch"] in ledger.log.splitlines()[-1]
        ledger.settings["RIDGES_LOG_EPOCH"] = result["epoch"]
        ledger.start()
        await ledger.until_ready()
        assert [(await ledger.get(f"/v1/costs?by={by}")).json() for by in ("run", "model", "provider", "day")] == before
        assert (await result_of(ledger, "/v1/admin/rebuild", verify="true"))["ok"]
        verified = await result_of(ledger, "/v1/admin/verify", blobs="true")
        assert "archive" not in {finding["kind"] for finding in verified["findings"]}, verified
        assert (await result_of(ledger, "/v1/admin/restore"))["ok"]
        assert (await metadata_of(new))["epoch"] == result["epoch"], "a restore keeps it"
    finally:
        ledger.kill9()


async def test_requests_that_wait_at_the_old_server_become_runs_at_the_new_one_once(old, new, tmp_path):
    folder = tmp_path / "ledger"
    await publish_problem(old, "fix-a", f"file://{folder}/blobs")
    await ask_for_runs(old, 3)
    old.stop()
    shutil.copytree(old.folder / "store", tmp_path / "never-moved/store")
    old.start()
    code, result = await migrated(old, new)
    assert code == 0, result
    with pytest.raises(Exception, match="exceeds"):
        await ask_for_runs(old, 1)
    assert (await waiting(old), await waiting(new)) == (0, 3)
    ledger = LedgerProcess(new, folder).start()
    try:
        ids = await three_runs(ledger)
    finally:
        ledger.kill9()
    never_moved = NatsServer(tmp_path / "never-moved").start()
    other = LedgerProcess(never_moved, tmp_path / "other", RIDGES_BLOBS_URL=f"file://{folder}/blobs").start()
    try:
        assert await three_runs(other) == ids, "the same runs, had the old ledger been quicker"
    finally:
        other.kill9()
        never_moved.kill9()


async def test_an_open_batch_does_not_get_past_the_closing_of_the_log(old, new):
    """Its first events were sent before, its commit comes after: none of it is stored, and the client is told."""
    await filled(old, 3)
    async with old.client() as nc:
        batch = {"Nats-Batch-Id": "half", "Nats-Batch-Sequence": "1"}
        assert (await nc.request("ev.r.RunCancelled", b"{}", headers=batch, timeout=10)).data == b""
        await closed_half_way(old, new)
        commit = {"Nats-Batch-Id": "half", "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
        answer = json.loads((await nc.request("ev.r.RunCancelled", b"{}", headers=commit, timeout=10)).data)
    assert answer["error"]["err_code"] == 10054
    code, result = await migrated(old, new)
    assert code == 0, result
    assert told(new) == told(old)


async def test_what_cannot_be_moved_is_refused_before_anything_is_closed(old, new, tmp_path):
    await filled(old, 2)
    await new.migrate()
    await filled(new, 1)
    code, result = await migrated(old, new)
    assert code == 1
    assert "is not empty" in result["summary"]
    assert "empty server" in result["summary"]
    code, result = await migrated(old, old)
    assert code == 1
    assert "is the log itself" in result["summary"]
    code, result = await migrated(old, "http://somewhere")
    assert code == 2
    assert "nats://host:4222 or kurrentdb://host:2113" in result["summary"]
    lossy = NatsServer(tmp_path / "lossy", sync=None).start()
    try:
        code, result = await migrated(old, lossy)
        assert code == 1
        assert "acknowledges before it syncs" in result["summary"]
        code, result = await migrated(old, lossy.url)
        assert "RIDGES_TARGET_NATS_MONITOR_URL" in result["summary"]
        assert await stream_of(lossy) is None
    finally:
        lossy.kill9()
    async with log_of(old) as store:
        await store.ready()


async def test_a_log_on_its_way_goes_nowhere_else(old, new, tmp_path):
    await filled(old, 5)
    await closed_half_way(old, new)
    old.restart()
    async with old.client() as nc:
        answer = json.loads((await nc.request("ev.r.RunCancelled", b"{}", timeout=10)).data)
    assert answer["error"]["err_code"] == 10054, "closed over a restart, too"
    third = NatsServer(tmp_path / "third").start()
    try:
        code, result = await migrated(old, third)
        assert code == 1
        assert f"is being moved to {new.url}" in result["summary"]
        code, result = await migrated(old, third, "--abort")
        assert code == 1
        with pytest.raises(LogMismatch, match="no log of record yet"):
            async with open_event_store(new.url, name="test", monitor_url=new.monitor_url) as store:
                await store.ready()
    finally:
        third.kill9()
    code, result = await migrated(old, new)
    assert code == 0, result
    assert told(new) == told(old)
