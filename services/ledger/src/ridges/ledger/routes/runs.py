"""Runs: ask for one, list, show, cancel."""

from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from msgspec import Meta

from ridges.contracts.lifecycle import RunState
from ridges.contracts.requests import CancelRun, RequestRun
from ridges.contracts.views import RunDetail, RunList
from ridges.ledger.details import RunDetails
from ridges.ledger.errors import ProjectionBehind
from ridges.ledger.handlers import Accepted, RunRequests
from ridges.ledger.projector import Projector
from ridges.ledger.queries import Queries, RunFilter
from ridges.ledger.routes.failures import failures

MAX_BODY_BYTES = 16 * 1024 * 1024
"""JSON escapes can make the text of a 2 MiB agent file several times as long."""
VISIBLE_WITHIN_S = 5.0

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key", max_length=200, description="Asking again with the same key is the same run."
    ),
]
Text = Annotated[str | None, QueryParameter(max_length=200)]


class CancelReason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Optional body of a cancel."""

    reason: Annotated[str, Meta(max_length=500)] = "cancelled by the user"
    cancelled_by: Annotated[str, Meta(max_length=200)] | None = None
    run_id: str | None = None
    """Ignored: the path names the run."""


def run_routes(
    requests: RunRequests, queries: Queries, details: RunDetails, projector: Projector
) -> list[HTTPRouteHandler]:
    """The routes."""

    async def visible(accepted: Accepted) -> RunDetail:
        """Read your writes: the view is given only when it contains what was just appended."""
        if not await projector.reached(accepted.position, VISIBLE_WITHIN_S):
            raise ProjectionBehind(accepted.run_id, accepted.position, projector.position, projector.stopped)
        return await details.detail(accepted.run_id)

    @post(
        "/v1/runs",
        operation_id="create_run",
        tags=["runs"],
        summary="Ask for a run",
        request_max_body_size=MAX_BODY_BYTES,
        responses=failures(400, 404, 409, 413, 422, 503),
    )
    async def create_run(data: JSONBody[RequestRun], idempotency_key: IdempotencyKey = None) -> Response[RunDetail]:
        detail = await visible(await requests.request_run(data, idempotency_key=idempotency_key))
        return Response(detail, headers={"Location": f"/v1/runs/{detail.run_id}"})

    @get(
        "/v1/runs",
        operation_id="list_runs",
        tags=["runs"],
        summary="List runs, newest first",
        responses=failures(400, 422),
    )
    async def list_runs(
        states: Annotated[list[RunState] | None, QueryParameter(name="state", description="May be repeated.")] = None,
        problem: Text = None,
        agent: Annotated[str | None, QueryParameter(max_length=200, description="Name or digest.")] = None,
        batch: Text = None,
        limit: Annotated[int, QueryParameter(ge=1, le=500)] = 50,
        cursor: Text = None,
    ) -> RunList:
        which = RunFilter(states=states or (), problem=problem, agent=agent, batch_id=batch)
        return queries.runs(which, limit=limit, cursor=cursor)

    @get(
        "/v1/runs/{run_id:str}",
        operation_id="show_run",
        tags=["runs"],
        summary="Everything about a run (by id or unique prefix)",
        responses=failures(400, 404, 409),
    )
    async def show_run(run_id: FromPath[str]) -> RunDetail:
        return await details.detail(queries.resolve(run_id))

    @post(
        "/v1/runs/{run_id:str}/cancel",
        operation_id="cancel_run",
        status_code=202,
        tags=["runs"],
        summary="End a run; one that has ended stays as it is",
        responses=failures(400, 404, 409, 422, 503),
    )
    async def cancel_run(run_id: FromPath[str], data: JSONBody[CancelReason | None] = None) -> RunDetail:
        why = data or CancelReason()
        asked = CancelRun(run_id=queries.resolve(run_id), reason=why.reason, cancelled_by=why.cancelled_by)
        return await visible(await requests.cancel_run(asked))

    return [create_run, list_runs, show_run, cancel_run]
