"""Errors of the HTTP APIs. Source: RFC 9457 (problem details)."""

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from ridges.chassis.ports import LogMismatch
from ridges.contracts.views import Problem9457

MEDIA_TYPE = "application/problem+json"
log = structlog.get_logger(__name__)


def error_response(
    status: int, title: str, detail: str, *, headers: dict[str, str] | None = None
) -> Response[Problem9457]:
    """A problem document."""
    body = Problem9457(title=title, status=status, detail=detail)
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def on_http_exception(_request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem9457]:
    """Litestar's own errors (404, 405, 413, validation …)."""
    status, detail = error.status_code, error.detail
    if isinstance(error, ValidationException):
        status, detail = 422, _validation_detail(error)
    return error_response(status, _title(status), detail, headers=dict(error.headers or {}))


def on_invalid_body(_request: Request[Any, Any, Any], error: msgspec.MsgspecError) -> Response[Problem9457]:
    """A body that is no JSON or does not fit."""
    return error_response(422, _title(422), str(error))


def on_any_error(request: Request[Any, Any, Any], error: Exception) -> Response[Problem9457]:
    """What nobody expected: logged with its traceback, told without it."""
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return error_response(500, _title(500), "an internal error; the service's log says more")


def on_refused_log(request: Request[Any, Any, Any], error: LogMismatch) -> Response[Problem9457]:
    """The service is just ending because of it."""
    log.error("request failed", method=request.method, path=request.url.path, reason=str(error))
    return error_response(503, "The log is refused", str(error))


exception_handlers: ExceptionHandlersMap = {
    HTTPException: on_http_exception,
    LogMismatch: on_refused_log,
    msgspec.MsgspecError: on_invalid_body,
    Exception: on_any_error,
}
"""For ``Litestar(exception_handlers=…)``; add the service's own errors to a copy."""


def _validation_detail(error: ValidationException) -> str:
    extra = error.extra if isinstance(error.extra, list) else []
    told = [f"{item.get('key', 'body')}: {item.get('message', '')}" for item in extra if isinstance(item, dict)]
    return "; ".join(told) or error.detail


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
