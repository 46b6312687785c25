"""Prometheus metrics of the gateway. No label holds a run id: their number must stay small."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from ridges.contracts import events as ev

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Meters:
    """What ``/metrics`` shows beyond the process figures."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._calls = Counter(
            "ridges_gateway_calls", "Model calls that ended", ("model", "kind", "outcome"), registry=registry
        )
        self._attempts = Counter(
            "ridges_gateway_attempts", "Requests to providers", ("provider", "outcome"), registry=registry
        )
        self._refusals = Counter("ridges_gateway_refusals", "Refused calls", ("reason",), registry=registry)
        self._tokens = Counter("ridges_gateway_tokens", "Tokens used", ("model", "token_kind"), registry=registry)
        self._cost = Counter("ridges_gateway_cost_nano_usd", "Cost in nano-USD", ("model",), registry=registry)
        self._latency = Histogram(
            "ridges_gateway_attempt_seconds", "Latency of providers", ("provider",), buckets=SECONDS, registry=registry
        )

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def ended(self, event: ev.InferenceMade | ev.InferenceFailed) -> None:
        outcome = "made" if isinstance(event, ev.InferenceMade) else "failed"
        self._calls.labels(event.model, event.kind, outcome).inc()
        self._cost.labels(event.model).inc(event.cost_nano_usd)
        for token_kind in ("input", "cached_input", "output", "reasoning"):
            self._tokens.labels(event.model, token_kind).inc(getattr(event.usage, token_kind))
        for attempt in event.attempts:
            self._attempts.labels(attempt.provider, attempt.outcome).inc()
            self._latency.labels(attempt.provider).observe(attempt.latency_ms / 1000)
