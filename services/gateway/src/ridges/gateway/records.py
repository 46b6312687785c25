"""What one call has done so far, attempt by attempt: the material of its InferenceMade or InferenceFailed."""

from datetime import datetime
from typing import Literal

from ridges.chassis.ports import Clock
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef
from ridges.contracts.usage import TokenUsage, cost_nano_usd
from ridges.gateway.calls import ModelCall
from ridges.gateway.domain import MIN_OUTPUT_TOKENS, Demand, Grant, affordable_output
from ridges.gateway.errors import GatewayError
from ridges.gateway.roster import Offer
from ridges.gateway.usage_parsing import TOKENS_PER_SECOND, estimated_tokens, most_prompt_tokens

Outcome = Literal["ok", "connect_error", "timeout", "http_error", "malformed", "cut", "abandoned"]
DETAIL_CHARS = 1_000
WORKED_IN_VAIN = frozenset({"timeout", "cut", "abandoned"})
"""Outcomes after which a provider bills for what it made: estimated, for it never told."""


class CallRecord:
    """One call of one run. At most one attempt is open at a time."""

    def __init__(self, run_id: str, call_id: str, call: ModelCall, demand: Demand, grant: Grant, clock: Clock) -> None:
        self.run_id, self.call_id, self.call = run_id, call_id, call
        self.attempts: list[ev.InferenceAttempt] = []
        self._demand, self._grant, self._clock = demand, grant, clock
        self._offer: Offer | None = None
        self._began_at = 0.0
        self._first_token_ms: int | None = None
        self._generated_bytes = 0
        self._output_limit = grant.output_tokens

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

    def next_output_limit(self) -> tuple[bool, int | None]:
        """(may there be another attempt, the limit for its provider): earlier ones ate from the same reservation."""
        if not self.attempts or not self.cost_nano_usd:
            lowered = self._grant.lowered or self.call.output_tokens is not None
            return True, self._grant.output_tokens if lowered and self.call.kind == "chat" else None
        room_nano = self._grant.cost_nano_usd - self.cost_nano_usd
        room_tokens = self._grant.tokens - self.usage.total
        fitting = affordable_output(room_nano, room_tokens, self._demand)
        wanted = min(self._grant.output_tokens, MIN_OUTPUT_TOKENS)
        if fitting is None or fitting < wanted:
            return False, None
        self._output_limit = min(fitting, self._grant.output_tokens)
        return True, self._output_limit if self.call.kind == "chat" else None

    @property
    def is_open(self) -> bool:
        """An attempt is under way."""
        return self._offer is not None

    def begin(self, offer: Offer) -> None:
        self._offer = offer
        self._began_at = self._clock.monotonic()
        self._first_token_ms, self._generated_bytes = None, 0

    def first_token(self) -> None:
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()

    def generated(self, text_bytes: int) -> None:
        """So many bytes of text have come in the open attempt."""
        self._generated_bytes = text_bytes

    def end(
        self, outcome: Outcome, *, status: int | None = None, usage: TokenUsage | None = None, detail: str | None = None
    ) -> None:
        """Close the open attempt. Without usage from the provider it is estimated where work was done."""
        offer = self._offer
        if offer is None:
            return
        self._offer = None
        source: Literal["provider", "estimated", "none"] = "provider"
        if usage is None and (outcome == "ok" or outcome in WORKED_IN_VAIN):
            usage, source = self._estimate(outcome), "estimated"
        elif usage is None:
            usage, source = TokenUsage(), "none"
        self.attempts.append(
            ev.InferenceAttempt(
                provider=offer.provider.name,
                served_model=offer.model.served,
                outcome=outcome,
                status=status,
                latency_ms=self._elapsed_ms(),
                first_token_ms=self._first_token_ms,
                usage=usage,
                usage_source=source,
                price=offer.model.price,
                price_list=offer.price_list,
                cost_nano_usd=cost_nano_usd(usage, offer.model.price),
                detail=detail[:DETAIL_CHARS] if detail else None,
            )
        )

    def abandon(self) -> None:
        """The caller left."""
        self.end("abandoned", detail="the caller closed the connection")

    def made(self, event_id: str, at: datetime, request: BlobRef | None, reply: BlobRef | None) -> ev.InferenceMade:
        return ev.InferenceMade(
            id=event_id,
            run_id=self.run_id,
            time=at,
            call_id=self.call_id,
            kind=self.call.kind,
            model=self.call.model,
            streamed=self.call.streamed,
            attempts=tuple(self.attempts),
            usage=self.usage,
            cost_nano_usd=self.cost_nano_usd,
            request=request,
            reply=reply,
        )

    def failed(self, event_id: str, at: datetime, request: BlobRef | None, why: GatewayError) -> ev.InferenceFailed:
        return ev.InferenceFailed(
            id=event_id,
            run_id=self.run_id,
            time=at,
            call_id=self.call_id,
            kind=self.call.kind,
            model=self.call.model,
            attempts=tuple(self.attempts),
            usage=self.usage,
            cost_nano_usd=self.cost_nano_usd,
            status=why.status,
            detail=why.detail[:DETAIL_CHARS],
            request=request,
        )

    def _elapsed_ms(self) -> int:
        return int((self._clock.monotonic() - self._began_at) * 1000)

    def _estimate(self, outcome: Outcome) -> TokenUsage:
        """Prompt by its bytes; output by the text that came, else by the time the provider had for it."""
        output = estimated_tokens(self._generated_bytes)
        if outcome != "ok" and not self.call.streamed:
            output = self._elapsed_ms() * TOKENS_PER_SECOND // 1000
        most = self._output_limit * self.call.answers
        prompt = estimated_tokens(most_prompt_tokens(self.call.fields))
        return TokenUsage(input=min(prompt, self._demand.prompt_tokens), output=min(output, most))
