"""Requests that wait in the work queue INGRESS of a NATS server that is left behind: they were acknowledged."""

from datetime import UTC, datetime
from typing import Any

from nats.js.errors import APIError

from ridges.chassis.jetstream import fence
from ridges.chassis.jetstream.connection import read_reply
from ridges.chassis.moving.nats_server import NatsServer
from ridges.chassis.moving.ports import CannotMove
from ridges.contracts.subjects import ALL_INGRESS, EVENT_ID_HEADER, INGRESS_STREAM
from ridges.ledger.domain import KEY_HEADER, delivery_key

NS_PER_S = 1_000_000_000


async def close_ingress(server: NatsServer) -> None:
    """Take no further request: who publishes one is refused at once."""
    await _set(server, fence.CLOSED)


async def reopen_ingress(server: NatsServer) -> None:
    """Take requests again."""
    found = await server.stream(INGRESS_STREAM)
    if found is not None:
        await _set(server, fence.open_again(found["config"]))


async def move_ingress(source: NatsServer, target: NatsServer) -> int:
    """How many requests wait at the new server now that waited at the old one, which keeps none of them.

    Each names the run that it would have become at the old server. So a request that is carried out at both, or comes
    twice because this was killed between the two servers, is one run.
    """
    moved = 0
    while (message := await source.message(INGRESS_STREAM, {"seq": 1, "next_by_subj": ALL_INGRESS})) is not None:
        key = delivery_key(message.seq, _stored_at(message.time))
        kept = {name: value for name, value in message.headers.items() if not name.startswith("Nats-")}
        kept = {KEY_HEADER: key, **kept, EVENT_ID_HEADER: message.headers.get(EVENT_ID_HEADER, key)}
        try:
            read_reply(await target.ask(message.subject, message.data, kept))
        except APIError as error:
            raise CannotMove(
                f"the log has moved, but {target.place.address} does not take a request that waits: "
                f"{error.description}. Mend that, then run the same command: it goes on"
            ) from error
        await source.api(f"STREAM.PURGE.{INGRESS_STREAM}", {"seq": message.seq + 1})
        moved += 1
    return moved


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
