"""One line in the log for every call that ended: found by run id, without its contents."""

import structlog

from ridges.chassis.ports import Clock
from ridges.contracts import events as ev
from ridges.gateway.ports import Timeline, Tried

log = structlog.get_logger(__name__)

MOST_OFF = 0.01
"""Part of a cost that rounding may explain."""


class CallLog:
    """Writes at the level info."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._differ: set[tuple[str, str]] = set()
        """(provider, model) that was said to charge something else than we do."""

    def refused(self, reason: str) -> None:
        """Refusals are events and metrics: a loop of them must not fill the log."""

    def ended(self, event: ev.InferenceMade | ev.InferenceFailed, began_at: float, timeline: Timeline) -> None:
        for tried in timeline:
            self._compare(event, tried)
        attempts, usage = event.attempts, event.usage
        log.info(
            "model call",
            run_id=event.run_id,
            call_id=event.call_id,
            model=event.model,
            provider=attempts[-1].provider if attempts else None,
            attempts=len(attempts),
            status=event.status if isinstance(event, ev.InferenceFailed) else 200,
            input_tokens=usage.input + usage.cached_input,
            output_tokens=usage.output + usage.reasoning,
            cost_nano_usd=event.cost_nano_usd,
            latency_ms=int((self._clock.monotonic() - began_at) * 1000),
        )

    def _compare(self, event: ev.InferenceMade | ev.InferenceFailed, tried: Tried) -> None:
        """Say it once of each model when a provider charges something else than its price here."""
        ours, theirs = tried.attempt.cost_nano_usd, tried.reported_nano_usd
        place = (tried.attempt.provider, event.model)
        if theirs is None or abs(ours - theirs) <= MOST_OFF * max(ours, theirs) or place in self._differ:
            return
        self._differ.add(place)
        log.warning(
            "a provider says that it charges another cost than its prices here make: check them in ridges.toml",
            run_id=event.run_id,
            call_id=event.call_id,
            provider=tried.attempt.provider,
            model=event.model,
            cost_nano_usd=ours,
            reported_nano_usd=theirs,
        )
