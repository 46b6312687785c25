"""Batches: many runs asked for at once and shown as one."""

from typing import Annotated
from urllib.parse import quote

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Meta

from ridges.contracts.requests import CancelRun, RequestRun
from ridges.contracts.views import BatchRow
from ridges.ledger.domain import run_id_for
from ridges.ledger.errors import ProjectionBehind, RequestRefused
from ridges.ledger.handlers import RunRequests
from ridges.ledger.projector import Projector
from ridges.ledger.queries import Queries
from ridges.ledger.routes.failures import failures
from ridges.ledger.routes.runs import VISIBLE_WITHIN_S, CancelReason

MAX_BATCH_BYTES = 64 * 1024 * 1024
MAX_RUNS = 1_000


class RequestBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for many runs. Asking again with the same batch id and runs is the same batch."""

    batch_id: Annotated[str, Meta(min_length=1, max_length=200)]
    runs: Annotated[list[RequestRun], Meta(min_length=1, max_length=MAX_RUNS)]
    """Their ``batch_id`` is set to this one; a run without a ``run_id`` gets one derived from batch and place."""


def batch_routes(requests: RunRequests, queries: Queries, projector: Projector) -> list[HTTPRouteHandler]:
    """The routes."""

    def the_batch(batch_id: str) -> BatchRow:
        found = queries.batches(batch_id)
        if not found:
            raise RequestRefused(f"no run belongs to a batch {batch_id!r}; `GET /v1/batches` lists them", status=404)
        return found[0]

    @post(
        "/v1/batches",
        operation_id="create_batch",
        tags=["batches"],
        summary="Ask for many runs at once; stops at the first that is refused and names it",
        request_max_body_size=MAX_BATCH_BYTES,
        responses=failures(400, 404, 409, 413, 422, 503),
    )
    async def create_batch(data: JSONBody[RequestBatch]) -> Response[BatchRow]:
        position, run_id = 0, ""
        for number, wanted in enumerate(data.runs):
            run_id = wanted.run_id or run_id_for(f"batch:{data.batch_id}:{number}")
            asked = msgspec.structs.replace(wanted, batch_id=data.batch_id, run_id=run_id)
            try:
                accepted = await requests.request_run(asked)
            except RequestRefused as refused:
                raise RequestRefused(
                    f"run {number + 1} of {len(data.runs)} of batch {data.batch_id!r}: {refused.reason}; "
                    "those before it were accepted, asking again does not repeat them",
                    status=refused.status,
                    code=refused.code,
                ) from refused
            position = max(position, accepted.position)
        if not await projector.reached(position, VISIBLE_WITHIN_S):
            raise ProjectionBehind(run_id, position, projector.position, projector.stopped)
        return Response(the_batch(data.batch_id), headers={"Location": f"/v1/batches/{quote(data.batch_id, safe='')}"})

    @get("/v1/batches", operation_id="list_batches", tags=["batches"], summary="Batches, newest first")
    async def list_batches() -> list[BatchRow]:
        return queries.batches()

    @get(
        "/v1/batches/{batch_id:str}",
        operation_id="show_batch",
        tags=["batches"],
        summary="One batch; `GET /v1/runs?batch=` lists its runs",
        responses=failures(404),
    )
    async def show_batch(batch_id: FromPath[str]) -> BatchRow:
        return the_batch(batch_id)

    @post(
        "/v1/batches/{batch_id:str}/cancel",
        operation_id="cancel_batch",
        status_code=202,
        tags=["batches"],
        summary="End every run of a batch that goes on; those that have ended stay as they are",
        responses=failures(400, 404, 422, 503),
    )
    async def cancel_batch(batch_id: FromPath[str], data: JSONBody[CancelReason | None] = None) -> BatchRow:
        the_batch(batch_id)
        why = data or CancelReason()
        position, run_id = 0, ""
        for run_id in queries.going_on(batch_id):
            asked = CancelRun(run_id=run_id, reason=why.reason, cancelled_by=why.cancelled_by)
            position = max(position, (await requests.cancel_run(asked)).position)
        if not await projector.reached(position, VISIBLE_WITHIN_S):
            raise ProjectionBehind(run_id, position, projector.position, projector.stopped)
        return the_batch(batch_id)

    return [create_batch, list_batches, show_batch, cancel_batch]
