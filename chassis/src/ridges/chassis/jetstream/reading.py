"""Read stored messages without a consumer (direct get, in batches)."""

from collections.abc import AsyncIterator

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.js.errors import APIError

from ridges.chassis.jetstream.asking import Answer
from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.ports import EventStoreUnavailable

BATCH = 500
MAX_BYTES = 4 * 1024 * 1024
END_OF_BATCH, NO_MESSAGES = "204", "404"


class Stored(msgspec.Struct, frozen=True):
    """A message as it stands in a stream."""

    position: int
    subject: str
    content: bytes
    event_id: str | None
    headers: dict[str, str]


class DeliveryFacts(msgspec.Struct, frozen=True):
    """What a consumer says about a message it delivers."""

    deliveries: int
    position: int
    delivered: int
    """Counts all deliveries of the consumer."""
    pending: int


def delivery_facts(message: Msg) -> DeliveryFacts:
    """What the consumer says about a message."""
    return facts_of(message.reply)


def facts_of(reply: str) -> DeliveryFacts:
    """Read from the reply subject, which may have one more token at its end.

    Source: ``$JS.ACK[.<domain>.<account>].<stream>.<consumer>.<deliveries>.<position>.<delivered>.<time>.<pending>``
    """
    tokens = reply.split(".")
    shift = 0 if len(tokens) == 9 else 2
    deliveries, position, delivered, _, pending = tokens[4 + shift : 9 + shift]
    return DeliveryFacts(int(deliveries), int(position), int(delivered), int(pending))


async def stored_messages(connection: Connection, stream: str, subjects: str, first: int = 1) -> AsyncIterator[Stored]:
    """The stream's messages of these subjects from a position on, in order, until there is no further one.

    Raises:
        EventStoreUnavailable: no answer in time.
    """
    while True:
        found, more = await connection.persist(
            f"reading {subjects}",
            lambda at=first: _batch(connection, stream, subjects, at),  # type: ignore[misc]
        )
        for stored in found:
            yield stored
        if not more or not found:
            return
        first = found[-1].position + 1


async def _batch(connection: Connection, stream: str, subjects: str, first: int) -> tuple[list[Stored], bool]:
    """Up to 500 messages, and whether there are more."""
    request = {"seq": first, "next_by_subj": subjects, "batch": BATCH, "max_bytes": MAX_BYTES}
    found: list[Answer] = []
    try:
        end = await connection.request(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), before=found)
    except errors.NoRespondersError:
        reason = f"reading {subjects}: JetStream is not up yet, or its stream is missing"
        raise EventStoreUnavailable(reason) from None
    headers = end.headers
    status = headers.get("Status")
    if status not in (NO_MESSAGES, END_OF_BATCH):
        raise APIError(code=int(status or 0), description=headers.get("Description", ""))
    return list(map(_stored, found)), status == END_OF_BATCH and headers.get("Nats-Num-Pending", "0") != "0"


def _stored(answer: Answer) -> Stored:
    headers = answer.headers
    return Stored(
        int(headers["Nats-Sequence"]), headers["Nats-Subject"], answer.data, headers.get("Nats-Msg-Id"), headers
    )
