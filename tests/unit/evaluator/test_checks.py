"""Good problems pass the check; each way to be bad is named."""

import pytest
from grading import CREATE, FIX, problem_of, run_bundle

from ridges.contracts.events import ExitFacts
from ridges.contracts.faults import Cause
from ridges.evaluator.checks import SandboxLeft, check_problem
from ridges.evaluator.errors import EvaluationLost


async def in_subprocess(_plan, bundle):
    import asyncio

    report, facts = await asyncio.to_thread(run_bundle, bundle)
    return SandboxLeft(report=report, exit=facts)


async def findings(files, repeats=1):
    report = await check_problem(problem_of(files), in_subprocess, repeats)
    return report, {finding.name: finding for finding in report.findings if not finding.ok}


@pytest.mark.parametrize("files", [CREATE, FIX])
async def test_a_good_problem(files):
    report, bad = await findings(files, repeats=2)
    assert (report.ok, bad) == (True, {})
    assert [(e.patch, e.verdict) for e in report.evaluations] == [
        ("reference", "resolved"), ("reference", "resolved"), ("empty", "unresolved"),
    ]  # fmt: skip


DIFF, LISTS, MEDIAN = FIX["solution.diff"], FIX["problem.toml"], FIX["repo/stats/median.py"]
LISTED = '[tests]\nexpected = ["tests.py::RomanTest::test_one"]\n'
FLAKY = """
import os, unittest
from main import roman

class RomanTest(unittest.TestCase):
    def test_flaky(self):
        assert roman(1) == "I"
        assert os.urandom(1)[0] < 128
"""


@pytest.mark.parametrize(
    ("files", "name", "says"),
    [
        (CREATE | {"solution.py": CREATE["main.py"] + "# nothing\n"}, "reference passes", "4 tests do not pass"),
        (
            CREATE | {"main.py": CREATE["solution.py"], "solution.py": CREATE["solution.py"] + "#\n"},
            "empty patch fails",
            "do not test",
        ),
        (CREATE | {"notes.py": CREATE["tests.py"]}, "the future is hidden", "notes.py"),
        (
            CREATE | {"answer.py": CREATE["solution.py"], "main.py": "from answer import PARTS\n"},
            "the future is hidden",
            "answer.py",
        ),
        (
            CREATE | {"problem.toml": 'kind = "create"\n' + LISTED},
            "listed tests are those that run",
            "run, but not listed",
        ),
        (FIX | {"solution.diff": "--- a/stats/median.py\n"}, "reference patch", "no file header"),
        (
            FIX | {"solution.diff": DIFF.replace("stats/median.py", "conftest.py"), "repo/conftest.py": MEDIAN},
            "reference patch",
            "conftest.py",
        ),
        (
            FIX | {"solution.diff": DIFF.replace(" def median(values)", " def other(values)")},
            "reference passes",
            "patch failed",
        ),
        (
            FIX
            | {
                "problem.toml": LISTS.replace("test_even", "test_")
                .replace("test_odd", "test_even")
                .replace('test_"', 'test_odd"')
            },
            "empty patch fails",
            "in the wrong list",
        ),
        (
            FIX | {"problem.toml": LISTS.replace("[four]", "[five]")},
            "listed tests are those that run",
            "test_many[five]",
        ),
    ],
)
async def test_a_bad_problem_is_told_what_is_wrong(files, name, says):
    report, bad = await findings(files)
    assert not report.ok
    assert says in bad[name].detail


async def test_flaky_tests_are_found():
    report, bad = await findings(CREATE | {"tests.py": FLAKY}, repeats=12)
    assert not report.ok
    assert "test_flaky" in bad["repeats agree"].detail


async def test_unlisted_tests_of_a_fix_problem_are_only_told():
    toml = FIX["problem.toml"].replace('    "test_median.py::test_odd",\n', "")
    report, bad = await findings(FIX | {"problem.toml": toml})
    assert (report.ok, bad) == (True, {})
    assert "test_median.py::test_odd" in report.findings[-1].detail


async def test_no_sandbox_is_no_verdict_on_the_problem():
    async def unavailable(_plan, _bundle):
        raise EvaluationLost(Cause.SANDBOX_UNAVAILABLE, "no sandbox-manager ran the evaluation")

    report = await check_problem(problem_of(CREATE), unavailable)
    assert not report.ok
    assert {evaluation.cause for evaluation in report.evaluations} == {Cause.SANDBOX_UNAVAILABLE}


async def test_a_sandbox_that_times_out():
    async def timed_out(_plan, _bundle):
        return SandboxLeft(report=None, exit=ExitFacts(exit_code=None, timed_out=True))

    report = await check_problem(problem_of(CREATE), timed_out)
    assert {evaluation.cause for evaluation in report.evaluations} == {Cause.EVALUATION_TIMED_OUT}
