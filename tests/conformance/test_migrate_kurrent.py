"""`ridges ledger migrate` to KurrentDB and back (its double, over real gRPC), with the mirror on NATS."""

import asyncio
import random

import pytest
from integration.ledger_process import LedgerProcess
from integration.migration_world import Copier, Writers, filled, migrated, stream_of, told
from integration.test_ledger_passes import result_of
from integration.test_ledger_service import a_run, log_of
from kurrent_double.cluster import KurrentDouble
from kurrent_world import declare_mirror, opened, relaying
from unit.ledger.samples import Author

from ridges.chassis.kurrent.connection import KurrentConnection
from ridges.chassis.kurrent.epoch import declared_epoch
from ridges.chassis.kurrent.names import LOG_STREAM
from ridges.chassis.migrate import declare_streams, remove_moved_log
from ridges.chassis.ports import LogMismatch

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def kurrentdb():
    async with KurrentDouble() as double:
        yield double


def held(kurrentdb):
    """(position, subject, id, content) of every event of ours."""
    ours = [stored for stored in kurrentdb.log if stored.stream.startswith("run-")]
    return [
        (n, f"ev.{e.stream.removeprefix('run-')}.{e.event_type}".encode(), e.event_id, e.data)
        for n, e in enumerate(ours, 1)
    ]


async def identity_of(kurrentdb):
    connection = KurrentConnection(kurrentdb.url, "test")
    try:
        return await connection.metadata(LOG_STREAM)
    finally:
        await connection.close()


async def mirror_declared(server, kurrentdb):
    """What `python -m ridges.chassis.migrate --replace-moved-log` does."""
    connection = KurrentConnection(kurrentdb.url, "test")
    try:
        epoch = await declared_epoch(connection)
    finally:
        await connection.close()
    async with server.client() as nc:
        done = await remove_moved_log(nc, epoch)
        await declare_streams(nc, kurrentdb_epoch=epoch)
    return done


class TestToKurrentDB:
    async def test_all_is_there_in_order_although_the_copier_is_killed(self, nats_server, kurrentdb):
        await filled(nats_server, 25)
        writers = Writers(nats_server, 1)
        dice = random.Random(3)
        try:
            for _ in range(5):
                copier = await Copier(nats_server, kurrentdb.url).start()
                await asyncio.sleep(dice.uniform(0.4, 1.5))
                await copier.kill9()
            code, result = await migrated(nats_server, kurrentdb.url)
            assert (code, result["ok"]) == (0, True), result
            [reason] = await writers.ended()
        finally:
            await writers.stop()
        assert isinstance(reason, LogMismatch)
        assert "set RIDGES_EVENT_STORE_URL=kurrentdb://" in str(reason)
        copied = held(kurrentdb)
        assert copied == told(nats_server)
        assert writers.acknowledged.items() <= {event_id: position for position, _, event_id, _ in copied}.items()
        assert (await identity_of(kurrentdb))["epoch"] == result["epoch"]

    async def test_the_old_stream_becomes_the_mirror_and_the_ledger_has_its_figures(
        self, nats_server, kurrentdb, tmp_path
    ):
        ledger = LedgerProcess(nats_server, tmp_path / "ledger", RIDGES_SETTLE_GRACE_S="0").start()
        try:
            await filled(nats_server, 4)
            await ledger.until_run("00000003", lambda run: run["state"] == "error" and run["reserved_nano_usd"] == 0)
            last = told(nats_server)[-1][0]
            await ledger.until("/v1/costs", lambda answer: answer.json()["position"] == last)
            before = [(await ledger.get(f"/v1/costs?by={by}")).json() for by in ("run", "model", "day")]
            events = told(nats_server)
            code, result = await migrated(nats_server, kurrentdb.url)
            assert code == 0, result
            assert await asyncio.to_thread(ledger.wait) == 4
            assert "deleted" in await mirror_declared(nats_server, kurrentdb)
            assert "mirror already" in await mirror_declared(nats_server, kurrentdb), "it can be repeated"
            ledger.settings |= {"RIDGES_EVENT_STORE_URL": kurrentdb.url, "RIDGES_LOG_EPOCH": result["epoch"]}
            ledger.start()
            await ledger.until("/v1/costs", lambda answer: answer.json()["position"] == last)
            await ledger.until_ready()
            assert [(await ledger.get(f"/v1/costs?by={by}")).json() for by in ("run", "model", "day")] == before
            assert told(nats_server) == events, "the relay gives every event its old position"
            assert (await result_of(ledger, "/v1/admin/rebuild", verify="true"))["ok"]
        finally:
            ledger.kill9()

    async def test_a_stream_that_did_not_move_there_is_not_deleted(self, nats_server, kurrentdb):
        last = await filled(nats_server, 1)
        with pytest.raises(LogMismatch, match="nothing was deleted"):
            await mirror_declared(nats_server, kurrentdb)
        assert len(told(nats_server)) == last

    async def test_given_up_and_begun_again(self, nats_server, kurrentdb):
        await filled(nats_server, 2)
        copier = await Copier(nats_server, kurrentdb.url).start()
        while not held(kurrentdb) and copier.process.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        await copier.kill9()
        code, given_up = await migrated(nats_server, kurrentdb.url, "--abort")
        if code == 0:
            assert (await identity_of(kurrentdb))["log_of_record"] == "abandoned"
            await filled_more(nats_server)
        else:
            assert "services may write there" in given_up["summary"], "it had ended before it was killed"
        code, result = await migrated(nats_server, kurrentdb.url)
        assert code == 0, result
        assert held(kurrentdb) == told(nats_server)

    async def test_another_log_is_not_mixed_with(self, nats_server, kurrentdb):
        await filled(nats_server, 1)
        await kurrentdb.put("run-r1", "RunCancelled")
        code, result = await migrated(nats_server, kurrentdb.url)
        assert code == 1
        assert "is not empty: it holds 1 events" in result["summary"]

    async def test_a_kurrentdb_that_is_away_for_a_while_is_waited_for(self, nats_server, kurrentdb):
        await filled(nats_server, 3)
        copier = await Copier(nats_server, kurrentdb.url).start()
        while not held(kurrentdb) and copier.process.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        await kurrentdb.stop()
        await kurrentdb.start()
        code, result = await copier.result()
        assert code == 0, result
        assert held(kurrentdb) == told(nats_server)


