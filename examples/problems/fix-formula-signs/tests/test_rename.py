from itertools import product

import pytest

from sumsheet import FormulaError, Sheet, evaluate, parse, write

CELLS = {"a": 7.0, "b": 3.0, "c": 2.0}


def value(text: str) -> float:
    return evaluate(parse(text), CELLS.__getitem__)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("a + b + c", 12),
        ("a - (b - c)", 6),
        ("a / (b / c)", 7 / 1.5),
        ("(-a) ^ 2", 49),
        ("(a ^ b) ^ 2", 117649),
        ("-(a + b) * c", -20),
    ],
    ids=["plain-sum", "difference", "quotient", "negative-base", "power-of-power", "negated-sum"],
)
def test_rename_keeps_the_value(formula, expected):
    sheet = Sheet({"a": "7", "b": "3", "c": "2", "result": formula})
    assert sheet.value("result") == expected
    sheet.rename("a", "first")
    assert sheet.value("result") == expected


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("(a + b) + (c * 2)", "a + b + c * 2"),
        ("2 ^ (3 ^ 2) - (-(a ^ b)) * ((-a) ^ (-b))", "2 ^ 3 ^ 2 - -a ^ b * (-a) ^ -b"),
        ("(a - b) - (c - (a - (b * c)))", "a - b - (c - (a - b * c))"),
    ],
    ids=["sum", "power-tower", "difference"],
)
def test_formula_text_has_only_the_parentheses_it_needs(formula, text):
    assert write(parse(formula)) == text


def trees(depth: int) -> list[str]:
    """Formulas with all parentheses, up to a depth, over three cells."""
    if depth == 0:
        return ["a", "b"]
    smaller = trees(depth - 1)
    signed = [f"(-{part})" for part in smaller]
    pairs = [f"({left} {symbol} {right})" for left, symbol, right in product(smaller, "+-*/^", ["c", *smaller[:9]])]
    return smaller + signed + pairs


def test_text_of_every_small_formula_means_the_same():
    for formula in trees(2):
        text = write(parse(formula))
        assert parse(text) == parse(write(parse(text))), text
        assert parse(text) == parse(formula), f"{formula} was written as {text}"


def test_rename_reaches_every_cell_that_refers():
    sheet = Sheet({"a": "2", "b": "a * a", "c": "min(a, b) + 1"})
    sheet.rename("a", "width")
    assert sheet.formula("b") == "width * width"
    assert sheet.formula("c") == "min(width, b) + 1"
    assert sheet.value("c") == 3
    with pytest.raises(FormulaError, match="unknown name 'a'"):
        sheet.value("a")


def test_rename_to_a_taken_name_is_refused():
    sheet = Sheet({"a": "2", "b": "a"})
    with pytest.raises(FormulaError, match="already"):
        sheet.rename("a", "b")
    assert sheet.value("b") == 2


def test_cycle_is_reported():
    sheet = Sheet({"a": "b", "b": "a + 1"})
    with pytest.raises(FormulaError, match="cycle: a -> b -> a"):
        sheet.value("a")
