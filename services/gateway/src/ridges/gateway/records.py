"""What one call has done so far, attempt by attempt: the material of its InferenceMade or InferenceFailed."""

from datetime import datetime
from typing import Literal

from ridges.chassis.ports import Clock
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef
from ridges.contracts.usage import TokenUsage, cost_nano_usd, time_cost_nano_usd
from ridges.gateway.calls import ModelCall
from ridges.gateway.domain import MIN_OUTPUT_TOKENS, Demand, Grant, affordable_output, worst_cost_nano, worst_tokens
from ridges.gateway.errors import GatewayError
from ridges.gateway.ports import NextSpan, Timeline, Tried
from ridges.gateway.prompts import estimated_prompt_tokens
from ridges.gateway.roster import Offer
from ridges.gateway.token_estimate import count_tokens
from ridges.gateway.usage_parsing import TOKENS_PER_SECOND, has_output

Outcome = Literal["ok", "connect_error", "timeout", "http_error", "malformed", "cut", "abandoned"]
DETAIL_CHARS = 1_000
WORKED_IN_VAIN = frozenset({"timeout", "cut", "abandoned"})
"""Outcomes after which a provider bills for what it made: estimated, for it never told."""


class CallRecord:
    """One call of one run."""

    def __init__(
        self,
        run_id: str,
        call_id: str,
        call: ModelCall,
        offers: tuple[Offer, ...],
        demand: Demand,
        grant: Grant,
        clock: Clock,
        next_span: NextSpan,
    ) -> None:
        self.run_id, self.call_id, self.call, self.offers = run_id, call_id, call, offers
        self.received: list[bytes] = []
        """Events of the stream that is relayed."""
        self.reported_nano_usd: int | None = None
        """What the provider that answered says it charges, where it says so."""
        self.answered = False
        """An attempt has won; what is still open is not waited for."""
        self.began_at = clock.monotonic()
        self._demand, self._grant, self._clock, self._next_span = demand, grant, clock, next_span
        self._tries: list[OpenAttempt] = []

    @property
    def attempts(self) -> tuple[ev.InferenceAttempt, ...]:
        """Those that have ended, in the order in which they began."""
        return tuple(attempt.ended for attempt in self._tries if attempt.ended is not None)

    @property
    def timeline(self) -> Timeline:
        return [
            Tried(attempt.began_at, attempt.ended, attempt.traceparent, self._reported_by(attempt.ended))
            for attempt in self._tries
            if attempt.ended is not None
        ]

    def _reported_by(self, attempt: ev.InferenceAttempt) -> int | None:
        return self.reported_nano_usd if attempt.outcome == "ok" else None

    @property
    def usage(self) -> TokenUsage:
        return sum((attempt.usage for attempt in self.attempts), TokenUsage())

    @property
    def cost_nano_usd(self) -> int:
        return sum(attempt.cost_nano_usd for attempt in self.attempts)

    @property
    def exceeds_grant(self) -> bool:
        """The provider reported more than the worst case: its prices or its model's limits are configured wrong."""
        return self.cost_nano_usd > self._grant.cost_nano_usd

    def next_output_limit(self) -> tuple[bool, int]:
        """(may one more attempt begin, its output limit): all attempts together eat from the one reservation."""
        spent_nano, spent_tokens, opened = self.cost_nano_usd, self.usage.total, False
        for attempt in self._tries:
            if attempt.ended is None:
                opened = True
                spent_nano += worst_cost_nano(self._demand, attempt.output_limit)
                spent_tokens += worst_tokens(self._demand, attempt.output_limit)
        if not opened and not spent_nano:
            return True, self._grant.output_tokens
        room_nano = self._grant.cost_nano_usd - spent_nano
        fitting = affordable_output(room_nano, self._grant.tokens - spent_tokens, self._demand)
        wanted = min(self._grant.output_tokens, MIN_OUTPUT_TOKENS)
        if fitting is None or fitting < wanted:
            return False, 0
        return True, min(fitting, self._grant.output_tokens)

    def told_limit(self, output_limit: int) -> int | None:
        """What the provider is told; None where neither caller nor budget asks for less than the model gives."""
        if self.call.kind != "chat":
            return None
        lowered = self._grant.lowered or self.call.output_tokens is not None
        return output_limit if lowered or output_limit < self._grant.output_tokens else None

    def begin(self, offer: Offer, output_limit: int) -> "OpenAttempt":
        attempt = OpenAttempt(self.call, offer, self._demand, output_limit, self._clock, self._next_span())
        self._tries.append(attempt)
        return attempt

    def made(self, event_id: str, at: datetime, request: BlobRef | None, reply: BlobRef | None) -> ev.InferenceMade:
        attempts = self.attempts
        return ev.InferenceMade(
            id=event_id,
            run_id=self.run_id,
            time=at,
            traceparent=self.call.traceparent,
            call_id=self.call_id,
            kind=self.call.kind,
            model=self.call.model,
            streamed=self.call.streamed,
            attempts=attempts,
            usage=self.usage,
            cost_nano_usd=self.cost_nano_usd,
            request=request,
            reply=reply,
        )

    def failed(
        self, event_id: str, at: datetime, request: BlobRef | None, reply: BlobRef | None, why: GatewayError
    ) -> ev.InferenceFailed:
        return ev.InferenceFailed(
            id=event_id,
            run_id=self.run_id,
            time=at,
            traceparent=self.call.traceparent,
            call_id=self.call_id,
            kind=self.call.kind,
            model=self.call.model,
            attempts=self.attempts,
            usage=self.usage,
            cost_nano_usd=self.cost_nano_usd,
            status=why.status,
            detail=why.detail[:DETAIL_CHARS],
            request=request,
            reply=reply,
        )


