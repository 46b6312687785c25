"""A bit that turned in nats-server's own files: found, said, and the log made whole from archive and files."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from bit_flips import flip
from integration.ledger_process import LedgerProcess
from integration.test_ledger_passes import read, result_of, write
from integration.test_ledger_service import a_run, log_of
from unit.ledger.samples import Author

RUNS_ARCHIVED, RUNS = 2, 4
STREAM = "store/jetstream/$G/streams/EVENTS"


@pytest.fixture
async def world(nats_server, tmp_path):
    """A log of four runs, two of them archived; the ledger is down."""
    ledger = LedgerProcess(nats_server, tmp_path / "ledger", RIDGES_SETTLE_GRACE_S="3600").start()
    try:
        author = Author()
        await ledger.until_ready()
        archived = await write(nats_server, author, range(RUNS_ARCHIVED))
        sealed = await result_of(ledger, "/v1/admin/archive")
        assert sealed["ok"], sealed
        last = await write(nats_server, author, range(RUNS_ARCHIVED, RUNS))
        await ledger.until_run(f"{RUNS - 1:08d}", lambda run: run["state"] == "error")
        assert ledger.terminate() == 0
        yield ledger, archived, last, await contents(nats_server, last)
    finally:
        ledger.kill9()


async def contents(nats_server, last):
    return [(subject, content) for _, subject, _, content in await asyncio.to_thread(read, nats_server, 0, last)]


def restore(ledger, *folders):
    """The advice for a server: the pass by itself, with the ledger's settings."""
    return run_pass(ledger, "restore", *(word for folder in folders for word in ("--salvage", str(folder))))


def run_pass(ledger, *words):
    """Its exit code and its result."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RIDGES_")}
    done = subprocess.run(
        [sys.executable, "-m", "ridges.ledger.passes", *words],
        env=environment | ledger.settings,
        capture_output=True,
        check=False,
        timeout=90,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])["result"]


async def moved_away(nats_server, folder):
    """The damaged stream's folder; an empty stream stands in its place."""
    nats_server.stop()
    (nats_server.folder / STREAM).rename(folder)
    nats_server.start()
    await nats_server.migrate()
    return folder


async def test_a_payload_in_the_archived_part(world, nats_server, tmp_path):
    ledger, archived, last, before = world
    nats_server.stop()
    flip(nats_server.folder, archived - 5, "payload")
    nats_server.start()
    ledger.start()
    await ledger.until("/livez", lambda answer: answer.status_code == 200)
    verified = await result_of(ledger, "/v1/admin/verify")
    assert (verified["ok"], "gap" in {finding["kind"] for finding in verified["findings"]}) == (False, True)
    refused = await result_of(ledger, "/v1/admin/restore")
    assert (refused["ok"], refused["events"]) == (False, 0), refused
    [gap] = refused["findings"]
    assert gap["position"] == archived - 5
    assert "restore --into-new" in gap["detail"]
    ledger.kill9()
    damaged = await moved_away(nats_server, tmp_path / "damaged")
    code, restored = restore(ledger, damaged)
    assert (code, restored["ok"]) == (0, True), restored
    assert restored["events"] >= last, "with what the ledger settled meanwhile"
    assert await contents(nats_server, last) == before
    assert restore(ledger, damaged)[1]["events"] == 0, "a second time changes nothing"
    ledger.start()
    await ledger.until_ready()
    again = await result_of(ledger, "/v1/admin/verify")
    assert {finding["kind"] for finding in again["findings"]} <= {"amount", "blob"}, again


@pytest.mark.parametrize("stop", ["stop", "kill9"])
async def test_a_length_before_nats_server_saw_it(world, nats_server, tmp_path, stop):
    """Its folder was moved away first: everything behind the damage is read."""
    ledger, archived, last, before = world
    getattr(nats_server, stop)()
    flip(nats_server.folder, archived - 5, "length")
    (nats_server.folder / STREAM).rename(tmp_path / "damaged")
    nats_server.start()
    await nats_server.migrate()
    code, restored = restore(ledger, tmp_path / "damaged")
    assert (code, restored["ok"]) == (0, True), restored
    assert await contents(nats_server, last) == before


