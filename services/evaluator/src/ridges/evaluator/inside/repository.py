"""The tree under test, for ``grade.py``: pristine, patched, and put back where the patch must not have a say.

Standard library only, Python 3.8 or newer.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE_CHARS = 4000


def read_tree(folder: Path) -> dict[str, bytes]:
    tree = {}
    for entry in entries_below(str(folder)):
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb") as stream:
                tree[os.path.relpath(entry.path, str(folder))] = stream.read()
    return tree


def entries_below(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from entries_below(entry.path)


def write_tree(tree: dict[str, bytes], folder: Path) -> None:
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def remove(path: Path) -> None:
    """Removes whatever is there, never following a link."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


class Repository:
    """The tree under test, with what is needed to put parts of it back."""

    def __init__(self, folder: Path, python_path: list[str]) -> None:
        self.folder = folder
        self.roots = [folder / part if part else folder for part in python_path]
        self.pristine_modules = {root: modules_in(root) for root in self.roots}
        self.pristine_pyproject = self.read("pyproject.toml")

    def read(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() and not path.is_symlink() else None

    def put_back(self, name: str, content: bytes | None) -> None:
        path = self.folder / name
        remove(path)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def apply(self, patch: Path) -> str | None:
        """What git said; None when the patch is applied."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "HOME": str(patch.parent / "grading"),
                       "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
                       "GIT_CEILING_DIRECTORIES": str(patch.parent)}  # fmt: skip
        try:
            done = subprocess.run(
                ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", str(patch)],
                cwd=str(self.folder), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False, timeout=60,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "git apply took longer than 60 s"
        if done.returncode != 0:
            return done.stdout.decode("utf-8", "replace").strip()[:MAX_MESSAGE_CHARS] or "git apply failed silently"
        for entry in entries_below(str(self.folder)):
            if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
                where = os.path.relpath(entry.path, str(self.folder))
                return f"{where} is neither a file nor a folder after the patch"
        return None

    def put_back_infrastructure(self) -> list[str]:
        """Puts back what only shows here: new modules that hide an installed one, pytest's table in pyproject.toml."""
        back = []
        for root, pristine in self.pristine_modules.items():
            for name, paths in modules_in(root).items():
                if name not in pristine and is_installed(name):
                    for path in paths:
                        back.append(path.relative_to(self.folder).as_posix())
                        remove(path)
        now = self.read("pyproject.toml")
        if now != self.pristine_pyproject and pytest_table(now) != pytest_table(self.pristine_pyproject):
            self.put_back("pyproject.toml", self.pristine_pyproject)
            back.append("pyproject.toml")
        return back


def modules_in(root: Path) -> dict[str, list[Path]]:
    """Top-level modules and packages below an import root: name -> paths."""
    found: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(root)) if root.is_dir() else ():
        path = root / name
        is_package = path.is_dir() and any(inner.startswith("__init__.") for inner in os.listdir(path))
        if is_package or path.suffix in (".py", ".pyc", ".so"):
            found.setdefault(name.partition(".")[0], []).append(path)
    return found


def is_installed(name: str) -> bool:
    if name in sys.builtin_module_names or name in getattr(sys, "stdlib_module_names", ()):
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def pytest_table(content: bytes | None) -> object:
    """Pytest's settings in a pyproject.toml; unreadable ones are equal to nothing."""
    if content is None:
        return None
    try:
        import tomllib  # noqa: PLC0415 - from Python 3.11 on

        return tomllib.loads(content.decode("utf-8")).get("tool", {}).get("pytest")
    except (ImportError, ValueError, RecursionError):
        return object()
