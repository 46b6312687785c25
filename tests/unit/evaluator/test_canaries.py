"""Canaries and probes keep what they promise, under the real pytest."""

import ast

import pytest
from grading import CREATE, FIX, git_patch, grade, in_subprocess, problem_of

from ridges.contracts.faults import Cause
from ridges.evaluator.canaries import canary_file, probe_file, ways_to_fail


def test_canary_names_and_values_are_random():
    first, second = canary_file(), canary_file()
    assert not set(first.must_fail + first.must_pass) & set(second.must_fail + second.must_pass)
    compile(first.source, "c", "exec")


FIT = """
import pytest

def test_fit():
    assert f(1) == 2

@pytest.mark.parametrize("x", [1])
def test_parameters(x):
    assert 2 == f(x)

def test_leaves_early():
    if not f(1):
        return
    assert f(1) == 2

def test_only_inside_a_block():
    with pytest.raises(AssertionError):
        assert f(1) == 3

@flaky
def test_decorated():
    assert f(1) == 2

def test_no_equality():
    assert f(1) < 3

def test_chained():
    assert 1 == f(1) == 1

def test_not_listed():
    assert f(1) == 2
"""


def test_only_tests_that_must_fail_become_probes():
    names = frozenset(line[4:-3].partition("(")[0] for line in FIT.splitlines() if line.startswith("def "))
    probe = probe_file(FIT, names - {"test_not_listed"})
    assert set(probe.tests) == {"test_fit", "test_parameters"}


@pytest.mark.parametrize(
    ("expected", "kind"),
    [
        ("2", int),
        ("'two'", str),
        ("2.5", float),
        ("b'2'", bytes),
        ("[2]", list),
        ("(2,)", tuple),
        ("{2: 2}", dict),
        ("{2}", set),
    ],
)
def test_the_random_value_has_the_type_of_the_expected_one(expected, kind):
    probe = probe_file(f"def test_x():\n    assert f() == {expected}\n", frozenset({"test_x"}))
    seen = []

    class Spy:
        def __eq__(self, other):
            seen.append(other)
            return True

        __hash__ = None

    space = {"f": Spy}
    exec(probe.source, space)
    space["test_x"]()
    assert type(seen[0]) is kind
    assert seen[0] != eval(expected)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_nothing_but_the_expected_value_is_replaced(end):
    """Also behind characters of several bytes and other line ends, and where the value goes over several lines."""
    lines = ["# ü\f", "def test_x():", "    x = 'äö'; assert g(x) == [", "    1", "    ], 'ß'", "    assert f() == (2)"]
    source = end.join(lines) + end
    probe = probe_file(source, frozenset({"test_x"}))
    before, after = ast.parse(source), ast.parse(probe.source)
    for tree in (before, after):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                assert isinstance(node.test, ast.Compare)
                node.test.comparators = []
    assert ast.dump(before) == ast.dump(after)
    assert "# ü" in probe.source
    assert "(2)" not in probe.source


def test_no_probe_without_a_fit_test():
    assert probe_file("def test_x():\n    assert f()\n", frozenset({"test_x"})) is None


async def test_the_fix_problem_is_graded_as_written():
    problem = problem_of(FIX)
    solved = await grade(problem, problem.reference, in_subprocess)
    assert (solved.verdict, solved.cause, solved.detail) == ("resolved", None, None)
    untouched = await grade(problem, None, in_subprocess)
    assert (untouched.verdict, untouched.cause) == ("unresolved", None)
    assert {t.name: t.status for t in untouched.tests} == {
        t.id: "fail" if t.category == "fail_to_pass" else "pass" for t in problem.expected
    }


async def test_a_patch_that_does_not_apply_brings_gits_words():
    problem = problem_of(CREATE)
    patch = b"--- a/main.py\n+++ b/main.py\n@@ -1 +1 @@\n-nothing like it\n+x\n"
    judgement = await grade(problem, patch, in_subprocess)
    assert judgement.cause is Cause.PATCH_DOES_NOT_APPLY
    assert "patch failed: main.py:1" in judgement.detail


async def test_tests_that_hang_end_in_time_with_a_report():
    problem = problem_of(CREATE)
    patch = git_patch(problem, {"main.py": "import time\n\n\ndef roman(number):\n    time.sleep(60)\n"})
    judgement = await grade(problem, patch, in_subprocess, timeout_s=2)
    assert judgement.cause is Cause.EVALUATION_TIMED_OUT


async def test_a_broken_module_is_told_with_its_error():
    problem = problem_of(CREATE)
    judgement = await grade(problem, git_patch(problem, {"main.py": "def roman(:\n"}), in_subprocess)
    assert judgement.cause is Cause.EVALUATION_RAISED
    assert "SyntaxError" in judgement.detail


async def test_imports_from_a_source_folder():
    moved = {name.replace("repo/stats", "repo/src/stats"): content for name, content in FIX.items()}
    moved["solution.diff"] = FIX["solution.diff"].replace("stats/median.py", "src/stats/median.py")
    moved["problem.toml"] = FIX["problem.toml"] + 'python_path = ["src"]\n'
    problem = problem_of(moved)
    assert (await grade(problem, problem.reference, in_subprocess)).verdict == "resolved"


async def test_hidden_tests_may_have_helpers_data_and_fixtures_of_their_own():
    files = FIX | {
        "tests/conftest.py": "import pytest\n\n\n@pytest.fixture\ndef three():\n    return 3\n",
        "tests/hidden_helper.py": "from pathlib import Path\n\n\n"
        "def data():\n    return Path(__file__).with_name('data').joinpath('numbers.txt').read_text()\n",
        "tests/data/numbers.txt": "1 3",
        "tests/test_more.py": "from hidden_helper import data\nfrom stats import median\n\n\n"
        "def test_more(three, tmp_path):\n    assert median([int(word) for word in data().split()]) == three - 1\n",
    }
    files["problem.toml"] = FIX["problem.toml"].replace(
        "fail_to_pass = [", 'fail_to_pass = ["test_more.py::test_more", '
    )
    problem = problem_of(files)
    judgement = await grade(problem, problem.reference, in_subprocess)
    assert (judgement.verdict, judgement.detail) == ("resolved", None)


def failing(source: str, modules: frozenset[str] = frozenset()) -> int:
    return len(canary_file(ways_to_fail((source,), modules)).must_fail)


PLAIN = "from main import f\n\ndef test_x():\n    assert f() == 1\n"


def test_tests_that_say_less_have_fewer_canaries():
    """Each costs a millisecond of every round, and none is worth it for what the tests never do."""
    known = frozenset({"main"})
    everything = len(canary_file().must_fail)
    assert failing(PLAIN, known) < failing(PLAIN + "    # assertIn, approx\n", known) < everything


@pytest.mark.parametrize(
    "more",
    [
        "import numpy.testing\n",
        "from django.test import TestCase\n",
        "pytest_plugins = ['helpers']\n",
        "library = pytest.importorskip('library')\n",
        "class TestX(Base):\n    def test_y(self):\n        self.assertContains(f(), 'x')\n",
        "def f(:\n",
    ],
)
def test_all_canaries_where_others_may_assert_for_the_tests(more):
    assert failing(PLAIN + more, frozenset({"main"})) == len(canary_file().must_fail)


def test_equality_of_containers_is_watched_where_unittest_hands_over_to_it():
    """assertEqual of two lists calls assertListEqual."""
    source = canary_file(ways_to_fail(("import unittest\nself.assertEqual(f(), [1])\n",), frozenset())).source
    assert "assertListEqual" in source
    assert "assertDictEqual" in source
