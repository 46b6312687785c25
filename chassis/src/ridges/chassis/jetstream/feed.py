"""Follow the stream EVENTS in order, over reconnections and server restarts, without a gap or a double.

One ephemeral pull consumer at a time. Whenever anything looks wrong (silence, a skipped delivery, a lost connection)
it is thrown away and a new one starts right after the last event that was handed out.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from enum import Enum, auto
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.errors import APIError

from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.jetstream.reading import delivery_facts
from ridges.chassis.jetstream.streams import NS_PER_S
from ridges.chassis.ports import EventStoreUnavailable
from ridges.contracts.subjects import ALL_EVENTS, EVENTS_STREAM

log = structlog.get_logger(__name__)

BATCH = 500
MAX_BYTES = 4 * 1024 * 1024
PULL_EXPIRES_S = 30
HEARTBEAT_S = 2
SILENCE_S = 5.0
"""No message and no heartbeat for so long: the consumer is gone."""
RESTART_PAUSE_S = 0.2
INACTIVE_S = 120


class FedMessage(msgspec.Struct, frozen=True):
    """A message of the log, not yet decoded."""

    position: int
    content: bytes
    pending: int
    """How many more the consumer had when it delivered this one."""


class _Outcome(Enum):
    PULL_AGAIN = auto()
    RESTART = auto()


class Feed:
    """Messages after a position, of some subjects."""

    def __init__(self, connection: Connection, after: int, subjects: list[str]) -> None:
        self._connection = connection
        self._position = after
        self._subjects = subjects or [ALL_EVENTS]

    async def messages(self, *, until_idle: bool = False) -> AsyncGenerator[FedMessage, None]:
        """For ever, or until there is no further one for the moment."""
        while True:
            await self._connection.ready()
            try:
                consumer = await _Consumer.start(self._connection, self._position + 1, self._subjects)
            except (errors.Error, APIError, EventStoreUnavailable, OSError) as error:
                log.debug("cannot follow the log yet", error=repr(error))
                await asyncio.sleep(RESTART_PAUSE_S)
                continue
            try:
                if until_idle and not consumer.pending:
                    return
                async for message in consumer.messages():
                    if message.position > self._position:
                        self._position = message.position
                        yield message
                    if until_idle and not message.pending:
                        return
            finally:
                await consumer.end()

    async def messages_until(self, end: int, patience_s: float) -> AsyncGenerator[FedMessage, None]:
        """Those up to a position; then it ends. Raises EventStoreUnavailable when nothing comes for the patience."""
        source = self.messages(until_idle=True)
        try:
            while self._position < end:
                async with asyncio.timeout(patience_s):
                    message = await anext(source, None)
                if message is None or message.position > end:
                    return
                yield message
        except TimeoutError:
            raise EventStoreUnavailable(
                f"reading the log stopped after position {self._position}: nothing came for {patience_s:g} s"
            ) from None
        finally:
            await source.aclose()


class _Consumer:
    """One ephemeral consumer on the server and the inbox it delivers to."""

    def __init__(self, connection: Connection, client: Client, name: str) -> None:
        self._connection, self._client, self._name = connection, client, name
        self._inbox = client.new_inbox()
        self._arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._delivered = 0
        self.pending = 0
        """How many messages waited when it started."""

    @classmethod
    async def start(cls, connection: Connection, first: int, subjects: list[str]) -> "_Consumer":
        consumer = cls(connection, connection.client, f"feed-{uuid4().hex}")
        connection.reconnected.add(consumer.interrupt)
        try:
            await consumer._open(first, subjects)
        except BaseException:
            await consumer.end()
            raise
        return consumer

    async def _open(self, first: int, subjects: list[str]) -> None:
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_message, pending_bytes_limit=0)
        config: dict[str, Any] = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": first,
            "ack_policy": "none",
            "filter_subjects": subjects,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_S * NS_PER_S,
        }
        created = await self._connection.api(
            f"CONSUMER.CREATE.{EVENTS_STREAM}.{self._name}", {"stream_name": EVENTS_STREAM, "config": config}
        )
        self.pending = int(created.get("num_pending", 0))

    def interrupt(self) -> None:
        """The connection was away: what the server thinks of this consumer is not to be trusted."""
        self._arrived.put_nowait(None)

    async def messages(self) -> AsyncIterator[FedMessage]:
        """Until something looks wrong."""
        while True:
            await self._pull()
            left = BATCH
            while left:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        message = await self._arrived.get()
                except TimeoutError:
                    return
                if message is None:
                    return
                status = (message.headers or {}).get("Status")
                if status == "100":
                    continue
                if status is not None:
                    if _outcome(status, (message.headers or {}).get("Description", "")) is _Outcome.RESTART:
                        return
                    break
                left -= 1
                fed, delivered = _parsed(message)
                if delivered != self._delivered + 1:
                    return
                self._delivered = delivered
                yield fed

    async def _pull(self) -> None:
        request = {
            "batch": BATCH,
            "max_bytes": MAX_BYTES,
            "expires": PULL_EXPIRES_S * NS_PER_S,
            "idle_heartbeat": HEARTBEAT_S * NS_PER_S,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._name}"
        with suppress(errors.Error):  # then silence ends this consumer
            await self._client.publish(subject, msgspec.json.encode(request), reply=self._inbox)

    async def end(self) -> None:
        self._connection.reconnected.discard(self.interrupt)
        with suppress(errors.Error, OSError):
            if self._subscription is not None and not self._client.is_closed:
                await self._subscription.unsubscribe()
            if self._client.is_connected:
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.{self._name}")

    async def _on_message(self, message: Msg) -> None:
        self._arrived.put_nowait(message)


def _outcome(status: str, description: str) -> _Outcome:
    """Source: nats-server ends a pull by 408 (time) or 409 (bytes); any other status: the consumer is not well."""
    told = description.lower()
    if status == "408" or (status == "409" and ("batch completed" in told or "maxbytes" in told)):
        return _Outcome.PULL_AGAIN
    return _Outcome.RESTART


def _parsed(message: Msg) -> tuple[FedMessage, int]:
    """The message and its number among all that the consumer delivered."""
    about = delivery_facts(message)
    return FedMessage(about.position, message.data, about.pending), about.delivered
