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
        self._unused: list[_Inbox] = []

    async def inbox(self, client: Client) -> "_Inbox":
        """Where one pull is answered: of an earlier pull that got its message, or a new one."""
        while self._unused:
            inbox = self._unused.pop()
            if inbox.client is client and inbox.arrived.empty():
                return inbox
            await inbox.give_back(self)
        return await _Inbox.opened(client)

    def no_longer_used(self, inbox: "_Inbox") -> None:
        """Its pull got what it had asked for: nothing more comes."""
        self._unused.append(inbox)

    async def close(self) -> None:
        """Nobody pulls any more."""
        while self._unused:
            await self._unused.pop().end()

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
        pull = _Pull(self._consumer, await self._consumer.inbox(client))
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


class _Inbox:
    """A subscription, for one pull at a time."""

    def __init__(self, client: Client, subject: str) -> None:
        self.client, self.subject = client, subject
        self.arrived: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._subscription: Subscription | None = None

    @classmethod
    async def opened(cls, client: Client) -> "_Inbox":
        inbox = cls(client, client.new_inbox())
        inbox._subscription = await client.subscribe(inbox.subject, cb=inbox._on_message, pending_bytes_limit=0)
        return inbox

    async def give_back(self, consumer: DurableConsumer) -> None:
        """End it. What arrives although nobody waits for it any more is for another consumer, at once."""
        with suppress(errors.Error, OSError, TimeoutError):
            if self._subscription is not None and self.client.is_connected:
                await self._subscription.drain()  # type: ignore[no-untyped-call]
                while not self.arrived.empty():
                    message = self.arrived.get_nowait()
                    if message is not None and (message.headers or {}).get("Status") is None:
                        await JetStreamDelivery(consumer, message).again(0)
                self._subscription = None

    async def end(self) -> None:
        with suppress(errors.Error, OSError):
            if self._subscription is not None and not self.client.is_closed:
                await self._subscription.unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        self.arrived.put_nowait(message)


class _Pull:
    """One request for one message."""

    def __init__(self, consumer: DurableConsumer, inbox: _Inbox) -> None:
        self._consumer, self._inbox = consumer, inbox
        self._answered = False

    async def ask(self) -> None:
        request = {"batch": 1, "expires": PULL_EXPIRES_S * NS_PER_S, "idle_heartbeat": HEARTBEAT_S * NS_PER_S}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._consumer.queue}"
        await self._inbox.client.publish(subject, msgspec.json.encode(request), reply=self._inbox.subject)

    async def answer(self) -> "JetStreamDelivery | None":
        """The message; None when it is time to ask again."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    message = await self._inbox.arrived.get()
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
                self._answered = True
                return JetStreamDelivery(self._consumer, message)
            if status != "408":
                self._consumer.doubt()
                await asyncio.sleep(RETRY_PAUSE_S)
            return None

    def interrupt(self) -> None:
        """The server forgot the request."""
        self._inbox.arrived.put_nowait(None)

    async def give_back(self) -> None:
        """What arrives although nobody waits for it any more is for another consumer, at once."""
        await self._inbox.give_back(self._consumer)

    async def end(self) -> None:
        if self._answered:
            self._consumer.no_longer_used(self._inbox)
        else:
            await self._inbox.end()


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
