"""Tests of known outcome that run beside the hidden ones: code that bends the test run bends them too.

Two kinds. *Canaries* fail or pass by construction, one per way in which these hidden tests can fail. *Probes* are
hidden tests whose expected value was replaced by a random one: they must fail with every honest solution, and pass when
the results of the patched code are "equal" to anything.
"""

import ast
import random
import re
import secrets
import sys
import unittest
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate

import msgspec

PROBES_PER_FILE = 3

_MUST_FAIL = {
    "plain": "assert {a} == {b}",
    "truth": "assert not {a}",
    "raised": "raise RuntimeError({a})",
    "expected": "with pytest.raises(ValueError):\n        int('{a}')",
    "near": "assert {a}.0 == pytest.approx({b}.0)",
    "failed": "pytest.fail('{a}')",
}
_MUST_FAIL_METHODS = {
    "equal": "self.assertEqual({a}, {b})",
    "unequal": "self.assertNotEqual({a}, {a})",
    "true": "self.assertTrue({a} == {b})",
    "false": "self.assertFalse({a} == {a})",
    "member": "self.assertIn({a}, [{b}])",
    "identity": "self.assertIs({a}, None)",
    "none": "self.assertIsNone({a})",
    "almost": "self.assertAlmostEqual({a}.0, {b}.0)",
    "lists": "self.assertListEqual([{a}], [{b}])",
    "dicts": "self.assertDictEqual({{'x': {a}}}, {{'x': {b}}})",
    "greater": "self.assertGreater({a}, {a})",
    "type": "self.assertIsInstance({a}, str)",
    "raises": "with self.assertRaises(ValueError):\n            int('{a}')",
    "message": "with self.assertRaisesRegex(ValueError, '{b}'):\n            raise ValueError('{a}')",
}
_MUST_PASS = {"plain": "assert {a} == {a}", "expected": "with pytest.raises(ValueError):\n        int('x{a}')"}
_MUST_PASS_METHODS = {
    "equal": "self.assertEqual({a}, {a})",
    "raises": "with self.assertRaises(ValueError):\n            int('x{a}')",
}


_SAID_BY = {
    "expected": "raises", "near": "approx", "failed": "fail",
    "unequal": "assertNotEqual", "false": "assertFalse", "member": "assertIn", "identity": "assertIs",
    "none": "assertIsNone", "almost": "assertAlmostEqual", "lists": "assert(?:List|Sequence)?Equal",
    "dicts": "assert(?:Dict)?Equal", "greater": "assertGreater", "type": "assertIsInstance",
    "message": "assertRaisesRegex",
}  # fmt: skip
"""Ways to fail -> what tests must say for it. The others are always tried."""
ALL_WAYS = frozenset(_SAID_BY)
_BRINGS_WHAT_IS_NOT_SEEN = re.compile(r"\b(?:importorskip|import_module|__import__|pytest_plugins)\b")


@lru_cache(maxsize=32)
def ways_to_fail(sources: tuple[str, ...], modules: frozenset[str]) -> frozenset[str]:
    """The ways to fail that hidden tests name anywhere, in a comment even.

    All of them where the tests import what may assert in their place, or assert what unittest itself does not know.

    Args:
        sources: every Python file beside the tests, the tests included.
        modules: top-level names of the code under test and of these files: what of it asserts is no secret of ours.
    """
    ways: set[str] = set()
    known = {"pytest", *sys.stdlib_module_names, *modules}
    for source in sources:
        try:
            imported = _imported(ast.parse(source))
        except (SyntaxError, ValueError):
            return ALL_WAYS
        named = re.findall(r"\bassert[A-Z]\w*", source)
        if imported - known or _BRINGS_WHAT_IS_NOT_SEEN.search(source):
            return ALL_WAYS
        if not all(hasattr(unittest.TestCase, name) for name in named):
            return ALL_WAYS
        ways.update(way for way, said in _SAID_BY.items() if re.search(rf"\b(?:{said})s?\b", source))
    return frozenset(ways)


