"""The way of every call: run state, limits, model, reservation, provider(s), settlement, reply."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import structlog

from ridges.chassis.ports import Clock, EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef
from ridges.contracts.lifecycle import Run, RunState
from ridges.gateway.answers import StreamCut
from ridges.gateway.attempts import Attempts
from ridges.gateway.calls import ModelCall
from ridges.gateway.calls_in_flight import CallsInFlight
from ridges.gateway.contents import CallContents, Contents
from ridges.gateway.domain import Demand, highest, refusal_before_call
from ridges.gateway.errors import (
    CallerGone,
    FieldForbidden,
    GatewayError,
    InternalError,
    Kind,
    LogUnavailable,
    ModelNotSupported,
    RunNotRunning,
    ShuttingDown,
    UnknownRun,
    Unpriced,
)
from ridges.gateway.log_patience import LogPatience
from ridges.gateway.ports import Outlet, SpansOf, Timeline, passed_on
from ridges.gateway.prompts import most_prompt_tokens
from ridges.gateway.records import CallRecord
from ridges.gateway.reservations import Reservations
from ridges.gateway.roster import Offer, Roster
from ridges.gateway.run_states import RunStates, RunView
from ridges.gateway.settling import Settler
from ridges.gateway.sse import DONE, error_event
from ridges.gateway.usage_parsing import reported_cost_nano_usd

log = structlog.get_logger(__name__)

MOST_REFUSALS_RECORDED = 100
"""Of one run: a loop of refused calls must not fill the log."""

CUT_S = 5.0
"""How long calls that are cut off at the end may take to say so, and the log to take what is left."""

Reply = TypeVar("Reply")


class Observer(Protocol):
    """Sees every call that ended and every refusal, and changes nothing."""

    def refused(self, reason: str) -> None:
        """A call reached no provider."""

    def ended(self, event: ev.InferenceMade | ev.InferenceFailed, began_at: float, timeline: Timeline, /) -> None:
        """Times are monotonic seconds."""


class Pipeline:
    """All model calls go through here, whatever dialect they came in."""

    def __init__(
        self,
        *,
        states: RunStates,
        reservations: Reservations,
        roster: Roster,
        attempts: Attempts,
        settler: Settler,
        contents: Contents,
        observers: tuple[Observer, ...],
        clock: Clock,
        patience: LogPatience,
        call_deadline_s: float,
        spans_of: SpansOf = passed_on,
    ) -> None:
        self._states, self._reservations, self._roster = states, reservations, roster
        self._attempts, self._settler, self._contents, self._observers = attempts, settler, contents, observers
        self._clock, self._patience, self._call_deadline_s, self._spans_of = clock, patience, call_deadline_s, spans_of
        self._in_flight = CallsInFlight()
        self._finishing: set[asyncio.Task[None]] = set()

    async def complete(self, run_id: str, call: ModelCall, accept: Callable[[bytes], Reply]) -> tuple[bytes, Reply]:
        """The provider's answer and what ``accept`` makes of it (which may refuse it with MalformedReply).

        Raises:
            GatewayError: refused or failed; already recorded.
            KeyTaken: a call stands under the idempotency key already.

        """
        began_at = self._clock.monotonic()
        view = await self._patience.outlast(lambda: self._known(run_id), began_at)
        with self._in_flight.counted(view) as here:
            try:
                return await self._complete(view, call, began_at, accept)
            except asyncio.CancelledError:
                if here.was_cut():
                    raise ShuttingDown from None
                raise

    async def _complete(
        self, view: RunView, call: ModelCall, began_at: float, accept: Callable[[bytes], Reply]
    ) -> tuple[bytes, Reply]:
        record = await self._patience.outlast(lambda: self._admit(view, call), began_at)
        deadline = began_at + self._call_deadline_s
        contents = self._contents.of_call(call.received, durable=call.idempotency_key is not None)
        try:
            body, reply = await self._attempts.send(record, deadline, accept)
        except BaseException as error:
            await self._fail(view, record, contents, error)
            raise
        finally:
            self._roster.release(record.offers)
        await self._keep_and_settle(view, record, contents, body, "application/json")
        return body, reply

    async def stream(self, run_id: str, call: ModelCall, out: Outlet) -> None:
        """Events for the caller. Until the first one is out, errors are raised; later they are an error event.

        Cancelling it closes the provider's connection and settles with what was generated.
        """
        began_at = self._clock.monotonic()
        view = await self._patience.outlast(lambda: self._known(run_id), began_at)
        with self._in_flight.counted(view) as here:
            try:
                await self._stream(view, call, began_at, out)
            except StreamCut as cut:
                if not out.begun:
                    raise cut.failure from cut
                out.write(error_event(cut.failure.detail, cut.failure.code))
            except asyncio.CancelledError:
                if not here.was_cut():
                    raise
                if not out.begun:
                    raise ShuttingDown from None
                why = ShuttingDown()
                out.write(error_event(why.detail, why.code))

    async def _stream(self, view: RunView, call: ModelCall, began_at: float, out: Outlet) -> None:
        record = await self._patience.outlast(lambda: self._admit(view, call), began_at)
        deadline = began_at + self._call_deadline_s
        contents = self._contents.of_call(call.received, durable=call.idempotency_key is not None)
        try:
            await self._attempts.stream(record, deadline, out)
        except BaseException as error:
            await self._fail(view, record, contents, error.failure if isinstance(error, StreamCut) else error)
            raise
        finally:
            self._roster.release(record.offers)
        await self._keep_and_settle(view, record, contents, b"\n\n".join(record.received), "text/event-stream")
        if not out.begun:
            await out.begin()
        out.write(DONE)

    async def spending_of(self, run_id: str) -> tuple[int, int]:
        """(used, most allowed) in nano-USD, from the log."""
        view = await self._known(run_id)
        return view.spending.used_nano, _run_of(view).limits.model.max_cost_nano_usd

    async def refuse(self, run_id: str, refusal: GatewayError, model: str | None) -> None:
        """Record a refusal that was decided outside (identity). Does nothing for a run that does not exist."""
        try:
            view = await self._states.view(run_id)
        except EventStoreUnavailable:
            return
        if view is not None:
            await self._record_refusal(view, refusal, model)

    def listed(self, kind: Kind) -> list[Offer]:
        """What the model lists show."""
        return self._roster.listed(kind)

    def in_flight(self) -> int:
        """Calls inside this gateway."""
        return len(self._in_flight)

    async def drain(self, timeout_s: float | None = None) -> None:
        """Refuse new calls, let those in flight end, then wait until the log has everything.

        What has not ended after ``timeout_s`` is cut off: its caller gets a 503 or an error event, and it is settled.
        """
        self._in_flight.closed = True
        began_at = self._clock.monotonic()
        if not await self._in_flight.ended(timeout_s):
            log.warning("calls are cut off: they did not end in time", calls=self._in_flight.cut(), timeout_s=timeout_s)
            await self._in_flight.ended(CUT_S)
        left_s = None if timeout_s is None else max(CUT_S, began_at + timeout_s - self._clock.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                while self._finishing:
                    await asyncio.wait(set(self._finishing))
                await self._settler.drain()
                await self._contents.flush()
                return
        log.error("the log is away; what some calls cost is settled when this gateway starts again")

    async def _known(self, run_id: str) -> RunView:
        if self._in_flight.closed:
            raise ShuttingDown
        if not self._states.is_following() or self._settler.overloaded:
            raise LogUnavailable
        try:
            view = await self._states.view(run_id)
        except EventStoreUnavailable as error:
            raise LogUnavailable from error
        if view is None:
            raise UnknownRun(run_id)
        return view

    async def _admit(self, view: RunView, call: ModelCall) -> CallRecord:
        """Checks in the contract's order, then the reservation."""
        try:
            await self._check_state(view)
            await self._reservations.refuse_taken_key(view, call)
            limits = _run_of(view).limits.model
            in_flight, now = self._reservations.in_flight(view), self._clock.now()
            refusal = refusal_before_call(view.run_id, limits, view.spending, in_flight, now)
            if refusal is not None:
                raise refusal
            offers = self._roster.offers(call.model, call.kind)
            if not offers:
                raise ModelNotSupported(call.model, call.kind)
            offers = _taking(call, offers)
            demand, call_id = _demand(call, offers), self._clock.new_id()
            self._roster.hold(offers)
            try:
                grant = await self._reservations.reserve(view, limits, call_id, call, demand)
            except BaseException:
                self._roster.release(offers)
                raise
        except GatewayError as refusal:
            await self._record_refusal(view, refusal, call.model)
            raise
        next_span = self._spans_of(call.traceparent)
        return CallRecord(view.run_id, call_id, call, offers, demand, grant, self._clock, next_span)

    async def _check_state(self, view: RunView) -> None:
        if view.state is not RunState.RUNNING_AGENT and not _run_of(view).ended:
            try:
                await self._states.catch_up(view)
            except EventStoreUnavailable as error:
                raise LogUnavailable from error
        if view.state is not RunState.RUNNING_AGENT:
            raise RunNotRunning(view.run_id, str(view.state))

    async def _record_refusal(self, view: RunView, refusal: GatewayError, model: str | None) -> None:
        if refusal.reason is None:
            return
        for observer in self._observers:
            observer.refused(refusal.reason)
        if view.spending.refusals + view.refusals_on_the_way >= MOST_REFUSALS_RECORDED:
            return
        view.refusals_on_the_way += 1
        try:
            await self._settler.record_refusal(
                view,
                ev.InferenceRefused(
                    id=self._clock.new_id(),
                    run_id=view.run_id,
                    time=self._clock.now(),
                    reason=refusal.reason,
                    status=refusal.status,
                    model=model[:200] if model else None,
                    detail=refusal.detail[:1000],
                ),
            )
        finally:
            view.refusals_on_the_way -= 1

    async def _keep_and_settle(
        self,
        view: RunView,
        record: CallRecord,
        contents: CallContents,
        answer: bytes,
        media_type: str,
    ) -> None:
        """The answer is here, so the call is made, also when the caller leaves now."""
        record.reported_nano_usd = reported_cost_nano_usd(answer)
        try:
            request, kept = await contents.request(), await contents.reply(answer, media_type)
        except asyncio.CancelledError:
            self._behind(self._finish(view, record, contents, answer, media_type))
            raise
        await self._settler.settle(view, self._made(view, record, request, kept))

    async def _finish(
        self,
        view: RunView,
        record: CallRecord,
        contents: CallContents,
        answer: bytes,
        media_type: str,
    ) -> None:
        request, kept = await contents.request(), await contents.reply(answer, media_type)
        self._settler.later(view, self._made(view, record, request, kept))

    def _made(
        self, view: RunView, record: CallRecord, request: BlobRef | None, reply: BlobRef | None
    ) -> ev.InferenceMade:
        event = record.made(self._clock.new_id(), self._clock.now(), request, reply)
        if record.exceeds_grant:
            log.warning(
                "a call used more than its worst case: check prices, context and max_output of the model",
                run_id=view.run_id,
                call_id=record.call_id,
                model=record.call.model,
                provider=event.attempts[-1].provider,
            )
        for observer in self._observers:
            observer.ended(event, record.began_at, record.timeline)
        return event

    async def _fail(self, view: RunView, record: CallRecord, contents: CallContents, error: BaseException) -> None:
        """Settle a call that ends without an answer. Callers that left are not waited for."""
        left = isinstance(error, asyncio.CancelledError)
        gone = ShuttingDown() if self._in_flight.cut_off else CallerGone()
        why = error if isinstance(error, GatewayError) else gone if left else InternalError()
        if isinstance(why, InternalError):
            log.error("a model call broke", run_id=view.run_id, call_id=record.call_id, exc_info=error)
        settling = self._behind(self._settle_failure(view, record, contents, why))
        if not left:
            await asyncio.wait({settling})

    async def _settle_failure(
        self, view: RunView, record: CallRecord, contents: CallContents, why: GatewayError
    ) -> None:
        request = await contents.request()
        reply = await contents.reply(b"\n\n".join(record.received), "text/event-stream")
        event = record.failed(self._clock.new_id(), self._clock.now(), request, reply, why)
        for observer in self._observers:
            observer.ended(event, record.began_at, record.timeline)
        await asyncio.wait({self._settler.later(view, event)}, timeout=CUT_S)

    def _behind(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Done, whoever waits for it or leaves."""
        finishing = asyncio.create_task(work)
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)
        return finishing


def _taking(call: ModelCall, offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """The offers of those providers that may be asked for all that the call asks for.

    Raises:
        FieldForbidden, Unpriced: none may.

    """
    names = call.fields.keys()
    if not call.unpriced and all(offer.provider.forbidden_fields.isdisjoint(names) for offer in offers):
        return offers
    given = {name for name, value in call.fields.items() if bytes(value) != b"null"}
    priced = tuple(offer for offer in offers if call.unpriced <= offer.provider.allow_unpriced)
    if not priced:
        raise Unpriced(min(call.unpriced - offers[0].provider.allow_unpriced), call.model)
    taking = tuple(offer for offer in priced if offer.provider.forbidden_fields.isdisjoint(given))
    if not taking:
        raise FieldForbidden(min(priced[0].provider.forbidden_fields & given), call.model)
    return taking


def _demand(call: ModelCall, offers: tuple[Offer, ...]) -> Demand:
    """The worst case over all providers that may serve the call."""
    context = max(offer.model.context for offer in offers)
    most_output = max(offer.model.max_output for offer in offers)
    price = offers[0].model.price if len(offers) == 1 else highest([offer.model.price for offer in offers])
    prompt = most_prompt_tokens(call, max(offer.model.image_tokens for offer in offers))
    wanted = most_output if call.output_tokens is None else min(call.output_tokens, most_output)
    return Demand(
        prompt_tokens=context if prompt is None else min(prompt, context),
        output_tokens=wanted,
        answers=call.answers,
        seconds=math.ceil(max(o.provider.timeout_s for o in offers)) + 1 if price.per_second else 0,
        price=price,
    )


def _run_of(view: RunView) -> Run:
    assert view.run is not None, "views of unknown runs are not handed out"
    return view.run
