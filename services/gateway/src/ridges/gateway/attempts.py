"""One provider after the other until one answers: failover inside one deadline, unseen by the caller."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

import msgspec
from msgspec import Raw

from ridges.chassis.ports import Clock
from ridges.contracts.usage import TokenUsage
from ridges.gateway.calls import UNREADABLE, MalformedReply, upstream_body
from ridges.gateway.errors import ProviderFailed
from ridges.gateway.ports import Path, ProviderReply, ProviderStream, ProviderTooSlow, ProviderUnreachable
from ridges.gateway.records import CallRecord
from ridges.gateway.roster import NoneUsable, Offer, Roster
from ridges.gateway.sse import BrokenStream, SseRelay, generated_bytes, reply_bytes
from ridges.gateway.usage_parsing import parse_usage

FAILOVER = frozenset({401, 402, 403, 404, 408, 425, 429})
"""Answers (besides 5xx) that speak of this provider, not of the request: another one may do better."""
REFUSES_US = frozenset({401, 402, 403, 408})
TEXT_CHARS = 2_000

Reply = TypeVar("Reply")


class StreamCut(Exception):
    """A stream broke after its first event: the caller has seen a part of it."""

    def __init__(self, failure: ProviderFailed) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class _Next(Exception):
    """The attempt failed, another provider may be asked."""

    def __init__(self, failure: ProviderFailed) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class _Envelope(msgspec.Struct):
    usage: Raw = Raw(b"null")


class _ErrorObject(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorObject


class Attempts:
    """Sends calls to providers and keeps the record of each attempt."""

    def __init__(self, roster: Roster, clock: Clock, *, stream_idle_s: float) -> None:
        self._roster, self._clock, self._stream_idle_s = roster, clock, stream_idle_s

    async def send(self, record: CallRecord, deadline: float, accept: Callable[[bytes], Reply]) -> tuple[bytes, Reply]:
        """The first good answer: its body and what the dialect makes of it.

        Raises:
            ProviderFailed: nobody answered; the status and text are the last provider's.

        """
        tried: set[str] = set()
        last: ProviderFailed | None = None
        while True:
            offer, body = await self._next(record, tried, deadline, last)
            try:
                return await self._send_once(record, offer, body, deadline, accept)
            except _Next as failed:
                last = failed.failure
            finally:
                self._left(record, offer)

    async def stream(
        self, record: CallRecord, relay: Callable[[], SseRelay], deadline: float
    ) -> AsyncGenerator[bytes, None]:
        """The events of the first good stream; before its first event failures stay unseen.

        Raises:
            ProviderFailed: nobody answered, nothing was sent.
            StreamCut: it broke in the middle.

        """
        tried: set[str] = set()
        last: ProviderFailed | None = None
        while True:
            offer, body = await self._next(record, tried, deadline, last)
            reading = relay()
            try:
                async with aclosing(self._stream_once(record, offer, body, deadline, reading)) as once:
                    async for events in once:
                        yield events
                return
            except _Next as failed:
                if reading.received:
                    raise StreamCut(failed.failure) from failed
                last = failed.failure
            finally:
                if record.is_open:
                    record.generated(generated_bytes(reading.received))
                self._left(record, offer)

    def _left(self, record: CallRecord, offer: Offer) -> None:
        """Also when the attempt was cancelled in the middle: then it is still open."""
        if record.is_open:
            record.abandon()
            self._roster.said_nothing(offer)
        self._roster.give_back(offer)

    async def _next(
        self, record: CallRecord, tried: set[str], deadline: float, last: ProviderFailed | None
    ) -> tuple[Offer, bytes]:
        call = record.call
        offers = self._roster.offers(call.model, call.kind)
        affordable, output_limit = record.next_output_limit()
        in_time = self._clock.monotonic() < deadline
        if last is not None and not (affordable and in_time and any(o.provider.name not in tried for o in offers)):
            raise last
        try:
            offer = await self._roster.take(offers, tried, deadline)
        except NoneUsable as resting:
            raise last or ProviderFailed(
                503,
                f"No provider of the model {call.model} can be used right now (each has failed or asked for patience).",
                resting.usable_in_s,
            ) from resting
        tried.add(offer.provider.name)
        record.begin(offer)
        return offer, upstream_body(call, offer.model.served, output_limit)

    async def _send_once(
        self, record: CallRecord, offer: Offer, body: bytes, deadline: float, accept: Callable[[bytes], Reply]
    ) -> tuple[bytes, Reply]:
        path: Path = "chat/completions" if record.call.kind == "chat" else "embeddings"
        try:
            reply = await offer.adapter.send(path, body, self._timeout_s(offer, deadline))
        except (ProviderUnreachable, ProviderTooSlow) as error:
            raise self._gone(record, offer, error) from error
        if reply.status != 200:
            raise self._refused(record, offer, reply)
        usage = _usage_of(reply.body)
        try:
            accepted = accept(reply.body)
        except MalformedReply as error:
            raise self._malformed(record, offer, _error_text(reply.body) or str(error), usage) from error
        record.generated(reply_bytes(reply.body) if usage is None else 0)
        record.end("ok", status=200, usage=usage)
        self._roster.went_well(offer)
        return reply.body, accepted

    async def _stream_once(
        self, record: CallRecord, offer: Offer, body: bytes, deadline: float, relay: SseRelay
    ) -> AsyncGenerator[bytes, None]:
        timeout_s = self._timeout_s(offer, deadline)
        try:
            async with offer.adapter.stream(body, timeout_s, min(self._stream_idle_s, timeout_s)) as upstream:
                if upstream.status != 200:
                    raise self._refused(record, offer, await _buffered(upstream))
                async for chunk in upstream.chunks():
                    if events := relay.feed(chunk):
                        record.first_token()
                        yield events
                    if relay.done:
                        break
                    if self._clock.monotonic() > deadline:
                        raise ProviderTooSlow("the deadline of the call passed")
                if events := relay.end():
                    yield events
        except BrokenStream as error:
            record.generated(generated_bytes(relay.received))
            raise self._malformed(record, offer, str(error), relay.usage, cut=bool(relay.received)) from error
        except (ProviderUnreachable, ProviderTooSlow) as error:
            record.generated(generated_bytes(relay.received))
            raise self._gone(record, offer, error, relay) from error
        record.generated(generated_bytes(relay.received) if relay.usage is None else 0)
        if not relay.finished:
            raise self._gone(record, offer, ProviderUnreachable("the stream ended before the answer was whole"), relay)
        record.end("ok", status=200, usage=relay.usage)
        self._roster.went_well(offer)

    def _timeout_s(self, offer: Offer, deadline: float) -> float:
        return max(0.001, min(offer.provider.timeout_s, deadline - self._clock.monotonic()))

    def _gone(
        self,
        record: CallRecord,
        offer: Offer,
        error: ProviderUnreachable | ProviderTooSlow,
        relay: SseRelay | None = None,
    ) -> _Next:
        self._roster.went_wrong(offer)
        usage = relay.usage if relay else None
        slow = isinstance(error, ProviderTooSlow)
        if relay and relay.received:
            record.end("cut", status=200, usage=usage, detail=str(error))
        else:
            record.end("timeout" if slow else "connect_error", usage=usage, detail=str(error))
        what = "did not answer in time" if slow else "could not be reached"
        return _Next(ProviderFailed(504 if slow else 502, _told(offer, what, "timeout" if slow else "connect", error)))

    def _malformed(
        self, record: CallRecord, offer: Offer, detail: str, usage: TokenUsage | None, *, cut: bool = False
    ) -> _Next:
        self._roster.went_wrong(offer)
        record.end("cut" if cut else "malformed", status=200, usage=usage, detail=detail)
        return _Next(ProviderFailed(502, _told(offer, "sent a malformed answer", "malformed", detail)))

    def _refused(self, record: CallRecord, offer: Offer, reply: ProviderReply) -> Exception:
        """The failure to raise: ``_Next`` when another provider may do better, else final."""
        text = _text_of(reply.body)
        record.end("http_error", status=reply.status, detail=text)
        if reply.status == 429 or (reply.status == 503 and reply.retry_after_s is not None):
            self._roster.asked_for_patience(offer, reply.retry_after_s)
        elif reply.status >= 500 or reply.status in REFUSES_US or reply.status < 400:
            self._roster.went_wrong(offer)
        else:
            self._roster.went_well(offer)
        status = reply.status if reply.status >= 400 else 502
        failure = ProviderFailed(
            status, _told(offer, "answered with an error", reply.status, text), reply.retry_after_s
        )
        return _Next(failure) if status >= 500 or status in FAILOVER else failure


def _told(offer: Offer, what: str, code: object, text: object) -> str:
    return f"The provider {offer.provider.name} {what} for the model {offer.model.name} (code: {code}): {text}"


def _text_of(body: bytes) -> str:
    """The message of an OpenAI-style error, else the text itself."""
    text = _error_text(body) or body[: 4 * TEXT_CHARS].decode(errors="replace")
    return text[:TEXT_CHARS].strip() or "(no text)"


def _error_text(body: bytes) -> str | None:
    """Some providers put an error object into a 200."""
    try:
        return msgspec.json.decode(body, type=_ErrorBody).error.message[:TEXT_CHARS]
    except UNREADABLE:
        return None


def _usage_of(body: bytes) -> TokenUsage | None:
    try:
        return parse_usage(msgspec.json.decode(body, type=_Envelope).usage)
    except UNREADABLE:
        return None


async def _buffered(stream: ProviderStream) -> ProviderReply:
    return ProviderReply(status=stream.status, body=await stream.body(), retry_after_s=stream.retry_after_s)
