"""The ledger as a process: health, drain, live streams, kill -9, costs against an independent fold of a real log."""

import asyncio
import json
import random
import socket
from contextlib import asynccontextmanager
from typing import get_args

import httpx
import msgspec
import pytest
from integration.ledger_process import LedgerProcess, publish_problem
from nats_process import NatsServer
from unit.ledger.independent_fold import independent_costs, reported_costs
from unit.ledger.samples import AGENT, Author

from ridges.chassis.jetstream import open_event_store
from ridges.contracts import events as ev
from ridges.contracts.usage import TokenUsage
from ridges.contracts.views import CostDimension, CostReport

BODY = {"problem": "fix-a", "agent_source": AGENT.decode()}
DIMENSIONS = get_args(CostDimension)


@pytest.fixture
async def ledger(nats_server, tmp_path):
    process = LedgerProcess(nats_server, tmp_path / "ledger").start()
    try:
        await process.until_ready()
        yield process
    finally:
        process.kill9()


@asynccontextmanager
async def log_of(nats_server):
    async with open_event_store(nats_server.url, name="test", monitor_url=nats_server.monitor_url) as store:
        yield store


def a_run(author, number):
    """A whole run with random model calls, failovers, a late outcome and a lost one."""
    chance = random.Random(number)
    run_id = f"{number:08d}-0000-4000-8000-000000000000"
    yield author.requested(run_id, agent_name=f"agent{number % 2}.py")
    yield author.started(run_id)
    for call in range(12):
        call_id, model = f"c{call}", chance.choice(["model-a", "model-b"])
        tried = [
            author.attempt(
                chance.choice(["chutes", "targon"]),
                chance.randrange(10**7),
                TokenUsage(input=chance.randrange(9999), output=chance.randrange(999), reasoning=chance.randrange(99)),
            )
            for _ in range(chance.randrange(1, 4))
        ]
        yield author.reserved(call_id, run_id, 10**8, model)
        if call == 11:
            break  # its gateway was lost
        kind = author.failed if chance.random() < 0.2 else author.made
        yield kind(call_id, run_id, tried, model)
    yield author.event(ev.RunCancelled, run_id, reason="done")


async def costs_of(ledger):
    async with httpx.AsyncClient(base_url=ledger.url) as client:
        answers = [await client.get("/v1/costs", params={"by": by}) for by in DIMENSIONS]
    return [msgspec.json.decode(answer.content, type=CostReport) for answer in answers]


async def test_costs_equal_an_independent_fold_of_the_log_while_everything_is_killed(nats_server, tmp_path):
    ledger = LedgerProcess(nats_server, tmp_path / "ledger", RIDGES_SETTLE_GRACE_S="0").start()
    try:
        await ledger.until_ready()
        author = Author()
        async with log_of(nats_server) as store:
            for number in range(12):
                for event in a_run(author, number):
                    await store.append(event.run_id, [event])
                if number % 4 == 1:
                    ledger.kill9()
                    ledger.start()
                if number == 6:
                    nats_server.restart()
            await ledger.until("/v1/runs?limit=500", all_settled)
            log = [recorded.event async for recorded in store.read_all()]
        assert sum(isinstance(event, ev.InferenceSettled) for event in log) == 12
        assert reported_costs(await costs_of(ledger)) == independent_costs(log)
    finally:
        ledger.kill9()


def all_settled(answer):
    runs = answer.json()["runs"]
    return len(runs) == 12 and all(run["reserved_nano_usd"] == 0 and run["state"] == "error" for run in runs)


async def messages(answer):
    """(event, data) of each server-sent event; heartbeats as (None, None)."""
    kind, data = None, None
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            data = json.loads(line[6:])
        elif not line and kind is not None:
            yield kind, data
            kind, data = None, None


async def test_a_run_is_streamed_from_its_current_row_to_its_end(ledger, nats_server):
    author = Author()
    events = list(a_run(author, 1))
    seen = []
    async with log_of(nats_server) as store, httpx.AsyncClient(base_url=ledger.url, timeout=20) as client:
        await store.append(events[0].run_id, [events[0]])
        await ledger.until_run(events[0].run_id, bool)
        async with client.stream("GET", f"/v1/runs/{events[0].run_id}/stream") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for kind, row in messages(answer):
                assert kind == "run"
                seen.append(row["state"])
                if len(seen) == 1:
                    for event in events[1:]:
                        await store.append(event.run_id, [event])
    assert (seen[0], seen[-1]) == ("pending", "error")
    assert "running_agent" in seen


async def test_all_runs_are_streamed_and_a_listener_that_leaves_is_forgotten(ledger, nats_server):
    await publish_problem(nats_server, "fix-a", ledger.blobs_url)
    async with httpx.AsyncClient(base_url=ledger.url, timeout=20) as client:
        async with client.stream("GET", "/v1/stream") as answer:
            created = (await ledger.post("/v1/runs", json=BODY)).json()
            async for kind, row in messages(answer):
                assert (kind, row["run_id"]) == ("run", created["run_id"])
                break
        assert (await client.get("/livez")).status_code == 200


