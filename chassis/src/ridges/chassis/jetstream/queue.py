"""Durable queues over the stream EVENTS: one pull consumer shared by all processes that use the same queue name."""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.errors import APIError

from ridges.chassis.clock import SystemClock
from ridges.chassis.jetstream.connection import Connection, read_reply
from ridges.chassis.jetstream.reading import delivery_facts
from ridges.chassis.jetstream.streams import NS_PER_S
from ridges.chassis.ports import DeliveryPolicy, EventRefused, EventStoreUnavailable
from ridges.contracts.parked import Parked
from ridges.contracts.subjects import EVENT_ID_HEADER, EVENTS_STREAM, parked_subject

log = structlog.get_logger(__name__)

PULL_EXPIRES_S = 30
HEARTBEAT_S = 5
SILENCE_S = 12.0
RETRY_PAUSE_S = 0.2
MAX_ACK_PENDING = 10_000
"""Messages that wait for their next try count, so this is no concurrency limit."""
PARKED_CONTENT_CHARS = 65_536


class DurableConsumer:
    """The consumer on the server."""

    def __init__(self, connection: Connection, queue: str, subjects: list[str], policy: DeliveryPolicy) -> None:
        self.connection, self.queue, self.policy = connection, queue, policy
        self._subjects = subjects
        self._declared_on: Client | None = None
        self._declaring = asyncio.Lock()
        self.trouble: str | None = None

    async def declared(self) -> Client:
        """The client, once the consumer certainly exists."""
        async with self._declaring:
            await self.connection.ready()
            client = self.connection.client
            if self._declared_on is not client:
                await self._declare()
                self._declared_on = client
                self.trouble = None
            return client

    def doubt(self) -> None:
        """Declare it again before the next pull."""
        self._declared_on = None

    async def _declare(self) -> None:
        config: dict[str, Any] = {
            "durable_name": self.queue,
            "name": self.queue,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(self.policy.ack_wait_s * NS_PER_S),
            "max_deliver": -1,  # ours to count: the server would drop the message silently
            "max_ack_pending": MAX_ACK_PENDING,
            "filter_subjects": self._subjects,
        }
        await self.connection.api(
            f"CONSUMER.CREATE.{EVENTS_STREAM}.{self.queue}", {"stream_name": EVENTS_STREAM, "config": config}
        )


class PullSource:
    """One worker's source: asks for one message at a time, only while the worker is free."""

    def __init__(self, consumer: DurableConsumer) -> None:
        self._consumer = consumer

    async def fetch(self) -> "JetStreamDelivery | None":
        try:
            client = await self._consumer.declared()
            return await self._pull(client)
        except (errors.Error, APIError, EventStoreUnavailable, EventRefused, OSError) as error:
            told = str(error) or repr(error)
            if told != self._consumer.trouble:
                log.warning("the queue cannot fetch, will try again", queue=self._consumer.queue, error=told)
            self._consumer.trouble = told
            self._consumer.doubt()
            await asyncio.sleep(RETRY_PAUSE_S)
            return None

    async def _pull(self, client: Client) -> "JetStreamDelivery | None":
        pull = _Pull(self._consumer, client)
        self._consumer.connection.reconnected.add(pull.interrupt)
        try:
            await pull.ask()
            return await pull.answer()
        except asyncio.CancelledError:
            await pull.give_back()
            raise
        finally:
            self._consumer.connection.reconnected.discard(pull.interrupt)
            await pull.end()


class _Pull:
    """One request for one message."""

    def __init__(self, consumer: DurableConsumer, client: Client) -> None:
        self._consumer, self._client = consumer, client
        self._arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._subscription: Subscription | None = None

    async def ask(self) -> None:
        inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(inbox, cb=self._on_message, pending_bytes_limit=0)
        request = {"batch": 1, "expires": PULL_EXPIRES_S * NS_PER_S, "idle_heartbeat": HEARTBEAT_S * NS_PER_S}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._consumer.queue}"
        await self._client.publish(subject, msgspec.json.encode(request), reply=inbox)

    async def answer(self) -> "JetStreamDelivery | None":
        """The message; None when it is time to ask again."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    message = await self._arrived.get()
            except TimeoutError:
                self._consumer.doubt()
                return None
            if message is None:
                self._consumer.doubt()
                return None
            status = (message.headers or {}).get("Status")
            if status == "100":
                continue
            if status is None:
                return JetStreamDelivery(self._consumer, message)
            if status != "408":
                self._consumer.doubt()
                await asyncio.sleep(RETRY_PAUSE_S)
            return None

    def interrupt(self) -> None:
        """The server forgot the request."""
        self._arrived.put_nowait(None)

    async def give_back(self) -> None:
        """What arrives although nobody waits for it any more is for another consumer, at once."""
        with suppress(errors.Error, OSError, TimeoutError):
            if self._subscription is not None and self._client.is_connected:
                await self._subscription.drain()  # type: ignore[no-untyped-call]
                while not self._arrived.empty():
                    message = self._arrived.get_nowait()
                    if message is not None and (message.headers or {}).get("Status") is None:
                        await JetStreamDelivery(self._consumer, message).again(0)
                self._subscription = None

    async def end(self) -> None:
        with suppress(errors.Error, OSError):
            if self._subscription is not None and not self._client.is_closed:
                await self._subscription.unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        self._arrived.put_nowait(message)


class JetStreamDelivery:
    """A message in the hands of a worker."""

    def __init__(self, consumer: DurableConsumer, message: Msg) -> None:
        self._consumer, self._message = consumer, message
        about = delivery_facts(message)
        self.subject, self.content = message.subject, message.data
        self.deliveries, self.position = about.deliveries, about.position

    async def done(self) -> None:
        await self._tell(b"+ACK")

    async def again(self, delay_s: float) -> None:
        await self._tell(b"-NAK" + (msgspec.json.encode({"delay": int(delay_s * NS_PER_S)}) if delay_s else b""))
        if not delay_s:
            await self._consumer.connection.client.flush(2)

    async def heartbeat(self) -> None:
        await self._tell(b"+WPI")

    async def park(self, error: str) -> None:
        parked = Parked(
            queue=self._consumer.queue,
            position=self.position,
            subject=self.subject,
            error=error,
            deliveries=self.deliveries,
            parked_at=SystemClock().now(),
            content=self.content.decode(errors="replace")[:PARKED_CONTENT_CHARS],
        )
        connection = self._consumer.connection
        subject = parked_subject(parked.queue, self.subject.rpartition(".")[2])
        headers = {EVENT_ID_HEADER: f"{parked.queue}-{parked.position}"}

        async def publish() -> None:
            read_reply(await connection.request(subject, msgspec.json.encode(parked), headers=headers))

        await connection.persist(f"parking {self.subject}", publish)
        await self._tell(b"+TERM")

    async def _tell(self, word: bytes) -> None:
        await self._consumer.connection.client.publish(self._message.reply, word)
