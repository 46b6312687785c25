"""The example problems are fit to judge agents, and their reference solutions pass where agents are judged."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from docker_images import AGENT_IMAGE, need_agent_image
from grading import run_bundle
from sandboxes import gone, sandbox_spec

from ridges.contracts.limits import SandboxLimits
from ridges.evaluator.bundle import COMMAND, REPORT, sandbox_timeout_s
from ridges.evaluator.checks import SandboxLeft, check_problem
from ridges.evaluator.problems.formats import parse_problem
from ridges.evaluator.problems.tree import read_tree
from ridges.sandbox_manager.bubblewrap import BubblewrapSandbox
from ridges.sandbox_manager.docker_engine import DockerSandbox

PROBLEMS = Path(__file__).resolve().parents[2] / "examples" / "problems"
EXAMPLES = pytest.mark.parametrize(
    "folder", sorted(path for path in PROBLEMS.iterdir() if path.is_dir()), ids=lambda path: path.name
)


async def in_subprocess(_plan, bundle):
    report, facts = await asyncio.to_thread(run_bundle, bundle)
    return SandboxLeft(report=report, exit=facts)


@EXAMPLES
async def test_an_example_passes_the_check(folder):
    problem = parse_problem(folder.name, read_tree(folder))
    report = await check_problem(problem, in_subprocess, repeats=2)
    assert [finding for finding in report.findings if not finding.ok] == []


@pytest.fixture(
    params=[pytest.param("docker", marks=pytest.mark.docker), pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)]
)
def technology(request):
    if request.param == "docker":
        need_agent_image()
    else:
        request.getfixturevalue("bubblewrap_works")
    return request.param


@pytest.fixture
async def sandbox(technology):
    if technology == "bubblewrap":
        yield BubblewrapSandbox()
        return
    docker = DockerSandbox(owner=f"examples-{uuid4()}", default_image=AGENT_IMAGE)
    yield docker
    await docker.close()


@EXAMPLES
async def test_a_reference_solution_passes_under_the_limits_of_agents(folder, sandbox):
    """In a sandbox as agents are judged in: the problem's limits, else the defaults. And the empty patch does not."""
    problem = parse_problem(folder.name, read_tree(folder))

    async def in_sandbox(plan, bundle):
        spec = sandbox_spec(
            *COMMAND, kind="evaluation", files=(bundle,), limits=problem.sandbox or SandboxLimits(),
            timeout_s=sandbox_timeout_s(plan), outputs={REPORT.path: REPORT.max_bytes},
        )  # fmt: skip
        left = await sandbox.run(spec, asyncio.Event())
        await gone(spec)
        return SandboxLeft(report=left.output(REPORT.path).content, exit=left.exit)

    report = await check_problem(problem, in_sandbox, repeats=1)
    assert [finding for finding in report.findings if not finding.ok] == []
