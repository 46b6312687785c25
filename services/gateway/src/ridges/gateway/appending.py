"""The way of the gateway's own events into the log, with a clock beside it."""

from collections.abc import Callable

from ridges.chassis.ports import ANY, Clock, EventRefused, EventStore, LastPosition, WrongPosition
from ridges.contracts.events import Event

ObserveAppend = Callable[[str, str, float], None]
"""Told of every append: type of the event, outcome, seconds until the log's answer."""


class Appending:
    """Appends single events of runs."""

    def __init__(self, store: EventStore, clock: Clock, observe: ObserveAppend) -> None:
        self._store, self._clock, self._observe = store, clock, observe

    async def append(self, event: Event, expected: LastPosition | None = ANY) -> int:
        """The event's position in the log, once it is durable. Raises what ``EventStore.append`` does."""
        began_at = self._clock.monotonic()
        outcome = "unavailable"
        try:
            position = await self._store.append(event.run_id, [event], expected)
            outcome = "stored"
        except WrongPosition:
            outcome = "overtaken"
            raise
        except EventRefused:
            outcome = "refused"
            raise
        finally:
            self._observe(type(event).__name__, outcome, self._clock.monotonic() - began_at)
        return position
