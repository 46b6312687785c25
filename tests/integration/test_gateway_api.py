"""The running gateway keeps to its OpenAPI document: schemathesis asks it all kinds of things."""

from uuid import UUID

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from integration.gateway_world import TOKEN_KEY, GatewayProcess, Log, MockProvider, mock_config
from nats_process import NatsServer
from schemathesis import checks

from ridges.contracts import events as ev
from ridges.contracts.run_token import sign_run_token
from ridges.gateway.openapi import openapi_document

schema = schemathesis.openapi.from_dict(openapi_document())

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(gateway, headers of a run that may spend a lot, log)."""
    provider = MockProvider()
    nats = NatsServer(tmp_path_factory.mktemp("nats")).start()
    nats.migrate_now()
    log = Log(nats)
    config = mock_config(provider.url, "ok") + mock_config(provider.url, "vector", name="second", kind="embedding")
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), nats, config).start()
    run_id = log.new_run(max_cost_nano_usd=10**15, max_requests=10**6, max_tokens=10**12)
    yield gateway, run_id, log
    gateway.stop()
    log.close()
    nats.kill9()
    provider.close()


@schema.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(120)
def test_it_keeps_to_its_document(case, world):
    gateway, run_id, _ = world
    if isinstance(case.body, dict):  # what is wrong on purpose stays wrong
        model = case.body.get("model")
        if isinstance(model, str) and len(model) % 2:
            case.body["model"] = "ok"
        if case.body.get("model") == "ok" and is_uuid(case.body.get("evaluation_run_id")):
            case.body["evaluation_run_id"] = run_id
    headers = {"Authorization": f"Bearer {sign_run_token(run_id, TOKEN_KEY)}"}
    case.call_and_validate(base_url=gateway.url, headers=headers, checks=CHECKS)


def is_uuid(value):
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def test_nothing_was_charged_that_was_not_asked(world):
    """Each reservation of all that nonsense has ended."""
    _, run_id, log = world
    reserved = {event.call_id for event in log.events(run_id, ev.InferenceReserved)}
    ended = {event.call_id for event in log.events(run_id, ev.InferenceMade, ev.InferenceFailed)}
    assert reserved == ended


def test_the_document_is_served(world):
    gateway, _, _ = world
    with gateway.client() as client:
        assert client.get("/schema/openapi.json").json() == openapi_document()
