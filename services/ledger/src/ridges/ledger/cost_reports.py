"""Costs cut by any dimension, and the same history with other prices."""

import sqlite3
from array import array
from collections import defaultdict
from datetime import UTC, datetime
from typing import get_args

from ridges.contracts.events import PriceListPublished
from ridges.contracts.faults import RULES, Cause
from ridges.contracts.lifecycle import ENDED
from ridges.contracts.money import TOKENS_PER_PRICE, usd_text
from ridges.contracts.usage import TokenPrice, TokenUsage
from ridges.contracts.views import (
    BatchRow,
    CostDimension,
    CostReport,
    CostRow,
    PriceListRow,
    RepricedRow,
    RepriceReport,
    VoidRuns,
)
from ridges.ledger.price_lists import RECORDED

COST_DIMENSIONS: tuple[CostDimension, ...] = get_args(CostDimension)
KINDS = ("input", "cached_input", "output", "reasoning")
RESERVED = "(reserved)"
"""Stands for the provider of a call in flight."""
OTHER = "(other)"
"""Stands for the token kind of what has none: rounding, settled calls, counts of calls."""

_AGENT = "coalesce(runs.agent_name || '@' || substr(runs.agent, 8, 12), '(unknown)')"
_KEYS: dict[CostDimension, str] = {
    "run": "money.run_id",
    "attempt": "money.run_id || '#' || money.attempt",
    "agent": _AGENT,
    "problem": "coalesce(runs.problem, '(unknown)')",
    "batch": "coalesce(runs.batch_id, '(none)')",
    "model": "money.model",
    "provider": "money.provider",
    "day": "money.day",
    "token_kind": "money.token_kind",
}
_AMOUNTS = (
    "requests",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost",
    "requests_failed",
    "requests_refused",
    "failed",
    "estimated",
    "settled",
    "reserved",
)
_SUMS = ", ".join(f"coalesce(sum(money.{name}), 0)" for name in _AMOUNTS)
_NOT_EMPTY = " OR ".join(f"sum(money.{name})" for name in _AMOUNTS)


def _part(cost: str) -> str:
    """The cost and its parts, as columns."""
    return (
        f"{cost} AS cost, requests_failed, requests_refused, "
        f"CASE outcome WHEN 'failed' THEN {cost} ELSE 0 END AS failed, "
        f"CASE estimated WHEN 1 THEN {cost} ELSE 0 END AS estimated, "
        f"CASE outcome WHEN 'settled' THEN {cost} ELSE 0 END AS settled, 0 AS reserved"
    )


_OPEN_CALLS = (
    f"SELECT run_id, attempt, '{RESERVED}', model, coalesce(substr(reserved_at, 1, 10), ''), '{OTHER}', "  # noqa: S608
    "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, reserved_nano_usd FROM calls WHERE status = 'reserved'"
)
_MONEY = (
    "SELECT run_id, attempt, provider, model, day, '' AS token_kind, requests, input_tokens, cached_input_tokens, "  # noqa: S608
    f"output_tokens, reasoning_tokens, {_part('cost_nano_usd')} FROM costs UNION ALL {_OPEN_CALLS}"
)


def _money_by_kind() -> str:
    cells = "SELECT run_id, attempt, provider, model, day"
    kinds = [
        f"{cells}, '{kind}' AS token_kind, 0 AS requests, "
        + ", ".join(f"{f'{name}_tokens' if name == kind else 0} AS {name}_tokens" for name in KINDS)
        + f", {_part(f'{kind}_nano_usd')} FROM costs"
        for kind in KINDS
    ]
    kinds = [
        part.replace("requests_failed, requests_refused", "0 AS requests_failed, 0 AS requests_refused")
        for part in kinds
    ]
    rest = "cost_nano_usd - " + " - ".join(f"{kind}_nano_usd" for kind in KINDS)
    other = f"{cells}, '{OTHER}', requests, 0, 0, 0, 0, {_part(f'({rest})')} FROM costs"
    return " UNION ALL ".join((*kinds, other, _OPEN_CALLS))


_MONEY_BY_KIND = _money_by_kind()


def cost_report(connection: sqlite3.Connection, by: CostDimension, position: int) -> CostReport:
    """Costs by one dimension, the most expensive first (days: in order)."""
    source = _MONEY_BY_KIND if by == "token_kind" else _MONEY
    order = "1" if by in ("day", "attempt") else "7 DESC, 1"
    rows = connection.execute(
        f"SELECT {_KEYS[by]} AS key, {_SUMS} FROM ({source}) AS money LEFT JOIN runs ON runs.run_id = money.run_id "  # noqa: S608
        f"GROUP BY key HAVING {_NOT_EMPTY} ORDER BY {order}"
    ).fetchall()
    total = connection.execute(f"SELECT 'total', {_SUMS} FROM ({_MONEY}) AS money").fetchone()  # noqa: S608
    return CostReport(by=by, rows=tuple(map(_cost_row, rows)), total=_cost_row(total), position=position)


