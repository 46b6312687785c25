"""Set the worst case of a call aside in the log before any provider is asked.

Optimistic concurrency on the newest InferenceReserved of the run makes the decision exact over any number of gateways:
whoever decided on an older list of reservations is told so, catches up and decides again.
"""

import asyncio

import msgspec
import structlog

from ridges.chassis.ports import Clock, EventStoreUnavailable, LastPosition, WrongPosition
from ridges.contracts import events as ev
from ridges.contracts.limits import ModelLimits
from ridges.contracts.usage import TokenUsage
from ridges.gateway.appending import Appending
from ridges.gateway.calls import ModelCall
from ridges.gateway.domain import Demand, Grant, WaitForOthers, decide
from ridges.gateway.errors import CallerGone, GatewayError, Kind, LogUnavailable
from ridges.gateway.idempotency_keys import KeyedCall
from ridges.gateway.run_states import RunStates, RunView
from ridges.gateway.settling import Settler

log = structlog.get_logger(__name__)

LONGEST_NAP_S = 1.0
"""A waiting call looks again at least so often."""
AWAY_S = 2.0
"""After the log did not answer, calls are refused at once for so long: they must not wait for it one after another."""
CATCH_UP_S = 0.05
"""The subscription usually brings a missed reservation within this time; else the run is read again."""


class KeyTaken(Exception):
    """The run's log has a call under this idempotency key, in flight or answered."""

    def __init__(self, call: KeyedCall) -> None:
        super().__init__(call.call_id)
        self.call = call


