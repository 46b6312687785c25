"""What a run may still use: the fold of its inference events and the decision about one more call. Pure.

A reservation is the worst case of a call. Used and reserved together never exceed a limit: that is what makes the
limits hard, for parallel calls and for several gateways alike (they agree by optimistic concurrency on the run's
InferenceReserved events).
"""

from datetime import UTC, datetime, timedelta

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.limits import ModelLimits
from ridges.contracts.money import TOKENS_PER_PRICE, usd_text
from ridges.contracts.usage import TokenPrice, TokenUsage, cost_nano_usd
from ridges.gateway import errors
from ridges.gateway.idempotency_keys import IdempotencyKeys

MIN_OUTPUT_TOKENS = 16
"""A call is not cut down below this: fewer tokens are no answer, only a charge."""


RATE_WINDOW = timedelta(seconds=60)
"""What requests per minute are counted over."""


ENDED_REMEMBERED = 4_096
"""Ended calls of which an event may still come again: as many as end while one event is on its way."""


LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Reservation(msgspec.Struct, frozen=True):
    """The worst case of a call in flight, and where it stands in the log."""

    event: ev.InferenceReserved
    position: int

    @property
    def cost_nano_usd(self) -> int:
        return self.event.cost_nano_usd

    @property
    def tokens(self) -> int:
        return self.event.tokens


