"""Errors as the callers' dialects know them: ``{"detail": …}``, on ``/v1`` with OpenAI's error object beside it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import structlog
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import ExceptionHandlersMap

from ridges.chassis.ports import LogMismatch
from ridges.gateway.connection import json_response
from ridges.gateway.errors import BodyInvalid, GatewayError, InternalError, LogUnavailable

log = structlog.get_logger(__name__)

AnyRequest = Request[Any, Any, Any]
NO_AMOUNTS: Mapping[str, int | str] = MappingProxyType({})


def answer_of(path: str, error: GatewayError) -> bytes:
    """The body that tells the error to callers of the path."""
    detail: object = error.problems if isinstance(error, BodyInvalid) else error.detail
    return msgspec.json.encode(error_body(path, error.status, detail, error.detail, error.code, error.amounts))


def unexpected(method: str, path: str, error: Exception) -> GatewayError:
    """What nobody expected: logged with its traceback, told without it. A log that is refused ends the service."""
    if isinstance(error, LogMismatch):
        log.error("request failed", method=method, path=path, reason=str(error))
        return LogUnavailable()
    log.error("request failed", method=method, path=path, exc_info=error)
    return InternalError()


def on_gateway_error(request: AnyRequest, error: GatewayError) -> "_Rendered":
    return _Rendered(json_response(answer_of(request.url.path, error), status=error.status, headers=error.headers))


def on_http_exception(request: AnyRequest, error: HTTPException) -> "_Rendered":
    """Litestar's own: no such route, wrong method."""
    body = error_body(request.url.path, error.status_code, error.detail, error.detail, "http_error")
    headers = dict(error.headers or {})
    return _Rendered(json_response(msgspec.json.encode(body), status=error.status_code, headers=headers))


def on_any_error(request: AnyRequest, error: Exception) -> "_Rendered":
    return on_gateway_error(request, unexpected(request.method, request.url.path, error))


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


def error_body(
    path: str, status: int, detail: object, message: str, code: str, amounts: Mapping[str, int | str] = NO_AMOUNTS
) -> dict[str, Any]:
    """``{"detail": …}``; on ``/v1`` with OpenAI's error object, which tells a limit and what is used of it."""
    if not path.startswith("/v1/"):
        return {"detail": detail}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **amounts}, "detail": detail}
