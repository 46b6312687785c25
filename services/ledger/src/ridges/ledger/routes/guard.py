"""Who may call: a token where one is set, and never a foreign web page in the user's own browser."""

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from ridges.ledger.settings import LedgerSettings, is_loopback

OPEN_PATHS = frozenset({"/livez", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Connection = ASGIConnection[Any, Any, Any, Any]


class Role(IntEnum):
    """Who may do what; each may do what those before it may."""

    READ = 1
    RUN = 2
    ADMIN = 3


READ, RUN, ADMIN = ({"role": role} for role in Role)
"""For a route's ``opt``. A route without one needs READ for safe methods, else RUN."""


def guard(config: LedgerSettings) -> Callable[[Connection, BaseRouteHandler], Awaitable[None]]:
    """The check before every route. Litestar would call a function that is not asynchronous in a thread."""
    given = ((config.api_read_token, Role.READ), (config.api_run_token, Role.RUN), (config.api_token, Role.ADMIN))
    tokens = {token.encode(): role for token, role in given if token is not None}

    async def check(connection: Connection, handler: BaseRouteHandler) -> None:
        if connection.url.path in OPEN_PATHS:
            return
        if tokens:
            role, needed = _role(connection, tokens), _needed(connection, handler)
            if role < needed:
                raise PermissionDeniedException(
                    detail=f"your token has the role {role.name.lower()}; this needs {needed.name.lower()}"
                )
        elif is_loopback(config.http_host):
            _refuse_rebound_name(connection)
        _refuse_foreign_page(connection)

    return check


def _needed(connection: Connection, handler: BaseRouteHandler) -> Role:
    safe = connection.scope.get("method") in SAFE_METHODS
    needed: Role = handler.opt.get("role", Role.READ if safe else Role.RUN)
    return needed


def _role(connection: Connection, tokens: dict[bytes, Role]) -> Role:
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    given = credentials.strip()
    if scheme.lower() == "basic":
        given = _basic_password(given)
    role: Role | None = None
    if scheme.lower() in ("bearer", "basic"):
        for token, its_role in tokens.items():  # all of them, in constant time
            role = its_role if hmac.compare_digest(given.encode(), token) else role
    if role is None:
        raise NotAuthorizedException(
            detail="this ledger needs its API token: send `Authorization: Bearer <RIDGES_API_TOKEN>`",
            headers={"WWW-Authenticate": 'Bearer, Basic realm="ridges", charset="UTF-8"'},
        )
    return role


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
