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
    from collections.abc import Callable, Iterable, Iterator

PR_SET_DUMPABLE = 4
READY = "ready_pytest"
"""A module that is there where the sandbox was forked from a process that prepares for this one."""
SEARCH = "_check_for_wrapped_fixture"
CAPTURE_AGAIN = ("stop_global_capturing", "start_global_capturing", "suspend_global_capture")
UNUSED_PLUGINS = ("cacheprovider", "doctest", "pastebin", "setuponly", "setupplan", "stepwise")
"""Of pytest's own: what only its command line asks for, and what would leave something behind."""
UNUSED = ("__main__", "unittest.test", "unittest.async_case", "unittest.mock")
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


def import_pytest() -> None:
    """Pytest with all its modules, so that nothing in the repository can stand in for one of them."""
    if READY in sys.modules:  # whoever made it ready has loaded all that there is
        return
    with NoColours.instead():
        import _pytest  # noqa: PLC0415 - after the orders were read
        import pluggy  # noqa: PLC0415
        import pytest  # noqa: PLC0415, F401

    for package in (_pytest, pluggy, unittest):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if not module.name.endswith(UNUSED):
                try:
                    importlib.import_module(module.name)
                except Exception:  # noqa: S112 - an optional part that lacks its own dependency
                    continue
    with contextlib.suppress(Exception):  # it is no promise of pytest's
        sys.modules["_pytest.junitxml"].bin_xml_escape("")  # compiles an expression that takes 4 ms


class Selection:
    """Lets only the asked tests run: exact ids, all parameters of a name without brackets, whole canary files."""

    def __init__(self) -> None:
        self.ids: frozenset[str] = frozenset()
        self.whole_files: frozenset[str] = frozenset()
        self.unseen = False
        self.config: Any = None
        self._loaded: frozenset[str] = frozenset()

    def ask(self, orders: dict[str, Any]) -> None:
        """Call before the tests are collected."""
        self.ids, self.whole_files = frozenset(orders["ids"]), frozenset(orders["whole_files"])
        self.unseen = orders["unseen"]
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
        for name in sys.modules.keys() - self._loaded:
            module = sys.modules[name]
            file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else None
            if isinstance(file, str):
                inspect.modulesbyfile[file] = name

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Of a canary nobody wants to see the source that failed, which takes longer to find than the test to run."""
        assert self.config is not None
        self.config.option.tbstyle = "line" if self._is_unseen(nodeid) else "short"

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """Canaries and probes are in the report, and nothing of them in what the terminal shows."""
        return ("", "", "") if self._is_unseen(report.nodeid) else None

    def _is_unseen(self, node_id: str) -> bool:
        return self.unseen or self._is_in_whole_file(node_id)

    def _is_in_whole_file(self, node_id: str) -> bool:
        return node_id.partition("::")[0] in self.whole_files

    def _is_asked(self, node_id: str) -> bool:
        return node_id in self.ids or node_id.partition("[")[0] in self.ids or self._is_in_whole_file(node_id)


class Ending:
    """Ends the process when the report is written: pytest would undo what it set up, and collect garbage five times."""

    def pytest_sessionfinish(self, session: Any) -> Iterator[None]:
        result: Any = yield
        if result.excinfo is None:
            leave(session.exitstatus)


class Readiness:
    """Asks for orders when pytest is ready to collect; the session goes on with what they name."""

    def __init__(self, selection: Selection, await_orders: Callable[[], dict[str, Any]]) -> None:
        self._selection = selection
        self._await_orders = await_orders
        self.trusting = contextlib.ExitStack()
        """What holds until then."""

    def pytest_sessionstart(self, session: Any) -> None:
        self.trusting.close()
        capture = session.config.pluginmanager.getplugin("capturemanager")
        again: list[Any] = [getattr(capture, name, None) for name in CAPTURE_AGAIN]
        if not all(again):
            raise sys.modules["pytest"].UsageError("it cannot be told to capture output anew")
        orders = self._await_orders()
        for step in again:  # the files are shared by all that were forked
            step()
        session.config.args[:] = orders["files"]
        self._selection.ask(orders)


def leave(code: int) -> None:
    """Exit handlers of the patched code would otherwise run after the report was written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def arguments(root: str) -> list[str]:
    """Of pytest, for tests below this folder; before those that name them."""
    return [
        "-c", f"{root}/pytest.ini", "--rootdir", root, "--confcutdir", root,
        *(f"-pno:{plugin}" for plugin in UNUSED_PLUGINS),
        "--import-mode=importlib", "--continue-on-collection-errors", "--junit-xml", f"{root}/junit.xml",
        "-o", "junit_family=xunit1", "--color=no", "-q", "--tb=short",
    ]  # fmt: skip


