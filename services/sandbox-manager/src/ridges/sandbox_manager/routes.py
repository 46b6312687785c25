"""What runs here right now, and the end of its log."""

import asyncio
import hmac
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from litestar import Router, get
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from litestar.types import Guard

from ridges.sandbox_manager.live import Kind, LiveSandbox, LiveSandboxes, Phase
from ridges.sandbox_manager.technologies import Technologies

MAX_ROWS = 1_000
MAX_WAIT_S = 20.0
_LOCAL_NAMES = ("127.0.0.1", "::1", "localhost")


class SandboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work of this manager."""

    run_id: str
    sandbox_id: str
    kind: Kind
    phase: Phase
    since: datetime | None
    """When it was taken from the queue, UTC."""
    attempt: int
    sandbox: str | None


class LiveLog(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a live log."""

    text: str
    next: int
    """Ask with ``after`` = this for what follows."""
    missed_bytes: int
    """Gone before they were asked for: only the end of a live log is kept."""
    ended: bool
    """The sandbox is gone: the ledger has the log."""


class TechnologyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox technology that a run may get here."""

    name: str
    works: bool
    reason: str | None
    """Why it does not."""
    remedy: str | None


def technologies_router(technologies: Technologies, api_token: str | None) -> Router:
    """``/v1/technologies``: what a run that asks for ``auto`` may get, best first. Readers as of ``live_router``."""

    @get("/")
    async def candidates() -> list[TechnologyRow]:
        return [
            TechnologyRow(
                name=name,
                works=problem is None,
                reason=None if problem is None else getattr(problem, "reason", str(problem)),
                remedy=getattr(problem, "remedy", None),
            )
            for name, problem in (await technologies.candidates()).items()
        ]

    return Router("/v1/technologies", route_handlers=[candidates], guards=[_guard(api_token)])


def live_router(live: LiveSandboxes, api_token: str | None) -> Router:
    """``/v1/sandboxes``. With a token for its bearers, without one for callers on this machine."""

    @get("/")
    async def sandboxes() -> list[SandboxRow]:
        return [_row(each) for each in live.all()][:MAX_ROWS]

    @get("/{run_id:str}/log")
    async def log(
        run_id: str,
        after: Annotated[int, Parameter(ge=0)] = 0,
        wait_s: Annotated[float, Parameter(ge=0, le=MAX_WAIT_S)] = 0.0,
        kind: Literal["agent", "evaluation"] = "agent",
    ) -> LiveLog:
        """Waits up to ``wait_s`` for more than there is after the position."""
        found = live.find(run_id, kind)
        if found is None:
            raise NotFoundException(f"no {kind} sandbox of run {run_id} is at work here; the ledger has ended runs")
        if not found.tail.after(after)[0]:
            await _until_more(found, wait_s)
        text, position, missed = found.tail.after(after)
        return LiveLog(text=text, next=position, missed_bytes=missed, ended=found.ended.is_set())

    return Router("/v1/sandboxes", route_handlers=[sandboxes, log], guards=[_guard(api_token)])


def _row(live: LiveSandbox) -> SandboxRow:
    return SandboxRow(
        run_id=live.run_id,
        sandbox_id=live.sandbox_id,
        kind=live.kind,
        phase=live.phase,
        since=live.since,
        attempt=live.attempt,
        sandbox=live.technology,
    )


async def _until_more(live: LiveSandbox, wait_s: float) -> None:
    either = [asyncio.ensure_future(live.tail.grown()), asyncio.ensure_future(live.ended.wait())]
    try:
        await asyncio.wait(either, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in either:
            each.cancel()


def _guard(api_token: str | None) -> Guard:
    async def check(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        if api_token is None:
            host = urlsplit("//" + connection.headers.get("host", "")).hostname
            if host not in _LOCAL_NAMES:  # or a foreign web page whose name was made to lead here
                raise NotAuthorizedException("set RIDGES_API_TOKEN to let other machines see the live logs")
            return
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), api_token.encode()):
            raise NotAuthorizedException("send Authorization: Bearer <RIDGES_API_TOKEN>")

    return check
