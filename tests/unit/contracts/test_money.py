"""Money: exact, never a float, and text that reads back as the same amount."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.contracts.money import NANO_PER_USD, TOKENS_PER_PRICE, MoneyError, nano_usd, usd, usd_text
from ridges.contracts.usage import TokenPrice, TokenUsage, cost_nano_usd

amounts = st.integers(min_value=0, max_value=10**18)
counts = st.integers(min_value=0, max_value=10**9)
usages = st.builds(TokenUsage, input=counts, cached_input=counts, output=counts, reasoning=counts)
prices = st.builds(TokenPrice, input=amounts, cached_input=amounts, output=amounts, reasoning=amounts)


@given(amounts)
def test_text_and_decimal_read_back_as_the_same_amount(nano):
    assert nano_usd(usd_text(nano)) == nano
    assert nano_usd(usd(nano)) == nano


@given(amounts)
def test_text_is_plain_and_has_at_least_two_decimals(nano):
    whole, _, decimals = usd_text(nano).partition(".")
    assert whole.isdigit()
    assert decimals.isdigit()
    assert 2 <= len(decimals) <= 9


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0", 0), ("1", NANO_PER_USD), ("1.00", NANO_PER_USD), ("0.0000315", 31_500), ("0.000000001", 1), (2, 2 * 10**9)],
)
def test_amounts(text, nano):
    assert nano_usd(text) == nano


@pytest.mark.parametrize("nano", [0, 31_500, 1_500_000_000])
def test_negative_amounts_keep_their_sign(nano):
    assert usd_text(-nano) == ("-" if nano else "") + usd_text(nano)


@pytest.mark.parametrize("bad", ["", "one", "1,00", "-1", "NaN", "Infinity", "0.0000000001", Decimal("-0.5"), "1e-10"])
def test_what_is_no_amount_is_an_error(bad):
    with pytest.raises(MoneyError):
        nano_usd(bad)


@given(usages, prices)
def test_cost_is_the_exact_sum_rounded_up_once(usage, price):
    exact = sum(getattr(usage, kind) * getattr(price, kind) for kind in TokenUsage.__struct_fields__)
    cost = cost_nano_usd(usage, price)
    assert 0 <= cost * TOKENS_PER_PRICE - exact < TOKENS_PER_PRICE
    assert isinstance(cost, int)


@given(usages, usages, prices)
def test_splitting_usage_never_makes_it_cheaper_and_costs_at_most_one_unit_more(one, two, price):
    together, apart = cost_nano_usd(one + two, price), cost_nano_usd(one, price) + cost_nano_usd(two, price)
    assert together <= apart <= together + 1


def test_one_token_of_a_cheap_model_is_not_free():
    price = TokenPrice(input=1, cached_input=0, output=0, reasoning=0)
    assert cost_nano_usd(TokenUsage(input=1), price) == 1


@given(usages, usages)
def test_usage_adds_up_by_kind(one, two):
    assert (one + two).total == one.total + two.total
