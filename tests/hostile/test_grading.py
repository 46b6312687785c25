"""Patches that want a verdict they have not earned."""

import asyncio
import re
from collections.abc import Sequence
from uuid import uuid4

import pytest
from docker_images import AGENT_IMAGE, need_agent_image
from grading import CREATE, FIX, git_patch, grade, in_subprocess, problem_of
from hostile.cheats import CHEATS, KNOWN_NAMES, OUTCOMES, STUB
from sandboxes import gone, sandbox_spec

from ridges.contracts.faults import Cause
from ridges.contracts.limits import SandboxLimits
from ridges.evaluator.bundle import COMMAND, REPORT, sandbox_timeout_s
from ridges.evaluator.domain import Problem
from ridges.evaluator.verdict import Judgement
from ridges.sandbox_manager.agent_sandbox import IMPORTS_OF_GRADERS, PYTEST_OF_GRADERS
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.docker_engine import DockerSandbox

HONEST = "the honest solution"


@pytest.fixture(scope="module")
def problem():
    return problem_of(CREATE)


async def test_an_honest_solution_is_resolved(problem):
    """Else no cheat would prove anything."""
    judgement = await grade(problem, problem.reference, in_subprocess)
    assert (judgement.verdict, judgement.cause, judgement.detail) == ("resolved", None, None)
    assert [test.status for test in judgement.tests] == ["pass"] * 4


@pytest.mark.parametrize("name", CHEATS)
async def test_no_cheat_is_resolved(problem, name):
    judgement = await grade(problem, git_patch(problem, CHEATS[name]), in_subprocess)
    assert judgement.verdict == "unresolved"
    assert any(test.status != "pass" for test in judgement.tests)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("exit at import with status 0", Cause.VERDICT_FORGED),
        ("exit at import with status 1", Cause.EVALUATION_RAISED),
        ("sys.exit at import", Cause.EVALUATION_RAISED),
        ("unittest asserts do nothing", Cause.VERDICT_FORGED),
        ("every report says passed", Cause.VERDICT_FORGED),
        ("reports of the problem's tests say passed", Cause.VERDICT_FORGED),
        ("equal to everything", Cause.VERDICT_FORGED),
        ("report written, then out", Cause.VERDICT_FORGED),
        ("the grader is killed and its report forged", Cause.VERDICT_FORGED),
    ],
)
async def test_the_cause_names_what_happened(problem, name, cause):
    judgement = await grade(problem, git_patch(problem, CHEATS[name]), in_subprocess)
    assert judgement.cause is cause
    assert judgement.detail


async def test_infrastructure_in_an_honest_patch_is_put_back_and_told(problem):
    """An agent that leaves a conftest.py or a scratch json.py beside its solution still gets its verdict."""
    scratch = {
        "main.py": CREATE["solution.py"],
        "conftest.py": "raise RuntimeError\n",
        "json.py": "raise RuntimeError\n",
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--co"\n',
        ".gitignore": "*.log\n",
    }
    judgement = await grade(problem, git_patch(problem, scratch), in_subprocess)
    assert judgement.verdict == "resolved"
    assert set(judgement.flagged) == {"conftest.py", "json.py", "pyproject.toml", ".gitignore"}


async def test_a_new_module_that_hides_an_installed_package_is_put_back(problem):
    """Only the sandbox knows what is installed there, so the grader itself finds these."""
    patch = git_patch(problem, {"main.py": CREATE["solution.py"], "defusedxml/__init__.py": "raise RuntimeError\n"})
    judgement = await grade(problem, patch, in_subprocess)
    assert (judgement.verdict, judgement.flagged) == ("resolved", ("defusedxml",))


async def test_an_honest_change_of_pyproject_stays():
    problem = problem_of(FIX)
    changed = FIX["repo/pyproject.toml"].replace('version = "1"', 'version = "2"')
    patch = problem.reference + git_patch(problem, {"pyproject.toml": changed})
    judgement = await grade(problem, patch, in_subprocess)
    assert (judgement.verdict, judgement.flagged) == ("resolved", ())


