"""The NATS ingress: requests that users publish themselves. Each is carried out or refused with its reason."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.security import SASLPlaintext
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from ridges.chassis.jetstream.denials import Denials
from ridges.chassis.jetstream.inboxes import SHARED_INBOX
from ridges.chassis.jetstream.place import Place
from ridges.chassis.ports import Clock, EventRefused, EventStoreUnavailable, LogMismatch
from ridges.contracts.requests import CancelRun, RequestAnswer, RequestRun
from ridges.contracts.subjects import ALL_INGRESS, INGRESS_RUN_CANCELLED, INGRESS_RUN_REQUESTED, INGRESS_STREAM
from ridges.ledger.domain import KEY_HEADER, delivery_key
from ridges.ledger.errors import LedgerError, RequestRefused
from ridges.ledger.handlers import Accepted, RunRequests
from ridges.ledger.refusals import Refusals

log = structlog.get_logger(__name__)

DURABLE = "ledger"
REPLY_HEADER = "Ridges-Reply-To"
INBOX_PREFIX = f"{SHARED_INBOX}."
"""Of who asks; services have inboxes of their own, where nobody's answer is sent."""
ACK_WAIT_S = 6.0
"""After which the messages of a ledger that was killed are delivered again."""
HEARTBEAT_S = 2.0
FETCH_TIMEOUT_S = 2.0
CONNECT_RETRY_S = 1.0
WATCH_S = 5.0
RETRY_DELAY_S = 2.0
"""Until a request is tried again when the log did not answer: for ever, as nothing else may be done with it."""


Command = TypeVar("Command", RequestRun, CancelRun)


