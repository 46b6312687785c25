"""Prometheus metrics of the gateway. No label holds a run id: their number must stay small.

``gen_ai_*`` follow the OpenTelemetry semantic conventions for generative AI, in Prometheus spelling.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ridges.contracts import events as ev
from ridges.gateway.ports import Timeline

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Source: gen_ai.client.operation.duration."""
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)
"""Source: gen_ai.client.token.usage."""
APPEND_SECONDS = tuple(0.0005 * 2**power for power in range(15))
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
        self._reported = Counter(
            "ridges_gateway_reported_nano_usd",
            "Cost of answers whose provider tells what it charges, by its own word and by ours",
            ("provider", "told_by"),
            registry=registry,
        )
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
        self._token_usage = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of one request to a provider",
            (*WHERE, "gen_ai_token_type"),
            buckets=TOKENS,
            registry=registry,
        )
        self._appends = Histogram(
            "ridges_gateway_log_append_seconds",
            "Time until the event log answered an append",
            ("event", "outcome"),
            buckets=APPEND_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge("ridges_gateway_calls_in_flight", "Model calls in this gateway", registry=registry)
        self._registry = registry
        self._counter = lru_cache(maxsize=1_000)(_labelled_counter)
        self._histogram = lru_cache(maxsize=1_000)(_labelled_histogram)

    def watch(self, calls: Callable[[], int], queues: Callable[[], dict[str, tuple[int, int]]]) -> None:
        """Read when ``/metrics`` is: calls in flight; (requests at work, calls that wait) of each provider."""
        self._in_flight.set_function(calls)
        self._registry.register(_Queues(queues))

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def appended(self, event: str, outcome: str, seconds: float) -> None:
        """``stored``, ``overtaken`` (another gateway was first), ``refused`` or ``unavailable``."""
        self._histogram(self._appends, event, outcome).observe(seconds)

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
        for tried in timeline:
            attempt = tried.attempt
            failure = "" if attempt.outcome == "ok" else attempt.outcome
            self._counter(self._attempts, attempt.provider, attempt.outcome).inc()
            duration = self._histogram(self._duration, operation, attempt.provider, event.model, failure)
            duration.observe(attempt.latency_ms / 1000)
            if tried.reported_nano_usd is not None:
                self._counter(self._reported, attempt.provider, "provider").inc(tried.reported_nano_usd)
                self._counter(self._reported, attempt.provider, "gateway").inc(attempt.cost_nano_usd)
            if attempt.usage.total:
                self._observe_tokens(operation, attempt, event.model)
            if attempt.first_token_ms is not None:
                first_token = self._histogram(self._first_token, operation, attempt.provider, event.model)
                first_token.observe(attempt.first_token_ms / 1000)

    def _observe_tokens(self, operation: str, attempt: ev.InferenceAttempt, model: str) -> None:
        usage = attempt.usage
        for kind, tokens in (("input", usage.input + usage.cached_input), ("output", usage.output + usage.reasoning)):
            self._histogram(self._token_usage, operation, attempt.provider, model, kind).observe(tokens)


class _Queues(Collector):
    def __init__(self, queues: Callable[[], dict[str, tuple[int, int]]]) -> None:
        self._queues = queues

    def collect(self) -> Iterator[GaugeMetricFamily]:
        busy = GaugeMetricFamily("ridges_gateway_provider_busy", "Requests at work", labels=["provider"])
        waiting = GaugeMetricFamily("ridges_gateway_provider_queue", "Calls that wait for a slot", labels=["provider"])
        for provider, (at_work, queued) in self._queues().items():
            busy.add_metric([provider], at_work)
            waiting.add_metric([provider], queued)
        yield busy
        yield waiting


def _labelled_counter(metric: Counter, *labels: str) -> Counter:
    return metric.labels(*labels)


def _labelled_histogram(metric: Histogram, *labels: str) -> Histogram:
    return metric.labels(*labels)
