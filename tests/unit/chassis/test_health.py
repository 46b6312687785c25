"""What an operator's probes see."""

import asyncio

import pytest
from litestar import Litestar, get
from litestar.params import FromPath, FromQuery
from litestar.testing import AsyncTestClient

from ridges.chassis import health
from ridges.chassis.ports import EventStoreUnavailable
from ridges.chassis.problems_http import error_response, exception_handlers


async def fine() -> None:
    return


async def broken() -> None:
    raise EventStoreUnavailable("no NATS server answers at nats://x:4222; start it")


async def hanging() -> None:
    await asyncio.sleep(60)


@pytest.fixture
def client_for():
    def make(checks):
        @get("/refused")
        async def refused() -> object:
            return error_response(409, "Conflict", "somebody was first")

        @get("/number/{number:int}")
        async def number(number: FromPath[int], more: FromQuery[int]) -> int:
            return number + more

        @get("/crash")
        async def crash() -> None:
            raise RuntimeError("a secret")

        handlers = [*health.health_handlers("ledger", checks), refused, number, crash]
        app = Litestar(handlers, exception_handlers=exception_handlers, logging_config=None)
        return AsyncTestClient(app, raise_server_exceptions=False)

    return make


async def test_ready_when_every_check_passes(client_for):
    async with client_for({"log": fine}) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/livez")).json()["status"] == "ok"


async def test_not_ready_names_each_failing_dependency_and_stays_alive(client_for, monkeypatch):
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.1)
    async with client_for({"log": broken, "blobs": fine, "nginx": hanging}) as client:
        reply = await client.get("/readyz")
        assert reply.status_code == 503
        assert reply.json() == {
            "status": "not ready",
            "failing": {
                "log": "no NATS server answers at nats://x:4222; start it",
                "nginx": "no answer within 0.1 s",
            },
        }
        assert (await client.get("/livez")).status_code == 200


async def test_metrics_are_in_prometheus_text_format(client_for):
    async with client_for({}) as client:
        reply = await client.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=")
        assert "# TYPE process_cpu_seconds_total counter" in reply.text


@pytest.mark.parametrize(
    ("path", "status", "title", "detail"),
    [
        ("/refused", 409, "Conflict", "somebody was first"),
        ("/nothing", 404, "Not Found", "Not Found"),
        ("/number/1", 422, "Unprocessable Entity", "Missing required query parameter 'more' for path /number/1"),
        ("/number/1?more=x", 422, "Unprocessable Entity", "more: Expected `int`, got `str`"),
        ("/crash", 500, "Internal Server Error", "an internal error; the service's log says more"),
    ],
)
async def test_errors_are_problem_documents(client_for, path, status, title, detail):
    async with client_for({}) as client:
        reply = await client.get(path)
        assert reply.status_code == status
        assert reply.headers["content-type"].startswith("application/problem+json")
        body = reply.json()
        assert (body["type"], body["title"], body["status"]) == ("about:blank", title, status)
        assert detail in body["detail"]
