"""Price lists from TOML text or from the vendored table. Pure but for reading that table."""

import re
import tomllib
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from importlib import resources
from typing import Annotated

import msgspec
from msgspec import Meta

from ridges.contracts.events import AnyEvent, InferenceFailed, InferenceMade, PriceListPublished
from ridges.contracts.money import MoneyError, NanoUsd, nano_usd
from ridges.contracts.usage import TokenPrice, price_list_id
from ridges.ledger.domain import derived_event_id
from ridges.ledger.errors import RequestRefused

RECORDED = "recorded with the calls"
"""The source of a list that nobody published: each call carries its price and the list's id."""
STREAM = "prices"
"""All price lists stand in this one stream of the log."""
PRICE_LIST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
EXAMPLE = """write for example
    price_list = "2026-12"
    source = "https://example.org/prices"
    effective_at = 2026-12-01
    [prices."openrouter/vendor/model"]
    input_usd = "0.15"
    output_usd = "0.60\""""


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """Prices with their source and date."""

    price_list: str
    source: str
    effective_at: datetime
    prices: dict[str, TokenPrice]
    """``provider/served model`` -> price."""


class _Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_usd: str
    output_usd: str
    cached_input_usd: str | None = None
    reasoning_usd: str | None = None


class _Model(msgspec.Struct, frozen=True):
    name: str
    input_usd: str = "0"
    output_usd: str = "0"
    served: str | None = None
    cached_input_usd: str | None = None
    reasoning_usd: str | None = None
    second_usd: str = "0"


class _Provider(msgspec.Struct, frozen=True):
    name: str
    model: list[_Model]


class _File(msgspec.Struct, frozen=True):
    price_list: Annotated[str, Meta(max_length=100)] | None = None
    source: Annotated[str, Meta(max_length=500)] | None = None
    effective_at: datetime | None = None
    prices: dict[Annotated[str, Meta(min_length=1, max_length=300)], _Price] = {}
    provider: list[_Provider] = []


class _Vendored(msgspec.Struct, frozen=True):
    price_list: str
    source: str
    taken_at: datetime
    prices: dict[str, tuple[NanoUsd, NanoUsd, NanoUsd, NanoUsd]]


def price_list_in(text: str, now: datetime) -> PriceList:
    """The list in a TOML text: ``[prices."provider/served model"]`` tables, or the ``[[provider]]`` of a ridges.toml.

    What is missing: the id is made of the contents, the date is now, cached input costs as input, reasoning as output.

    Raises:
        RequestRefused: with the reason.

    """
    try:
        tables = tomllib.loads(text)
        given = tables.get("effective_at")
        if isinstance(given, date) and not isinstance(given, datetime):
            tables["effective_at"] = datetime.combine(given, time.min)
        file = msgspec.convert(tables, _File)
        prices = {name: _token_price(price) for name, price in file.prices.items()}
        for provider in file.provider:
            for model in provider.model:
                prices[f"{provider.name}/{model.served or model.name}"] = _token_price(model)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, MoneyError) as error:
        raise RequestRefused(f"this is no price list: {error}; {EXAMPLE}", status=422) from error
    if not prices:
        raise RequestRefused(f"there are no prices in it; {EXAMPLE}", status=422)
    wrong = sorted(name for name in prices if "/" not in name)
    if wrong:
        raise RequestRefused(f"{wrong[0]!r} must be `provider/served model`; {EXAMPLE}", status=422)
    return PriceList(
        price_list=_id_of(file.price_list, prices),
        source=file.source or "published without a source",
        effective_at=_utc(file.effective_at, now),
        prices=prices,
    )


def vendored() -> PriceList:
    """The table that comes with this release."""
    content = resources.files("ridges.ledger").joinpath("vendored_prices.json").read_bytes()
    table = msgspec.json.decode(content, type=_Vendored)
    return PriceList(
        price_list=table.price_list,
        source=table.source,
        effective_at=table.taken_at,
        prices={
            name: TokenPrice(input=fresh, cached_input=cached, output=output, reasoning=reasoning)
            for name, (fresh, cached, output, reasoning) in table.prices.items()
        },
    )


def decide_publication(prices: PriceList, published: list[PriceListPublished], now: datetime) -> PriceListPublished:
    """The event; its id is derived from the list's id, so that publishing twice is one event.

    Raises:
        RequestRefused: the id means other prices already.

    """
    event = PriceListPublished(
        id=derived_event_id(STREAM, prices.price_list),
        run_id=STREAM,
        time=now,
        price_list=prices.price_list,
        prices=prices.prices,
        source=prices.source,
        effective_at=prices.effective_at,
    )
    for known in published:
        if known.price_list == event.price_list:
            if known.prices == event.prices:
                return known
            raise RequestRefused(
                f"price list {event.price_list!r} was published with other prices; give the new one another id",
                status=409,
            )
    return event


def recorded_list(price_list: str, calls: Iterable[AnyEvent]) -> PriceListPublished | None:
    """The list that stands in these calls' attempts under its id: what was asked for, no more. None when in none."""
    prices: dict[str, TokenPrice] = {}
    since: datetime | None = None
    for event in calls:
        if not isinstance(event, InferenceMade | InferenceFailed):
            continue
        for attempt in event.attempts:
            if attempt.price_list == price_list:
                prices[f"{attempt.provider}/{attempt.served_model}"] = attempt.price
                since = event.time if since is None else min(since, event.time)
    if since is None:
        return None
    return PriceListPublished(
        id=derived_event_id(STREAM, price_list),
        run_id=STREAM,
        time=since,
        price_list=price_list,
        prices=prices,
        source=RECORDED,
        effective_at=since,
    )


def _id_of(given: str | None, prices: dict[str, TokenPrice]) -> str:
    if given is None:
        return price_list_id(prices)
    if not PRICE_LIST_ID.fullmatch(given):
        raise RequestRefused(
            f"price_list {given!r} cannot be an id; use letters, digits, '.', '_' and '-', at most 100", status=422
        )
    return given


def _token_price(price: _Price | _Model) -> TokenPrice:
    """As the gateway reads them: a list's id hangs on it."""
    return TokenPrice(
        input=nano_usd(price.input_usd),
        output=nano_usd(price.output_usd),
        cached_input=nano_usd(price.input_usd if price.cached_input_usd is None else price.cached_input_usd),
        reasoning=nano_usd(price.output_usd if price.reasoning_usd is None else price.reasoning_usd),
        per_second=nano_usd(price.second_usd) if isinstance(price, _Model) else 0,
    )


def _utc(given: datetime | None, now: datetime) -> datetime:
    if given is None:
        return now
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
