"""Errors of the ledger as RFC 9457 problem documents."""

from typing import Any

from litestar import Request, Response
from litestar.openapi import ResponseSpec
from litestar.types import ExceptionHandlersMap

from ridges.chassis import problems_http
from ridges.chassis.ports import BlobMissing, EventRefused, EventStoreUnavailable
from ridges.contracts.codec import UndecodableEvent
from ridges.contracts.views import Problem9457
from ridges.ledger.errors import AmbiguousRun, PassRunning, ProjectionBehind, RequestRefused, UnknownRun

RETRY_AFTER_S = "2"

Answer = Response[Problem9457]
AnyRequest = Request[Any, Any, Any]


def _unknown_run(_request: AnyRequest, error: UnknownRun) -> Answer:
    return problems_http.error_response(404, "Unknown run", str(error))


def _ambiguous_run(_request: AnyRequest, error: AmbiguousRun) -> Answer:
    return problems_http.error_response(409, "Ambiguous run id", str(error))


def _refused(_request: AnyRequest, error: RequestRefused) -> Answer:
    detail = error.reason if error.code is None else f"{error.reason} (code {error.code})"
    return problems_http.error_response(error.status, "Request refused", detail)


def _pass_running(_request: AnyRequest, error: PassRunning) -> Answer:
    return problems_http.error_response(409, "Running already", str(error))


def _behind(_request: AnyRequest, error: ProjectionBehind) -> Answer:
    headers = {"Retry-After": RETRY_AFTER_S, "Location": f"/v1/runs/{error.run_id}"}
    return problems_http.error_response(503, "Accepted, but not visible yet", str(error), headers=headers)


def _log_unavailable(_request: AnyRequest, error: EventStoreUnavailable) -> Answer:
    detail = f"{error}; ask again with the same run_id or Idempotency-Key"
    return problems_http.error_response(503, "The log does not answer", detail, headers={"Retry-After": RETRY_AFTER_S})


def _append_refused(_request: AnyRequest, error: EventRefused) -> Answer:
    return problems_http.error_response(500, "The log refuses the event", str(error))


def _blob_missing(_request: AnyRequest, error: BlobMissing) -> Answer:
    detail = f"{error}; check that RIDGES_BLOBS_URL is the same for every service"
    return problems_http.error_response(500, "A blob is missing", detail)


def _blobs_unavailable(_request: AnyRequest, error: OSError) -> Answer:
    detail = f"{error.strerror or error}; mend it, and ask again with the same run_id or Idempotency-Key"
    headers = {"Retry-After": RETRY_AFTER_S}
    return problems_http.error_response(503, "The blob store cannot be used", detail, headers=headers)


def _undecodable(_request: AnyRequest, error: UndecodableEvent) -> Answer:
    return problems_http.error_response(500, "The log holds an event this release cannot read", str(error))


_MEANINGS = {
    400: "Malformed JSON or parameters",
    404: "No such run, problem or file",
    409: "Ambiguous id, an id that means another request, or a pass that is running already",
    413: "Too large",
    422: "Refused; `detail` says why",
    503: "Not now; ask again with the same run_id or Idempotency-Key",
}


def failures(*statuses: int) -> dict[int, ResponseSpec]:
    """What a route may answer instead, for its documentation."""
    return {
        status: ResponseSpec(
            Problem9457,
            description=_MEANINGS[status],
            media_type=problems_http.MEDIA_TYPE,
            generate_examples=False,
        )
        for status in statuses
    }


exception_handlers: ExceptionHandlersMap = {
    **problems_http.exception_handlers,
    UnknownRun: _unknown_run,
    AmbiguousRun: _ambiguous_run,
    RequestRefused: _refused,
    PassRunning: _pass_running,
    ProjectionBehind: _behind,
    EventStoreUnavailable: _log_unavailable,
    EventRefused: _append_refused,
    BlobMissing: _blob_missing,
    OSError: _blobs_unavailable,
    UndecodableEvent: _undecodable,
}
