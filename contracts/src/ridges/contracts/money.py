"""Money as integer nano-USD (1 USD = 1_000_000_000 nano-USD). Never a float."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

import msgspec

NANO_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000

NanoUsd = Annotated[int, msgspec.Meta(ge=0, description="an amount of money in nano-USD (1e-9 USD)")]


class MoneyError(ValueError):
    """The text is not an amount of USD with at most nine decimals."""


def nano_usd(amount: str | Decimal | int) -> int:
    """The amount of USD as integer nano-USD.

    Raises:
        MoneyError: not a finite number, negative, or finer than 1e-9 USD.

    """
    try:
        value = Decimal(amount)
    except InvalidOperation as error:
        raise MoneyError(f"{amount!r} is not an amount of USD; write it like 1.00") from error
    if not value.is_finite() or value < 0:
        raise MoneyError(f"{amount!r} is not an amount of USD; it must be finite and not negative")
    nano = value * NANO_PER_USD
    if nano != nano.to_integral_value():
        raise MoneyError(f"{amount!r} is finer than a nano-USD; use at most nine decimals")
    return int(nano)


def usd(nano: int) -> Decimal:
    """The exact amount of USD."""
    return Decimal(nano).scaleb(-9)


def usd_text(nano: int) -> str:
    """The exact amount of USD as plain decimal text with at least two decimals: ``0.00``, ``0.0000315``."""
    sign = "-" if nano < 0 else ""
    whole, fraction = divmod(abs(nano), NANO_PER_USD)
    decimals = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"
