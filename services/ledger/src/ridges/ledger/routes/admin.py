"""Passes over the whole log, for administrators. Each answers with server-sent events, the last one ``result``."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import FromQuery, JSONBody
from litestar.response import ServerSentEvent, ServerSentEventMessage

from ridges.contracts.views import PassProgress, PassResult
from ridges.ledger.rebuilding import Rebuilder
from ridges.ledger.routes.failures import failures
from ridges.ledger.routes.guard import ADMIN
from ridges.ledger.running_passes import Archiver, Message, Passes, Source
from ridges.ledger.settle import ProviderRecord, Settler

MESSAGES = {
    201: ResponseSpec(
        PassResult,
        description="Events `progress` (see `PassProgress`), then one event `result`",
        media_type="text/event-stream",
        generate_examples=False,
    )
}


def admin_routes(rebuilder: Rebuilder, passes: Passes, archiver: Archiver, settler: Settler) -> list[HTTPRouteHandler]:
    """The routes."""

    @post(
        "/v1/admin/rebuild",
        operation_id="rebuild",
        tags=["admin"],
        summary="Build the tables again from the log's first event, then swap them; reads and requests go on",
        responses=MESSAGES | failures(400, 409),
        opt=ADMIN,
    )
    async def rebuild(verify: FromQuery[bool] = False, source: FromQuery[Source] = "log") -> ServerSentEvent:
        rebuilder.refuse_second()
        return ServerSentEvent(_events(rebuilder.rebuild(verify=verify, source=source)))

    @post(
        "/v1/admin/verify",
        operation_id="verify",
        tags=["admin"],
        summary="Check the log: gaps, order, unknown types, amounts, blobs, open reservations",
        responses=MESSAGES | failures(400),
        opt=ADMIN,
    )
    async def verify(blobs: FromQuery[bool] = True) -> ServerSentEvent:
        return ServerSentEvent(_events(passes.verify(blobs=blobs)))

    @post(
        "/v1/admin/archive",
        operation_id="archive",
        tags=["admin"],
        summary="Prove the archive, make damaged segments again from the log, and seal what is not sealed yet",
        responses=MESSAGES | failures(409),
        opt=ADMIN,
    )
    async def archive() -> ServerSentEvent:
        archiver.refuse_second()
        return ServerSentEvent(_events(archiver.archive()))

    @post(
        "/v1/admin/restore",
        operation_id="restore",
        tags=["admin"],
        summary="Bring archived events back into a log that has lost them",
        responses=MESSAGES | failures(409),
        opt=ADMIN,
    )
    async def restore() -> ServerSentEvent:
        rebuilder.refuse_second()
        return ServerSentEvent(_events(rebuilder.restore()))

    @post(
        "/v1/settlements",
        operation_id="settle",
        tags=["costs"],
        summary="Settle a call whose outcome was lost from its provider's record; replaces a settled maximum",
        status_code=200,
        responses=failures(400, 404, 409, 422, 503),
        opt=ADMIN,
    )
    async def settle(data: JSONBody[ProviderRecord]) -> SettledAt:
        return SettledAt(position=await settler.settle_from(data))

    return [rebuild, verify, archive, restore, settle]


class SettledAt(msgspec.Struct, frozen=True, kw_only=True):
    """Where the settlement stands in the log."""

    position: int


async def _events(messages: AsyncGenerator[Message, None]) -> AsyncGenerator[ServerSentEventMessage, None]:
    async with aclosing(messages) as source:
        async for message in source:
            kind = "progress" if isinstance(message, PassProgress) else "result"
            yield ServerSentEventMessage(event=kind, data=msgspec.json.encode(message))