async def test_a_patch_that_makes_putting_back_impossible_does_not_void_the_run():
    """Our fault would be a run that does not count against the agent."""
    problem = problem_of(FIX | {"repo/deep/conftest.py": "x = 1\n"})
    patch = b"diff --git a/deep/conftest.py b/deep/conftest.py\ndeleted file mode 100644\n"
    patch += b"--- a/deep/conftest.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x = 1\n"
    patch += b"diff --git a/deep b/deep\nnew file mode 100644\n--- /dev/null\n+++ b/deep\n@@ -0,0 +1 @@\n+x\n"
    judgement = await grade(problem, patch, in_subprocess)
    assert judgement.cause is Cause.PATCH_DOES_NOT_APPLY
    assert "cannot be put back" in judgement.detail


async def test_settings_that_cannot_be_read_are_put_back(problem):
    deep = "x = " + "[" * 20_000 + "]" * 20_000 + "\n"
    judgement = await grade(
        problem, git_patch(problem, {"main.py": CREATE["solution.py"], "pyproject.toml": deep}), in_subprocess
    )
    assert (judgement.verdict, judgement.flagged) == ("resolved", ("pyproject.toml",))


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        (b"diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/etc\n", "symbolic link"),
        (
            b"diff --git a/x b/x\nnew file mode 160000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+Subproject\n",
            "submodule",
        ),
        (b"--- /dev/null\n+++ b/../grading/grade.py\n@@ -0,0 +1 @@\n+pass\n", ".. parts"),
        (b"--- /dev/null\n+++ b/.git/config\n@@ -0,0 +1 @@\n+[core]\n", "git itself"),
    ],
)
async def test_patches_that_leave_the_repository_never_reach_a_sandbox(problem, patch, says):
    async def no_sandbox(*_):
        raise AssertionError("a sandbox was started")

    judgement = await grade(problem, patch, no_sandbox)
    assert judgement.cause is Cause.PATCH_INVALID
    assert says in judgement.detail


async def test_the_known_limit(problem):
    """The one class of cheats that wins, documented in the service's README.

    Tests run in the process of the code they test. A patch written for this very grader can take pytest apart from
    inside, and tell tests from probes by reading their source (the random values in it). It stands out to any reader.
    """
    condition = KNOWN_NAMES + " and not __import__('re').search(r'[0-9a-f]{24}', open(item.path).read())"
    tailored = git_patch(problem, {"main.py": OUTCOMES.format(condition=condition) + STUB})
    assert (await grade(problem, tailored, in_subprocess)).verdict == "resolved"


@pytest.fixture(scope="module")
def judgements(problem):
    """Those of patches that were graded in a sandbox, made once for each technology, two at a time."""
    known: dict[str, dict[str, Judgement]] = {}

    def of(technology: str) -> dict[str, Judgement]:
        if technology not in known:
            known[technology] = asyncio.run(graded_in(technology, problem))
        return known[technology]

    return of


async def graded_in(technology: str, problem: Problem) -> dict[str, Judgement]:
    names = (HONEST, *CHEATS)
    patches = [problem.reference if name == HONEST else git_patch(problem, CHEATS[name]) for name in names]
    return dict(zip(names, await all_graded_in(technology, problem, patches, SandboxLimits()), strict=True))


async def all_graded_in(
    technology: str, problem: Problem, patches: Sequence[bytes], limits: SandboxLimits
) -> list[Judgement]:
    slots = asyncio.Semaphore(2)
    owner = f"grading-{uuid4()}"
    docker = DockerSandbox(owner=owner, default_image=AGENT_IMAGE)
    sandbox = docker if technology == "docker" else BubblewrapSandbox(fork_server=technology == "bubblewrap")

    async def in_sandbox(plan, bundle):
        spec = sandbox_spec(
            *COMMAND, kind="evaluation", files=(bundle,), limits=limits, timeout_s=sandbox_timeout_s(plan),
            outputs={REPORT.path: REPORT.max_bytes}, preload=IMPORTS_OF_GRADERS, pytest=PYTEST_OF_GRADERS,
        )  # fmt: skip
        async with slots:
            left = await sandbox.run(spec, asyncio.Event())
        await gone(spec)
        return left.output(REPORT.path).content, left.exit

    try:
        return list(await asyncio.gather(*(grade(problem, patch, in_sandbox) for patch in patches)))
    finally:
        await docker.close()