class Reservations:
    """Decides and appends reservations, one at a time for each run in this gateway."""

    def __init__(
        self,
        appending: Appending,
        states: RunStates,
        settler: Settler,
        clock: Clock,
        *,
        wait_s: float,
        longest_call_s: float,
        gateway: str,
        hedging: bool = False,
    ) -> None:
        self._appending, self._states, self._settler, self._clock = appending, states, settler, clock
        self._wait_s, self._longest_call_s = wait_s, longest_call_s
        self._gateway, self._hedging = gateway, hedging
        self._away_until = 0.0

    def in_flight(self, view: RunView) -> int:
        return view.spending.in_flight(self._clock.now(), self._longest_call_s)

    async def reserve(self, view: RunView, limits: ModelLimits, call_id: str, call: ModelCall, demand: Demand) -> Grant:
        """What the call may use, once that is durable.

        Raises:
            GatewayError: a limit is reached (to be recorded), or the log is away (503).
            KeyTaken: a call stands under the idempotency key already.

        """
        give_up_at = self._clock.monotonic() + self._wait_s
        while True:
            left_s = give_up_at - self._clock.monotonic()
            async with view.reserving:
                if self._clock.monotonic() < self._away_until:
                    raise LogUnavailable
                await self._make_sure(view)
                if call.idempotency_key is not None:
                    await self._recall(view, call.idempotency_key)
                    _refuse_known_key(view, call)
                decision = self._decide(view, limits, demand, may_wait=left_s > 0)
                if isinstance(decision, Grant) and await self._append(view, call_id, call, decision, demand):
                    return decision
            if isinstance(decision, GatewayError):
                raise decision
            if isinstance(decision, WaitForOthers):
                await view.change(min(left_s, LONGEST_NAP_S))

    async def refuse_taken_key(self, view: RunView, call: ModelCall) -> None:
        """Raises KeyTaken, or LogUnavailable where the log must be asked and is away."""
        if call.idempotency_key is not None and view.spending.keys.may_stand_in_log(call.idempotency_key):
            async with view.reserving:
                await self._recall(view, call.idempotency_key)
        _refuse_known_key(view, call)

    async def _recall(self, view: RunView, key: str) -> None:
        if view.spending.keys.may_stand_in_log(key):
            try:
                await self._states.recall(view, key)
            except EventStoreUnavailable as error:
                raise LogUnavailable from error

    async def _make_sure(self, view: RunView) -> None:
        """Wait for, or look up, reservations of ours that may stand in the log and not in the view.

        The subscription leaves them out until their append is given up; later they come as any other one. Without
        them, the position of a newer reservation, of another gateway, would let us decide on too little.
        """
        while view.left_behind:
            await asyncio.wait(view.left_behind)
        if view.unsure:
            await self._read_again(view)
            if view.unsure:
                raise LogUnavailable

    def _decide(
        self, view: RunView, limits: ModelLimits, demand: Demand, *, may_wait: bool
    ) -> Grant | WaitForOthers | GatewayError:
        """With room for a second request where calls are hedged and the budget has it."""
        now, in_flight = self._clock.now(), self.in_flight(view)
        if self._hedging:
            twice = msgspec.structs.replace(demand, requests=2)
            hedged = decide(view.run_id, limits, view.spending, twice, in_flight=in_flight, may_wait=False, now=now)
            if isinstance(hedged, Grant) and not hedged.lowered:
                return hedged
        return decide(view.run_id, limits, view.spending, demand, in_flight=in_flight, may_wait=may_wait, now=now)

    async def _append(self, view: RunView, call_id: str, call: ModelCall, grant: Grant, demand: Demand) -> bool:
        """False: another gateway was first, and the view is current again."""
        event = ev.InferenceReserved(
            id=self._clock.new_id(),
            run_id=view.run_id,
            time=self._clock.now(),
            call_id=call_id,
            model=call.model,
            cost_nano_usd=grant.cost_nano_usd,
            tokens=grant.tokens,
            idempotency_key=call.idempotency_key,
            idempotency_digest=call.digest() if call.idempotency_key is not None else None,
            gateway=self._gateway,
            prompt_tokens=grant.prompt_tokens,
            price=demand.price,
            kind=call.kind,
        )
        expected = LastPosition(view.spending.last_reserved_position, ev.InferenceReserved)
        appending = asyncio.create_task(self._appending.append(event, expected))
        try:
            position = await asyncio.shield(appending)
        except WrongPosition as conflict:
            await self._catch_up(view, conflict.actual)
            return False
        except EventStoreUnavailable as error:
            self._away_until = self._clock.monotonic() + AWAY_S
            view.unsure += 1
            self._release(view, event, call.kind, LogUnavailable())
            raise LogUnavailable from error
        except asyncio.CancelledError:
            view.left_behind.add(appending)
            appending.add_done_callback(lambda done: self._release_if_stored(view, event, call.kind, done))
            raise
        self._states.applied(view, event, position)
        return True

    async def _catch_up(self, view: RunView, actual: int | None) -> None:
        await view.change(CATCH_UP_S)
        if actual is None or view.spending.last_reserved_position < actual:
            await self._read_again(view)

    async def _read_again(self, view: RunView) -> None:
        try:
            await self._states.catch_up(view)
        except EventStoreUnavailable as error:
            self._away_until = self._clock.monotonic() + AWAY_S
            raise LogUnavailable from error

    def _release_if_stored(
        self, view: RunView, event: ev.InferenceReserved, kind: Kind, done: asyncio.Future[int]
    ) -> None:
        """The caller left while the reservation was on its way."""
        view.left_behind.discard(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._states.applied(view, event, done.result())
        else:
            view.unsure += 1
        if not isinstance(error, WrongPosition):
            self._release(view, event, kind, CallerGone())

    def _release(self, view: RunView, reserved: ev.InferenceReserved, kind: Kind, why: GatewayError) -> None:
        self._settler.later(
            view,
            ev.InferenceFailed(
                id=self._clock.new_id(),
                run_id=view.run_id,
                time=self._clock.now(),
                causation_id=reserved.id,
                call_id=reserved.call_id,
                kind=kind,
                model=reserved.model,
                attempts=(),
                usage=TokenUsage(),
                cost_nano_usd=0,
                status=why.status,
                detail=why.detail,
            ),
        )


def _refuse_known_key(view: RunView, call: ModelCall) -> None:
    if call.idempotency_key is not None and (known := view.spending.keys.get(call.idempotency_key)) is not None:
        raise KeyTaken(known)
