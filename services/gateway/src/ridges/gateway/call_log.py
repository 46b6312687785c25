"""One line in the log for every call that ended: found by run id, without its contents."""

import structlog

from ridges.chassis.ports import Clock
from ridges.contracts import events as ev
from ridges.gateway.ports import Timeline

log = structlog.get_logger(__name__)


class CallLog:
    """Writes at the level info."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def refused(self, reason: str) -> None:
        """Refusals are events and metrics: a loop of them must not fill the log."""

    def ended(self, event: ev.InferenceMade | ev.InferenceFailed, began_at: float, _: Timeline) -> None:
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
