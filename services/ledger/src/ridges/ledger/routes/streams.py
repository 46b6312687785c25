"""Live rows as server-sent events."""

from collections.abc import AsyncIterator

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import ServerSentEvent, ServerSentEventMessage

from ridges.contracts.views import RunRow
from ridges.ledger.queries import Queries
from ridges.ledger.stream import Hub


def stream_routes(queries: Queries, hub: Hub) -> list[HTTPRouteHandler]:
    """The routes."""

    @get(
        "/v1/runs/{run_id:str}/stream", tags=["live"], summary="The run's row now and after each change, until it ends"
    )
    async def stream_run(run_id: FromPath[str]) -> ServerSentEvent:
        whole_id = queries.resolve(run_id)
        rows = hub.rows(lambda: filter(None, [queries.row(whole_id)]), queries.row, run_id=whole_id)
        return ServerSentEvent(_messages(rows))

    @get("/v1/stream", tags=["live"], summary="The rows of all active runs now, then every row that changes")
    async def stream_runs() -> ServerSentEvent:
        return ServerSentEvent(_messages(hub.rows(queries.active, queries.row)))

    return [stream_run, stream_runs]


async def _messages(rows: AsyncIterator[RunRow | None]) -> AsyncIterator[ServerSentEventMessage]:
    async for row in rows:
        if row is None:
            yield ServerSentEventMessage(data=None, comment="heartbeat")
        else:
            yield ServerSentEventMessage(event="run", id=row.position, data=msgspec.json.encode(row))
