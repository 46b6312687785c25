"""Errors as the callers' dialects know them: ``{"detail": …}``, on ``/v1`` with OpenAI's error object beside it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import structlog
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import ExceptionHandlersMap

from ridges.gateway.connection import AnyRequest, json_response
from ridges.gateway.errors import BodyInvalid, CallerGone, GatewayError, InternalError

log = structlog.get_logger(__name__)

NO_AMOUNTS: Mapping[str, int | str] = MappingProxyType({})


def on_gateway_error(request: AnyRequest, error: GatewayError) -> "_Rendered":
    detail: object = error.problems if isinstance(error, BodyInvalid) else error.detail
    body = error_body(request.url.path, error.status, detail, error.detail, error.code, error.amounts)
    return _Rendered(json_response(msgspec.json.encode(body), status=error.status, headers=error.headers))


def on_http_exception(request: AnyRequest, error: HTTPException) -> "_Rendered":
    """Litestar's own: no such route, wrong method, body too large."""
    detail = error.detail
    if error.status_code == 413:
        detail = "The body is larger than 16 MiB."
    return _rendered(request, error.status_code, detail, detail, "http_error", dict(error.headers or {}))


def on_any_error(request: AnyRequest, error: Exception) -> "_Rendered":
    """What nobody expected: logged with its traceback, told without it."""
    if isinstance(error.__cause__, CallerGone) or isinstance(error, CallerGone):
        return _rendered(request, 499, "", "", "caller_gone", {})
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return on_gateway_error(request, InternalError())


exception_handlers: ExceptionHandlersMap = {
    GatewayError: on_gateway_error,  # type: ignore[dict-item]
    HTTPException: on_http_exception,  # type: ignore[dict-item]
    Exception: on_any_error,  # type: ignore[dict-item]
}


class _Rendered:
    """What Litestar asks of an exception handler's result, without its Response class."""

    def __init__(self, response: ASGIResponse) -> None:
        self._response = response

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        return self._response


def _rendered(
    request: AnyRequest, status: int, detail: object, message: str, code: str, headers: dict[str, str]
) -> _Rendered:
    body = error_body(request.url.path, status, detail, message, code)
    return _Rendered(json_response(msgspec.json.encode(body), status=status, headers=headers))


def error_body(
    path: str, status: int, detail: object, message: str, code: str, amounts: Mapping[str, int | str] = NO_AMOUNTS
) -> dict[str, Any]:
    """``{"detail": …}``; on ``/v1`` with OpenAI's error object, which tells a limit and what is used of it."""
    if not path.startswith("/v1/"):
        return {"detail": detail}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **amounts}, "detail": detail}
