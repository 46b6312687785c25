"""One pytest process of an evaluation: ``grade.py`` forks it or starts ``python -I -c <this source>``; orders on stdin.

Standard library only, Python 3.8 or newer. Order matters: pytest is imported while only the installed packages
are on the path; the patched repository comes after.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import json
import os
import pkgutil
import select
import sys
import types
import unittest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_DUMPABLE = 4
UNUSED = ("__main__", "unittest.async_case", "unittest.mock")
"""The last two load asyncio and ssl, a fifth of the time of all; pytest itself does not need them."""


class NoColours(types.ModuleType):
    """Stands for pygments while pytest is imported: it loads it (a tenth of all) and without colours never uses it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})

    @classmethod
    @contextlib.contextmanager
    def instead(cls) -> Iterator[None]:
        """Afterwards whoever imports pygments gets the real one."""
        parts = ".formatters", ".formatters.terminal", ".lexer", ".lexers", ".lexers.diff", ".lexers.python", ".util"
        names = [] if "pygments" in sys.modules else [f"pygments{part}" for part in ("", *parts)]
        sys.modules.update({name: cls(name) for name in names})
        try:
            yield
        finally:
            for name in names:
                del sys.modules[name]


def import_pytest() -> Any:
    """Pytest with all its modules, so that nothing in the repository can stand in for one of them."""
    with NoColours.instead():
        import _pytest  # noqa: PLC0415 - after the orders were read
        import pluggy  # noqa: PLC0415
        import pytest  # noqa: PLC0415

    for package in (_pytest, pluggy, unittest):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if not module.name.endswith(UNUSED):
                try:
                    importlib.import_module(module.name)
                except Exception:  # noqa: S112 - an optional part that lacks its own dependency
                    continue
    return pytest


class Selection:
    """Lets only the asked tests run: exact ids, all parameters of a name without brackets, whole canary files."""

    def __init__(self, ids: list[str], whole_files: list[str]) -> None:
        self.ids = frozenset(ids)
        self.whole_files = frozenset(whole_files)
        self.config: Any = None
        self._loaded = frozenset(sys.modules)

    def pytest_configure(self, config: Any) -> None:
        self.config = config

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        asked = [item for item in items if self._is_asked(item.nodeid)]
        chosen = set(map(id, asked))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
        items[:] = asked
        self._tell_inspect()

    def _tell_inspect(self) -> None:
        """Where the modules under test come from. At the first failure it would look for that in all modules."""
        for name, module in list(sys.modules.items()):
            file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else None
            if name not in self._loaded and isinstance(file, str):
                inspect.modulesbyfile[file] = name

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Of a canary nobody wants to see the source that failed, which takes longer to find than the test to run."""
        assert self.config is not None
        self.config.option.tbstyle = "line" if nodeid.partition("::")[0] in self.whole_files else "short"

    def _is_asked(self, node_id: str) -> bool:
        whole, file = node_id.partition("[")[0], node_id.partition("::")[0]
        return node_id in self.ids or whole in self.ids or file in self.whole_files


def main() -> None:
    orders = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(orders["environment"])
    os.chdir(orders["folder"])
    pytest = import_pytest()
    sys.argv[0] = "pytest"
    sys.path[0:0] = orders["path"]
    arguments = [
        "-c", orders["config"], "--rootdir", orders["root"], "--confcutdir", orders["root"], "-p", "no:cacheprovider",
        "--import-mode=importlib", "--continue-on-collection-errors", "--junit-xml", orders["junit"],
        "-o", "junit_family=xunit1", "--color=no", "-q", "--tb=short", *orders["files"],
    ]  # fmt: skip
    code = pytest.main(arguments, plugins=[Selection(orders["ids"], orders["whole_files"])])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))  # exit handlers of the patched code would otherwise run after the report was written


def run_forked(orders: int) -> None:
    """In a child of the grader: wait for orders, then go on as if started by ``python -I -c <this source>``."""
    status = 3
    try:
        os.setsid()
        os.dup2(orders, 0)
        os.closerange(3, 1024)
        sys.modules["__main__"] = types.ModuleType("__main__")
        if select.select([0], [], [])[0]:
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # the grader is not, and while waiting we are not
            main()
    except BaseException as error:
        os.write(2, f"test process: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