class Spending:
    """Fold of one run's inference events. Events may come twice and a settlement before its reservation.

    What it remembers does not grow with the calls that ended.
    """

    def __init__(self) -> None:
        self.open: dict[str, Reservation] = {}
        self.reserved_nano = 0
        self.reserved_tokens = 0
        """Of those that are open."""
        self.used_nano = 0
        self.used_tokens = 0
        self.requests = 0
        """Calls that used tokens and have ended."""
        self.refusals = 0
        self.last_reserved_position = 0
        self.keys = IdempotencyKeys()
        self._none_began_before = LONG_AGO
        """No open reservation is older; not always the oldest one's time."""
        self._begun: dict[str, datetime] = {}
        """Calls that began within the last minute. By call: what this gateway appends and what others append may come
        in another order than in the log, and twice."""
        self._ended: dict[str, None] = {}
        """The last calls that ended, oldest first."""
        self._whole_until = 0
        self._refused: set[str] = set()

    def in_flight(self, now: datetime, longest_call_s: float) -> int:
        """Open reservations that can belong to a living call; older ones were left behind by a crash."""
        oldest = now - timedelta(seconds=longest_call_s)
        if not self.open or self._none_began_before >= oldest:
            return len(self.open)
        times = [reservation.event.time for reservation in self.open.values()]
        self._none_began_before = min(times)
        return sum(time >= oldest for time in times)

    def rate_wait_s(self, now: datetime, most: int) -> float:
        """Seconds until one more call may begin; 0 = now."""
        times = sorted(time for time in self._begun.values() if time > now - RATE_WINDOW)
        if len(times) < most:
            return 0.0
        return (times[-most] + RATE_WINDOW - now).total_seconds()

    def whole_until(self, position: int) -> None:
        """All events of the run up to this position were applied: what comes again from there is no news."""
        self._whole_until = max(self._whole_until, position)

    def apply(self, event: ev.AnyEvent, position: int) -> None:
        if position <= self._whole_until:
            return
        match event:
            case ev.InferenceReserved():
                self._reserve(event, position)
            case ev.InferenceMade() | ev.InferenceFailed() | ev.InferenceSettled():
                if self.keys and event.call_id in self.open:
                    self._end_keyed(event, self.open[event.call_id].event.idempotency_key)
                self._end(event.call_id, event.cost_nano_usd, event.usage)
            case ev.InferenceRefused() if event.id not in self._refused:
                self._refused.add(event.id)
                self.refusals += 1

    def _reserve(self, event: ev.InferenceReserved, position: int) -> None:
        self.last_reserved_position = max(self.last_reserved_position, position)
        self._begun[event.call_id] = event.time
        while self._begun[oldest := next(iter(self._begun))] <= event.time - RATE_WINDOW:
            del self._begun[oldest]
        if event.call_id not in self._ended:
            self._open(event, position)
            if event.idempotency_key is not None:
                self.keys.reserved(event.idempotency_key, event.call_id, event.idempotency_digest)

    def _open(self, event: ev.InferenceReserved, position: int) -> None:
        self._close(event.call_id)
        earliest = event.time if not self.open else min(event.time, self._none_began_before)
        self._none_began_before = earliest
        self.open[event.call_id] = Reservation(event, position)
        self.reserved_nano += event.cost_nano_usd
        self.reserved_tokens += event.tokens

    def _close(self, call_id: str) -> None:
        closed = self.open.pop(call_id, None)
        if closed is not None:
            self.reserved_nano -= closed.cost_nano_usd
            self.reserved_tokens -= closed.tokens

    def _end_keyed(self, event: ev.InferenceMade | ev.InferenceFailed | ev.InferenceSettled, key: str | None) -> None:
        if key is None:
            return
        if isinstance(event, ev.InferenceMade):
            self.keys.answered(key, event.call_id, event.reply)
        else:
            self.keys.freed(key, event.call_id)

    def _end(self, call_id: str, cost: int, usage: TokenUsage) -> None:
        if call_id in self._ended:
            return
        self._ended[call_id] = None
        if len(self._ended) > ENDED_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._close(call_id)
        self.used_nano += cost
        self.used_tokens += usage.total
        self.requests += 1 if usage.total or cost else 0


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """The worst case of a call before any limit: upper bounds of tokens, the highest price of each kind on offer."""

    prompt_tokens: int
    output_tokens: int
    """For each of the answers asked for; 0 for embeddings."""
    answers: int = 1
    seconds: int = 0
    """Longest time of a provider's work, where that is what costs."""
    requests: int = 1
    """Requests that may run side by side for this one call (hedging)."""
    price: TokenPrice


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What is set aside for a call."""

    cost_nano_usd: int
    tokens: int
    prompt_tokens: int
    """The part of ``tokens`` for the prompt."""
    output_tokens: int
    """Most output tokens of each answer."""
    lowered: bool
    """The call may produce less than it asked for: the provider must be told."""


class WaitForOthers(msgspec.Struct, frozen=True):
    """Calls in flight hold what this one needs; some of it comes back when they end."""


def refusal_before_call(
    run_id: str, limits: ModelLimits, spending: Spending, in_flight: int, now: datetime
) -> errors.GatewayError | None:
    """The limit that is reached whatever the call needs. Cost first. Source: agent contract (order of checks)."""
    if spending.used_nano >= limits.max_cost_nano_usd:
        return errors.CostLimitReached(run_id, limits.max_cost_nano_usd, spending.used_nano)
    requests = spending.requests + len(spending.open)
    if requests >= limits.max_requests:
        return errors.RequestLimitReached(run_id, limits.max_requests, requests)
    if spending.used_tokens >= limits.max_tokens:
        return errors.TokenLimitReached(run_id, limits.max_tokens, spending.used_tokens)
    if in_flight >= limits.max_concurrency:
        return errors.TooManyCalls(run_id, limits.max_concurrency)
    most = limits.max_requests_per_minute
    if most is not None and (wait_s := spending.rate_wait_s(now, most)) > 0:
        return errors.RateLimitReached(run_id, most, wait_s)
    return None


def decide(
    run_id: str,
    limits: ModelLimits,
    spending: Spending,
    demand: Demand,
    *,
    in_flight: int,
    may_wait: bool,
    now: datetime,
) -> Grant | WaitForOthers | errors.GatewayError:
    """Whether the call goes ahead, and with how many output tokens.

    The full worst case if it fits; else wait while other calls in flight hold reservations; else as many output
    tokens as fit, down to ``MIN_OUTPUT_TOKENS``; else a refusal. So an honest agent can use its budget to the end.
    """
    refusal = refusal_before_call(run_id, limits, spending, in_flight, now)
    if refusal is not None:
        return refusal
    room_nano = limits.max_cost_nano_usd - spending.used_nano - spending.reserved_nano
    room_tokens = limits.max_tokens - spending.used_tokens - spending.reserved_tokens
    fitting = affordable_output(room_nano, room_tokens, demand)
    if fitting is not None and fitting >= demand.output_tokens:
        return _grant(demand, demand.output_tokens, lowered=False)
    if may_wait and in_flight:
        return WaitForOthers()
    least = min(MIN_OUTPUT_TOKENS, demand.output_tokens)
    if fitting is not None and fitting >= least:
        return _grant(demand, fitting, lowered=True)
    return _too_small(run_id, limits, spending, demand, room_nano=room_nano, least=least)


def affordable_output(room_nano: int, room_tokens: int, demand: Demand) -> int | None:
    """Most output tokens of each answer that fit; None when not even the prompt does."""
    left_tokens = room_tokens - demand.prompt_tokens * demand.requests
    by_time = demand.seconds * demand.price.per_second * TOKENS_PER_PRICE
    fixed = demand.prompt_tokens * _input_price(demand.price) + by_time
    rounding = TOKENS_PER_PRICE if demand.requests > 1 else 0  # each request's cost is rounded up by itself
    left_exact = room_nano * TOKENS_PER_PRICE - (fixed + rounding) * demand.requests
    if room_nano <= 0 or left_tokens < 0 or left_exact < 0:
        return None
    answers = demand.answers * demand.requests
    by_tokens = left_tokens // answers
    price = _output_price(demand.price) * answers
    by_cost = left_exact // price if price else demand.output_tokens
    return min(demand.output_tokens, by_tokens, by_cost)


def worst_cost_nano(demand: Demand, output_tokens: int) -> int:
    """Prompt at the input price, output at the higher of output and reasoning price, the time at its own."""
    worst = TokenPrice(
        input=_input_price(demand.price), cached_input=0, output=_output_price(demand.price), reasoning=0
    )
    usage = TokenUsage(input=demand.prompt_tokens, output=output_tokens * demand.answers)
    return demand.requests * (cost_nano_usd(usage, worst) + demand.seconds * demand.price.per_second)


def worst_tokens(demand: Demand, output_tokens: int) -> int:
    return demand.requests * (demand.prompt_tokens + output_tokens * demand.answers)


def _grant(demand: Demand, output_tokens: int, *, lowered: bool) -> Grant:
    return Grant(
        cost_nano_usd=worst_cost_nano(demand, output_tokens),
        tokens=worst_tokens(demand, output_tokens),
        prompt_tokens=demand.prompt_tokens * demand.requests,
        output_tokens=output_tokens,
        lowered=lowered,
    )


def _too_small(
    run_id: str, limits: ModelLimits, spending: Spending, demand: Demand, *, room_nano: int, least: int
) -> errors.GatewayError:
    current_nano = spending.used_nano + spending.reserved_nano
    smallest = worst_cost_nano(demand, least)
    if room_nano <= 0:
        return errors.CostLimitReached(run_id, limits.max_cost_nano_usd, current_nano)
    if smallest > room_nano:
        more = f" This call alone could cost {usd_text(smallest)} USD, more than the {usd_text(room_nano)} USD left."
        return errors.CostLimitReached(run_id, limits.max_cost_nano_usd, current_nano, more)
    current_tokens = spending.used_tokens + spending.reserved_tokens
    more = f" This call alone could use {demand.prompt_tokens + least * demand.answers} tokens."
    return errors.TokenLimitReached(run_id, limits.max_tokens, current_tokens, more)


def _input_price(price: TokenPrice) -> int:
    return max(price.input, price.cached_input)


def _output_price(price: TokenPrice) -> int:
    return max(price.output, price.reasoning)


def highest(prices: list[TokenPrice]) -> TokenPrice:
    """The highest price of each kind: the worst case over providers that may serve the call."""
    return TokenPrice(
        input=max(price.input for price in prices),
        cached_input=max(price.cached_input for price in prices),
        output=max(price.output for price in prices),
        reasoning=max(price.reasoning for price in prices),
        per_second=max(price.per_second for price in prices),
    )
