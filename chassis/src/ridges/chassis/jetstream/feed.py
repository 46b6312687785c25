"""Follow the stream EVENTS in order, over reconnections and server restarts, without a gap or a double.

One ephemeral pull consumer at a time. Whenever anything looks wrong (silence, a skipped delivery, a lost connection)
it is thrown away and a new one starts right after the last event that was handed out.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from nats import errors
from nats.aio.subscription import Subscription
from nats.js.errors import APIError

from ridges.chassis.jetstream.asking import STATUS_LINE
from ridges.chassis.jetstream.client import LogClient, parsed_headers
from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.jetstream.reading import facts_of
from ridges.chassis.jetstream.streams import NS_PER_S
from ridges.chassis.ports import EventStoreUnavailable
from ridges.contracts.subjects import ALL_EVENTS, EVENT_ID_HEADER, EVENTS_STREAM

log = structlog.get_logger(__name__)

BATCH = 500
MAX_BYTES = 4 * 1024 * 1024
PULL_EXPIRES_S = 30
HEARTBEAT_S = 2
SILENCE_S = 5.0
"""No message and no heartbeat for so long: the consumer is gone."""
RESTART_PAUSE_S = 0.2
INACTIVE_S = 120
HEARTBEAT = "100"
_ID_MARK = EVENT_ID_HEADER.encode() + b": "

_Arrived = tuple[bytes, bytes, bytes | None]
"""(reply subject, content, header block)."""


class FedMessage(msgspec.Struct, frozen=True):
    """A message of the log, not yet decoded."""

    position: int
    content: bytes
    pending: int
    """How many more the consumer had when it delivered this one."""


class Outcome(Enum):
    PULL_AGAIN = auto()
    RESTART = auto()
    GO_ON = auto()


class Feed:
    """Messages after a position, of some subjects."""

    def __init__(
        self,
        connection: Connection,
        after: int,
        subjects: list[str],
        skip: Callable[[bytes], bool] | None = None,
    ) -> None:
        """``skip`` is asked with the event id of each message whether to leave it out."""
        self._connection = connection
        self._position = after
        self._subjects = subjects or [ALL_EVENTS]
        self._skip = skip

    async def messages(self, *, until_idle: bool = False) -> AsyncGenerator[FedMessage, None]:
        """For ever, or until there is no further one for the moment."""
        while True:
            await self._connection.ready()
            try:
                consumer = await _Consumer.start(self._connection, self._position + 1, self._subjects, self._skip)
            except (errors.Error, APIError, EventStoreUnavailable, OSError) as error:
                log.debug("cannot follow the log yet", error=repr(error))
                await asyncio.sleep(RESTART_PAUSE_S)
                continue
            try:
                if until_idle and not consumer.pending:
                    return
                async for arrived in consumer.messages():
                    for message in arrived:
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

    def __init__(
        self,
        connection: Connection,
        client: LogClient,
        name: str,
        skip: Callable[[bytes], bool] | None,
    ) -> None:
        self._connection, self._client, self._name, self._skip = connection, client, name, skip
        self._inbox = client.new_inbox()
        self._arrived: deque[_Arrived] = deque()
        self._wake = asyncio.Event()
        self._interrupted = False
        self._subscription: Subscription | None = None
        self._delivered = 0
        self._left = 0
        """How many messages the last pull may still bring."""
        self.pending = 0
        """How many messages waited when it started."""

    @classmethod
    async def start(
        cls,
        connection: Connection,
        first: int,
        subjects: list[str],
        skip: Callable[[bytes], bool] | None,
    ) -> "_Consumer":
        consumer = cls(connection, connection.client, f"feed-{uuid4().hex}", skip)
        connection.reconnected.add(consumer.interrupt)
        try:
            await consumer._open(first, subjects)
        except BaseException:
            await consumer.end()
            raise
        return consumer

    async def _open(self, first: int, subjects: list[str]) -> None:
        self._subscription = await self._client.listen(self._inbox, self._on_message)
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
        self._interrupted = True
        self._wake.set()

    async def messages(self) -> AsyncIterator[list[FedMessage]]:
        """All that has arrived, whenever something has. Until something looks wrong."""
        outcome = Outcome.PULL_AGAIN
        while not self._interrupted:
            if outcome is Outcome.PULL_AGAIN:
                await self._pull()
            if not self._arrived and not await self._something():
                return
            fed, outcome = self._take()
            if fed:
                yield fed
            if outcome is Outcome.RESTART:
                return

    async def _something(self) -> bool:
        """Whether anything comes before the silence is too long."""
        self._wake.clear()
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def _take(self) -> "tuple[list[FedMessage], Outcome]":
        """Of what has arrived, all up to the end of the pull or up to what looks wrong."""
        fed: list[FedMessage] = []
        while self._arrived:
            reply, content, headers = self._arrived.popleft()
            if headers is not None and headers.startswith(STATUS_LINE):
                told = parsed_headers(headers)
                outcome = outcome_of(told["Status"], told.get("Description", ""))
                if outcome is Outcome.GO_ON:
                    continue
                return fed, outcome
            about = facts_of(reply.decode())
            if about.delivered != self._delivered + 1:
                return fed, Outcome.RESTART
            self._delivered = about.delivered
            if self._skip is None or headers is None or not self._skip(_event_id(headers)):
                fed.append(FedMessage(about.position, content, about.pending))
            self._left -= 1
            if not self._left:
                return fed, Outcome.PULL_AGAIN
        return fed, Outcome.GO_ON

    async def _pull(self) -> None:
        patience = {"expires": PULL_EXPIRES_S * NS_PER_S, "idle_heartbeat": HEARTBEAT_S * NS_PER_S}
        request = {"batch": BATCH, "max_bytes": MAX_BYTES, **patience}
        self._left = BATCH
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._name}"
        with suppress(errors.Error):  # then silence ends this consumer
            await self._client.publish(subject, msgspec.json.encode(request), reply=self._inbox)

    async def end(self) -> None:
        self._connection.reconnected.discard(self.interrupt)
        with suppress(errors.Error, OSError):
            if self._subscription is not None:
                await self._client.unlisten(self._subscription)
            if self._client.is_connected:
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.{self._name}")

    def _on_message(self, _subject: bytes, reply: bytes, content: bytes, headers: bytes | None) -> None:
        self._arrived.append((reply, content, headers))
        self._wake.set()


def _event_id(headers: bytes) -> bytes:
    at = headers.find(_ID_MARK)
    return b"" if at < 0 else headers[at + len(_ID_MARK) : headers.find(b"\r\n", at)]


def outcome_of(status: str, description: str) -> Outcome:
    """What a status of the server means for the pull that is under way.

    Source: nats-server ends a pull by 408 (time), 404 (nothing there) or 409 (bytes). It also tells by 409 that a batch
    is complete, which its count has told before; by any other status, that the consumer is not well.
    """
    told = description.lower()
    if status == HEARTBEAT or (status == "409" and "batch completed" in told):
        return Outcome.GO_ON
    if status in ("404", "408") or (status == "409" and "maxbytes" in told):
        return Outcome.PULL_AGAIN
    return Outcome.RESTART