def in_a_sandbox_as_outside(judgement: Judgement, name: str) -> None:
    assert judgement.verdict == ("resolved" if name == HONEST else "unresolved"), judgement.detail
    if name == "the grader's memory is searched for its secret":
        assert judgement.cause is None  # it ends the process with another status where it can read anything


@pytest.mark.bubblewrap
@pytest.mark.parametrize("name", [HONEST, *CHEATS])
def test_no_cheat_is_resolved_in_bubblewrap(judgements, bubblewrap_works, name):
    in_a_sandbox_as_outside(judgements("bubblewrap")[name], name)


@pytest.mark.bubblewrap
@pytest.mark.parametrize("name", [HONEST, *CHEATS])
def test_no_cheat_gains_by_a_pytest_that_was_ready_before(judgements, bubblewrap_works, name):
    """Where sandboxes are forked, pytest has read its options in the process that forks them; bwrap starts it anew."""
    forked, started = judgements("bubblewrap")[name], judgements("started by bwrap")[name]
    in_a_sandbox_as_outside(started, name)
    assert (forked.verdict, forked.flagged) == (started.verdict, started.flagged)
    assert forked.cause == started.cause or "daemon" in name  # what it writes comes early enough or not
    assert [(test.name, test.status) for test in forked.tests] == [(test.name, test.status) for test in started.tests]


PORTRAIT = """
import faulthandler, logging, os, signal, sys, tempfile, threading
import pytest

def say(*facts):
    pytest.fail("\\n".join(map(str, facts)), pytrace=False)

def test_process():
    say(sys.path, sys.argv[0], os.getcwd(), tempfile.gettempdir(), sys.flags, sys.dont_write_bytecode,
        sorted(os.environ.items()), len(os.listdir("/proc/self/fd")), faulthandler.is_enabled(),
        [str(signal.getsignal(number)) for number in range(1, 32)], [type(each).__name__ for each in sys.meta_path],
        sys.excepthook, sys.unraisablehook, threading.excepthook)

def test_config(pytestconfig):
    say(pytestconfig.rootpath, pytestconfig.inipath, pytestconfig.invocation_params.dir, pytestconfig.args,
        sorted(vars(pytestconfig.option).items()))

def test_plugins(pytestconfig):
    manager = pytestconfig.pluginmanager
    say(sorted(getattr(plugin, "__name__", type(plugin).__name__) for plugin in manager.get_plugins()))

def test_session(request):
    say(request.session.name, request.session.path, request.session.startpath, request.node.nodeid)

def test_captures(capfd, tmp_path, monkeypatch, recwarn, caplog):
    monkeypatch.setenv("SET", "1")
    os.system("echo $SET")
    print("printed")
    logging.getLogger().warning("logged")
    say(capfd.readouterr(), tmp_path, caplog.messages, os.listdir(os.path.dirname(tmp_path)))

def test_shows_what_it_wrote():
    print("printed")
    os.write(2, b"written")
    logging.getLogger().warning("logged")
    say("failed")
"""
FACTS = ("process", "config", "plugins", "session", "captures", "shows_what_it_wrote")


