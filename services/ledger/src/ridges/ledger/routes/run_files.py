"""What a run left behind: events, patch, logs. All of it was written by agents: served as inert text."""

from typing import Annotated

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from ridges.contracts.events import TestResult
from ridges.contracts.views import EventRow
from ridges.ledger.details import RunDetails
from ridges.ledger.queries import Queries
from ridges.ledger.routes.failures import failures

Attempt = Annotated[
    int | None,
    QueryParameter(ge=1, le=100, description="Of a lost attempt its last state, if its sandbox-manager kept it."),
]
INERT = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


def run_file_routes(queries: Queries, details: RunDetails) -> list[HTTPRouteHandler]:
    """The routes."""

    @get(
        "/v1/runs/{run_id:str}/events",
        operation_id="run_events",
        tags=["runs"],
        summary="The run's events, as they stand in the log",
        responses=failures(400, 404, 409, 503),
    )
    async def events(run_id: FromPath[str]) -> list[EventRow]:
        return await details.events(queries.resolve(run_id))

    @get(
        "/v1/runs/{run_id:str}/patch",
        operation_id="run_patch",
        tags=["runs"],
        summary="The patch",
        media_type="text/x-diff",
        responses=failures(400, 404, 409, 422, 503),
    )
    async def patch(run_id: FromPath[str], attempt: Attempt = None) -> Response[bytes]:
        return _text(await details.patch(queries.resolve(run_id), attempt), "text/x-diff")

    @get(
        "/v1/runs/{run_id:str}/log",
        operation_id="run_log",
        tags=["runs"],
        summary="What the agent printed",
        media_type="text/plain",
        responses=failures(400, 404, 409, 422, 503),
    )
    async def agent_log(run_id: FromPath[str], attempt: Attempt = None) -> Response[bytes]:
        return _text(await details.agent_log(queries.resolve(run_id), attempt), "text/plain")

    @get(
        "/v1/runs/{run_id:str}/evaluation-log",
        operation_id="run_evaluation_log",
        responses=failures(400, 404, 409),
        tags=["runs"],
        summary="What the hidden tests printed",
        media_type="text/plain",
    )
    async def evaluation_log(run_id: FromPath[str]) -> Response[bytes]:
        return _text(await details.evaluation_log(queries.resolve(run_id)), "text/plain")

    @get(
        "/v1/runs/{run_id:str}/tests",
        operation_id="run_tests",
        tags=["runs"],
        summary="The result of each hidden test; none before they have finished",
        responses=failures(404, 409),
    )
    async def tests(run_id: FromPath[str]) -> tuple[TestResult, ...]:
        return (await details.detail(queries.resolve(run_id))).tests

    return [events, patch, agent_log, evaluation_log, tests]


def _text(content: bytes, media_type: str) -> Response[bytes]:
    return Response(content, media_type=media_type, headers=INERT)
