"""The tree of a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    text: str


@dataclass(frozen=True)
class Name:
    text: str


@dataclass(frozen=True)
class Sign:
    """A `-` or `+` in front of a value."""

    symbol: str
    operand: Node


@dataclass(frozen=True)
class Operation:
    symbol: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple[Node, ...]


Node = Number | Name | Sign | Operation | Call


def names(node: Node) -> set[str]:
    """All names of cells in a tree."""
    match node:
        case Name(text):
            return {text}
        case Sign(_, operand):
            return names(operand)
        case Operation(_, left, right):
            return names(left) | names(right)
        case Call(_, arguments):
            return set().union(*map(names, arguments))
    return set()


def with_names(node: Node, change: Callable[[str], str]) -> Node:
    """The same tree with each name put through `change`."""
    match node:
        case Name(text):
            return Name(change(text))
        case Sign(symbol, operand):
            return Sign(symbol, with_names(operand, change))
        case Operation(symbol, left, right):
            return Operation(symbol, with_names(left, change), with_names(right, change))
        case Call(function, arguments):
            return Call(function, tuple(with_names(argument, change) for argument in arguments))
    return node