def run_pytest(root: str, paths: list[str], plugins: list[Any], ready: Any = None) -> int:
    """Pytest's exit status, if it returns: ``Ending`` is there before. ``ready``: see ``take_ready``."""
    import pytest  # noqa: PLC0415 - after the orders were read

    pytest.hookimpl(hookwrapper=True, tryfirst=True)(Ending.pytest_sessionfinish)
    pytest.hookimpl(trylast=True)(Readiness.pytest_sessionstart)
    sys.argv[0] = "pytest"
    plugins = [*plugins, Ending()]
    if ready is None:
        return int(pytest.main([*arguments(root), *paths], plugins=plugins))
    os.environ.update(ready.environment)
    for plugin in plugins:
        ready.config.pluginmanager.register(plugin)
    return int(ready.config.hook.pytest_cmdline_main(config=ready.config))


def take_ready(wanted: list[str]) -> Any:
    """What read pytest's options before this process was forked (``config``), if it read these; else None.

    Only what pytest does between reading them and its hook ``pytest_cmdline_main`` is left out then.
    """
    ready: Any = sys.modules.pop(READY, None)
    if ready is None or ready.arguments == wanted:
        return ready
    sys.meta_path[:] = ready.finders
    return None


@contextlib.contextmanager
def trusting_plugins() -> Iterator[None]:
    """Without pytest's search for fixtures below decorators, a third of what getting ready takes: all it does is warn.

    Only pytest's own plugins are searched then. It is no public function: where there is none, nothing happens.
    """
    manager: Any = getattr(sys.modules.get("_pytest.fixtures"), "FixtureManager", None)
    search = vars(manager).get(SEARCH) if manager else None
    if search is not None:
        setattr(manager, SEARCH, lambda *_: None)
    try:
        yield
    finally:
        if search is not None:
            setattr(manager, SEARCH, search)


def run(orders: dict[str, Any]) -> None:
    """Never returns."""
    take_ready([])
    selection = Selection()
    selection.ask(orders)
    leave(run_pytest(orders["root"], orders["files"], [selection]))


def get_ready(root: str, await_orders: Callable[[], dict[str, Any]]) -> None:
    """Brings pytest to where it wants to know the tests, which takes a third of a round, and there asks for orders.

    ``await_orders`` forks, and does not return in the grader. This returns when pytest does not get that far.
    """
    grader = os.getpid()
    selection, code = Selection(), 3
    readiness = Readiness(selection, await_orders)
    ready = take_ready([*arguments(root), root])
    try:
        with readiness.trusting:
            readiness.trusting.enter_context(trusting_plugins())
            code = run_pytest(root, [root], [selection, readiness], ready)
    except Exception as error:
        os.write(2, f"test process: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        if os.getpid() != grader:
            os._exit(code)


def take(orders: dict[str, Any]) -> dict[str, Any]:
    """The orders, where they were told to be carried out."""
    os.environ.update(orders["environment"])
    os.chdir(orders["folder"])
    sys.path[0:0] = orders["path"]
    return orders


def await_orders(descriptor: int, others: Iterable[int]) -> dict[str, Any]:
    """In a child of the grader, which has pytest loaded: wait, knowing nothing. ``others`` are the grader's."""
    try:
        os.setsid()
        for other in others:
            os.close(other)
        sys.modules["__main__"] = types.ModuleType("__main__")
        select.select([descriptor], [], [])
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # the grader is not, and while waiting we are not
        with os.fdopen(descriptor, "rb") as stream:
            return take(json.loads(stream.read()))
    except BaseException as error:
        os.write(2, f"test process: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        os._exit(3)


def main() -> None:
    orders = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    import_pytest()
    run(take(orders))


if __name__ == "__main__":
    main()
