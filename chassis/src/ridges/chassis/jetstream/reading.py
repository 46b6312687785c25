"""Read stored messages without a consumer (direct get, in batches)."""

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import msgspec
from nats.aio.msg import Msg
from nats.js.errors import APIError

from ridges.chassis.jetstream.connection import REQUEST_TIMEOUT_S, Connection
from ridges.chassis.ports import EventStoreUnavailable

BATCH = 500
MAX_BYTES = 4 * 1024 * 1024
END_OF_BATCH, NO_MESSAGES, NOT_UP = "204", "404", "503"
END_OF_WAITING = Msg(_client=None)  # type: ignore[arg-type]


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
    client = connection.client
    subject = f"$JS.API.DIRECT.GET.{stream}"
    request = {"seq": first, "next_by_subj": subjects, "batch": BATCH, "max_bytes": MAX_BYTES}
    answers: asyncio.Queue[Msg] = asyncio.Queue()

    async def on_answer(message: Msg) -> None:
        answers.put_nowait(message)

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=on_answer, pending_bytes_limit=0)
    try:
        with connection.watched(subject) as failed:
            await client.publish(subject, msgspec.json.encode(request), reply=inbox)
            return await _collect(answers, failed, subjects)
    finally:
        if not client.is_closed:
            await subscription.unsubscribe()


async def _collect(
    answers: "asyncio.Queue[Msg]", failed: "asyncio.Future[NoReturn]", subjects: str
) -> tuple[list[Stored], bool]:
    found: list[Stored] = []
    failed.add_done_callback(lambda _: answers.put_nowait(END_OF_WAITING))
    while True:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            message = await answers.get()
        if message is END_OF_WAITING:
            failed.result()
        headers = message.headers or {}
        status = headers.get("Status")
        if status == NO_MESSAGES:
            return found, False
        if status == END_OF_BATCH:
            return found, headers.get("Nats-Num-Pending", "0") != "0"
        if status == NOT_UP:
            raise EventStoreUnavailable(f"reading {subjects}: JetStream is not up yet, or its stream is missing")
        if status is not None:
            raise APIError(code=int(status), description=headers.get("Description", ""))
        found.append(_stored(message, headers))


def _stored(message: Msg, headers: dict[str, str]) -> Stored:
    return Stored(
        int(headers["Nats-Sequence"]), headers["Nats-Subject"], message.data, headers.get("Nats-Msg-Id"), headers
    )
