"""What is used from threads may be used from many at once, the first time too: msgspec shows a thread what another one
has half built of a type, and the process dies of it. Each first use needs a process of its own."""

import subprocess
import sys

import pytest

TRIES = 6
"""A process may be lucky."""
AT_ONCE = """
import sys, threading
{setup}
together = threading.Barrier(8)
failed = []

def first_use():
    together.wait()
    try:
        {use}
    except BaseException as error:
        failed.append(error)

sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=first_use) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
"""
RUN = """
import sys
sys.path.insert(0, "tests/unit/cli")
import msgspec
from ridges.cli.client import LedgerClient
from samples import run_detail

class Answered(LedgerClient):
    def _call(self, method, path, body=None):
        return answer

answer = msgspec.json.encode(run_detail())
"""
VERDICT = """
import msgspec
from ridges.contracts.events import ExitFacts
from ridges.evaluator import bundle, verdict
from ridges.evaluator.domain import ExpectedTest, Problem, SourceFile

text = SourceFile(b"")
tests = {"test_a.py": SourceFile(b"def test_a():\\n    assert 1 == 1\\n")}
problem = Problem(
    problem_id="a", problem_digest="d", kind="fix", title="t", statement="s", workspace={"a.py": text}, tests=tests,
    reference=b"", solution=b"",
    expected=(ExpectedTest(id="test_a.py::test_a", category="fail_to_pass"),),
)
made = bundle.make_bundle(problem, None, bundle.make_plan(problem, None, 60))
report = b'{"nonce": "", "applied": true, "rounds": [{"exit_code": 1, "junit": "", "duration_s": 1.0}]}'
"""
PROBLEM = """
from ridges.evaluator.domain import SourceFile
from ridges.evaluator.problems.formats import parse_problem

tree = {
    "problem.toml": SourceFile(b'kind = "create"\\n[tests]\\nexpected = ["tests.py::test_a"]\\n[limits]\\npids = 9\\n'),
    "instructions.md": SourceFile(b"# A\\n"),
    "main.py": SourceFile(b""),
    "solution.py": SourceFile(b""),
    "tests.py": SourceFile(b"def test_a():\\n    assert 1 == 1\\n"),
}
"""


@pytest.mark.parametrize(
    ("setup", "use"),
    [
        pytest.param(RUN, 'Answered("http://127.0.0.1:9").run("0190a1b2")', id="client of the ledger"),
        pytest.param(VERDICT, "verdict.judge(bundle.plan_of(made), report, ExitFacts(exit_code=0))", id="verdict"),
        pytest.param(PROBLEM, 'parse_problem("a", tree)', id="problem"),
    ],
)
def test_many_threads_may_be_the_first(setup, use):
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, "-c", AT_ONCE.format(setup=setup, use=use)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
