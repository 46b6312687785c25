"""Tree to text, with parentheses only where they are needed."""

from sumsheet.nodes import Call, Name, Node, Number, Operation, Sign
from sumsheet.operators import BETWEEN, SIGN_LEVEL

VALUE_LEVEL = 9


def write(node: Node) -> str:
    match node:
        case Number(text) | Name(text):
            return text
        case Call(function, arguments):
            return f"{function}({', '.join(map(write, arguments))})"
        case Sign(symbol, operand):
            return symbol + write(operand)
        case Operation(symbol, left, right):
            level = BETWEEN[symbol].level
            return f"{_part(left, level)} {symbol} {_part(right, level)}"
    raise AssertionError(node)


def _part(node: Node, level: int) -> str:
    """The text of an operand, in parentheses if it binds less tightly than the operator beside it."""
    text = write(node)
    return f"({text})" if _level(node) < level else text


def _level(node: Node) -> int:
    match node:
        case Operation(symbol):
            return BETWEEN[symbol].level
        case Sign():
            return SIGN_LEVEL
    return VALUE_LEVEL
