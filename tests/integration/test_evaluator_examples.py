"""The example problems are fit to judge agents."""

import asyncio
from pathlib import Path

import pytest
from grading import run_bundle

from ridges.evaluator.checks import SandboxLeft, check_problem
from ridges.evaluator.problems.formats import parse_problem
from ridges.evaluator.problems.tree import read_tree

PROBLEMS = Path(__file__).resolve().parents[2] / "examples" / "problems"


async def in_subprocess(_plan, bundle):
    report, facts = await asyncio.to_thread(run_bundle, bundle)
    return SandboxLeft(report=report, exit=facts)


@pytest.mark.parametrize(
    "folder", sorted(path for path in PROBLEMS.iterdir() if path.is_dir()), ids=lambda path: path.name
)
async def test_an_example_passes_the_check(folder):
    problem = parse_problem(folder.name, read_tree(folder))
    report = await check_problem(problem, in_subprocess, repeats=2)
    assert [finding for finding in report.findings if not finding.ok] == []
