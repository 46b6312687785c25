"""Closes reservations that a crash left open: their run has ended, and no outcome of the call came for a while."""

import asyncio
from typing import Annotated, TypeGuard

import msgspec
import structlog
from msgspec import Meta

from ridges.chassis.ports import Clock, EventRefused, EventStore, EventStoreUnavailable
from ridges.contracts.events import AnyEvent, InferenceFailed, InferenceMade, InferenceReserved, InferenceSettled
from ridges.contracts.money import nano_usd
from ridges.contracts.usage import TokenUsage
from ridges.ledger.domain import canonical_run_id, derived_event_id
from ridges.ledger.errors import RequestRefused
from ridges.ledger.projections.costs import is_estimate
from ridges.ledger.queries import OpenReservation, Queries

log = structlog.get_logger(__name__)

INTERVAL_S = 5.0


class ProviderRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider says a call did cost, whose outcome is not in the log."""

    run_id: str
    call_id: Annotated[str, Meta(min_length=1, max_length=200)]
    cost_usd: Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,9})?$")]
    """Decimal text."""
    input: Annotated[int, Meta(ge=0, le=10**12)] = 0
    cached_input: Annotated[int, Meta(ge=0, le=10**12)] = 0
    output: Annotated[int, Meta(ge=0, le=10**12)] = 0
    reasoning: Annotated[int, Meta(ge=0, le=10**12)] = 0


def _is_outcome(event: AnyEvent) -> TypeGuard[InferenceMade | InferenceFailed]:
    return isinstance(event, InferenceMade) or (isinstance(event, InferenceFailed) and not is_estimate(event))


class Settler:
    """Appends InferenceSettled: from the provider's record where somebody brings one, else the reserved maximum.

    Calls of a run that goes on are never touched: their gateway may still be busy with them. Two ledgers, or one that
    crashed here, append the same event ids: nothing is settled twice. An InferenceMade that turns up later replaces it.
    """

    def __init__(self, *, store: EventStore, queries: Queries, clock: Clock, grace_s: float) -> None:
        self._store, self._queries, self._clock, self._grace_s = store, queries, clock, grace_s

    async def run(self) -> None:
        """Settle every few seconds until cancelled."""
        while True:
            try:
                await self.settle()
            except EventStoreUnavailable as error:
                log.warning("cannot settle open reservations now", error=str(error))
            await asyncio.sleep(INTERVAL_S)

    async def settle(self) -> int:
        """Settle what is due; how many that was."""
        now = self._clock.now()
        due = [
            reservation
            for reservation in self._queries.open_reservations()
            if (now - reservation.since).total_seconds() >= self._grace_s
        ]
        settled = 0
        for reservation in due:
            try:
                await self._store.append(reservation.run_id, [self._settled(reservation)])
            except EventRefused:  # one that the log never takes must not keep the others open
                log.exception("a reservation cannot be settled", run_id=reservation.run_id, call_id=reservation.call_id)
                continue
            settled += 1
            log.info(
                "reservation settled with its maximum",
                run_id=reservation.run_id,
                call_id=reservation.call_id,
                cost_nano_usd=reservation.reserved_nano_usd,
            )
        return settled

    async def settle_from(self, record: ProviderRecord) -> int:
        """Settle a call from its provider's record, in place of its maximum or of an estimate. Its position.

        Raises:
            RequestRefused: no such call, its outcome is known, or another record settled it.
            EventStoreUnavailable: ask again.

        """
        run_id = canonical_run_id(record.run_id)
        event = InferenceSettled(
            id=derived_event_id(run_id, f"InferenceSettled:{record.call_id}:provider_record"),
            run_id=run_id,
            time=self._clock.now(),
            correlation_id=run_id,
            call_id=record.call_id,
            model="",
            source="provider_record",
            cost_nano_usd=nano_usd(record.cost_usd),
            usage=TokenUsage(
                input=record.input, cached_input=record.cached_input, output=record.output, reasoning=record.reasoning
            ),
        )
        reserved: InferenceReserved | None = None
        for recorded in await self._store.read_run(run_id):
            known = recorded.event
            if isinstance(known, InferenceReserved) and known.call_id == record.call_id:
                reserved = known
            elif _is_outcome(known) and known.call_id == record.call_id:
                reason = f"the outcome of call {record.call_id} is in the log (position {recorded.position}): it stands"
                raise RequestRefused(reason, status=409)
            elif isinstance(known, InferenceSettled) and known.id == event.id:
                if (known.cost_nano_usd, known.usage) == (event.cost_nano_usd, event.usage):
                    return recorded.position
                reason = f"call {record.call_id} was settled from another record (position {recorded.position})"
                raise RequestRefused(reason, status=409)
        if reserved is None:
            raise RequestRefused(f"run {run_id} has no reserved call {record.call_id!r}", status=404)
        return await self._store.append(run_id, [msgspec.structs.replace(event, model=reserved.model)])

    def _settled(self, reservation: OpenReservation) -> InferenceSettled:
        return InferenceSettled(
            id=derived_event_id(reservation.run_id, f"InferenceSettled:{reservation.call_id}"),
            run_id=reservation.run_id,
            time=self._clock.now(),
            correlation_id=reservation.run_id,
            call_id=reservation.call_id,
            model=reservation.model,
            source="maximum",
            cost_nano_usd=reservation.reserved_nano_usd,
            usage=TokenUsage(),
        )