def _imported(module: ast.Module) -> set[str]:
    """Top-level names of the modules that are imported by name."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


class CanaryFile(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    must_pass: tuple[str, ...]
    """``test_x`` or ``Class::test_x``."""
    must_fail: tuple[str, ...]


def canary_file(ways: frozenset[str] = ALL_WAYS) -> CanaryFile:
    """A test file with random names and values; every call gives another.

    Args:
        ways: what ``ways_to_fail`` said of the tests that it is put beside.
    """
    must_pass: list[str] = []
    must_fail: list[str] = []
    functions, methods = [], []
    owner = f"Test{secrets.token_hex(4)}"
    for bodies, names in ((_MUST_FAIL, must_fail), (_MUST_PASS, must_pass)):
        for body in _wanted(bodies, ways):
            name = f"test_{secrets.token_hex(4)}"
            names.append(name)
            functions.append(f"def {name}():\n    {_filled(body)}\n")
    for bodies, names in ((_MUST_FAIL_METHODS, must_fail), (_MUST_PASS_METHODS, must_pass)):
        for body in _wanted(bodies, ways):
            name = f"test_{secrets.token_hex(4)}"
            names.append(f"{owner}::{name}")
            methods.append(f"    def {name}(self):\n        {_filled(body)}\n")
    random.SystemRandom().shuffle(functions)
    source = "import unittest\n\nimport pytest\n\n\n" + "\n\n".join(functions)
    source += f"\n\nclass {owner}(unittest.TestCase):\n" + "\n".join(methods)
    return CanaryFile(source=source, must_pass=tuple(must_pass), must_fail=tuple(must_fail))


def _wanted(bodies: Mapping[str, str], ways: frozenset[str]) -> list[str]:
    return [body for way, body in bodies.items() if way in ways or way not in _SAID_BY]


def _filled(body: str) -> str:
    a = secrets.randbelow(10**9) + 1
    return body.format(a=a, b=a + 1 + secrets.randbelow(10**9))


class ProbeFile(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    """The whole hidden test file, with the expected values of some of its tests replaced."""
    tests: tuple[str, ...]
    """``test_x`` or ``Class::test_x``; must not pass."""


def probe_file(source: str, allowed: frozenset[str]) -> ProbeFile | None:
    """Probes made of a hidden test file, or None when none of its tests is fit.

    Fit is a test that surely compares something: an equality at the top level of its body, no way to leave it early,
    and no decorator that might swallow a failure.

    Args:
        source: the hidden test file.
        allowed: names of the tests that decide, without parameters.
    """
    text = _read(source)
    fit = [test for test in text.fit if test.name in allowed]
    if not fit:
        return None
    chosen = random.SystemRandom().sample(fit, min(PROBES_PER_FILE, len(fit)))
    content, end = text.content, 0
    parts: list[bytes] = []
    for side in sorted((side for test in chosen for side in test.sides), key=lambda side: side.begin):
        parts += content[end : side.begin], ast.unparse(_another(side.expected)).encode()
        end = side.end
    probe = b"".join((*parts, content[end:])).decode()
    return ProbeFile(source=probe, tests=tuple(test.name for test in chosen))


class _Side(msgspec.Struct, frozen=True):
    """An expected value, and where it stands in the file."""

    begin: int
    end: int
    expected: ast.expr


class _Fit(msgspec.Struct, frozen=True):
    name: str
    sides: tuple[_Side, ...]


class _Text(msgspec.Struct, frozen=True):
    content: bytes
    """UTF-8 with plain line ends: positions of the syntax tree count in it."""
    fit: tuple[_Fit, ...]


@lru_cache(maxsize=32)
def _read(source: str) -> _Text:
    """What does not change from probe to probe. Reading a file takes some milliseconds."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    content = source.encode()
    begins = [0, *accumulate(map(len, content.splitlines(keepends=True)))]
    fit = [
        _Fit(name, tuple(_sides(function, begins)))
        for name, function in _functions(ast.parse(source))
        if _is_fit(function)
    ]
    return _Text(content, tuple(fit))


def _sides(function: ast.FunctionDef, begins: list[int]) -> Iterator[_Side]:
    for statement in function.body:
        expected = _expected(statement)
        if expected is not None:
            assert expected.end_lineno is not None
            assert expected.end_col_offset is not None
            begin = begins[expected.lineno - 1] + expected.col_offset
            yield _Side(begin, begins[expected.end_lineno - 1] + expected.end_col_offset, expected)


def _functions(module: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}::{item.name}", item) for item in node.body if isinstance(item, ast.FunctionDef))


def _is_fit(function: ast.FunctionDef) -> bool:
    leaves = (ast.Return, ast.Yield, ast.YieldFrom)
    return (
        any(_comparison(statement) is not None for statement in function.body)
        and not any(isinstance(node, leaves) for node in ast.walk(function))
        and all(
            ast.unparse(d).startswith(("pytest.mark.parametrize", "patch", "mock.patch"))
            for d in function.decorator_list
        )
    )


def _comparison(statement: ast.stmt) -> ast.Compare | ast.Call | None:
    """The equality that a statement asserts, where it asserts nothing else."""
    if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Compare):
        compare = statement.test
        return compare if len(compare.ops) == 1 and isinstance(compare.ops[0], ast.Eq) else None
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        is_equal = isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "self.assertEqual"
        return (
            call
            if is_equal and len(call.args) >= 2 and not any(isinstance(a, ast.Starred) for a in call.args)
            else None
        )
    return None


def _expected(statement: ast.stmt) -> ast.expr | None:
    """The side of its equality that is not computed."""
    found = _comparison(statement)
    if found is None:
        return None
    first, second = (found.left, found.comparators[0]) if isinstance(found, ast.Compare) else found.args[:2]
    return first if _computes(second) and not _computes(first) else second


def _computes(node: ast.expr) -> bool:
    return any(isinstance(inner, ast.Call | ast.Attribute | ast.Subscript) for inner in ast.walk(node))


def _another(expected: ast.expr) -> ast.expr:
    """A random value, of the same type where the type can be seen."""
    number, text = secrets.randbelow(10**15) + 10**15, secrets.token_hex(12)
    match expected:
        case ast.Constant(value=bool() | None) | ast.Constant(value=str()):
            return ast.Constant(text)
        case ast.Constant(value=int()):
            return ast.Constant(number)
        case ast.Constant(value=float()):
            return ast.Constant(number + 0.5)
        case ast.Constant(value=bytes()):
            return ast.Constant(text.encode())
        case ast.List():
            return ast.List(elts=[ast.Constant(text)], ctx=ast.Load())
        case ast.Tuple():
            return ast.Tuple(elts=[ast.Constant(text)], ctx=ast.Load())
        case ast.Dict():
            return ast.Dict(keys=[ast.Constant(text)], values=[ast.Constant(number)])
        case ast.Set():
            return ast.Set(elts=[ast.Constant(text)])
    return ast.Constant(text)
