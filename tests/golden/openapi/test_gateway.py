"""The gateway's OpenAPI document is the one that was agreed on, is valid, and names exactly the routes there are."""

import random
from pathlib import Path

import jsonschema_rs
import pytest
from prometheus_client import CollectorRegistry
from unit.gateway.support import CLOCK, KEY

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.memory_store import MemoryEventStore
from ridges.gateway.app import wire_gateway
from ridges.gateway.meters import Meters
from ridges.gateway.openapi import openapi_document, openapi_text
from ridges.gateway.providers_config import ProvidersConfig
from ridges.gateway.settings import GatewaySettings

GOLDEN = Path(__file__).with_name("gateway.json")
WITHOUT_DOCUMENT = {"/livez", "/readyz", "/metrics", "/schema/openapi.json"}


def test_the_openapi_document_is_the_golden_one():
    same = openapi_text() == GOLDEN.read_text(encoding="utf-8")
    assert same, (
        "the HTTP API changed; if that is meant, write the file again: "
        "python -m ridges.gateway.openapi > tests/golden/openapi/gateway.json"
    )


@pytest.mark.parametrize("name", sorted(openapi_document()["components"]["schemas"]))
def test_every_schema_is_a_json_schema(name):
    document = openapi_document()
    jsonschema_rs.meta.validate({"components": document["components"], **document["components"]["schemas"][name]})


async def test_it_names_exactly_the_routes():
    settings = GatewaySettings(config=Path("ridges.toml"), run_token_key=KEY.hex(), blobs_url="file:///x")
    gateway = wire_gateway(
        settings,
        ProvidersConfig(providers=(), price_list="test"),
        adapters={},
        store=MemoryEventStore(CLOCK),
        blobs=MemoryBlobStore(),
        clock=CLOCK,
        meters=Meters(CollectorRegistry()),
        rng=random.Random(0),
    )
    served = {
        (route.path.replace("{name:path}", "{name}"), method.lower())
        for route in gateway.http.app.routes
        for method in route.methods
        if method != "OPTIONS" and route.path not in WITHOUT_DOCUMENT
    }
    served |= {(path, "post") for path in gateway.http.calls}
    documented = {(path, method) for path, item in openapi_document()["paths"].items() for method in item}
    assert documented == served
