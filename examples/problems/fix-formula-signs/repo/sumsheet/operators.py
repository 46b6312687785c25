"""The operators between two values and the sign in front of one: the parser and the writer both go by this table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Operator:
    symbol: str
    level: int
    """How tightly it binds; the higher, the tighter."""


BETWEEN = {
    operator.symbol: operator
    for operator in (
        Operator("+", level=1),
        Operator("-", level=1),
        Operator("*", level=2),
        Operator("/", level=2),
        Operator("^", level=3),
    )
}

SIGN_LEVEL = 4
