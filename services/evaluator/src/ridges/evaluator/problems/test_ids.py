"""What a hidden test file defines, found by parsing it: nothing of a problem is ever imported by the evaluator."""

import ast

Function = ast.FunctionDef | ast.AsyncFunctionDef


class ParametrizedTests(ValueError):
    """The ids of parametrized tests cannot be told without running them."""


class TestFile:
    """The tests of one file by name.

    Raises:
        SyntaxError: the source is no Python.
    """

    __test__ = False

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.module = ast.parse(source, name)
        self.classes = {node.name: node for node in self.module.body if isinstance(node, ast.ClassDef)}
        self.functions = {node.name: node for node in self.module.body if isinstance(node, Function)}

    def ids(self) -> tuple[str, ...]:
        """Ids of all tests as pytest would name them.

        Raises:
            ParametrizedTests: name them in problem.toml instead.
        """
        found = [self._id(function) for name, function in self.functions.items() if name.startswith("test")]
        for node in self.module.body:
            if isinstance(node, ast.ClassDef) and self._is_test_class(node):
                methods = self._methods(node)
                found += [self._id(m, node.name) for name, m in sorted(methods.items()) if name.startswith("test")]
        return tuple(found)

    def defines(self, test_id: str) -> bool | None:
        """Whether the id's class and function are there; None when they may come from elsewhere (a foreign base)."""
        names = test_id.partition("[")[0].split("::")[1:]
        if len(names) == 1:
            return names[0] in self.functions or (None if self._has_star_import() else False)
        owner = self.classes.get(names[0])
        if owner is None:
            return None if self._has_star_import() else False
        if len(names) > 2:
            return None
        if names[1] in self._methods(owner):
            return True
        return None if self._foreign_bases(owner) else False

    def _id(self, function: Function, owner: str | None = None) -> str:
        if any("parametrize" in ast.unparse(decorator) for decorator in function.decorator_list):
            raise ParametrizedTests(f"{self.name}: {function.name} is parametrized")
        return "::".join(filter(None, (self.name, owner, function.name)))

    def _is_test_class(self, node: ast.ClassDef) -> bool:
        return self._is_unittest(node) or (node.name.startswith("Test") and "__init__" not in self._methods(node))

    def _is_unittest(self, node: ast.ClassDef) -> bool:
        for base in node.bases:
            name = ast.unparse(base)
            known = self.classes.get(name)
            if name.endswith("TestCase") or (known is not None and known is not node and self._is_unittest(known)):
                return True
        return False

    def _methods(self, node: ast.ClassDef) -> dict[str, Function]:
        methods: dict[str, Function] = {}
        for base in reversed(node.bases):
            known = self.classes.get(ast.unparse(base))
            if known is not None and known is not node:
                methods |= self._methods(known)
        return methods | {item.name: item for item in node.body if isinstance(item, Function)}

    def _foreign_bases(self, node: ast.ClassDef) -> bool:
        for base in node.bases:
            name = ast.unparse(base)
            known = self.classes.get(name)
            if known is None and not name.endswith("TestCase"):
                return True
            if known is not None and known is not node and self._foreign_bases(known):
                return True
        return False

    def _has_star_import(self) -> bool:
        return any(
            isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names)
            for node in self.module.body
        )
