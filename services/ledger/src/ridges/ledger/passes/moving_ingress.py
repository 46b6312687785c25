"""Requests that wait in the work queue INGRESS of a NATS server that is left behind: they were acknowledged."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.js.errors import APIError

from ridges.chassis.jetstream import fence
from ridges.chassis.jetstream.connection import read_reply
from ridges.chassis.moving.nats_server import NatsServer
from ridges.chassis.moving.ports import CannotMove
from ridges.contracts.subjects import ALL_INGRESS, EVENT_ID_HEADER, INGRESS_STREAM
from ridges.ledger.domain import KEY_HEADER, delivery_key

NS_PER_S = 1_000_000_000
NOT_FOUND = "404"


async def close_ingress(server: NatsServer) -> None:
    """Take no further request: who publishes one is refused at once."""
    await _set(server, fence.CLOSED)


async def reopen_ingress(server: NatsServer) -> None:
    """Take requests again."""
    found = await server.stream(INGRESS_STREAM)
    if found is not None:
        await _set(server, fence.open_again(found["config"]))


async def copy_ingress(source: NatsServer, target: NatsServer) -> int:
    """How many requests wait at the new server now that waited at the old one.

    Each names the run that it would have become at the old server. So a request that is carried out at both, or copied
    twice, is one run.
    """
    copied, first = 0, 1
    while (message := await _next(source, first)) is not None:
        headers = dict(message.headers or {})
        sequence = int(headers["Nats-Sequence"])
        key = delivery_key(sequence, _stored_at(headers["Nats-Time-Stamp"]))
        kept = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
        kept = {KEY_HEADER: key, **kept, EVENT_ID_HEADER: headers.get(EVENT_ID_HEADER, key)}
        answer = await target.ask(headers["Nats-Subject"], message.data, kept)
        try:
            read_reply(answer)
        except APIError as error:
            raise CannotMove(f"{target.place.address} refuses a waiting request: {error.description}") from error
        copied, first = copied + 1, sequence + 1
    return copied


async def _next(server: NatsServer, first: int) -> Msg | None:
    request = msgspec.json.encode({"seq": first, "next_by_subj": ALL_INGRESS})
    message = await server.ask(f"$JS.API.DIRECT.GET.{INGRESS_STREAM}", request)
    headers = message.headers or {}
    if headers.get("Status") == NOT_FOUND:
        return None
    if "Status" in headers:
        raise CannotMove(f"the stream {INGRESS_STREAM} at {server.place.address}: {headers.get('Description')}")
    return message


async def _set(server: NatsServer, settings: dict[str, Any]) -> None:
    found = await server.stream(INGRESS_STREAM)
    if found is not None:
        await server.change(INGRESS_STREAM, found["config"] | settings)


def _stored_at(text: str) -> datetime:
    """As nats-py tells it to a consumer: ``2026-11-28T01:02:03.123456789Z`` rounded to what a float holds."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    nanoseconds = whole * NS_PER_S + int(fraction.ljust(9, "0"))
    return datetime.fromtimestamp(nanoseconds / float(NS_PER_S), UTC)
