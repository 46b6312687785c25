"""The contracts of import-linter, seen to fail: each one against an import that it forbids."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
CONTRACTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
NAMES = {contract["name"] for contract in CONTRACTS}
CONTAINERS = {contract["containers"][0]: contract["name"] for contract in CONTRACTS if contract.get("exhaustive")}

INDEPENDENT = "services never import each other"
BY_PROCESS = "the command line stands on the services' processes, not on their code"
DOWNWARDS = "contracts depend on msgspec only, the chassis on contracts"
PURE = "contracts and domains reach no I/O library"
FORBIDDEN = [
    ("ridges.gateway.calls", "ridges.ledger.domain", {INDEPENDENT, DOWNWARDS}),
    ("ridges.sandbox_manager.ports", "ridges.evaluator.domain", {INDEPENDENT, DOWNWARDS}),
    ("ridges.cli.errors", "ridges.gateway.settings", {BY_PROCESS, DOWNWARDS}),
    ("ridges.chassis.clock", "ridges.evaluator.domain", {DOWNWARDS, INDEPENDENT, BY_PROCESS}),
    ("ridges.contracts.money", "ridges.chassis.settings", {DOWNWARDS, "layers of chassis"}),
    ("ridges.contracts.limits", "aiohttp", {PURE}),
    ("ridges.ledger.domain", "sqlite3", {PURE}),
    ("ridges.gateway.errors", "nats", {PURE}),  # which the domain imports
]
"""A module, what it must not import, and the contracts that say so, of those that reach it indirectly, too."""
UPWARDS = {
    "ridges.contracts": ("blobs", "codec"),
    "ridges.chassis": ("clock", "migrate"),
    "ridges.cli": ("errors", "app"),
    "ridges.gateway": ("errors", "app"),
    "ridges.sandbox_manager": ("errors", "app"),
    "ridges.evaluator": ("errors", "app"),
    "ridges.ledger": ("errors", "app"),
}
"""For each container: one of its lowest modules and one above it."""
LINT = """
import sys
sys.path[:0] = sys.argv[2:]
sys.path.append(sys.argv[1])
from importlinter.cli import lint_imports_command
lint_imports_command(["--no-cache", "--no-logo"])
"""
"""Without site: the packages that ``.venv`` links to the real tree must not be found beside the copy."""


class Tree:
    """A copy of all sources, and what import-linter says about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sources = [source.relative_to(REPOSITORY) for source in sorted(REPOSITORY.glob("*/src"))]
        sources += [source.relative_to(REPOSITORY) for source in sorted(REPOSITORY.glob("services/*/src"))]
        for source in sources:
            leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / source, folder / source, ignore=leave)
        shutil.copy(REPOSITORY / "pyproject.toml", folder)
        self.sources = [folder / source for source in sources]

    def file(self, module: str) -> Path:
        """Where the module is; its package must exist."""
        *package, name = module.split(".")
        return next(path for source in self.sources if (path := source.joinpath(*package)).is_dir()) / f"{name}.py"

    @contextmanager
    def with_import(self, module: str, imported: str) -> Iterator[None]:
        path = self.file(module)
        before = path.read_text("utf-8")
        path.write_text(f"{before}\nimport {imported}\n", "utf-8")
        try:
            yield
        finally:
            path.write_text(before, "utf-8")

    def broken(self) -> tuple[set[str], str]:
        """Names of the contracts that do not hold, and all that was said."""
        done = subprocess.run(
            [sys.executable, "-S", "-c", LINT, sysconfig.get_path("purelib"), *map(str, self.sources)],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        found = dict(re.findall(r"^(.+) (KEPT|BROKEN)$", done.stdout, re.MULTILINE))
        assert set(found) == NAMES, done.stdout + done.stderr
        broken = {name for name, state in found.items() if state == "BROKEN"}
        assert done.returncode == bool(broken), done.stdout
        return broken, done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"))


def test_the_tree_as_it_is_breaks_no_contract(tree: Tree) -> None:
    assert tree.broken()[0] == set()


def test_every_contract_has_an_import_that_breaks_it() -> None:
    assert set().union(*(names for _, _, names in FORBIDDEN)) | set(CONTAINERS.values()) == NAMES
    assert set(UPWARDS) == set(CONTAINERS)


@pytest.mark.parametrize(("module", "imported", "names"), FORBIDDEN)
def test_an_import_between_packages_or_of_io_breaks_the_contracts_that_forbid_it(
    tree: Tree, module: str, imported: str, names: set[str]
) -> None:
    with tree.with_import(module, imported):
        broken, said = tree.broken()
    assert broken == names
    assert f"{module} -> {imported}" in said, said


def test_an_import_upwards_breaks_the_layers_of_its_package(tree: Tree) -> None:
    with ExitStack() as changes:
        for container, (low, high) in UPWARDS.items():
            changes.enter_context(tree.with_import(f"{container}.{low}", f"{container}.{high}"))
        broken, said = tree.broken()
    assert broken - {PURE} == set(CONTAINERS.values()), "domains reach I/O by such an import, too"
    for container, (low, high) in UPWARDS.items():
        assert f"{container}.{low} -> {container}.{high}" in said, said


def test_a_module_that_no_layer_lists_breaks_the_layers_of_its_package(tree: Tree) -> None:
    drawers = [tree.file(f"{container}.utils") for container in CONTAINERS]
    for drawer in drawers:
        drawer.write_text("", "utf-8")
    try:
        broken, said = tree.broken()
    finally:
        for drawer in drawers:
            drawer.unlink()
    assert broken == set(CONTAINERS.values())
    for container in CONTAINERS:
        assert f"- {container}.utils" in said, said
