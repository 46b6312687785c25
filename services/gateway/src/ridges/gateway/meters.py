"""Prometheus metrics of the gateway. No label holds a run id: their number must stay small.

``gen_ai_*`` follow the OpenTelemetry semantic conventions for generative AI, in Prometheus spelling.
"""

from functools import lru_cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from ridges.contracts import events as ev
from ridges.gateway.ports import Timeline

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Source: gen_ai.client.operation.duration."""
OPERATIONS = {"chat": "chat", "embedding": "embeddings"}
WHERE = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


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
        self._reloads = Counter("ridges_gateway_reloads", "Reloads of ridges.toml", ("outcome",), registry=registry)
        self._duration = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Duration of requests to providers",
            (*WHERE, "error_type"),
            buckets=SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request to a provider to its first streamed event",
            WHERE,
            buckets=SECONDS,
            registry=registry,
        )
        self._counter = lru_cache(maxsize=1_000)(_labelled_counter)
        self._histogram = lru_cache(maxsize=1_000)(_labelled_histogram)

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def reloaded(self, outcome: str) -> None:
        """``taken`` or ``refused``."""
        self._reloads.labels(outcome).inc()

    def ended(self, event: ev.InferenceMade | ev.InferenceFailed, _: float, timeline: Timeline) -> None:
        outcome = "made" if isinstance(event, ev.InferenceMade) else "failed"
        self._counter(self._calls, event.model, event.kind, outcome).inc()
        self._counter(self._cost, event.model).inc(event.cost_nano_usd)
        for token_kind in ("input", "cached_input", "output", "reasoning"):
            if tokens := getattr(event.usage, token_kind):
                self._counter(self._tokens, event.model, token_kind).inc(tokens)
        operation = OPERATIONS[event.kind]
        for _began_at, attempt in timeline:
            failure = "" if attempt.outcome == "ok" else attempt.outcome
            self._counter(self._attempts, attempt.provider, attempt.outcome).inc()
            duration = self._histogram(self._duration, operation, attempt.provider, event.model, failure)
            duration.observe(attempt.latency_ms / 1000)
            if attempt.first_token_ms is not None:
                first_token = self._histogram(self._first_token, operation, attempt.provider, event.model)
                first_token.observe(attempt.first_token_ms / 1000)


def _labelled_counter(metric: Counter, *labels: str) -> Counter:
    return metric.labels(*labels)


def _labelled_histogram(metric: Histogram, *labels: str) -> Histogram:
    return metric.labels(*labels)