@pytest.mark.bubblewrap
async def test_hidden_tests_find_the_same_pytest_whether_it_was_ready_before_or_not(bubblewrap_works):
    names = ", ".join(f'"tests.py::test_{name}"' for name in FACTS)
    settings = f'kind = "create"\ntitle = "x"\n[tests]\nexpected = [{names}]\n'
    problem = problem_of(CREATE | {"tests.py": PORTRAIT, "problem.toml": settings})
    facts = []
    for technology in ("bubblewrap", "started by bwrap"):
        [judgement] = await all_graded_in(technology, problem, [problem.reference], SandboxLimits())
        facts.append({test.name: without_what_is_random(test.message or "") for test in judgement.tests})
    assert len(facts[0]) == len(FACTS)
    assert "rootdir" in facts[0]["tests.py::test_config"]
    assert facts[0] == facts[1]


def without_what_is_random(text: str) -> str:
    return re.sub("t[0-9a-f]{12}|test_[0-9a-f]{8}|0x[0-9a-f]+", "", text)


@pytest.mark.docker
@pytest.mark.parametrize("name", [HONEST, *CHEATS])
def test_no_cheat_is_resolved_in_docker(judgements, name):
    need_agent_image()
    in_a_sandbox_as_outside(judgements("docker")[name], name)


FILLS = """
import os

try:
    with open("/sandbox/full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
except OSError:
    pass
"""
SEVEN = '"test_median.py::test_seven", '


async def test_hidden_tests_have_their_conftest_from_the_start_of_the_session():
    """Hooks that run before anything is collected, and options, are there only for one that pytest saw so early."""
    conftest = """
import pytest

def pytest_addoption(parser):
    parser.addoption("--three", default=3)

def pytest_sessionstart(session):
    session.config.four = 4

@pytest.fixture
def seven(request):
    return request.config.getoption("--three") + request.config.four
"""
    test = "\n\ndef test_seven(seven):\n    assert median([seven]) == 7\n"
    more = {
        "tests/conftest.py": conftest,
        "tests/test_median.py": FIX["tests/test_median.py"] + test,
        "problem.toml": FIX["problem.toml"].replace("pass_to_pass = [", "pass_to_pass = [" + SEVEN),
    }
    problem = problem_of(FIX | more)
    judgement = await grade(problem, problem.reference, in_subprocess)
    assert (judgement.verdict, judgement.detail) == ("resolved", None)


LONG_MESSAGE = """

def roman(number):
    raise RuntimeError("x" * 4_000_000)
"""


@pytest.mark.parametrize(
    "technology",
    [pytest.param("docker", marks=pytest.mark.docker), pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)],
)
async def test_code_that_fills_the_disk_gets_the_verdict_it_earned(problem, bubblewrap_works, technology):
    """The tests' report has room of its own, and the grader's too. A report that is larger than its room says why."""
    if technology == "docker":
        need_agent_image()
    sources = (CREATE["solution.py"] + FILLS, FILLS + STUB, FILLS + LONG_MESSAGE)
    patches = [git_patch(problem, {"main.py": source}) for source in sources]
    small = SandboxLimits(memory_bytes=256 << 20, disk_bytes=16 << 20)
    solved, unsolved, lengthy = await all_graded_in(technology, problem, patches, small)
    assert (solved.verdict, solved.cause) == ("resolved", None), solved.detail
    assert (unsolved.verdict, unsolved.cause) == ("unresolved", None), unsolved.detail
    assert [test.status for test in unsolved.tests] == ["fail"] * 4
    assert all("'?' !=" in test.message for test in unsolved.tests if test.name.endswith(("one", "four", "year")))
    assert (lengthy.verdict, lengthy.cause) == ("unresolved", Cause.EVALUATION_RAISED)
    assert "filled their sandbox's disk" in lengthy.detail


def test_no_secret_of_the_plan_is_in_the_test_process(problem):
    """The orders of the test process name neither the nonce nor which canary must fail."""
    from importlib.resources import files

    source = (files("ridges.evaluator") / "inside" / "grade.py").read_text()
    orders = re.search(r"orders = \{.*?\n    \}", source, re.DOTALL)[0]
    assert "nonce" not in orders
    assert "must_fail" not in orders
