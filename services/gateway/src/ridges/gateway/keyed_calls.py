"""Calls with an ``Idempotency-Key``: the same key of a run is one call, one bill, equal answers, also after a restart.

Calls without a key pass through. The log knows the keys (InferenceReserved) and where the answers are (InferenceMade).
A call that failed frees its key: asking again is a new call.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from ridges.chassis.ports import Clock, EventStoreUnavailable
from ridges.gateway.calls import ModelCall
from ridges.gateway.contents import Contents
from ridges.gateway.domain import KeyedCall
from ridges.gateway.errors import GatewayError, KeyReused, LogUnavailable, ReplyNotKept, StillInFlight
from ridges.gateway.pipeline import Pipeline
from ridges.gateway.reservations import KeyTaken
from ridges.gateway.run_states import RunStates
from ridges.gateway.sse import DONE, SseRelay

Reply = TypeVar("Reply")

LOOK_AGAIN_S = 1.0


class _InFlight:
    """The first call under a key in this gateway, for those who wait for it."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.over = asyncio.Event()
        self.answer: bytes | None = None
        """The provider's body, or all that a stream sent; none when the caller left."""
        self.failure: GatewayError | None = None


class KeyedCalls:
    """Stands before the pipeline."""

    def __init__(
        self, pipeline: Pipeline, states: RunStates, contents: Contents, clock: Clock, *, longest_call_s: float
    ) -> None:
        self._pipeline, self._states, self._contents, self._clock = pipeline, states, contents, clock
        self._longest_call_s = longest_call_s
        self._in_flight: dict[tuple[str, str], _InFlight] = {}

    async def complete(self, run_id: str, call: ModelCall, accept: Callable[[bytes], Reply]) -> tuple[bytes, Reply]:
        """Like ``Pipeline.complete``; a call that stands under its key already is answered with that one's answer.

        Raises:
            GatewayError: of the call, or KeyReused, ReplyNotKept, StillInFlight.

        """
        if call.idempotency_key is None:
            return await self._pipeline.complete(run_id, call, accept)
        while (first := self._first(run_id, call)) is not None:
            answer = await self._answer_of(first)
            if answer is not None:
                return answer, accept(answer)
        mine = self._begin(run_id, call)
        try:
            mine.answer, reply = await self._pipeline.complete(run_id, call, accept)
            return mine.answer, reply
        except KeyTaken as taken:
            mine.answer = await self._recorded(run_id, call, taken.call, mine)
            return mine.answer, accept(mine.answer)
        except GatewayError as failure:
            mine.failure = failure
            raise
        finally:
            self._end(run_id, call, mine)

    def stream(self, run_id: str, call: ModelCall) -> AsyncGenerator[bytes, None]:
        """Like ``Pipeline.stream``, in the same way."""
        return self._pipeline.stream(run_id, call) if call.idempotency_key is None else self._stream(run_id, call)

    async def _stream(self, run_id: str, call: ModelCall) -> AsyncGenerator[bytes, None]:
        while (first := self._first(run_id, call)) is not None:
            answer = await self._answer_of(first)
            if answer is not None:
                yield answer
                return
        mine = self._begin(run_id, call)
        sent: list[bytes] = []
        try:
            async with aclosing(self._pipeline.stream(run_id, call)) as events:
                async for event in events:
                    if event == DONE:
                        mine.answer = b"".join([*sent, DONE])
                    sent.append(event)
                    yield event
        except KeyTaken as taken:
            received = await self._recorded(run_id, call, taken.call, mine)
            mine.answer = SseRelay(keep_usage=call.keep_usage).feed(received + b"\n\n") + DONE
            yield mine.answer
        except GatewayError as failure:
            mine.failure = failure
            raise
        finally:
            self._end(run_id, call, mine)

    def _first(self, run_id: str, call: ModelCall) -> _InFlight | None:
        assert call.idempotency_key is not None
        first = self._in_flight.get((run_id, call.idempotency_key))
        if first is not None and first.digest != call.digest():
            raise KeyReused(call.idempotency_key)
        return first

    def _begin(self, run_id: str, call: ModelCall) -> _InFlight:
        assert call.idempotency_key is not None
        mine = self._in_flight[run_id, call.idempotency_key] = _InFlight(call.digest())
        return mine

    def _end(self, run_id: str, call: ModelCall, mine: _InFlight) -> None:
        assert call.idempotency_key is not None
        del self._in_flight[run_id, call.idempotency_key]
        mine.over.set()

    async def _answer_of(self, first: _InFlight) -> bytes | None:
        """None when its caller left before the answer came: then somebody else must ask."""
        await first.over.wait()
        if first.failure is not None:
            raise first.failure
        return first.answer

    async def _recorded(self, run_id: str, call: ModelCall, known: KeyedCall, mine: _InFlight) -> bytes:
        """The answer that the log leads to, once there is one."""
        key = call.idempotency_key
        assert key is not None
        try:
            if known.digest is not None and known.digest != mine.digest:
                raise KeyReused(key)
            known = await self._ended(run_id, key, known)
            answer = await self._contents.read(known.reply) if known.reply is not None else None
            if answer is None:
                raise ReplyNotKept(key)
        except GatewayError as failure:
            mine.failure = failure
            raise
        return answer

    async def _ended(self, run_id: str, key: str, known: KeyedCall) -> KeyedCall:
        """Waits for a call in flight in another gateway."""
        give_up_at = self._clock.monotonic() + self._longest_call_s
        while not known.answered:
            try:
                view = await self._states.view(run_id)
            except EventStoreUnavailable as error:
                raise LogUnavailable from error
            current = view.spending.keyed.get(key) if view is not None else None
            if current is None or view is None or self._clock.monotonic() > give_up_at:
                raise StillInFlight(key)
            if not current.answered:
                await view.change(LOOK_AGAIN_S)
            known = current
        return known