def _cost_row(row: tuple[object, ...]) -> CostRow:
    requests, fresh, cached, output, reasoning, cost, no_answer, refused, failed, estimated, settled, reserved = (
        int(str(amount)) for amount in row[1:]
    )
    return CostRow(
        key=str(row[0]),
        requests=requests,
        usage=TokenUsage(input=fresh, cached_input=cached, output=output, reasoning=reasoning),
        cost_nano_usd=cost,
        cost_usd=usd_text(cost),
        requests_failed=no_answer,
        requests_refused=refused,
        failed_nano_usd=failed,
        estimated_nano_usd=estimated,
        settled_nano_usd=settled,
        reserved_nano_usd=reserved,
    )


_GROUP = ("costs.model", _AGENT, "costs.day")
_RECORDED = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nano_usd")
_FROM_ATTEMPTS = "FROM costs LEFT JOIN runs ON runs.run_id = costs.run_id WHERE costs.day >= ? AND outcome != 'refused'"

_Group = tuple[str, str, str]
"""Model, agent, day."""


def repriced(
    connection: sqlite3.Connection, prices: PriceListPublished, since: str | None, position: int
) -> RepriceReport:
    """Every attempt priced again, rounded up by itself, as the gateway does: the same prices give the same sums."""
    rows = connection.execute(
        f"SELECT {', '.join(_GROUP)}, provider, served_model, usages = x'' AS no_tokens, "
        f"{', '.join(f'sum(costs.{name})' for name in _RECORDED)} {_FROM_ATTEMPTS} GROUP BY 1, 2, 3, 4, 5, 6",
        (since or "",),
    )
    rounded = _rounded(connection, prices, since)
    groups: defaultdict[_Group, list[int]] = defaultdict(lambda: [0] * 7)
    unpriced: set[str] = set()
    kept = 0
    for model, agent, day, provider, served, no_tokens, requests, *tokens, recorded in rows:
        name = f"{provider}/{served}"
        price = prices.prices.get(name)
        if no_tokens or price is None or price.per_second:
            unpriced.update((name,) if price is None and not no_tokens else ())
            kept += recorded
            amount = recorded
        elif _needs_rounding(price):
            amount = rounded[model, agent, day, name]
        else:
            amount = sum(count * each for count, each in zip(tokens, _by_kind(price), strict=True)) // TOKENS_PER_PRICE
        sums = groups[model, agent, day]
        for place, value in enumerate((requests, *tokens, recorded, amount)):
            sums[place] += value
    found = tuple(_repriced_row(key, sums) for key, sums in sorted(groups.items()))
    return RepriceReport(
        price_list=prices.price_list,
        since=since,
        rows=found,
        recorded_nano_usd=sum(row.recorded_nano_usd for row in found),
        repriced_nano_usd=sum(row.repriced_nano_usd for row in found),
        unpriced=tuple(sorted(unpriced)),
        kept_nano_usd=kept,
        position=position,
    )


def recorded_price_lists(connection: sqlite3.Connection) -> list[PriceListRow]:
    """See ``Queries.recorded_price_lists``."""
    rows = connection.execute(
        "SELECT price_list, min(day), count(DISTINCT provider || '/' || served_model) FROM costs "
        "WHERE price_list NOT IN (SELECT price_list FROM price_lists) "
        "AND price_list NOT LIKE '(%' AND price_list != '' GROUP BY price_list ORDER BY 2 DESC, 1"
    )
    return [
        PriceListRow(price_list=name, source=RECORDED, effective_at=day, published_at=day, models=models)
        for name, text, models in rows
        for day in (datetime.fromisoformat(text).replace(tzinfo=UTC),)
    ]


def _rounded(
    connection: sqlite3.Connection, prices: PriceListPublished, since: str | None
) -> dict[tuple[str, str, str, str], int]:
    """By group and price: the sum over attempts whose cost may be no whole nano-USD, each rounded up."""
    uneven = {name: price for name, price in prices.prices.items() if _needs_rounding(price)}
    parts: defaultdict[tuple[str, str, str, str], list[bytes]] = defaultdict(list)
    if uneven:
        for model, agent, day, provider, served, usages in connection.execute(
            f"SELECT {', '.join(_GROUP)}, provider, served_model, usages {_FROM_ATTEMPTS}",
            (since or "",),
        ):
            name = f"{provider}/{served}"
            if name in uneven:
                parts[model, agent, day, name].append(usages)
    return {key: _priced(b"".join(usages), uneven[key[3]]) for key, usages in parts.items()}


