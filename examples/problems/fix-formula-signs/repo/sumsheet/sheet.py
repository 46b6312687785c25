"""Named cells with formulas that refer to each other."""

from collections.abc import Mapping

from sumsheet.errors import FormulaError
from sumsheet.evaluate import evaluate
from sumsheet.nodes import Node, names, with_names
from sumsheet.parser import parse
from sumsheet.writer import write


class Sheet:
    def __init__(self, formulas: Mapping[str, str]) -> None:
        self._text = dict(formulas)
        self._trees: dict[str, Node] = {name: parse(text) for name, text in formulas.items()}

    def formula(self, name: str) -> str:
        return self._text[name]

    def value(self, name: str, _path: tuple[str, ...] = ()) -> float:
        if name in _path:
            raise FormulaError(f"cycle: {' -> '.join((*_path, name))}")
        if name not in self._trees:
            raise FormulaError(f"unknown name {name!r}")
        return evaluate(self._trees[name], lambda other: self.value(other, (*_path, name)))

    def rename(self, old: str, new: str) -> None:
        """Give a cell another name, here and in every formula that refers to it."""
        if new in self._trees:
            raise FormulaError(f"there is a cell {new!r} already")
        for name, tree in self._trees.items():
            if old in names(tree):
                self._text[name] = write(with_names(tree, lambda text: new if text == old else text))
                self._trees[name] = parse(self._text[name])
        self._text[new] = self._text.pop(old)
        self._trees[new] = self._trees.pop(old)
