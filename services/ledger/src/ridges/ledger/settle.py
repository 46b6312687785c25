"""Closes reservations that a crash left open: their run has ended, and no outcome of the call came for a while."""

import asyncio

import structlog

from ridges.chassis.ports import Clock, EventRefused, EventStore, EventStoreUnavailable
from ridges.contracts.events import InferenceSettled
from ridges.contracts.usage import TokenUsage
from ridges.ledger.domain import derived_event_id
from ridges.ledger.queries import OpenReservation, Queries

log = structlog.get_logger(__name__)

INTERVAL_S = 5.0


class Settler:
    """Appends InferenceSettled with the reserved maximum: nobody knows what the call did cost, nor how many tokens.

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
            except (EventStoreUnavailable, EventRefused) as error:
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
        for reservation in due:
            await self._store.append(reservation.run_id, [self._settled(reservation)])
            log.info(
                "reservation settled with its maximum",
                run_id=reservation.run_id,
                call_id=reservation.call_id,
                cost_nano_usd=reservation.reserved_nano_usd,
            )
        return len(due)

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
