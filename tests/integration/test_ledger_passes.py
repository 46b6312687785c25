"""Passes over a real log in processes of their own, with real traffic meanwhile."""

import asyncio
import json
import shutil
import sqlite3
import time
from contextlib import closing

import httpx
import pytest
from integration.ledger_process import LedgerProcess
from integration.test_ledger_service import a_run, log_of
from unit.ledger.samples import Author

from ridges.chassis.blob_store import open_blob_store
from ridges.chassis.jetstream.bulk import raw_events
from ridges.chassis.jetstream.place import Place
from ridges.chassis.ports import EventRefused, EventStoreUnavailable
from ridges.ledger import archive


@pytest.fixture
async def ledger(nats_server, tmp_path):
    process = LedgerProcess(nats_server, tmp_path / "ledger", RIDGES_SETTLE_GRACE_S="0").start()
    try:
        await process.until_ready()
        yield process
    finally:
        process.kill9()


async def result_of(ledger, path, **query):
    """Progress, then the result."""
    seen = []
    async with (
        httpx.AsyncClient(base_url=ledger.url, timeout=60) as client,
        client.stream("POST", path, params=query) as answer,
    ):
        assert answer.status_code == 201, await answer.aread()
        seen += [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert all("phase" in message for message in seen[:-1])
    return seen[-1]


async def write(nats_server, author, numbers):
    async with log_of(nats_server) as store:
        for number in numbers:
            for event in a_run(author, number):
                position = await store.append(event.run_id, [event])
    return position


async def test_a_rebuild_under_traffic_loses_and_doubles_nothing(ledger, nats_server):
    author = Author()
    await write(nats_server, author, range(20))
    traffic = asyncio.create_task(write(nats_server, author, range(20, 40)))
    reads = asyncio.create_task(reads_until(ledger, traffic))
    for _ in range(2):
        result = await result_of(ledger, "/v1/admin/rebuild", verify="true")
        assert result["ok"], result
        assert "every row is the same" in result["summary"]
    assert await reads > 0
    last = await traffic
    await ledger.until_run("00000039", lambda run: run["state"] == "error" and run["reserved_nano_usd"] == 0)
    result = await result_of(ledger, "/v1/admin/rebuild", verify="true")
    assert result["ok"], result
    assert result["events"] >= last
    verified = await result_of(ledger, "/v1/admin/verify", blobs="false")
    assert {finding["kind"] for finding in verified["findings"]} == {"amount"}, "the costs of this log are random"


async def reads_until(ledger, other):
    """How many reads were answered until the other one ends."""
    count = 0
    async with httpx.AsyncClient(base_url=ledger.url, timeout=20) as client:
        while not other.done():
            assert (await client.get("/v1/costs")).status_code == 200
            count += 1
            await asyncio.sleep(0.01)
    return count


async def test_tables_of_an_older_release_are_read_while_they_are_rebuilt(ledger, nats_server):
    await write(nats_server, Author(), range(3))
    before = await ledger.until_run("00000002", lambda run: run["state"] == "error" and run["reserved_nano_usd"] == 0)
    assert ledger.terminate() == 0
    tables = ledger.folder / "state" / "projections.sqlite"
    with closing(sqlite3.connect(tables)) as connection:
        connection.executescript("DROP TABLE price_lists; PRAGMA user_version = 1")
    nats_server.kill9()
    ledger.start()
    waiting = await ledger.until("/readyz", lambda answer: answer.status_code == 503)
    assert "version" in waiting.json()["failing"]["projection"]
    assert (await ledger.get("/v1/runs/00000002")).json()["cost_nano_usd"] == before["cost_nano_usd"]
    nats_server.start()
    await ledger.until_ready()
    assert (await ledger.get("/v1/runs/00000002")).json() == before
    with closing(sqlite3.connect(tables)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] > 1


async def test_a_ledger_that_is_killed_in_a_rebuild_still_has_its_tables(ledger, nats_server):
    await write(nats_server, Author(), range(10))
    before = await ledger.until_run("00000009", lambda run: run["state"] == "error" and run["reserved_nano_usd"] == 0)
    rebuilding = asyncio.create_task(result_of(ledger, "/v1/admin/rebuild"))
    await asyncio.sleep(0.3)
    ledger.kill9()
    await asyncio.gather(rebuilding, return_exceptions=True)
    ledger.start()
    await ledger.until_ready()
    assert (await ledger.get("/v1/runs/00000009")).json() == before


def read(nats_server, after, until, **options):
    place = Place(url=nats_server.url, name="test", **options)
    return [event for chunk in raw_events(place, after, until) for event in chunk]


async def test_the_log_is_read_in_bulk_as_it_stands(nats_server):
    last = await write(nats_server, Author(), range(8))
    async with log_of(nats_server) as store:
        wanted = [(recorded.position, recorded.event.id) async for recorded in store.read_all()]
    found = await asyncio.to_thread(read, nats_server, 0, last)
    assert [(position, json.loads(content)["id"]) for position, _, _, content in found] == wanted
    assert all(b"Nats-Msg-Id: " + json.loads(content)["id"].encode() in headers for _, _, headers, content in found)
    part = await asyncio.to_thread(read, nats_server, 10, 20)
    assert [position for position, *_ in part] == list(range(11, 21))


async def test_reading_in_bulk_goes_on_after_the_server_was_killed(nats_server, monkeypatch):
    last = await write(nats_server, Author(), range(8))

    def read_and_kill():
        found = []
        for chunk in raw_events(Place(url=nats_server.url, name="test"), 0, last):
            if not found:
                nats_server.restart()
            found += chunk
            if len(found) >= 20:
                break
        return found[:20] + read(nats_server, 20, last)

    found = await asyncio.to_thread(read_and_kill)
    assert [position for position, *_ in found] == list(range(1, last + 1))


async def test_reading_in_bulk_goes_on_when_its_consumer_is_gone(nats_server):
    """As when the server of a cluster that held it was killed: the server says so without a reply subject."""
    last = await write(nats_server, Author(), range(2))
    reading = asyncio.create_task(asyncio.to_thread(read, nats_server, 0, last + 1))
    async with nats_server.client() as nc, asyncio.timeout(20):
        names = []
        while not names:
            names = [info.name for info in await nc.jsm().consumers_info("EVENTS")]
        await asyncio.sleep(0.3)
        await nc.jsm().delete_consumer("EVENTS", names[0])
        author = Author()
        author.clock.ids = 10**6
        await write(nats_server, author, range(5, 6))
        found = await reading
    assert [position for position, *_ in found] == list(range(1, last + 2))


async def test_reading_in_bulk_waits_for_a_reader_that_is_slow(nats_server, monkeypatch):
    """As one that copies the log to a store with a busy disk: the server ends what was asked for meanwhile."""
    monkeypatch.setattr("ridges.chassis.jetstream.bulk.PATIENCE_S", 0.5)
    monkeypatch.setattr("ridges.chassis.jetstream.bulk.PULL_EXPIRES_S", 1)
    monkeypatch.setattr("ridges.chassis.jetstream.bulk.PULL", 20)
    last = await write(nats_server, Author(), range(3))

    def read_slowly():
        found = []
        for chunk in raw_events(Place(url=nats_server.url, name="test"), 0, last):
            found += chunk
            time.sleep(1.6)
        return found

    found = await asyncio.to_thread(read_slowly)
    assert [position for position, *_ in found] == list(range(1, last + 1))


async def test_a_log_that_ends_too_early_or_is_away_is_an_error_not_a_short_answer(nats_server, monkeypatch):
    monkeypatch.setattr("ridges.chassis.jetstream.bulk.PATIENCE_S", 1.0)
    last = await write(nats_server, Author(), range(1))
    with pytest.raises(EventStoreUnavailable, match=f"position {last}"):
        await asyncio.to_thread(read, nats_server, 0, last + 1)
    nats_server.kill9()
    with pytest.raises(EventStoreUnavailable, match="position 0"):
        await asyncio.to_thread(read, nats_server, 0, last)


async def test_a_wrong_password_is_said(tmp_path):
    from nats_process import NatsServer

    server = NatsServer(tmp_path / "n", extra='authorization { users: [{user: "a", password: "b"}] }').start()
    try:
        with pytest.raises(EventRefused, match="Authorization"):
            await asyncio.to_thread(read, server, 0, 1, user="a", password="c")
    finally:
        server.kill9()


async def test_a_lost_stream_comes_back_from_the_archive_as_it_was(ledger, nats_server):
    await write(nats_server, Author(), range(6))
    await ledger.until_run("00000005", lambda run: run["state"] == "error" and run["reserved_nano_usd"] == 0)
    sealed = await result_of(ledger, "/v1/admin/archive")
    assert sealed["ok"], sealed
    async with log_of(nats_server) as store:
        last = await store.last_position()
    before = await asyncio.to_thread(read, nats_server, 0, last)
    costs = (await ledger.get("/v1/costs")).json()
    assert ledger.terminate() == 0
    nats_server.kill9()
    shutil.rmtree(nats_server.folder / "store")
    nats_server.start()
    await nats_server.migrate()
    ledger.start()
    lost = await ledger.until("/readyz", lambda answer: "projection" in answer.json().get("failing", {}))
    assert "another log" in lost.json()["failing"]["projection"]
    restored = await result_of(ledger, "/v1/admin/restore")
    assert (restored["ok"], restored["events"]) == (True, last), restored
    after = await asyncio.to_thread(read, nats_server, 0, last)
    assert [(position, subject, content) for position, subject, _, content in after] == [
        (position, subject, content) for position, subject, _, content in before
    ]
    await ledger.until_ready()
    assert (await ledger.get("/v1/costs")).json() == costs
    verified = await result_of(ledger, "/v1/admin/verify")
    assert {finding["kind"] for finding in verified["findings"]} <= {"amount", "blob"}, verified
    rebuilt = await result_of(ledger, "/v1/admin/rebuild", verify="true", source="archive")
    assert rebuilt["ok"], rebuilt
    again = await result_of(ledger, "/v1/admin/restore")
    assert (again["ok"], again["events"]) == (True, 0), again


async def test_a_log_with_other_events_is_not_mixed_with_the_archive(ledger, nats_server):
    await write(nats_server, Author(), range(1))
    await result_of(ledger, "/v1/admin/archive")
    ledger.kill9()
    nats_server.kill9()
    shutil.rmtree(nats_server.folder / "store")
    nats_server.start()
    await nats_server.migrate()
    other = Author()
    other.clock.ids = 10**6
    await write(nats_server, other, range(3, 4))
    ledger.start()
    await ledger.until("/livez", lambda answer: answer.status_code == 200)
    result = await result_of(ledger, "/v1/admin/restore")
    assert not result["ok"]
    assert "not the log that was archived" in result["summary"]


async def test_a_log_that_is_replaced_while_it_is_read_is_not_taken_for_the_first_one(nats_server):
    last = await write(nats_server, Author(), range(2))
    chunks = raw_events(Place(url=nats_server.url, name="test"), 0, last + 100)

    def read_the_first():
        count = 0
        while count < last:
            count += len(next(chunks))
        return count

    assert await asyncio.to_thread(read_the_first) == last
    nats_server.kill9()
    shutil.rmtree(nats_server.folder / "store")
    nats_server.start()
    await nats_server.migrate()
    await write(nats_server, Author(), range(5, 9))
    with pytest.raises(EventRefused, match="replaced while it was read"):
        await asyncio.to_thread(next, chunks)


async def test_the_log_is_archived_by_itself_where_that_is_set(nats_server, tmp_path):
    ledger = LedgerProcess(nats_server, tmp_path / "ledger", RIDGES_ARCHIVE_EVERY_S="0.2").start()
    try:
        last = await write(nats_server, Author(), range(2))
        blobs = open_blob_store(ledger.blobs_url)
        async with asyncio.timeout(60):
            while not (sealed := await archive.segments(blobs)) or sealed[-1].last < last:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (sealed[0].first, sum(segment.count for segment in sealed)) == (1, sealed[-1].last)
    finally:
        ledger.kill9()