async def test_sigterm_ends_open_streams_and_exits_with_zero(ledger, nats_server):
    await publish_problem(nats_server, "fix-a", ledger.blobs_url)
    await ledger.post("/v1/runs", json=BODY)
    async with (
        httpx.AsyncClient(base_url=ledger.url, timeout=20) as client,
        client.stream("GET", "/v1/stream") as answer,
    ):
        rows = messages(answer)
        await anext(rows)
        code = await asyncio.to_thread(ledger.terminate, 10)
    assert code == 0, ledger.log[-2000:]
    assert "Traceback" not in ledger.log


async def test_a_request_is_safe_to_repeat_over_a_restart(ledger, nats_server):
    await publish_problem(nats_server, "fix-a", ledger.blobs_url)
    first = (await ledger.post("/v1/runs", json=BODY, headers={"Idempotency-Key": "k"})).json()
    ledger.kill9()
    ledger.start()
    await ledger.until_ready()
    second = (await ledger.post("/v1/runs", json=BODY, headers={"Idempotency-Key": "k"})).json()
    assert first == second


async def test_while_the_log_is_down_reads_go_on_and_requests_are_told_to_repeat(ledger, nats_server):
    await publish_problem(nats_server, "fix-a", ledger.blobs_url)
    run = (await ledger.post("/v1/runs", json=BODY)).json()
    nats_server.kill9()
    assert (await ledger.get(f"/v1/runs/{run['run_id']}")).json()["state"] == "pending"
    assert (await ledger.get("/livez")).status_code == 200
    ready = await ledger.until("/readyz", lambda answer: answer.status_code == 503)
    assert "log" in ready.json()["failing"]
    refused = await ledger.post("/v1/runs", json=BODY)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert "same run_id or Idempotency-Key" in refused.json()["detail"]
    nats_server.start()
    await ledger.until_ready()
    assert (await ledger.post("/v1/runs", json=BODY)).status_code == 201


async def test_before_the_streams_are_there_readyz_says_which_step_is_missing(tmp_path):
    server = NatsServer(tmp_path / "nats")
    ledger = LedgerProcess(server, tmp_path / "ledger").start()
    try:
        down = await ledger.until("/readyz", lambda answer: answer.status_code == 503)
        assert {"log", "ingress"} <= down.json()["failing"].keys()
        server.start()
        for part in ("log", "ingress"):
            await ledger.until("/readyz", lambda answer, part=part: "migrate" in answer.json()["failing"].get(part, ""))
        await server.migrate()
        await ledger.until_ready()
    finally:
        ledger.kill9()
        server.kill9()


async def test_lost_tables_are_built_again_from_the_log(ledger, nats_server):
    author = Author()
    async with log_of(nats_server) as store:
        for event in a_run(author, 1):
            position = await store.append(event.run_id, [event])
    run_id = "00000001"
    before = await ledger.until_run(run_id, lambda run: run["position"] == position)
    ledger.kill9()
    for file in (ledger.folder / "state").iterdir():
        file.unlink()
    ledger.start()
    await ledger.until_ready()
    assert await ledger.until_run(run_id, lambda run: run["position"] == position) == before


@pytest.mark.parametrize(
    ("settings", "code", "told"),
    [
        ({"RIDGES_HTTP_HOST": "0.0.0.0"}, 2, "RIDGES_API_TOKEN"),
        ({"RIDGES_STATE_DIR": ""}, 2, "RIDGES_STATE_DIR is not set"),
        ({"RIDGES_HTTP_PORT": "http"}, 2, "RIDGES_HTTP_PORT"),
        ({"RIDGES_BLOBS_URL": "ftp://x"}, 2, "RIDGES_BLOBS_URL"),
    ],
)
def test_bad_settings_end_with_one_clear_line(tmp_path, settings, code, told):
    ledger = LedgerProcess(NatsServer(tmp_path / "nats"), tmp_path / "ledger", **settings).start()
    try:
        assert ledger.wait() == code
        assert told in ledger.log
        assert len(ledger.log.strip().splitlines()) == 1
    finally:
        ledger.kill9()


def test_a_port_that_is_taken_ends_with_one_clear_line(tmp_path):
    ledger = LedgerProcess(NatsServer(tmp_path / "nats"), tmp_path / "ledger")
    with socket.create_server(("127.0.0.1", ledger.port)):
        try:
            assert ledger.start().wait() == 3
            assert f"cannot listen on 127.0.0.1:{ledger.port}" in ledger.log
        finally:
            ledger.kill9()


def test_a_server_that_may_lose_acknowledged_events_is_refused(tmp_path):
    server = NatsServer(tmp_path / "nats", sync=None).start()
    server.migrate_now()
    ledger = LedgerProcess(server, tmp_path / "ledger").start()
    try:
        assert ledger.wait() == 4
        assert "sync" in ledger.log
    finally:
        ledger.kill9()
        server.kill9()
