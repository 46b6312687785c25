"""The ledger's own disk is full: /readyz says so, reads go on; with room again the tables catch up by themselves."""

import pytest
from disks import need_root, small_disk_at
from integration.ledger_process import LedgerProcess
from unit.ledger.samples import Author

from ridges.chassis.jetstream import open_event_store
from ridges.contracts import events as ev

DISK_MB = 8
RUNS = 40


def run_of(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


@pytest.mark.timeout(180)
async def test_a_full_disk_is_told_and_what_happened_meanwhile_is_caught_up(nats_server, tmp_path):
    need_root("a full disk")
    with small_disk_at(tmp_path / "ledger" / "state", DISK_MB) as disk:
        ledger = LedgerProcess(nats_server, tmp_path / "ledger").start()
        author = Author()

        async def take_place(number: int) -> None:
            run_id = run_of(number)
            happened = [
                author.requested(run_id),
                author.started(run_id),
                author.reserved("c", run_id),
                author.made("c", run_id),
                author.event(ev.RunCancelled, run_id, reason="done " * 2_000),
            ]
            await store.append(run_id, happened)

        try:
            await ledger.until_ready()
            async with open_event_store(nats_server.url, name="test", monitor_url=nats_server.monitor_url) as store:
                await take_place(0)
                await ledger.until_run(run_of(0), lambda run: run["state"] == "error")
                disk.fill()
                for number in range(1, RUNS):
                    await take_place(number)
                told = await ledger.until("/readyz", lambda answer: answer.status_code == 503)
                assert "full" in told.json()["failing"]["projection"]
                assert (await ledger.get(f"/v1/runs/{run_of(0)}")).status_code == 200
                assert ledger.running

                disk.make_room()
                await ledger.until_ready()
                for number in range(RUNS):
                    run = await ledger.until_run(run_of(number), lambda run: run["state"] == "error")
                    assert run["cost_nano_usd"] > 0
        finally:
            ledger.kill9()
