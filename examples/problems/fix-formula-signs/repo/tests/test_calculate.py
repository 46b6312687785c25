import pytest

from sumsheet import FormulaError, calculate


def test_sums_and_products():
    assert calculate("1 + 2 * 3") == 7
    assert calculate("(1 + 2) * 3") == 9
    assert calculate("10 - 4 - 3") == 3


def test_sign_in_front():
    assert calculate("-3 * 2") == -6
    assert calculate("2 - -3") == 5


def test_power():
    assert calculate("2 * 3 ^ 2") == 18


def test_functions():
    assert calculate("max(1, 2 + 3, abs(-4))") == 5


def test_division_by_zero():
    with pytest.raises(FormulaError, match="division by zero"):
        calculate("1 / (2 - 2)")
