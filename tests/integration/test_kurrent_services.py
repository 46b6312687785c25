"""The services with KurrentDB as the log of record (its double, over real gRPC) and NATS with our users."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pytest
from guarded_nats import GuardedServer, login, password_of, service_login
from integration.gateway_world import CLOCK, GatewayProcess, chat, lifecycle, mock_config
from integration.ledger_process import LedgerProcess
from integration.test_ledger_passes import result_of
from kurrent_double.cluster import KurrentDouble
from kurrent_world import declare_mirror, mirror_of
from unit.ledger.independent_fold import independent_costs, reported_costs

from ridges.chassis.event_store import open_event_store
from ridges.chassis.jetstream.permissions import ADMIN, RELAY
from ridges.contracts.codec import decode
from ridges.contracts.events import InferenceMade
from ridges.contracts.views import CostReport
from ridges.ledger.cost_reports import COST_DIMENSIONS

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def nats(tmp_path):
    server = GuardedServer(tmp_path / "nats", "kurrentdb").start()
    yield server
    server.kill9()


@pytest.fixture
async def kurrentdb(nats):
    async with KurrentDouble() as double:
        await declare_mirror(nats, double.url, **login(ADMIN))
        yield double


@pytest.fixture
async def ledger(nats, kurrentdb, tmp_path):
    relay = {"RIDGES_NATS_RELAY_USER": RELAY, "RIDGES_NATS_RELAY_PASSWORD": password_of(RELAY)}
    log = {"RIDGES_EVENT_STORE_URL": kurrentdb.url}
    process = LedgerProcess(nats, tmp_path / "ledger", **service_login("ledger"), **log, **relay).start()
    try:
        await process.until_ready()
        yield process
    finally:
        process.kill9()


@pytest.fixture
async def gateway(nats, kurrentdb, ledger, mock, tmp_path):
    process = GatewayProcess(
        tmp_path / "gateway",
        nats,
        mock_config(mock.url, "ok"),
        event_store_url=kurrentdb.url,
        nats_user="gateway",
        nats_password=password_of("gateway"),
    )
    await asyncio.to_thread(process.start)  # KurrentDB's double answers in this loop
    yield process
    await asyncio.to_thread(process.stop)


def opened(nats, kurrentdb):
    return open_event_store(
        nats.url, name="test", event_store_url=kurrentdb.url, monitor_url=nats.monitor_url, **login(ADMIN)
    )


async def called(gateway, run_id, times):
    """Ask until so many calls were answered, as an agent does that tries again."""

    def call():
        for _ in range(200):
            try:
                if chat(gateway, run_id).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass

    with ThreadPoolExecutor(4) as pool:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, call) for _ in range(times)))


def events_in(kurrentdb):
    return [decode(stored.data) for stored in kurrentdb.log if stored.stream.startswith("run-")]


async def test_a_run_is_charged_once_although_the_ledger_and_its_relay_are_killed(ledger, gateway, nats, kurrentdb):
    [*begin, patch] = lifecycle("run-1", "initializing_eval", max_cost_nano_usd=10**12, max_concurrency=8)
    async with opened(nats, kurrentdb) as store:
        await store.append("run-1", begin)
        await called(gateway, "run-1", 5)
        ledger.kill9()
        under_way = asyncio.create_task(called(gateway, "run-1", 5))
        await asyncio.sleep(0.5)
        ledger.start()
        await under_way
        await ledger.until_ready()
        await store.append("run-1", [msgspec.structs.replace(patch, id=CLOCK.new_id())])
        end = await store.last_position()
        events = [recorded.event async for recorded in store.read_all()]
    assert events == events_in(kurrentdb)
    assert sum(isinstance(event, InferenceMade) for event in events) >= 10
    await ledger.until("/v1/costs?by=run", lambda answer: answer.json().get("position", 0) >= end)
    reports = [
        msgspec.json.decode((await ledger.get(f"/v1/costs?by={by}")).content, type=CostReport) for by in COST_DIMENSIONS
    ]
    assert reported_costs(reports) == independent_costs(events_in(kurrentdb))
    assert [content for _, _, content in await mirror_of(nats, **login(ADMIN))] == [
        stored.data for stored in kurrentdb.log if stored.stream.startswith("run-")
    ]


async def test_the_passes_read_the_mirror_and_do_not_write_to_it(ledger, nats, kurrentdb):
    async with opened(nats, kurrentdb) as store:
        await store.append("run-1", lifecycle("run-1", "finished"))
    rebuilt = await result_of(ledger, "/v1/admin/rebuild", verify="true")
    assert (rebuilt["ok"], rebuilt["events"]) == (True, 5), rebuilt
    assert (await result_of(ledger, "/v1/admin/archive"))["events"] == 5
    refused = await result_of(ledger, "/v1/admin/restore")
    assert not refused["ok"]
    assert "KurrentDB is the log of record" in refused["summary"]


async def test_the_ledger_says_when_the_mirror_stands_still(ledger, kurrentdb):
    await kurrentdb.stop()
    lost = await ledger.until("/readyz", lambda answer: "relay" in answer.json().get("failing", {}))
    assert "KurrentDB" in lost.json()["failing"]["relay"]
    await kurrentdb.start()
    await ledger.until_ready()


async def test_a_service_set_for_the_other_store_is_refused_with_the_reason(nats, kurrentdb, tmp_path):
    process = LedgerProcess(nats, tmp_path / "ledger", **service_login("ledger")).start()
    try:
        assert await asyncio.to_thread(process.wait) != 0
        assert "RIDGES_EVENT_STORE_URL" in process.log
    finally:
        process.kill9()