class Ingress:
    """The consumer of the INGRESS work queue."""

    def __init__(
        self,
        *,
        url: str,
        user: str | None,
        password: str | None,
        requests: RunRequests,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._requests, self._refusals, self._clock = requests, refusals, clock
        prefix = Place(url=url, name="ledger-ingress", user=user).inbox_prefix
        security = SASLPlaintext(username=user, password=password or "") if user else None
        self._denials = Denials(user, "it must be the ledger's own, as ridges.chassis.jetstream.permissions writes it")
        self._broker = NatsBroker(
            url,
            error_cb=self._denials.on_error,
            name="ledger-ingress",
            inbox_prefix=prefix,
            security=security,
            max_reconnect_attempts=-1,
            reconnect_time_wait=CONNECT_RETRY_S,  # type: ignore[arg-type]  # seconds; nats-py takes fractions
            logger=None,
        )
        self._broker.subscriber(
            ALL_INGRESS,
            # The stream is declared by the migrate step: declaring it here would rewrite its configuration.
            stream=JStream(INGRESS_STREAM, declare=False),
            durable=DURABLE,
            inbox_prefix=f"{prefix}.".encode(),
            pull_sub=PullSub(batch_size=8, timeout=FETCH_TIMEOUT_S),
            config=ConsumerConfig(ack_wait=ACK_WAIT_S, max_deliver=-1),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            decoder=_raw,
        )(self.on_message)
        self._trouble: str | None = f"no connection to {url} yet; start nats-server"

    async def run(self) -> None:
        """Consume until cancelled; waits for the server and for the migrate step."""
        try:
            while True:
                try:
                    await self._denials.heeded(self._consume())
                except EventRefused as error:
                    self._trouble = f"stream {INGRESS_STREAM}: {error}"
                except (OSError, NatsError, TimeoutError) as error:
                    self._trouble = f"stream {INGRESS_STREAM}: {error!s}; start nats-server and run the migrate step"
                await self._broker.stop()
                await asyncio.sleep(CONNECT_RETRY_S)
        finally:
            await self.stop()

    async def _consume(self) -> None:
        await self._broker.start()
        self._trouble = None
        await self._until_consumer_is_gone()

    async def _until_consumer_is_gone(self) -> None:
        """Somebody may delete the durable consumer, or the stream with it: then everything is set up again.

        Raises:
            NotFoundError: it is gone.

        """
        client = await self._broker.connect()
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await client.jetstream().consumer_info(INGRESS_STREAM, DURABLE)
            except NotFoundError:
                raise
            except (NatsError, TimeoutError):  # the connection is away: it comes back by itself
                continue

    async def stop(self) -> None:
        """Take no further message; what is in progress is finished."""
        await self._broker.stop()

    async def check(self) -> None:
        """Returns when messages are consumed. Raises LedgerError otherwise (for /readyz)."""
        if self._trouble is not None:
            raise LedgerError(self._trouble)

    async def on_message(self, content: bytes, message: NatsMessage) -> None:
        """Carry out one request, answer it, then acknowledge it."""
        heartbeats = asyncio.create_task(_heartbeats(message))
        try:
            await self._settle(content, message)
        finally:
            heartbeats.cancel()

    async def _settle(self, content: bytes, message: NatsMessage) -> None:
        raw = message.raw_message
        delivery = _delivery_of(message)
        try:
            _check_reply_subject(message)
            accepted = await self._carry_out(raw.subject, content, message.headers.get(KEY_HEADER) or delivery)
            answer = RequestAnswer(accepted=True, run_id=accepted.run_id)
        except (EventStoreUnavailable, LogMismatch, OSError) as error:
            log.warning("an ingress request waits for the log or the blob store", subject=raw.subject, error=str(error))
            await message.nack(delay=RETRY_DELAY_S)
            return
        except LedgerError as error:
            answer = self._refuse(raw.subject, content, delivery, error)
        except Exception as error:
            log.exception("an ingress request failed", subject=raw.subject)
            answer = self._refuse(raw.subject, content, delivery, LedgerError(f"internal error: {error!r}"))
        await self._answer(message, answer)
        await message.ack_sync()

    async def _carry_out(self, subject: str, content: bytes, key: str) -> Accepted:
        if subject == INGRESS_RUN_REQUESTED:
            return await self._requests.request_run(_decoded(content, RequestRun), idempotency_key=key)
        if subject == INGRESS_RUN_CANCELLED:
            return await self._requests.cancel_run(_decoded(content, CancelRun))
        raise RequestRefused(
            f"nothing is listening on {subject}; publish on {INGRESS_RUN_REQUESTED} or {INGRESS_RUN_CANCELLED}",
            status=404,
        )

    def _refuse(self, subject: str, content: bytes, delivery: str, error: LedgerError) -> RequestAnswer:
        now, reason = self._clock.now(), str(error)
        self._refusals.record(delivery=delivery, received_at=now, subject=subject, reason=reason, content=content)
        log.warning("an ingress request was refused", subject=subject, reason=reason)
        return RequestAnswer(
            accepted=False, reason=reason, code=error.code if isinstance(error, RequestRefused) else None
        )

    async def _answer(self, message: NatsMessage, answer: RequestAnswer) -> None:
        reply_to = message.headers.get(REPLY_HEADER, "")
        if not reply_to.startswith(INBOX_PREFIX):
            return
        try:
            await self._broker.publish(msgspec.json.encode(answer), reply_to)
        except (NatsError, ValueError) as error:
            log.warning("cannot answer an ingress request", reply_to=reply_to, error=str(error))


def _check_reply_subject(message: NatsMessage) -> None:
    """The ledger may write where who asks may not: an answer there would be taken for the ledger's own word."""
    reply_to = message.headers.get(REPLY_HEADER)
    if reply_to and not reply_to.startswith(INBOX_PREFIX):
        raise RequestRefused(
            f"{REPLY_HEADER} is {reply_to!r}, which is no inbox; name one that begins with {INBOX_PREFIX}, or none",
            status=422,
        )


async def _heartbeats(message: NatsMessage) -> None:
    with suppress(NatsError):
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await message.in_progress()


async def _raw(message: NatsMessage) -> bytes:
    return message.body


def _decoded(content: bytes, kind: type[Command]) -> Command:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestRefused(f"the message is no {kind.__name__}: {error}", status=422) from error


def _delivery_of(message: NatsMessage) -> str:
    metadata = message.raw_message.metadata
    return delivery_key(metadata.sequence.stream, metadata.timestamp or datetime.fromtimestamp(0, UTC))
