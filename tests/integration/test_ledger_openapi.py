"""The HTTP API keeps what its OpenAPI document promises: schemathesis over a running ledger, for a bounded time."""

import random
import time

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from integration.ledger_process import LedgerProcess, publish_problem
from schemathesis.checks import CHECKS, load_all_checks
from unit.ledger.samples import AGENT

EXAMPLES = 12
SECONDS_IN_ALL = 60.0
load_all_checks()
schemathesis.serializer.alias("application/toml", "text/plain")
CHECKED = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
STREAMS = ("stream_run", "stream_runs")
"""They do not end."""
PASSES = ("rebuild", "verify", "archive", "restore")
"""Streams of events, tested by themselves."""


@pytest.fixture
async def ledger(nats_server, tmp_path):
    process = LedgerProcess(nats_server, tmp_path / "ledger").start()
    try:
        await process.until_ready()
        await publish_problem(nats_server, "fix-a", process.blobs_url)
        answer = await process.post("/v1/runs", json={"problem": "fix-a", "agent_source": AGENT.decode()})
        assert answer.status_code == 201
        yield process
    finally:
        process.kill9()


@pytest.mark.timeout(240)
async def test_every_route_answers_as_documented(ledger):
    schema = schemathesis.openapi.from_url(f"{ledger.url}/schema/openapi.json")
    give_up, tested = time.monotonic() + SECONDS_IN_ALL, set()
    operations = [operation.ok() for operation in schema.get_all_operations()]
    random.Random(1).shuffle(operations)
    for operation in operations:
        name = operation.definition.raw["operationId"]
        if name in STREAMS + PASSES:
            continue

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def examine(case):
            if time.monotonic() < give_up:
                case.call_and_validate(timeout=20, checks=CHECKED)

        examine()
        tested.add(name)
    assert time.monotonic() < give_up + 20
    assert {"create_run", "list_runs", "costs", "reprice", "create_batch", "publish_price_list"} <= tested
    assert "Traceback" not in ledger.log
