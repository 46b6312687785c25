"""Events as the archive holds them for a fast replay: only what the tables are made of, positional, MessagePack.

The fold reads stored events and slim ones alike: the fields have the same names. What has no slim form stands in the
segment whole.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.usage import TokenPrice, TokenUsage


class SlimUsage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """See ``TokenUsage``."""

    input: int
    cached_input: int
    output: int
    reasoning: int


class SlimPrice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """See ``TokenPrice``."""

    input: int
    output: int
    cached_input: int
    reasoning: int


class SlimAttempt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """See ``InferenceAttempt``."""

    provider: str
    served_model: str
    outcome: str
    usage_source: str
    price_list: str
    usage: SlimUsage
    price: SlimPrice
    cost_nano_usd: int


class _Slim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    run_id: str
    time: datetime


class SlimReserved(_Slim, frozen=True, array_like=True, gc=False, tag=1):
    """See ``InferenceReserved``."""

    call_id: str
    model: str
    cost_nano_usd: int


class SlimMade(_Slim, frozen=True, array_like=True, gc=False, tag=2):
    """See ``InferenceMade``."""

    call_id: str
    model: str
    cost_nano_usd: int
    usage: SlimUsage
    attempts: tuple[SlimAttempt, ...]


class SlimFailed(_Slim, frozen=True, array_like=True, gc=False, tag=3):
    """See ``InferenceFailed``."""

    call_id: str
    model: str
    cost_nano_usd: int
    usage: SlimUsage
    attempts: tuple[SlimAttempt, ...]


class SlimRefused(_Slim, frozen=True, array_like=True, gc=False, tag=4):
    """See ``InferenceRefused``."""

    model: str | None


class Whole(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    """Any other event, as it stands in the log."""

    position: int
    content: bytes


class SlimCell(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What finished calls add to one row of ``costs``; see ``costs.CellKey`` and ``costs.AMOUNTS``."""

    key: tuple[str, str, str, str, str, str, int]
    """Without the run's attempt: that is known when it is folded."""
    sums: tuple[int, ...]
    usages: bytes


class FinishedCalls(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Calls that follow each other in one run, each reserved and finished within, already added up."""

    call_ids: list[str]
    answered: int
    failed: int
    amounts: tuple[int, int, int, int, int]
    """Input, cached input, output, reasoning, cost in nano-USD."""
    cells: list[SlimCell]


class WholeRun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """A run from its request to its end, all within one segment: what its events come to."""

    record: list[Any]
    """Fields of ``RunRecord``."""
    call_ids: list[str]
    cells: list[tuple[tuple[int, str, str, str, str, str, str, int], tuple[int, ...], bytes]]
    """Key, sums and usages of each cell."""


SlimEvent = SlimReserved | SlimMade | SlimFailed | SlimRefused
ReplayItem = Whole | SlimReserved | SlimMade | SlimFailed | SlimRefused | FinishedCalls | WholeRun


class RunReplay(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything of one stream within a segment, in order."""

    run_id: str
    first_position: int
    last_position: int
    items: list[ReplayItem]


AttemptLike = ev.InferenceAttempt | SlimAttempt
UsageLike = TokenUsage | SlimUsage
PriceLike = TokenPrice | SlimPrice
Reserved = ev.InferenceReserved | SlimReserved
Made = ev.InferenceMade | SlimMade
Failed = ev.InferenceFailed | SlimFailed
Refused = ev.InferenceRefused | SlimRefused
Settled = ev.InferenceSettled
Foldable = ev.AnyEvent | SlimEvent

Outcome = Literal["ok", "failed", "settled", "refused"]


def slim(event: ev.AnyEvent) -> SlimEvent | None:
    """The slim form; None when the event must be kept whole."""
    match event:
        case ev.InferenceReserved():
            return SlimReserved(
                run_id=event.run_id,
                time=event.time,
                call_id=event.call_id,
                model=event.model,
                cost_nano_usd=event.cost_nano_usd,
            )
        case ev.InferenceMade() | ev.InferenceFailed():
            kind = SlimMade if isinstance(event, ev.InferenceMade) else SlimFailed
            return kind(
                run_id=event.run_id,
                time=event.time,
                call_id=event.call_id,
                model=event.model,
                cost_nano_usd=event.cost_nano_usd,
                usage=_usage(event.usage),
                attempts=tuple(map(slim_attempt, event.attempts)),
            )
        case ev.InferenceRefused():
            return SlimRefused(run_id=event.run_id, time=event.time, model=event.model)
    return None


def slim_attempt(attempt: ev.InferenceAttempt) -> SlimAttempt:
    """What the tables take of an attempt."""
    price = attempt.price
    return SlimAttempt(
        provider=attempt.provider,
        served_model=attempt.served_model,
        outcome=attempt.outcome,
        usage_source=attempt.usage_source,
        price_list=attempt.price_list,
        usage=_usage(attempt.usage),
        price=SlimPrice(
            input=price.input, output=price.output, cached_input=price.cached_input, reasoning=price.reasoning
        ),
        cost_nano_usd=attempt.cost_nano_usd,
    )


def _usage(usage: TokenUsage) -> SlimUsage:
    return SlimUsage(input=usage.input, cached_input=usage.cached_input, output=usage.output, reasoning=usage.reasoning)