def _priced(usages: bytes, price: TokenPrice) -> int:
    """An attempt that was taken back stands there a second time, negative: it comes to nothing at any price."""
    fresh, cached, output, reasoning = _by_kind(price)
    counts = array("q", usages)
    exact = (
        i * fresh + c * cached + o * output + r * reasoning
        for i, c, o, r in zip(counts[0::4], counts[1::4], counts[2::4], counts[3::4], strict=True)
    )
    return sum(-(-amount // TOKENS_PER_PRICE) if amount >= 0 else amount // TOKENS_PER_PRICE for amount in exact)


def _by_kind(price: TokenPrice) -> tuple[int, int, int, int]:
    """In the order of the columns."""
    return price.input, price.cached_input, price.output, price.reasoning


def _needs_rounding(price: TokenPrice) -> bool:
    """Whether a product of tokens and price can be no whole nano-USD."""
    return any(each % TOKENS_PER_PRICE for each in _by_kind(price))


def _repriced_row(key: tuple[str, str, str], sums: list[int]) -> RepricedRow:
    model, agent, day = key
    requests, fresh, cached, output, reasoning, recorded, amount = sums
    return RepricedRow(
        model=model,
        agent=agent,
        day=day,
        requests=requests,
        usage=TokenUsage(input=fresh, cached_input=cached, output=output, reasoning=reasoning),
        recorded_nano_usd=recorded,
        repriced_nano_usd=amount,
    )


def batch_rows(connection: sqlite3.Connection, batch_id: str | None = None) -> list[BatchRow]:
    """Batches, the one with the newest run first; or the one."""
    ended = tuple(sorted(state.value for state in ENDED))
    is_ended = f"state IN ({', '.join('?' * len(ended))})"
    rows = connection.execute(
        f"SELECT batch_id, count(*), sum({is_ended}), coalesce(sum(verdict = 'resolved'), 0), sum(state = 'error'), "  # noqa: S608
        "sum(requests), sum(input_tokens), sum(cached_input_tokens), sum(output_tokens), sum(reasoning_tokens), "
        "sum(cost_nano_usd), sum(reserved_nano_usd), min(requested_at), max(finished_at) "
        f"FROM runs WHERE batch_id IS NOT NULL {'AND batch_id = ? ' if batch_id is not None else ''}"
        "GROUP BY batch_id ORDER BY max(requested_position) DESC",
        (*ended, *(() if batch_id is None else (batch_id,))),
    )
    void = _void_runs(connection, batch_id)
    return [_batch_row(row, tuple(void.get(str(row[0]), ()))) for row in rows]


def _void_runs(connection: sqlite3.Connection, batch_id: str | None) -> dict[str, list[VoidRuns]]:
    """By batch: runs that ended without a verdict, by agent and cause, the most frequent first."""
    ended = tuple(sorted(state.value for state in ENDED))
    of_batch = "batch_id IS NOT NULL" if batch_id is None else "batch_id = ?"
    rows = connection.execute(
        "SELECT batch_id, agent, max(agent_name), cause, count(*) AS runs, "  # noqa: S608 - our own words
        "sum(count(*)) OVER (PARTITION BY batch_id, agent), verdict IS NULL "
        f"FROM runs WHERE {of_batch} AND state IN ({', '.join('?' * len(ended))}) "
        "GROUP BY batch_id, agent, verdict IS NULL, CASE WHEN verdict IS NULL THEN cause END ORDER BY runs DESC, agent",
        (*(() if batch_id is None else (batch_id,)), *ended),
    )
    found: dict[str, list[VoidRuns]] = {}
    for batch, agent, name, word, runs, of, is_void in rows:
        if is_void:
            cause = None if word is None else Cause(word)
            fault = None if cause is None else RULES[cause].fault
            row = VoidRuns(agent=agent, agent_name=name, cause=cause, fault=fault, runs=runs, of=of)
            found.setdefault(batch, []).append(row)
    return found


def _batch_row(row: tuple[object, ...], void: tuple[VoidRuns, ...]) -> BatchRow:
    counts = [int(str(count)) for count in row[1:12]]
    runs, over, resolved, errors, requests, fresh, cached, output, reasoning, cost, reserved = counts
    return BatchRow(
        batch_id=str(row[0]),
        runs=runs,
        ended=over,
        resolved=resolved,
        errors=errors,
        void=void,
        requests=requests,
        usage=TokenUsage(input=fresh, cached_input=cached, output=output, reasoning=reasoning),
        cost_nano_usd=cost,
        cost_usd=usd_text(cost),
        reserved_nano_usd=reserved,
        requested_at=datetime.fromisoformat(str(row[12])),
        finished_at=datetime.fromisoformat(str(row[13])) if over == runs and row[13] is not None else None,
    )
