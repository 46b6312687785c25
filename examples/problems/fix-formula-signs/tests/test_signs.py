import pytest

from sumsheet import FormulaError, calculate


def test_minus_binds_weaker_than_power():
    assert calculate("-2 ^ 2") == -4
    assert calculate("--2 ^ 2") == 4
    assert calculate("1 - -2 ^ 2") == 5
    assert calculate("3 * -2 ^ 2") == -12
    assert calculate("(-2) ^ 2") == 4


def test_powers_group_from_the_right():
    assert calculate("2 ^ 3 ^ 2") == 512
    assert calculate("(2 ^ 3) ^ 2") == 64
    assert calculate("2 * 2 ^ 1 ^ 5 * 3") == 12


def test_power_takes_a_signed_exponent():
    assert calculate("2 ^ -1") == 0.5
    assert calculate("2 ^ --3") == 8
    assert calculate("2 ^ -1 * 8") == 4
    assert calculate("2 ^ +1 + 3") == 5


def test_signed_exponent_reaches_over_a_further_power():
    assert calculate("2 ^ -2 ^ 2") == 0.0625
    assert calculate("-2 ^ -2 ^ 0") == -0.5


def test_ordinary_precedence():
    assert calculate("1 + 2 * 3 ^ 2") == 19
    assert calculate("(1 + 2) * 3") == 9
    assert calculate("max(2, 3) * abs(-4)") == 12


def test_minus_binds_tighter_than_times():
    assert calculate("-3 * 2") == -6
    assert calculate("2 * -3") == -6
    assert calculate("2 - -3") == 5
    assert calculate("-1 + 5") == 4


def test_subtraction_groups_from_the_left():
    assert calculate("10 - 4 - 3") == 3
    assert calculate("64 / 4 / 2") == 8
    assert calculate("64 / 4 * 2") == 32


def test_scientific_numbers():
    assert calculate("1.5e-3 * 2") == 0.003
    assert calculate("1e2-1") == 99


def test_syntax_errors_tell_the_column():
    for text, column in (("1 + * 2", 5), ("2 ^ * 3", 5), ("(1 + 2", 7), ("1 2", 3), ("", 1)):
        with pytest.raises(FormulaError, match=f"in column {column}"):
            calculate(text)
