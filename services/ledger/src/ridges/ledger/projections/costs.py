"""Money and tokens: what each event of a model call adds to (or takes from) the sums. Pure.

A call is charged once: its first InferenceMade or InferenceFailed stands, a repeated outcome changes nothing.
InferenceSettled charges a call whose outcome was lost; an outcome that turns up after all replaces what was settled.
"""

from typing import Literal

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.usage import TokenUsage
from ridges.ledger.projections.runs import time_text, utc

SETTLED = "(settled)"
"""Stands for the provider of a settled call: nobody knows which one it was."""
UNATTRIBUTED = "(unattributed)"
"""Takes what an event charges beyond the sum of its attempts, so that rows always add up to the events' totals."""

CallStatus = Literal["reserved", "made", "failed", "settled"]
CallEvent = ev.InferenceReserved | ev.InferenceMade | ev.InferenceFailed | ev.InferenceSettled
NOTHING = TokenUsage()


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """An amount that belongs to one provider, model and day. Negative to take back."""

    provider: str
    model: str
    day: str
    """``YYYY-MM-DD``, UTC."""
    requests: int = 0
    """1 for the provider that answered."""
    usage: TokenUsage = NOTHING
    cost_nano_usd: int = 0

    def __neg__(self) -> "Charge":
        return msgspec.structs.replace(
            self, requests=-self.requests, usage=_minus(NOTHING, self.usage), cost_nano_usd=-self.cost_nano_usd
        )


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One model call of a run."""

    status: CallStatus
    model: str
    reserved_nano_usd: int = 0
    reserved_at: str | None = None
    settled: Charge | None = None
    """What was charged for it by InferenceSettled, to be taken back if its outcome turns up."""

    @property
    def open_nano_usd(self) -> int:
        """What is set aside for it now."""
        return self.reserved_nano_usd if self.status == "reserved" else 0


class CallChange(msgspec.Struct, frozen=True, kw_only=True):
    """What an event does: the call after it, and what is charged."""

    call: Call
    charges: tuple[Charge, ...] = ()


def change_call(call: Call | None, event: CallEvent) -> CallChange | None:
    """The effect of the event on its call; None when it has none."""
    match event:
        case ev.InferenceReserved():
            if call is not None:
                return None
            return CallChange(
                call=Call(
                    status="reserved",
                    model=event.model,
                    reserved_nano_usd=event.cost_nano_usd,
                    reserved_at=time_text(event.time),
                )
            )
        case ev.InferenceSettled():
            if call is not None and call.status != "reserved":
                return None
            charge = Charge(
                provider=SETTLED,
                model=event.model,
                day=day_of(event),
                usage=event.usage,
                cost_nano_usd=event.cost_nano_usd,
            )
            return CallChange(call=_closed(call, event, "settled", charge), charges=(charge,))
        case ev.InferenceMade() | ev.InferenceFailed():
            if call is not None and call.status not in ("reserved", "settled"):
                return None
            taken_back = () if call is None or call.settled is None else (-call.settled,)
            status: CallStatus = "made" if isinstance(event, ev.InferenceMade) else "failed"
            return CallChange(call=_closed(call, event, status, None), charges=(*taken_back, *charges_of(event)))


def charges_of(event: ev.InferenceMade | ev.InferenceFailed) -> tuple[Charge, ...]:
    """One charge an attempt, plus one for what the event's own totals hold beyond them (normally none)."""
    day, answered = day_of(event), isinstance(event, ev.InferenceMade)
    charges = [
        Charge(
            provider=attempt.provider,
            model=event.model,
            day=day,
            requests=int(answered and number == len(event.attempts)),
            usage=attempt.usage,
            cost_nano_usd=attempt.cost_nano_usd,
        )
        for number, attempt in enumerate(event.attempts, 1)
    ]
    used, cost = NOTHING, 0
    for charge in charges:
        used, cost = used + charge.usage, cost + charge.cost_nano_usd
    rest = Charge(
        provider=UNATTRIBUTED,
        model=event.model,
        day=day,
        requests=int(answered and not charges),
        usage=_minus(event.usage, used),
        cost_nano_usd=event.cost_nano_usd - cost,
    )
    if rest.requests or rest.cost_nano_usd or rest.usage != NOTHING:
        charges.append(rest)
    return tuple(charges)


def day_of(event: ev.Event) -> str:
    """The UTC day that the event counts for."""
    return utc(event.time).date().isoformat()


def _closed(call: Call | None, event: CallEvent, status: CallStatus, settled: Charge | None) -> Call:
    call = call or Call(status=status, model=event.model)
    return msgspec.structs.replace(call, status=status, settled=settled)


def _minus(left: TokenUsage, right: TokenUsage) -> TokenUsage:
    return TokenUsage(
        input=left.input - right.input,
        cached_input=left.cached_input - right.cached_input,
        output=left.output - right.output,
        reasoning=left.reasoning - right.reasoning,
    )
