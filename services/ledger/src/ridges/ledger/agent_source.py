"""What an agent file must be before a sandbox is spent on it. Stdlib only: ``examiner`` runs it in a child."""

import ast
import resource
import sys
from collections.abc import Iterable

ENTRY_POINT = "agent_main"
MEMORY_BYTES = 2 << 30
CPU_S = 20
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def agent_problem(content: bytes) -> str | None:
    """Why the file cannot be an agent, or None.

    Source: the agent contract: UTF-8, parses, binds ``agent_main`` at module level.
    """
    try:
        source = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return f"the agent file is not UTF-8 (byte {error.start}); save it as UTF-8"
    try:
        module = ast.parse(source, "agent.py")
    except SyntaxError as error:
        where = f"line {error.lineno}" if error.lineno else "an unknown line"
        return f"the agent file does not parse as Python {_PYTHON}: {where}: {error.msg}"
    except ValueError as error:
        return f"the agent file does not parse: {error}"
    except (RecursionError, MemoryError):
        return "the agent file is nested too deeply to parse"
    if not any(_binds(statement) for statement in _module_level(module.body)):
        return f"the agent file defines no top-level {ENTRY_POINT}; add `def {ENTRY_POINT}(input): ...`"
    return None


def _module_level(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Every statement that runs in the module's own scope, also inside if, try, with and loops."""
    pending = list(body)
    while pending:
        statement = pending.pop()
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for field in ("body", "orelse", "finalbody"):
            pending.extend(getattr(statement, field, ()))
        for branch in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            pending.extend(branch.body)


def _binds(statement: ast.stmt) -> bool:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return statement.name == ENTRY_POINT
        case ast.Import() | ast.ImportFrom():
            return any((alias.asname or alias.name) in (ENTRY_POINT, "*") for alias in statement.names)
        case ast.Assign():
            return any(_names(target) for target in statement.targets)
        case ast.AnnAssign():
            return statement.value is not None and _names(statement.target)
        case ast.Expr(value=ast.NamedExpr(target=target)):
            return _names(target)
    return False


def _names(target: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == ENTRY_POINT for node in ast.walk(target))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.buffer.write((agent_problem(sys.stdin.buffer.read()) or "").encode("utf-8", "replace"))
