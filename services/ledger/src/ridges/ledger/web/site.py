"""The routes of the web page."""

from importlib import resources
from typing import Annotated

from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from ridges.chassis.ports import BlobMissing
from ridges.ledger.details import NothingStored, RunDetails
from ridges.ledger.errors import AmbiguousRun, RequestRefused, UnknownRun
from ridges.ledger.queries import Queries, RunFilter
from ridges.ledger.web import pages

RUNS_SHOWN = 100
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def site_routes(queries: Queries, details: RunDetails) -> list[HTTPRouteHandler]:
    """The pages and their style sheet."""
    style = (resources.files(__package__) / "style.css").read_bytes()

    @get("/", include_in_schema=False)
    async def runs(cursor: Annotated[str | None, QueryParameter(max_length=200)] = None) -> Response[bytes]:
        try:
            page = queries.runs(RunFilter(), limit=RUNS_SHOWN, cursor=cursor)
        except RequestRefused as error:
            return _html(pages.problem_page("No such page", str(error)), error.status)
        total = await queries.beside(lambda apart: apart.costs("day"))
        return _html(pages.runs_page(page, total))

    @get("/runs/{run_id:str}", include_in_schema=False)
    async def run(run_id: FromPath[str]) -> Response[bytes]:
        try:
            detail = await details.detail(queries.resolve(run_id))
        except UnknownRun as error:
            return _html(pages.problem_page("Unknown run", str(error)), 404)
        except AmbiguousRun as error:
            return _html(pages.problem_page("Ambiguous run id", str(error)), 409)
        return _html(
            pages.run_page(
                detail,
                await _text(details, detail.run_id, evaluation=False),
                await _text(details, detail.run_id, evaluation=True),
            )
        )

    @get("/style.css", include_in_schema=False)
    async def stylesheet() -> Response[bytes]:
        return Response(style, media_type=MediaType.CSS, headers={"X-Content-Type-Options": "nosniff"})

    return [runs, run, stylesheet]


async def _text(details: RunDetails, run_id: str, *, evaluation: bool) -> str | None:
    try:
        content = await (details.evaluation_log(run_id) if evaluation else details.agent_log(run_id))
    except NothingStored:
        return None
    except BlobMissing as error:
        return f"(the log is missing: {error})"
    return content.decode("utf-8", "replace")


def _html(content: bytes, status_code: int = 200) -> Response[bytes]:
    return Response(content, media_type=MediaType.HTML, status_code=status_code, headers=HEADERS)