async def filled_more(server):
    author = Author()
    author.clock.ids = 10**6
    async with log_of(server) as store:
        events = list(a_run(author, 77))
        await store.append(events[0].run_id, events)


class TestFromKurrentDB:
    @pytest.fixture
    async def mirrored(self, nats_server, kurrentdb):
        """A log in KurrentDB, its mirror complete."""
        async with nats_server.client() as nc:
            await nc.jetstream().delete_stream("EVENTS")
        await declare_mirror(nats_server, kurrentdb.url)
        async with relaying(nats_server, kurrentdb.url), opened(nats_server, kurrentdb.url) as store:
            author = Author()
            for number in range(8):
                events = list(a_run(author, number))
                await store.append(events[0].run_id, events)
        return nats_server

    async def test_the_log_is_the_same_in_jetstream_and_both_old_places_refuse(self, mirrored, kurrentdb, new):
        settings = {"RIDGES_EVENT_STORE_URL": kurrentdb.url}
        copier = await Copier(mirrored, new.url, RIDGES_TARGET_NATS_MONITOR_URL=new.monitor_url, **settings).start()
        await asyncio.sleep(random.Random(5).uniform(0.5, 1.5))
        await copier.kill9()  # it may have ended by then
        code, result = await migrated(mirrored, new, **settings)
        assert (code, result["ok"]) == (0, True), result
        assert told(new) == held(kurrentdb)
        with pytest.raises(LogMismatch, match=f"has moved to {new.url}"):
            async with opened(mirrored, kurrentdb.url) as store:
                await store.ready()
        assert (await identity_of(kurrentdb))["log_of_record"] == "moved"
        async with log_of(new) as store:
            [first, *_] = a_run(Author(), 0)
            assert await store.append(first.run_id, [first]) == 1, "the ids came along"

    async def test_an_append_without_acknowledgement_is_refused_and_not_lost_silently(self, mirrored, kurrentdb, new):
        """KurrentDB takes it, its mirror does not: nobody was told that it is stored, and the writer hears why."""
        async with relaying(mirrored, kurrentdb.url):
            author = Author()
            author.clock.ids = 10**6
            event = author.requested("00000099-0000-4000-8000-000000000000")

            async def write_to_a_log_that_moves():
                async with opened(mirrored, kurrentdb.url) as store:
                    await store.ready()
                    code, result = await migrated(mirrored, new, RIDGES_EVENT_STORE_URL=kurrentdb.url)
                    assert code == 0, result
                    await store.append(event.run_id, [event])

            with pytest.raises(LogMismatch, match="RIDGES_NATS_URL="):
                await write_to_a_log_that_moves()
        assert event.id not in {event_id for _, _, event_id, _ in told(new)}

    async def test_the_server_of_the_mirror_cannot_be_the_new_place(self, mirrored, kurrentdb):
        code, result = await migrated(mirrored, mirrored, RIDGES_EVENT_STORE_URL=kurrentdb.url)
        assert code == 1
        assert "another NATS server" in result["summary"] or "is the log itself" in result["summary"]
        assert (await stream_of(mirrored))["config"]["metadata"]["log_of_record"] == "kurrentdb"
