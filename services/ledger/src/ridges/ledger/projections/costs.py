"""Money and tokens: what each event of a model call does to its call and to the sums of its run.

A call is charged once: its first InferenceMade or InferenceFailed stands, a repeated outcome changes nothing.
InferenceSettled charges a call whose outcome was lost. A provider's record replaces the maximum that was charged
before it; an outcome that turns up after all replaces either. What a gateway only estimated, because it was lost
during the call, stands like an outcome but gives way to a provider's record.
"""

from array import array
from collections.abc import Iterable
from datetime import UTC, date, datetime
from operator import add
from typing import Literal

import msgspec

from ridges.contracts.events import LOST
from ridges.contracts.money import TOKENS_PER_PRICE
from ridges.contracts.usage import TokenUsage
from ridges.ledger.projections.slim import (
    AttemptLike,
    Failed,
    Made,
    Refused,
    Reserved,
    Settled,
    SlimAttempt,
    slim_attempt,
)

SETTLED = "(settled)"
"""Stands for the provider of a settled call: nobody knows which one it was."""
UNATTRIBUTED = "(unattributed)"
"""Takes what an event charges beyond the sum of its attempts, so that rows always add up to the events' totals."""
REFUSED = "(refused)"
"""Stands for the provider of a call that was refused before any provider was asked."""
NO_MODEL = "(none)"
ESTIMATE, RECORD = "estimate", "provider_record"
"""Sources of a settlement."""

AMOUNTS = (
    "requests",
    "requests_failed",
    "requests_refused",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nano_usd",
    "input_nano_usd",
    "cached_input_nano_usd",
    "output_nano_usd",
    "reasoning_nano_usd",
)
"""Sums of a cell. The last four are the parts of the cost by token kind, each rounded down: the rest is rounding."""
REQUESTS, REQUESTS_FAILED, REQUESTS_REFUSED, INPUT, CACHED, OUTPUT, REASONING, COST = range(8)

CellKey = tuple[int, str, str, str, str, str, str, int]
"""Run attempt, provider, served model, model, day, price list, outcome, estimated: what ``costs`` has one row for."""


class Cell:
    """Amounts that were added to one row of ``costs`` since the last flush."""

    __slots__ = ("sums", "usages")

    def __init__(self) -> None:
        self.sums = [0] * len(AMOUNTS)
        self.usages = array("q")
        """Input, cached input, output, reasoning of each attempt in the order of the log: for exact re-pricing."""


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What InferenceSettled or an estimate charged, to be taken back if something better turns up."""

    source: str
    """Of InferenceSettled; or ``ESTIMATE``."""
    model: str
    day: str
    usage: TokenUsage
    cost_nano_usd: int
    attempt: SlimAttempt | None = None
    """Of an estimate."""


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that is not closed for good: reserved, settled without its outcome, or estimated by its lost gateway."""

    status: Literal["reserved", "settled", "estimated"]
    attempt: int
    """Of the run, when it was reserved."""
    model: str
    reserved_nano_usd: int = 0
    reserved_at: datetime | None = None
    settled: Settlement | None = None

    @property
    def open_nano_usd(self) -> int:
        """What is set aside for it now."""
        return self.reserved_nano_usd if self.status == "reserved" else 0


