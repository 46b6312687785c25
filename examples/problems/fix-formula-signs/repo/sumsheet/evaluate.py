"""Tree to number."""

import operator
from collections.abc import Callable

from sumsheet.errors import FormulaError
from sumsheet.nodes import Call, Name, Node, Number, Operation, Sign
from sumsheet.parser import parse

_BETWEEN = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}
_FUNCTIONS = {"min": min, "max": max, "abs": abs}


def calculate(text: str) -> float:
    """The value of a formula without names of cells."""

    def unknown(name: str) -> float:
        raise FormulaError(f"unknown name {name!r}")

    return evaluate(parse(text), unknown)


def evaluate(node: Node, lookup: Callable[[str], float]) -> float:
    """The value of a tree; `lookup` gives the value of a cell."""
    match node:
        case Number(text):
            return int(text) if text.isdigit() else float(text)
        case Name(text):
            return lookup(text)
        case Sign(symbol, operand):
            value = evaluate(operand, lookup)
            return -value if symbol == "-" else value
        case Operation(symbol, left, right):
            try:
                return _BETWEEN[symbol](evaluate(left, lookup), evaluate(right, lookup))
            except ZeroDivisionError as error:
                raise FormulaError("division by zero") from error
        case Call(function, arguments):
            if function not in _FUNCTIONS:
                raise FormulaError(f"unknown function {function!r}")
            values = [evaluate(argument, lookup) for argument in arguments]
            return abs(*values) if function == "abs" else _FUNCTIONS[function](values)
    raise AssertionError(node)
