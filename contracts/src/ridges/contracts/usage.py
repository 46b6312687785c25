"""Token usage by kind, prices, and the one way to turn them into money."""

from collections.abc import Mapping

import msgspec

from ridges.contracts.blobs import digest_of
from ridges.contracts.money import TOKENS_PER_PRICE, NanoUsd


class TokenUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one or more model calls. The four kinds are disjoint: they add up to the total.

    Source: providers report cached tokens inside prompt tokens and reasoning tokens inside completion tokens;
    the gateway takes them apart before they get here.
    """

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.cached_input + self.output + self.reasoning

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            input=self.input + other.input,
            cached_input=self.cached_input + other.cached_input,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
        )


class TokenPrice(msgspec.Struct, frozen=True, kw_only=True):
    """Price by token kind, in nano-USD per one million tokens (1 USD per million = 1_000_000_000)."""

    input: NanoUsd
    output: NanoUsd
    cached_input: NanoUsd
    reasoning: NanoUsd
    per_second: NanoUsd = 0
    """Nano-USD per second of the provider's work, for embedding models that are sold by time."""


def price_list_id(prices: Mapping[str, TokenPrice]) -> str:
    """The id of a price list that has no name of its own: the same prices, the same id, whoever computes it.

    ``provider/served model`` -> price, as in ``PriceListPublished``.
    """
    return "list-" + digest_of(msgspec.json.encode(prices, order="sorted")).removeprefix("sha256:")[:16]


def time_cost_nano_usd(milliseconds: int, price: TokenPrice) -> int:
    """What the time costs in nano-USD, rounded up; 0 for models that are sold by token."""
    return -(-milliseconds * price.per_second // 1000)


def cost_nano_usd(usage: TokenUsage, price: TokenPrice) -> int:
    """What the usage costs in nano-USD: exact products, summed, rounded up once."""
    exact = (
        usage.input * price.input
        + usage.cached_input * price.cached_input
        + usage.output * price.output
        + usage.reasoning * price.reasoning
    )
    return -(-exact // TOKENS_PER_PRICE)
