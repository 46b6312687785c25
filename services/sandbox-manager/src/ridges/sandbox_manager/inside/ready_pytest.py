"""A pytest that has read its options before there is a sandbox, for what is forked from the fork server.

Its folders are those of the sandbox, where they are the same each time: the server, which has a mount namespace of its
own, gets empty ones at their paths. Whoever is forked finds the module ``NAME`` with what was made. Trusted throughout:
the arguments are the manager's, and no plugin but pytest's own is loaded.
"""

from __future__ import annotations

import os
import sys

from ridges.sandbox_manager.inside.confining import (
    AT_FDCWD,
    AT_RECURSIVE,
    BASE,
    NODEV,
    NOSUID,
    OPEN_TREE,
    RDONLY,
    ROOT_BYTES,
    TREE_CLOEXEC,
    TREE_CLONE,
    mount,
    pivot_into_base,
    put,
    set_attributes,
    syscall,
    unmount,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

NAME = "ready_pytest"
"""Of the module with ``config``, ``arguments``, ``environment`` (what pytest adds to it) and ``finders`` (of modules,
as they were before)."""


def make(workspace: str, arguments: Sequence[str], serve: Callable[[], None]) -> None:
    """Calls ``serve`` when pytest is ready, from within it; returns when pytest does not come that far.

    Args:
        workspace: the working directory in sandboxes.
        arguments: of pytest; ``--rootdir`` and ``-c`` are made, the second with nothing but its first line.
        serve: is expected not to return.
    """
    try:
        import pytest  # noqa: PLC0415  # of the installation

        root, settings = (arguments[arguments.index(option) + 1] for option in ("--rootdir", "-c"))
        stand_in(workspace, root, settings)
        run(pytest, workspace, arguments, serve)
    except (Exception, SystemExit) as error:
        os.write(2, f"pytest is not made ready: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))


def stand_in(workspace: str, root: str, settings: str) -> None:
    """From now on ``/`` is as before, and has the sandbox's workspace with these two in it, and room for a moment."""
    kept = [name for name in os.listdir("/") if name != workspace.split("/")[1]]
    links = {name: os.readlink(f"/{name}") for name in kept if os.path.islink(f"/{name}")}
    flags = TREE_CLONE | TREE_CLOEXEC | AT_RECURSIVE
    trees = {
        name: syscall(f"open_tree /{name}", OPEN_TREE, AT_FDCWD, f"/{name}".encode(), flags)
        for name in kept
        if name not in links and os.path.isdir(f"/{name}")
    }
    mount(BASE, "tmpfs", NOSUID | NODEV, f"mode=0755,size={ROOT_BYTES}")
    try:
        for name, target in links.items():
            os.symlink(target, f"{BASE}/{name}")
        for name, tree in trees.items():
            put(tree, f"{BASE}/{name}")
            os.close(tree)
        os.makedirs(BASE + root)
        with open(BASE + settings, "w") as file:
            file.write("[pytest]\n")
    except OSError:
        unmount(BASE)
        raise
    pivot_into_base()


class Served:
    """A plugin that serves in place of the session."""

    def __init__(self, found: Any, serve: Callable[[], None]) -> None:
        self._found = found
        self._serve = serve

    def pytest_cmdline_main(self, config: Any) -> None:
        """What is forked calls this hook again, without this plugin, and has the session."""
        config.pluginmanager.unregister(self)
        config.pluginmanager.getplugin("capturemanager").stop_global_capturing()  # its files are of no use to others
        self._found.config = config
        self._serve()


def run(pytest: Any, workspace: str, arguments: Sequence[str], serve: Callable[[], None]) -> None:
    import tempfile  # noqa: PLC0415  # only in servers that have pytest

    pytest.hookimpl(tryfirst=True)(Served.pytest_cmdline_main)
    junit: Any = sys.modules.get("_pytest.junitxml")
    if hasattr(junit, "bin_xml_escape"):  # it is no promise of pytest's
        junit.bin_xml_escape("")  # compiles an expression that takes 4 ms
    found: Any = type(sys)(NAME)
    found.arguments, found.finders = list(arguments), list(sys.meta_path)
    before = dict(os.environ)
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": workspace}

    def back() -> None:
        found.environment = {name: os.environ[name] for name in os.environ.keys() - before.keys() - own.keys()}
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None
        os.chdir("/")
        set_attributes(AT_FDCWD, "/", 0, RDONLY)

    def serve_as_found() -> None:
        back()
        sys.modules[NAME] = found
        serve()

    os.environ.update(own)
    os.chdir(workspace)
    try:
        pytest.main(list(arguments), plugins=[Served(found, serve_as_found)])
    finally:
        back()
        sys.meta_path[:] = found.finders