class OpenAttempt:
    """One request to one provider, until it ends."""

    def __init__(
        self,
        call: ModelCall,
        offer: Offer,
        demand: Demand,
        output_limit: int,
        clock: Clock,
        traceparent: str | None,
    ) -> None:
        self.output_limit, self.traceparent = output_limit, traceparent
        self.ended: ev.InferenceAttempt | None = None
        self._call, self._offer, self._demand, self._clock = call, offer, demand, clock
        self.began_at = clock.monotonic()
        self._first_token_ms: int | None = None
        self._generated = ""

    def first_token(self) -> None:
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()

    def generated(self, text: str) -> None:
        """The text that has come so far: what is charged where the provider does not tell its usage."""
        self._generated = text

    def end(
        self, outcome: Outcome, *, status: int | None = None, usage: TokenUsage | None = None, detail: str | None = None
    ) -> None:
        """Without usage from the provider it is estimated where work was done. Ends once: later calls do nothing."""
        if self.ended is not None:
            return
        if usage is not None and (not usage.total or (self._generated and not has_output(usage))):
            usage = None  # counts that the answer itself refutes
        worked = outcome == "ok" or outcome in WORKED_IN_VAIN or usage is not None or bool(self._generated)
        source: Literal["provider", "estimated", "none"] = "provider"
        if usage is None and worked:
            usage, source = self._estimate(outcome), "estimated"
        elif usage is None:
            usage, source = TokenUsage(), "none"
        offer, elapsed_ms = self._offer, self._elapsed_ms()
        cost = cost_nano_usd(usage, offer.model.price)
        if worked and offer.model.price.per_second:
            cost += time_cost_nano_usd(elapsed_ms, offer.model.price)
        self.ended = ev.InferenceAttempt(
            provider=offer.provider.name,
            served_model=offer.model.served,
            outcome=outcome,
            status=status,
            latency_ms=elapsed_ms,
            first_token_ms=self._first_token_ms,
            usage=usage,
            usage_source=source,
            price=offer.model.price,
            price_list=offer.price_list,
            cost_nano_usd=cost,
            detail=detail[:DETAIL_CHARS] if detail else None,
        )

    def _elapsed_ms(self) -> int:
        return int((self._clock.monotonic() - self.began_at) * 1000)

    def _estimate(self, outcome: Outcome) -> TokenUsage:
        """Prompt and output by their text; of a buffered answer that never came whole at least by the time it took."""
        output = count_tokens(self._generated)
        if outcome in WORKED_IN_VAIN and not self._call.streamed:
            output = max(output, self._elapsed_ms() * TOKENS_PER_SECOND // 1000)
        most = self.output_limit * self._call.answers
        prompt = estimated_prompt_tokens(self._call, self._offer.model.image_tokens)
        return TokenUsage(input=min(prompt, self._demand.prompt_tokens), output=min(output, most))
