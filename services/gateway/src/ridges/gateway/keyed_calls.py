"""Calls with an ``Idempotency-Key``: the same key of a run is one call, one bill, equal answers, also after a restart.

Calls without a key pass through. The log knows the keys (InferenceReserved) and where the answers are (InferenceMade).
A call that failed frees its key: asking again is a new call. A keyed call goes on when its caller leaves (ADR 23), so
that asking again gets its answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import structlog

from ridges.chassis.ports import Clock, EventStoreUnavailable
from ridges.gateway.calls import ModelCall
from ridges.gateway.contents import Contents
from ridges.gateway.errors import KeyReused, LogUnavailable, ReplyNotKept, StillInFlight
from ridges.gateway.idempotency_keys import KeyedCall
from ridges.gateway.pipeline import Pipeline
from ridges.gateway.ports import Outlet
from ridges.gateway.reservations import KeyTaken
from ridges.gateway.run_states import RunStates
from ridges.gateway.sse import DONE, SseRelay

log = structlog.get_logger(__name__)

Reply = TypeVar("Reply")

LOOK_AGAIN_S = 1.0
MOST_LEFT_ALONE = 200
"""Keyed calls that go on without a caller. One more is ended as calls without a key are."""


class _InFlight:
    """One call under a key in this gateway, and those who read its answer, from its beginning, as it comes."""

    begun = False

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.readers = 0
        self.parts: list[bytes] = []
        """The provider's body, or what a stream has sent so far."""
        self.task: asyncio.Task[None]
        self._news = asyncio.Event()

    async def begin(self) -> None:
        """Those who read begin by themselves."""
        self.begun = True

    def write(self, events: bytes) -> bool:
        """Never too fast: who reads slowly finds it here."""
        self.parts.append(events)
        self._wake()
        return True

    def when_read(self, then: Callable[[], None]) -> None:
        then()

    def work(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(self._over)

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Raises what the call raised."""
        read = 0
        while True:
            while read < len(self.parts):
                read += 1
                yield self.parts[read - 1]
            if self.task.done():
                self.task.result()
                return
            await self._news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _over(self, task: asyncio.Task[None]) -> None:
        _ = task.cancelled() or task.exception()  # retrieved: perhaps nobody reads it any more
        self._wake()


class KeyedCalls:
    """Stands before the pipeline."""

    def __init__(
        self, pipeline: Pipeline, states: RunStates, contents: Contents, clock: Clock, *, longest_call_s: float
    ) -> None:
        self._pipeline, self._states, self._contents, self._clock = pipeline, states, contents, clock
        self._longest_call_s = longest_call_s
        self._in_flight: dict[tuple[str, str], _InFlight] = {}
        self._left_alone: set[_InFlight] = set()

    async def complete(self, run_id: str, call: ModelCall, accept: Callable[[bytes], Reply]) -> tuple[bytes, Reply]:
        """Like ``Pipeline.complete``; a call that stands under its key already is answered with that one's answer.

        Raises:
            GatewayError: of the call, or KeyReused, ReplyNotKept, StillInFlight.

        """
        if call.idempotency_key is None:
            return await self._pipeline.complete(run_id, call, accept)
        async with aclosing(self._joined(run_id, call, lambda mine: self._ask(run_id, call, accept, mine))) as parts:
            answer = await anext(parts)
        return answer, accept(answer)

    async def stream(self, run_id: str, call: ModelCall, out: Outlet) -> None:
        """Like ``Pipeline.stream``, in the same way."""
        if call.idempotency_key is None:
            await self._pipeline.stream(run_id, call, out)
            return
        async with aclosing(self._joined(run_id, call, lambda mine: self._pump(run_id, call, mine))) as parts:
            async for part in parts:
                if not out.begun:
                    await out.begin()
                if not out.write(part):
                    read = asyncio.Event()
                    out.when_read(read.set)
                    await read.wait()

    async def _joined(
        self, run_id: str, call: ModelCall, ask: Callable[[_InFlight], Coroutine[Any, Any, None]]
    ) -> AsyncGenerator[bytes, None]:
        """What the one call under the key answers; the first who comes makes it."""
        assert call.idempotency_key is not None
        place, digest = (run_id, call.idempotency_key), call.digest()
        flight = self._in_flight.get(place)
        if flight is None:
            flight = self._in_flight[place] = _InFlight(digest)
            flight.work(ask(flight))
            flight.task.add_done_callback(lambda _: self._forget(place, flight))
        elif flight.digest != digest:
            raise KeyReused(call.idempotency_key)
        flight.readers += 1
        self._left_alone.discard(flight)
        try:
            async with aclosing(flight.read()) as parts:
                async for part in parts:
                    yield part
        finally:
            flight.readers -= 1
            if not flight.readers and not flight.task.done():
                self._leave_alone(place, flight)

    def _leave_alone(self, place: tuple[str, str], flight: _InFlight) -> None:
        if len(self._left_alone) >= MOST_LEFT_ALONE:
            self._forget(place, flight)
            flight.task.cancel()
            return
        self._left_alone.add(flight)
        log.info("a keyed call goes on without its caller", run_id=place[0])

    def _forget(self, place: tuple[str, str], flight: _InFlight) -> None:
        self._left_alone.discard(flight)
        if self._in_flight.get(place) is flight:
            del self._in_flight[place]

    async def _ask(self, run_id: str, call: ModelCall, accept: Callable[[bytes], Reply], mine: _InFlight) -> None:
        while not mine.parts:
            try:
                answer: bytes | None = (await self._pipeline.complete(run_id, call, accept))[0]
            except KeyTaken as taken:
                answer = await self._recorded(run_id, call, taken.call)
            if answer is not None:
                mine.write(answer)

    async def _pump(self, run_id: str, call: ModelCall, mine: _InFlight) -> None:
        while not mine.parts:
            try:
                await self._pipeline.stream(run_id, call, mine)
            except KeyTaken as taken:
                received = await self._recorded(run_id, call, taken.call)
                if received is not None:
                    mine.write(SseRelay(keep_usage=call.keep_usage).feed(received + b"\n\n") + DONE)

    async def _recorded(self, run_id: str, call: ModelCall, known: KeyedCall) -> bytes | None:
        """The answer that the log leads to, once there is one; None when that call failed, which frees the key."""
        assert call.idempotency_key is not None
        ended = await self._ended(run_id, call, known)
        if ended is None:
            return None
        answer = await self._contents.read(ended.reply) if ended.reply is not None else None
        if answer is None:
            raise ReplyNotKept(call.idempotency_key)
        return answer

    async def _ended(self, run_id: str, call: ModelCall, known: KeyedCall) -> KeyedCall | None:
        """Waits for a call in flight in another gateway."""
        key, digest = call.idempotency_key, call.digest()
        assert key is not None
        give_up_at = self._clock.monotonic() + self._longest_call_s
        while True:
            if known.digest is not None and known.digest != digest:
                raise KeyReused(key)
            if known.answered:
                return known
            try:
                view = await self._states.view(run_id)
            except EventStoreUnavailable as error:
                raise LogUnavailable from error
            if view is None or self._clock.monotonic() > give_up_at:
                raise StillInFlight(key)
            current = view.spending.keys.get(key)
            if current is None:
                return None
            if not current.answered:
                await view.change(LOOK_AGAIN_S)
            known = current
