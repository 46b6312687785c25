"""Costs, problems, and what was refused or given up on."""

from typing import Annotated

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, QueryParameter

from ridges.chassis.ports import EventStore, Parked
from ridges.contracts.views import CostDimension, CostReport, ProblemRow, Refusal
from ridges.ledger.queries import Queries
from ridges.ledger.refusals import Refusals
from ridges.ledger.routes.failures import failures


def account_routes(queries: Queries, refusals: Refusals, store: EventStore) -> list[HTTPRouteHandler]:
    """The routes."""

    @get(
        "/v1/costs",
        operation_id="costs",
        responses=failures(400, 422),
        tags=["costs"],
        summary="Costs by one dimension; the rows add up to the total exactly",
    )
    async def costs(by: FromQuery[CostDimension] = "run") -> CostReport:
        return await queries.beside(lambda apart: apart.costs(by))

    @get("/v1/problems", operation_id="problems", tags=["problems"], summary="Published problems")
    async def problems() -> list[ProblemRow]:
        return queries.problems()

    @get(
        "/v1/refusals",
        operation_id="refusals",
        responses=failures(400, 422),
        tags=["trouble"],
        summary="Requests from the NATS ingress that were refused, newest first",
    )
    async def refused(limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 100) -> list[Refusal]:
        return refusals.newest(limit)

    @get(
        "/v1/parked",
        operation_id="parked",
        responses=failures(503),
        tags=["trouble"],
        summary="Messages that a service gave up on",
    )
    async def parked() -> list[Parked]:
        return await store.parked()

    return [costs, problems, refused, parked]
