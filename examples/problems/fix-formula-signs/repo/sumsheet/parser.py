"""Tokens to a tree, by precedence climbing."""

from sumsheet.errors import FormulaError
from sumsheet.nodes import Call, Name, Node, Number, Operation, Sign
from sumsheet.operators import BETWEEN
from sumsheet.tokens import Token, tokenize


def parse(text: str) -> Node:
    parser = _Parser(tokenize(text))
    node = parser.expression(lowest=1)
    parser.take("end", "")
    return node


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._position]

    def _advance(self) -> Token:
        token = self._next
        self._position += 1
        return token

    def _unexpected(self) -> FormulaError:
        what = repr(self._next.text) if self._next.text else "end"
        return FormulaError(f"unexpected {what} in column {self._next.column}")

    def take(self, kind: str, text: str) -> None:
        if (self._next.kind, self._next.text) != (kind, text):
            raise self._unexpected()
        self._position += 1

    def expression(self, lowest: int) -> Node:
        """Everything from here on that is held together by operators of at least that level."""
        node = self._signed() if self._next.text in ("-", "+") else self._value()
        while (operator := BETWEEN.get(self._next.text)) and operator.level >= lowest:
            self._advance()
            right = self._operand(operator.level + 1)
            node = Operation(operator.symbol, node, right)
        return node

    def _operand(self, lowest: int) -> Node:
        if lowest > BETWEEN["^"].level:
            return self._value()
        return self.expression(lowest)

    def _signed(self) -> Node:
        symbol = self._advance().text
        operand = self._signed() if self._next.text in ("-", "+") else self._value()
        return Sign(symbol, operand)

    def _value(self) -> Node:
        if self._next.kind == "number":
            return Number(self._advance().text)
        if self._next.kind == "name":
            return self._name_or_call()
        self.take("symbol", "(")
        node = self.expression(lowest=1)
        self.take("symbol", ")")
        return node

    def _name_or_call(self) -> Node:
        name = self._advance().text
        if self._next.text != "(":
            return Name(name)
        self._advance()
        arguments = [self.expression(lowest=1)]
        while self._next.text == ",":
            self._advance()
            arguments.append(self.expression(lowest=1))
        self.take("symbol", ")")
        return Call(name, tuple(arguments))
