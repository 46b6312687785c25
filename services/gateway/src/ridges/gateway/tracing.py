"""A span for every call and one for each request to a provider, with the GenAI names. Needs the extra ``otel``.

Spans are made when a call has ended, from its record: on its way only ids are drawn, for each provider is told that of
its attempt (``traceparent``). When this is off, nothing is done.
Where they go is configured by the usual variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME …).
Source: OpenTelemetry semantic conventions for generative AI.
"""

from typing import TYPE_CHECKING, Any

from ridges.chassis.ports import Clock
from ridges.contracts import events as ev
from ridges.contracts.money import usd_text
from ridges.contracts.usage import TokenUsage
from ridges.gateway.ports import NextSpan, Timeline

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

OPERATIONS = {"chat": "chat", "embedding": "embeddings"}
NANO = 1_000_000_000


class TracingUnavailable(Exception):
    """The packages of the extra are not installed."""


class Tracing:
    """Hands spans to a background thread that exports them in batches."""

    def __init__(self, clock: Clock, exporter: "SpanExporter | None" = None) -> None:
        try:
            from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

            from ridges.gateway.span_ids import SpanIds  # noqa: PLC0415

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

                exporter = OTLPSpanExporter()
        except ImportError as error:
            raise TracingUnavailable(
                f"RIDGES_OTEL is set, but {error.name} is not installed; install ridges-gateway[otel]"
            ) from error
        resource = Resource({SERVICE_NAME: "ridges-gateway"}).merge(OTELResourceDetector().detect())
        self._ids = SpanIds()
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ridges.gateway")
        self._context_of = TraceContextTextMapPropagator().extract
        self._clock = clock

    def spans_of(self, traceparent: str | None) -> NextSpan:
        """A call's spans on the wire: one trace, the caller's where it has one, and a span for each attempt."""
        from opentelemetry.sdk.trace.sampling import Decision  # noqa: PLC0415
        from opentelemetry.trace import get_current_span  # noqa: PLC0415

        context = None if traceparent is None else self._context_of({"traceparent": traceparent})
        trace_id = get_current_span(context).get_span_context().trace_id or self._ids.draw_trace_id()
        sampled = self._provider.sampler.should_sample(context, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        return lambda: f"00-{trace_id:032x}-{self._ids.draw_span_id():016x}-{int(sampled):02x}"

    def refused(self, reason: str) -> None:
        """Refusals are events and metrics; nothing was asked of a model."""

    def ended(self, event: ev.InferenceMade | ev.InferenceFailed, began_at: float, timeline: Timeline) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context  # noqa: PLC0415

        operation = OPERATIONS[event.kind]
        ended_ns = int(event.time.timestamp() * NANO)
        now = self._clock.monotonic()

        def at(monotonic: float) -> int:
            return ended_ns - int((now - monotonic) * NANO)

        self._ids.next_trace(timeline[0].traceparent if timeline else None)
        call = self._tracer.start_span(
            f"{operation} {event.model}",
            context=None if event.traceparent is None else self._context_of({"traceparent": event.traceparent}),
            kind=SpanKind.SERVER,
            start_time=at(began_at),
            attributes=_attributes(operation, event.model, event.usage)
            | {
                "ridges.run_id": event.run_id,
                "ridges.call_id": event.call_id,
                "ridges.cost_usd": usd_text(event.cost_nano_usd),
            },
        )
        if isinstance(event, ev.InferenceFailed):
            call.set_attribute("error.type", str(event.status))
            call.set_status(Status(StatusCode.ERROR, event.detail))
        if timeline:
            call.set_attribute("gen_ai.provider.name", timeline[-1].attempt.provider)
        for tried_at, attempt, traceparent, _ in timeline:
            self._ids.next_span(traceparent)
            child = self._tracer.start_span(
                f"{operation} {attempt.served_model}",
                context=set_span_in_context(call),
                kind=SpanKind.CLIENT,
                start_time=at(tried_at),
                attributes=_attributes(operation, attempt.served_model, attempt.usage)
                | {"gen_ai.provider.name": attempt.provider, "ridges.usage_source": attempt.usage_source},
            )
            if attempt.outcome != "ok":
                child.set_attribute("error.type", attempt.outcome)
                child.set_status(Status(StatusCode.ERROR, attempt.detail or attempt.outcome))
            child.end(at(tried_at) + attempt.latency_ms * 1_000_000)
        call.end(ended_ns)

    def close(self) -> None:
        """Export what is left. Blocks for some seconds at most."""
        self._provider.shutdown()


def _attributes(operation: str, model: str, usage: TokenUsage) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": usage.input + usage.cached_input,
        "gen_ai.usage.output_tokens": usage.output + usage.reasoning,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
    }
