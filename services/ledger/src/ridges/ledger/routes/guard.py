"""Who may call: a token where one is set, and never a foreign web page in the user's own browser."""

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from ridges.ledger.settings import is_loopback

OPEN_PATHS = frozenset({"/livez", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Connection = ASGIConnection[Any, Any, Any, Any]


def guard(api_token: str | None, http_host: str) -> Callable[[Connection, BaseRouteHandler], None]:
    """The check before every route."""

    def check(connection: Connection, _handler: BaseRouteHandler) -> None:
        if connection.url.path in OPEN_PATHS:
            return
        if api_token is not None:
            _require_token(connection, api_token)
        elif is_loopback(http_host):
            _refuse_rebound_name(connection)
        _refuse_foreign_page(connection)

    return check


def _require_token(connection: Connection, api_token: str) -> None:
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    given = credentials.strip()
    if scheme.lower() == "basic":
        given = _basic_password(given)
    if scheme.lower() not in ("bearer", "basic") or not hmac.compare_digest(given.encode(), api_token.encode()):
        raise NotAuthorizedException(
            detail="this ledger needs its API token: send `Authorization: Bearer <RIDGES_API_TOKEN>`",
            headers={"WWW-Authenticate": 'Bearer, Basic realm="ridges", charset="UTF-8"'},
        )


def _basic_password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _refuse_rebound_name(connection: Connection) -> None:
    """A web page may point its own host name at 127.0.0.1 (DNS rebinding) and then count as the same origin."""
    host = urlsplit("//" + connection.headers.get("host", "")).hostname
    if host is not None and not is_loopback(host):
        raise PermissionDeniedException(
            detail=f"host {host!r} is not a name of this ledger; use 127.0.0.1 or localhost"
        )


def _refuse_foreign_page(connection: Connection) -> None:
    origin = connection.headers.get("origin")
    if origin is None or connection.scope.get("method") in SAFE_METHODS:
        return
    if urlsplit(origin).netloc != connection.headers.get("host"):
        raise PermissionDeniedException(detail=f"requests from web pages of {origin} are refused")