async def test_a_log_that_nats_server_cut_off_is_not_gone_on_with(world, nats_server):
    ledger, archived, *_ = world
    nats_server.kill9()
    flip(nats_server.folder, archived - 5, "length")
    nats_server.start()
    author = Author()
    author.clock.ids = 10**6
    await write(nats_server, author, range(RUNS, RUNS + 1))
    code, refused = restore(ledger)
    assert (code, refused["ok"]) == (1, False)
    assert "nats-server cut it off" in refused["summary"]
    assert "restore --into-new" in refused["summary"]


@pytest.mark.parametrize("where", ["payload", "length"])
async def test_an_event_that_is_in_neither_is_named_and_nothing_else_is_lost(world, nats_server, tmp_path, where):
    ledger, archived, last, before = world
    nats_server.stop()
    flip(nats_server.folder, archived + 5, where)
    (nats_server.folder / STREAM).rename(tmp_path / "damaged")
    nats_server.start()
    await nats_server.migrate()
    code, restored = restore(ledger, tmp_path / "damaged")
    assert (code, restored["events"]) == (1, last - 1)
    [lost] = restored["findings"]
    assert (lost["kind"], lost["position"]) == ("lost", archived + 5)
    del before[archived + 4]
    assert await contents(nats_server, last - 1) == before


async def test_events_that_came_after_the_cut_stand_behind_those_of_the_copy(world, nats_server, tmp_path):
    ledger, archived, last, before = world
    nats_server.stop()
    copy = tmp_path / "copy"
    copy.mkdir()
    flip(nats_server.folder, archived - 5, "length")
    (copy / "1.blk").write_bytes((nats_server.folder / STREAM / "msgs/1.blk").read_bytes())
    nats_server.start()
    author = Author()
    author.clock.ids = 10**6
    async with log_of(nats_server) as store:
        added = [event for number in range(RUNS, RUNS + 1) for event in a_run(author, number)]
        for event in added:
            await store.append(event.run_id, [event])
    damaged = await moved_away(nats_server, tmp_path / "damaged")
    code, restored = restore(ledger, copy, damaged)
    assert (code, restored["events"]) == (0, last + len(added)), restored
    found = await contents(nats_server, last + len(added))
    assert found[:last] == before
    assert [json.loads(content)["id"] for _, content in found[last:]] == [event.id for event in added]


async def test_a_last_event_that_is_damaged_or_torn_is_a_warning(world, nats_server, tmp_path):
    """Its bytes do not tell which: a torn one was never acknowledged."""
    ledger, _, last, before = world
    nats_server.stop()
    flip(nats_server.folder, last, "payload")
    (nats_server.folder / STREAM).rename(tmp_path / "damaged")
    nats_server.start()
    await nats_server.migrate()
    code, restored = restore(ledger, tmp_path / "damaged")
    assert (code, restored["events"]) == (0, last - 1)
    [tail] = restored["findings"]
    assert (tail["kind"], tail["severity"], tail["position"]) == ("tail", "warning", last)
    assert await contents(nats_server, last - 1) == before[:-1]


async def test_a_folder_without_files_of_the_log_is_refused(world, tmp_path):
    ledger, *_ = world
    code, refused = restore(ledger, tmp_path / "nothing")
    assert (code, "name its folder" in refused["summary"]) == (1, True)


async def test_a_log_whose_last_event_nats_server_cannot_read_names_the_way_on(world, nats_server):
    ledger, _, last, _ = world
    nats_server.stop()
    flip(nats_server.folder, last, "payload")
    nats_server.start()
    code, verified = run_pass(ledger, "verify", "--no-blobs")
    assert (code, "restore --into-new" in verified["summary"]) == (1, True), verified
    assert f"position {last - 1}" in verified["summary"]


async def test_a_gap_at_the_end_of_what_is_read_is_no_error_of_the_reader(world, nats_server):
    """A pass that reads up to an event that nats-server cannot read any more."""
    _, archived, last, _ = world
    nats_server.stop()
    flip(nats_server.folder, archived, "payload")
    nats_server.start()
    found = await asyncio.to_thread(read, nats_server, 0, archived)
    assert [position for position, *_ in found] == list(range(1, archived))
    assert len(await contents(nats_server, last)) == last - 1
