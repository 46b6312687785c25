"""Live rows as server-sent events."""

from collections.abc import AsyncIterator

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import FromPath
from litestar.response import ServerSentEvent, ServerSentEventMessage

from ridges.contracts.views import RunRow
from ridges.ledger.queries import Queries
from ridges.ledger.routes.failures import failures
from ridges.ledger.stream import Hub

ROWS = {200: ResponseSpec(RunRow, description="Events `run`", media_type="text/event-stream", generate_examples=False)}


def stream_routes(queries: Queries, hub: Hub) -> list[HTTPRouteHandler]:
    """The routes."""

    @get(
        "/v1/runs/{run_id:str}/stream",
        operation_id="stream_run",
        responses=ROWS | failures(400, 404, 409),
        tags=["live"],
        summary="The run's row now and on each change, until its end",
    )
    async def stream_run(run_id: FromPath[str]) -> ServerSentEvent:
        whole_id = queries.resolve(run_id)
        rows = hub.rows(lambda: filter(None, [queries.row(whole_id)]), queries.row, run_id=whole_id)
        return ServerSentEvent(_messages(rows))

    @get(
        "/v1/stream",
        operation_id="stream_runs",
        responses=ROWS,
        tags=["live"],
        summary="The rows of all active runs now, then every row that changes",
    )
    async def stream_runs() -> ServerSentEvent:
        return ServerSentEvent(_messages(hub.rows(queries.active, queries.row)))

    return [stream_run, stream_runs]


async def _messages(rows: AsyncIterator[RunRow | None]) -> AsyncIterator[ServerSentEventMessage]:
    async for row in rows:
        if row is None:
            yield ServerSentEventMessage(data=None, comment="heartbeat")
        else:
            yield ServerSentEventMessage(event="run", id=row.position, data=msgspec.json.encode(row))
