"""Price lists, and history with other prices."""

from typing import Annotated

from litestar import Request, get, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from ridges.contracts.events import PriceListPublished
from ridges.contracts.views import PriceListRow, RepriceReport
from ridges.ledger.errors import RequestRefused
from ridges.ledger.price_lists import price_list_in, vendored
from ridges.ledger.price_publishing import PriceLists
from ridges.ledger.queries import Queries
from ridges.ledger.routes.blobs import raw_body
from ridges.ledger.routes.failures import failures
from ridges.ledger.routes.guard import ADMIN, READ

VENDORED = "vendored"
MAX_TOML_BYTES = 1024 * 1024
TOML = raw_body("application/toml")

AnyRequest = Request[None, None, State]
Since = Annotated[str | None, QueryParameter(pattern=r"^\d{4}-\d{2}-\d{2}$", description="First day, UTC.")]


def price_routes(price_lists: PriceLists, queries: Queries) -> list[HTTPRouteHandler]:
    """The routes."""

    async def chosen(price_list: str) -> PriceListPublished:
        if price_list == VENDORED:
            return price_lists.unpublished(vendored())
        found = queries.price_list(price_list) or await price_lists.recorded(
            price_list, queries.runs_charged_by(price_list)
        )
        if found is None:
            raise RequestRefused(
                f"no price list {price_list!r} was published or used; `GET /v1/price-lists` shows them, {VENDORED!r} "
                "is the table of this release",
                status=404,
            )
        return found

    @get("/v1/price-lists", operation_id="price_lists", tags=["costs"], summary="Price lists, newest first")
    async def listed() -> list[PriceListRow]:
        return [_row(event) for event in queries.price_lists()] + queries.recorded_price_lists()

    @get(
        "/v1/price-lists/{price_list:str}",
        operation_id="price_list",
        tags=["costs"],
        summary="One price list with its prices; `vendored` is the table of this release",
        responses=failures(404, 503),
    )
    async def shown(price_list: FromPath[str]) -> PriceListPublished:
        return await chosen(price_list)

    @post(
        "/v1/price-lists",
        operation_id="publish_price_list",
        operation_class=TOML,
        tags=["costs"],
        summary="Publish a price list (TOML); an empty body publishes the table of this release",
        request_max_body_size=MAX_TOML_BYTES,
        responses=failures(400, 409, 413, 422, 503),
        opt=ADMIN,
    )
    async def publish(request: AnyRequest) -> PriceListRow:
        text = await _text(request)
        prices = price_list_in(text, price_lists.now()) if text.strip() else vendored()
        event, _ = await price_lists.publish(prices)
        return _row(event)

    @get(
        "/v1/reprice",
        operation_id="reprice",
        tags=["costs"],
        summary="History with the prices of a published or recorded list beside the recorded costs; changes nothing",
        responses=failures(400, 404, 422, 503),
    )
    async def reprice(price_list: Annotated[str, QueryParameter(max_length=100)], since: Since = None) -> RepriceReport:
        prices = await chosen(price_list)
        return await queries.beside(lambda apart: apart.reprice(prices, since))

    @post(
        "/v1/reprice",
        operation_id="reprice_with",
        operation_class=TOML,
        tags=["costs"],
        status_code=200,
        summary="History with the prices in the body (TOML); changes nothing and publishes nothing",
        request_max_body_size=MAX_TOML_BYTES,
        responses=failures(400, 413, 422),
        opt=READ,
    )
    async def reprice_with(request: AnyRequest, since: Since = None) -> RepriceReport:
        prices = price_lists.parsed(await _text(request))
        return await queries.beside(lambda apart: apart.reprice(prices, since))

    return [listed, shown, publish, reprice, reprice_with]


async def _text(request: AnyRequest) -> str:
    try:
        return (await request.body()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestRefused(f"the price list is not UTF-8 text: {error}", status=422) from error


def _row(event: PriceListPublished) -> PriceListRow:
    return PriceListRow(
        price_list=event.price_list,
        source=event.source,
        effective_at=event.effective_at,
        published_at=event.time,
        models=len(event.prices),
    )
