"""Two tiny problems, real git patches, and the grader run where a test wants it."""

import asyncio
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ridges.contracts.events import ExitFacts
from ridges.evaluator.bundle import COMMAND, make_bundle, make_plan, plan_of
from ridges.evaluator.domain import Plan, Problem
from ridges.evaluator.errors import PatchRefused
from ridges.evaluator.patches import vet
from ridges.evaluator.problems.formats import parse_problem
from ridges.evaluator.problems.tree import read_tree
from ridges.evaluator.verdict import Judgement, judge, unresolved

CREATE = {
    "instructions.md": "# Roman numbers\n\nWrite `roman(number)`. It raises ValueError for numbers below 1.\n",
    "main.py": "def roman(number):\n    raise NotImplementedError\n",
    "tests.py": """\
import unittest

from main import roman


class RomanTest(unittest.TestCase):
    def test_one(self):
        self.assertEqual(roman(1), "I")

    def test_four(self):
        self.assertEqual(roman(4), "IV")

    def test_year(self):
        self.assertEqual(roman(1994), "MCMXCIV")

    def test_nothing(self):
        with self.assertRaises(ValueError):
            roman(0)
""",
    "solution.py": """\
PARTS = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
         (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]


def roman(number):
    if number < 1:
        raise ValueError(number)
    text = ""
    for value, letters in PARTS:
        while number >= value:
            number, text = number - value, text + letters
    return text
""",
}

FIX = {
    "problem.toml": """\
kind = "fix"
title = "Median of an even count"

[limits]
agent_timeout_s = 300
test_timeout_s = 60

[tests]
fail_to_pass = ["test_median.py::test_even", "test_median.py::test_many[four]"]
pass_to_pass = [
    "test_median.py::test_odd",
    "test_median.py::test_many[three]",
    "test_report.py::ReportTest::test_words",
]
""",
    "statement.md": "median([1, 3]) should be 2.\n",
    "repo/stats/__init__.py": "from stats.median import median\n",
    "repo/stats/median.py": """\
def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
""",
    "repo/README.md": "# stats\n",
    "repo/pyproject.toml": '[project]\nname = "stats"\nversion = "1"\n\n[tool.pytest.ini_options]\naddopts = "-q"\n',
    "tests/test_median.py": """\
import pytest

from stats import median


def test_even():
    assert median([1, 3]) == 2


def test_odd():
    assert median([3, 1, 2]) == 2


@pytest.mark.parametrize("values, expected", [([1, 2, 3], 2), ([1, 2, 4, 9], 3)], ids=["three", "four"])
def test_many(values, expected):
    assert median(values) == expected
""",
    "tests/test_report.py": """\
import unittest

from stats import median


class ReportTest(unittest.TestCase):
    def test_words(self):
        self.assertEqual(f"median: {median([5])}", "median: 5")
""",
    "solution.diff": """\
diff --git a/stats/median.py b/stats/median.py
--- a/stats/median.py
+++ b/stats/median.py
@@ -1,3 +1,6 @@
 def median(values):
     ordered = sorted(values)
-    return ordered[len(ordered) // 2]
+    middle = len(ordered) // 2
+    if len(ordered) % 2 == 0:
+        return (ordered[middle - 1] + ordered[middle]) / 2
+    return ordered[middle]
""",
}


def write_folder(folder: Path, files: Mapping[str, str | bytes | None]) -> Path:
    """The files below the folder; None leaves one out."""
    for name, content in files.items():
        if content is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def problem_of(files: Mapping[str, str | bytes | None], problem_id: str = "tiny") -> Problem:
    with tempfile.TemporaryDirectory() as folder:
        return parse_problem(problem_id, read_tree(write_folder(Path(folder), files)))


def git_patch(problem: Problem, changes: Mapping[str, str | bytes | None]) -> bytes:
    """What ``git diff`` says after writing (None: deleting) files in the problem's workspace."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "core.autocrlf=false"]
        subprocess.run([*git, "init", "-q"], cwd=root, check=True)
        write_folder(root, {name: file.content for name, file in problem.workspace.items()})
        subprocess.run([*git, "add", "-A"], cwd=root, check=True)
        subprocess.run([*git, "commit", "-qm", "base"], cwd=root, check=True)
        write_folder(root, changes)
        for name in (name for name, content in changes.items() if content is None):
            (root / name).unlink()
        subprocess.run([*git, "add", "-A"], cwd=root, check=True)
        return subprocess.run([*git, "diff", "--cached", "--binary"], cwd=root, check=True, capture_output=True).stdout


async def grade(problem: Problem, patch: bytes | None, run, timeout_s: int = 60) -> Judgement:
    """The verdict on a patch, the way a run gets it; ``run(plan, bundle)`` gives (report, ExitFacts)."""
    try:
        vetted = None if patch is None else vet(patch, problem.workspace, problem.python_path)
    except PatchRefused as refused:
        return unresolved([(test.id, test.category) for test in problem.expected], refused.cause, refused.detail)
    plan = make_plan(problem, vetted, timeout_s)
    bundle = make_bundle(problem, vetted, plan)
    report, facts = await run(plan, bundle)
    return judge(plan_of(bundle), report, facts)


async def in_subprocess(_plan: Plan, bundle: bytes, *, show: bool = False) -> tuple[bytes | None, ExitFacts]:
    """The grader in a plain process, in a folder that stands for /sandbox."""
    return await asyncio.to_thread(run_bundle, bundle, show=show)


def run_bundle(bundle: bytes, *, show: bool = False, timeout_s: float = 100) -> tuple[bytes | None, ExitFacts]:
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
            tar.extractall(folder, filter="data")
        output = None if show else subprocess.PIPE
        command = [sys.executable, *COMMAND[1:]]
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout_s,
            start_new_session=True, check=False,
        )  # fmt: skip
        report = Path(folder, "grading", "report.json")
        content = report.read_bytes() if report.is_file() and not report.is_symlink() else None
    return content, ExitFacts(exit_code=done.returncode)