class Calls:
    """The calls of one run and what they cost since the last flush."""

    __slots__ = ("cells", "closed", "newly_closed", "open", "touched")

    def __init__(self, open_calls: dict[str, Call] | None = None, closed: set[str] | None = None) -> None:
        self.open = {} if open_calls is None else open_calls
        self.closed: set[str] = set() if closed is None else closed
        """Every call whose outcome is in the log."""
        self.touched: set[str] = set()
        """Calls whose row in ``calls`` changed since the last flush."""
        self.newly_closed: list[str] = []
        self.cells: dict[CellKey, Cell] = {}

    def reserve(self, event: Reserved, attempt: int) -> int:
        """What is set aside by it in nano-USD."""
        call_id = event.call_id
        if call_id in self.open or call_id in self.closed:
            return 0
        self.open[call_id] = Call(
            status="reserved",
            attempt=attempt,
            model=event.model,
            reserved_nano_usd=event.cost_nano_usd,
            reserved_at=event.time,
        )
        self.touched.add(call_id)
        return event.cost_nano_usd

    def settle(self, event: Settled, attempt: int) -> "Change | None":
        """Charge a call whose outcome was lost."""
        call = self.open.get(event.call_id)
        if event.call_id in self.closed or not _may_settle(call, event):
            return None
        before = call or Call(status="reserved", attempt=attempt, model=event.model)
        change = Change(released_nano_usd=before.open_nano_usd)
        self._take_back(before, change)
        settled = Settlement(
            source=event.source,
            model=event.model,
            day=day_of(event.time),
            usage=event.usage,
            cost_nano_usd=event.cost_nano_usd,
        )
        self.open[event.call_id] = msgspec.structs.replace(before, status="settled", settled=settled)
        self.touched.add(event.call_id)
        self._add_settlement(before, settled, 1, change)
        return change

    def finish(self, event: Made | Failed, attempt: int, *, answered: bool) -> "Change | None":
        """Charge the outcome of a call."""
        call_id = event.call_id
        if call_id in self.closed:
            return None
        if not answered and is_estimate(event):
            return self._estimate(event, attempt)
        call = self.open.pop(call_id, None)
        if call is not None and call.status == "estimated":
            self.open[call_id] = call
            return None
        change = Change(answered=answered)
        if call is not None:
            self.touched.add(call_id)
            attempt = call.attempt
            change.released_nano_usd = call.open_nano_usd
            self._take_back(call, change)
        self.closed.add(call_id)
        self.newly_closed.append(call_id)
        self._charge(event, attempt, answered)
        usage = event.usage
        change.add(usage.input, usage.cached_input, usage.output, usage.reasoning, event.cost_nano_usd)
        return change

    def _estimate(self, event: Made | Failed, attempt: int) -> "Change | None":
        """Charge what a lost gateway thinks that its call cost."""
        call = self.open.get(event.call_id)
        if call is not None and (call.status == "estimated" or (call.settled and call.settled.source == RECORD)):
            return None
        before = call or Call(status="reserved", attempt=attempt, model=event.model)
        change = Change(released_nano_usd=before.open_nano_usd)
        self._take_back(before, change)
        [tried] = event.attempts
        usage = event.usage
        settled = Settlement(
            source=ESTIMATE,
            model=event.model,
            day=day_of(event.time),
            usage=TokenUsage(
                input=usage.input, cached_input=usage.cached_input, output=usage.output, reasoning=usage.reasoning
            ),
            cost_nano_usd=event.cost_nano_usd,
            attempt=tried if isinstance(tried, SlimAttempt) else slim_attempt(tried),
        )
        self.open[event.call_id] = msgspec.structs.replace(before, status="estimated", settled=settled)
        self.touched.add(event.call_id)
        self._add_settlement(before, settled, 1, change)
        return change

    def refuse(self, event: Refused, attempt: int) -> None:
        """Count a call that never reached a provider."""
        key = (attempt, REFUSED, "", event.model or NO_MODEL, day_of(event.time), "", "refused", 0)
        self._cell(key).sums[REQUESTS_REFUSED] += 1

    def add_cell(self, key: CellKey, sums: Iterable[int], usages: bytes) -> None:
        """Add amounts that were summed up before."""
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell()
            cell.sums[:] = sums
        else:
            cell.sums[:] = map(add, cell.sums, sums)
        cell.usages.frombytes(usages)

    def _charge(self, event: Made | Failed, attempt: int, answered: bool) -> None:
        day, model, attempts = day_of(event.time), event.model, event.attempts
        cells = self.cells
        used_in = used_cached = used_out = used_reasoning = cost = 0
        sums: list[int] | None = None
        for tried in attempts:
            key = (
                attempt,
                tried.provider,
                tried.served_model,
                model,
                day,
                tried.price_list,
                "ok" if tried.outcome == "ok" else "failed",
                1 if tried.usage_source == "estimated" else 0,
            )
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = Cell()
            sums = cell.sums
            usage = tried.usage
            i, c, o, r = usage.input, usage.cached_input, usage.output, usage.reasoning
            _add_attempt(sums, tried, i, c, o, r)
            cell.usages.extend((i, c, o, r))
            used_in += i
            used_cached += c
            used_out += o
            used_reasoning += r
            cost += tried.cost_nano_usd
        usage = event.usage
        rest = (
            usage.input - used_in,
            usage.cached_input - used_cached,
            usage.output - used_out,
            usage.reasoning - used_reasoning,
            event.cost_nano_usd - cost,
        )
        if sums is None or any(rest):
            key = (attempt, UNATTRIBUTED, "", model, day, "", "ok" if answered else "failed", 0)
            unattributed = self._cell(key).sums
            for place, amount in enumerate(rest, INPUT):
                unattributed[place] += amount
            sums = unattributed if sums is None else sums
        sums[REQUESTS if answered else REQUESTS_FAILED] += 1

    def _take_back(self, call: Call, change: "Change") -> None:
        if call.settled is not None:
            self._add_settlement(call, call.settled, -1, change)

    def _add_settlement(self, call: Call, settled: Settlement, sign: int, change: "Change") -> None:
        usage, tried = settled.usage, settled.attempt
        if tried is None:
            key: CellKey = (call.attempt, SETTLED, "", settled.model, settled.day, settled.source, "settled", 0)
            sums = self._cell(key).sums
        else:
            names = (tried.provider, tried.served_model, settled.model, settled.day, tried.price_list)
            cell = self._cell((call.attempt, *names, "failed", 1))
            sums = cell.sums
            sums[REQUESTS_FAILED] += sign
            change.failed += sign
            kinds = (usage.input, usage.cached_input, usage.output, usage.reasoning)
            by_kind = (tried.price.input, tried.price.cached_input, tried.price.output, tried.price.reasoning)
            cell.usages.extend(sign * count for count in kinds)
            for place, (count, price) in enumerate(zip(kinds, by_kind, strict=True), COST + 1):
                sums[place] += sign * (count * price // TOKENS_PER_PRICE)
        amounts = [
            sign * amount
            for amount in (usage.input, usage.cached_input, usage.output, usage.reasoning, settled.cost_nano_usd)
        ]
        for place, amount in enumerate(amounts, INPUT):
            sums[place] += amount
        change.add(*amounts)

    def _cell(self, key: CellKey) -> Cell:
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell()
        return cell


class Change:
    """What an event does to the sums of its run."""

    __slots__ = (
        "answered",
        "cached_input",
        "cost_nano_usd",
        "failed",
        "input",
        "output",
        "reasoning",
        "released_nano_usd",
    )

    def __init__(self, *, answered: bool = False, released_nano_usd: int = 0) -> None:
        self.answered, self.released_nano_usd = answered, released_nano_usd
        self.input = self.cached_input = self.output = self.reasoning = self.cost_nano_usd = 0
        self.failed = 0
        """Failed calls that an estimate counts, or no longer counts."""

    def add(self, fresh: int, cached: int, output: int, reasoning: int, cost_nano_usd: int) -> None:
        self.input += fresh
        self.cached_input += cached
        self.output += output
        self.reasoning += reasoning
        self.cost_nano_usd += cost_nano_usd


def is_estimate(event: Made | Failed) -> bool:
    """Whether it is not an outcome but what a gateway estimates for a call that it lost in a crash."""
    attempts = event.attempts
    if len(attempts) != 1:
        return False
    [tried] = attempts
    return (
        tried.provider == LOST
        and tried.outcome == "abandoned"
        and tried.usage_source == "estimated"
        and tried.cost_nano_usd == event.cost_nano_usd
        and tried.usage == event.usage
    )


def _may_settle(call: Call | None, event: Settled) -> bool:
    """Once; but a provider's record is better than the maximum or an estimate."""
    if call is None or call.settled is None:
        return True
    return call.settled.source != RECORD and event.source == RECORD


def _add_attempt(sums: list[int], tried: AttemptLike, i: int, c: int, o: int, r: int) -> None:
    price = tried.price
    sums[INPUT] += i
    sums[CACHED] += c
    sums[OUTPUT] += o
    sums[REASONING] += r
    sums[COST] += tried.cost_nano_usd
    sums[8] += i * price.input // TOKENS_PER_PRICE
    if c:
        sums[9] += c * price.cached_input // TOKENS_PER_PRICE
    sums[10] += o * price.output // TOKENS_PER_PRICE
    if r:
        sums[11] += r * price.reasoning // TOKENS_PER_PRICE


_DAYS: dict[int, str] = {}
"""Day number -> ``YYYY-MM-DD``; a log has few days."""


def day_of(time: datetime) -> str:
    """The UTC day that the time counts for; one without a zone is taken as UTC."""
    if time.tzinfo is not UTC and time.tzinfo is not None:
        time = time.astimezone(UTC)
    number = time.toordinal()
    day = _DAYS.get(number)
    if day is None:
        day = _DAYS[number] = date.fromordinal(number).isoformat()
    return day
