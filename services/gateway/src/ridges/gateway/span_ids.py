"""Ids of spans that are told to providers before the spans are made. Needs the extra ``otel``."""

from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator


class SpanIds(IdGenerator):
    """Random ids, but for a span that was announced: it gets those of its ``traceparent``."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._trace_id: int | None = None
        self._span_id: int | None = None

    def draw_trace_id(self) -> int:
        return self._random.generate_trace_id()

    def draw_span_id(self) -> int:
        return self._random.generate_span_id()

    def next_trace(self, traceparent: str | None) -> None:
        """The next trace that begins is this one."""
        self._trace_id = None if traceparent is None else int(traceparent.split("-")[1], 16)

    def next_span(self, traceparent: str | None) -> None:
        """The next span is this one."""
        self._span_id = None if traceparent is None else int(traceparent.split("-")[2], 16)

    def generate_trace_id(self) -> int:
        announced, self._trace_id = self._trace_id, None
        return announced or self.draw_trace_id()

    def generate_span_id(self) -> int:
        announced, self._span_id = self._span_id, None
        return announced or self.draw_span_id()

    def is_trace_id_random(self) -> bool:
        return True
