"""One provider after the other until one answers: failover inside one deadline, unseen by the caller.

With ``hedge_after_s`` a second provider is asked beside one that is slow; the first good answer wins, the other
attempt is ended, and both are charged.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from ridges.chassis.ports import Clock
from ridges.contracts.usage import TokenUsage
from ridges.gateway.answers import (
    REFUSES_US,
    AskAnother,
    StreamCut,
    error_text,
    failure_of,
    refusal_of,
    text_of,
)
from ridges.gateway.calls import MalformedReply, upstream_body
from ridges.gateway.errors import ProviderFailed
from ridges.gateway.incoming import Incoming
from ridges.gateway.ports import (
    AnswerCut,
    Outlet,
    Path,
    ProviderReply,
    ProviderStream,
    ProviderTooSlow,
    ProviderUnreachable,
)
from ridges.gateway.records import CallRecord
from ridges.gateway.roster import NoneUsable, Roster, Turn
from ridges.gateway.sse import BrokenStream, SseRelay, generated_text, reply_text
from ridges.gateway.usage_parsing import has_output, usage_in

Reply = TypeVar("Reply")
Answer = TypeVar("Answer")


class _Ask:
    """One attempt: where it goes, what it sends, what has come."""

    def __init__(self, record: CallRecord, turn: Turn, output_limit: int, deadline: float) -> None:
        offer = turn.offer
        self.turn = turn
        self.attempt = record.begin(offer, output_limit)
        told = record.told_limit(output_limit)
        self.body = upstream_body(record.call, offer.model.served, told, offer.provider.output_limit_field)
        self.deadline = min(deadline, self.attempt.began_at + offer.provider.timeout_s)
        self.relay = SseRelay(keep_usage=record.call.keep_usage, answers=record.call.answers)
        self.stack = AsyncExitStack()
        """Of a stream: what ends it."""

    def left(self, record: CallRecord) -> None:
        """Also when it was cancelled in the middle: then the attempt is still open."""
        if self.attempt.ended is None:
            self.attempt.generated(generated_text(self.relay.received))
            why = "another provider answered first" if record.answered else "the caller closed the connection"
            self.attempt.end("abandoned", detail=why)
            self.turn.said_nothing()
        self.turn.give_back()


class Attempts:
    """Sends calls to providers and keeps the record of each attempt."""

    def __init__(
        self, roster: Roster, clock: Clock, *, stream_idle_s: float, hedge_after_s: float | None = None
    ) -> None:
        self._roster, self._clock = roster, clock
        self._stream_idle_s, self._hedge_after_s = stream_idle_s, hedge_after_s

    async def send(self, record: CallRecord, deadline: float, accept: Callable[[bytes], Reply]) -> tuple[bytes, Reply]:
        """The first good answer: its body and what the dialect makes of it.

        Raises:
            ProviderFailed: nobody answered; the status and text are the last provider's.

        """
        tried: set[str] = set()
        last: ProviderFailed | None = None
        while True:
            ask = await self._next(record, tried, deadline, last)
            asks = [ask]
            try:
                if self._hedge_after_s is None:
                    return await self._send_once(record, ask, accept)
                return (await self._race(record, asks, tried, lambda one: self._send_once(record, one, accept)))[1]
            except AskAnother as failed:
                last = failed.failure
            finally:
                for one in asks:
                    one.left(record)

    async def stream(self, record: CallRecord, deadline: float, out: Outlet) -> None:
        """Sends on the events of the first good stream; before its first event failures stay unseen.

        Raises:
            ProviderFailed: nobody answered, nothing was sent.
            StreamCut: it broke in the middle.

        """
        tried: set[str] = set()
        last: ProviderFailed | None = None
        while True:
            ask = await self._next(record, tried, deadline, last)
            asks = [ask]
            try:
                if self._hedge_after_s is None:
                    incoming = await self._first_events(ask)
                else:
                    ask, incoming = await self._race(record, asks, tried, self._first_events)
                record.received = ask.relay.received
                await self._send_on(ask, incoming, out)
                return
            except AskAnother as failed:
                if out.begun:
                    raise StreamCut(failed.failure) from failed
                last = failed.failure
            finally:
                for one in asks:
                    await one.stack.aclose()
                    one.left(record)

    async def _next(self, record: CallRecord, tried: set[str], deadline: float, last: ProviderFailed | None) -> _Ask:
        affordable, output_limit = record.next_output_limit()
        in_time = self._clock.monotonic() < deadline
        untried = any(offer.provider.name not in tried for offer in record.offers)
        if last is not None and not (affordable and in_time and untried):
            raise last
        try:
            turn = await self._roster.take(record.offers, tried, deadline, record.run_id)
        except NoneUsable as resting:
            raise last or ProviderFailed(
                503,
                f"No provider of the model {record.call.model} can be used right now (each has failed, asked for "
                "patience or is full).",
                resting.usable_in_s,
            ) from resting
        tried.add(turn.offer.provider.name)
        return _Ask(record, turn, output_limit, deadline)

    def _second(self, record: CallRecord, tried: set[str], deadline: float) -> _Ask | None:
        """An attempt beside the one that is slow, where budget and another healthy provider allow it at once."""
        affordable, output_limit = record.next_output_limit()
        turn = self._roster.take_now(record.offers, tried) if affordable else None
        if turn is None:
            return None
        tried.add(turn.offer.provider.name)
        return _Ask(record, turn, output_limit, deadline)

    async def _race(
        self,
        record: CallRecord,
        asks: list[_Ask],
        tried: set[str],
        run: Callable[[_Ask], Coroutine[Any, Any, Answer]],
    ) -> tuple[_Ask, Answer]:
        """The first good answer and who gave it. A second attempt begins when the first has been silent for too long.

        Raises:
            AskAnother: all of them failed.

        """
        running = {asyncio.ensure_future(run(asks[0])): asks[0]}
        failure: AskAnother | None = None
        try:
            done, _ = await asyncio.wait(running, timeout=self._hedge_after_s)
            if not done and (second := self._second(record, tried, asks[0].deadline)) is not None:
                asks.append(second)
                running[asyncio.ensure_future(run(second))] = second
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    ask = running.pop(ended)
                    try:
                        answer = ended.result()
                    except AskAnother as failed:
                        failure = failed
                    else:
                        record.answered = True
                        return ask, answer
        finally:
            for left in running:
                left.cancel()
            if running:
                await asyncio.wait(running)
                for left in running:
                    _ = left.cancelled() or left.exception()  # retrieved: what it was matters no more
        assert failure is not None
        raise failure

    async def _send_once(self, record: CallRecord, ask: _Ask, accept: Callable[[bytes], Reply]) -> tuple[bytes, Reply]:
        path: Path = "chat/completions" if record.call.kind == "chat" else "embeddings"
        try:
            reply = await ask.turn.adapter.send(path, ask.body, self._left_s(ask), traceparent=ask.attempt.traceparent)
        except AnswerCut as cut:
            raise _cut(ask, str(cut), reply_text(cut.received) or cut.received.decode(errors="replace")) from cut
        except (ProviderUnreachable, ProviderTooSlow) as error:
            raise _gone(ask, error) from error
        if reply.status != 200:
            raise _refused(ask, reply)
        usage = usage_in(reply.body)
        try:
            accepted = accept(reply.body)
        except MalformedReply as error:
            ask.attempt.generated(reply_text(reply.body))
            raise _malformed(ask, error_text(reply.body) or str(error), usage) from error
        if not has_output(usage):
            ask.attempt.generated(reply_text(reply.body))
        ask.attempt.end("ok", status=200, usage=usage)
        ask.turn.went_well()
        return reply.body, accepted

    async def _first_events(self, ask: _Ask) -> Incoming:
        """The stream with its first events, or whole without any; comments that keep it alive are none.

        Raises:
            AskAnother: there will be none.

        """
        provider, left_s = ask.turn.offer.provider, self._left_s(ask)
        first_s = min(provider.first_token_timeout_s or left_s, left_s)
        idle_s = min(provider.idle_timeout_s or self._stream_idle_s, left_s)
        trace = ask.attempt.traceparent
        try:
            opening = ask.turn.adapter.stream(ask.body, first_s, idle_s, traceparent=trace)
            stream = await ask.stack.enter_async_context(opening)
            if stream.status != 200:
                raise _refused(ask, await _buffered(stream))
            incoming = Incoming(stream, ask.relay, ask.attempt.first_token)
            ask.stack.push_async_callback(incoming.close)
            first_by = ask.attempt.began_at + first_s
            left_s = max(0.0, first_by - self._clock.monotonic())
            await asyncio.wait({incoming.begun}, timeout=left_s)
            if not incoming.begun.done():
                raise ProviderTooSlow(f"no token within {first_s:g} s")
            if incoming.over.done() and not incoming.holds:
                incoming.over.result()
                self._check_whole(ask)
        except (BrokenStream, AnswerCut, ProviderUnreachable, ProviderTooSlow) as error:
            raise _broken(ask, error) from error
        return incoming

    async def _send_on(self, ask: _Ask, incoming: Incoming, out: Outlet) -> None:
        """To the end of the stream. Raises AskAnother where it breaks."""
        try:
            await incoming.send_on(out)
            await asyncio.wait({incoming.over}, timeout=self._left_s(ask))
            if not incoming.over.done():
                raise ProviderTooSlow("the stream took longer than it may as a whole")
            incoming.over.result()
        except (BrokenStream, AnswerCut, ProviderUnreachable, ProviderTooSlow) as error:
            raise _broken(ask, error) from error
        self._check_whole(ask)
        relay = ask.relay
        if not has_output(relay.usage):
            ask.attempt.generated(generated_text(relay.received))
        ask.attempt.end("ok", status=200, usage=relay.usage)
        ask.turn.went_well()

    def _check_whole(self, ask: _Ask) -> None:
        if not ask.relay.finished:
            raise _cut(ask, "the stream ended before the answer was whole", generated_text(ask.relay.received))

    def _left_s(self, ask: _Ask) -> float:
        return max(0.001, ask.deadline - self._clock.monotonic())


def _broken(ask: _Ask, error: BrokenStream | AnswerCut | ProviderUnreachable | ProviderTooSlow) -> AskAnother:
    if isinstance(error, BrokenStream):
        return _malformed(ask, str(error), ask.relay.usage)
    if isinstance(error, AnswerCut):
        return _cut(ask, str(error), generated_text(ask.relay.received))
    return _gone(ask, error)


def _gone(ask: _Ask, error: ProviderUnreachable | ProviderTooSlow) -> AskAnother:
    ask.turn.went_wrong()
    slow = isinstance(error, ProviderTooSlow)
    if ask.relay.received:
        ask.attempt.generated(generated_text(ask.relay.received))
        ask.attempt.end("cut", status=200, usage=ask.relay.usage, detail=str(error))
    else:
        ask.attempt.end("timeout" if slow else "connect_error", usage=ask.relay.usage, detail=str(error))
    if slow:
        return AskAnother(failure_of(ask.turn.offer, 504, "did not answer in time", "timeout", error))
    return AskAnother(failure_of(ask.turn.offer, 502, "could not be reached", "connect", error))


def _cut(ask: _Ask, detail: str, text: str) -> AskAnother:
    """It had begun to answer, so that it bills what it made, seen or not."""
    ask.turn.went_wrong()
    ask.attempt.generated(text)
    ask.attempt.end("cut", status=200, usage=ask.relay.usage, detail=detail)
    return AskAnother(failure_of(ask.turn.offer, 502, "broke off its answer", "cut", detail))


def _malformed(ask: _Ask, detail: str, usage: TokenUsage | None) -> AskAnother:
    ask.turn.went_wrong()
    if ask.relay.received:
        ask.attempt.generated(generated_text(ask.relay.received))
    ask.attempt.end("cut" if ask.relay.received else "malformed", status=200, usage=usage, detail=detail)
    return AskAnother(failure_of(ask.turn.offer, 502, "sent a malformed answer", "malformed", detail))


def _refused(ask: _Ask, reply: ProviderReply) -> AskAnother | ProviderFailed:
    text = text_of(reply.body)
    ask.attempt.end("http_error", status=reply.status, detail=text)
    if reply.status == 429 or (reply.status == 503 and reply.retry_after_s is not None):
        ask.turn.asked_for_patience(reply.retry_after_s)
    elif reply.status >= 500 or reply.status in REFUSES_US or reply.status < 400:
        ask.turn.went_wrong()
    else:
        ask.turn.went_well()
    return refusal_of(ask.turn.offer, reply, text)


async def _buffered(stream: ProviderStream) -> ProviderReply:
    return ProviderReply(status=stream.status, body=await stream.body(), retry_after_s=stream.retry_after_s)
