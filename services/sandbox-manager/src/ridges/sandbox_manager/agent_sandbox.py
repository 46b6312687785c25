"""What goes into an agent's sandbox: files, environment, limits. The agent contract, to the letter. Pure."""

import copy
import io
import json
import tarfile
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import msgspec

from ridges.contracts.events import EvaluationRequested, RunRequested, SandboxFile
from ridges.contracts.money import usd_text
from ridges.sandbox_manager.outcomes import MAX_OUTPUT_BYTES, OUTPUT_PATH
from ridges.sandbox_manager.ports import PROXY_URL, WORKSPACE, SandboxSpec

RUNNER_PATH = f"{WORKSPACE}/agent_runner.py"
PLACEHOLDER_KEY = "ridges-run"
"""Worthless: the run's identity is its socket. OpenAI clients refuse to start without a key."""
_IMPORTS_OF_RUNNER = ("importlib.util", "json", "traceback")
IMPORTS_OF_GRADERS = (
    *("ctypes", "faulthandler", "gc", "importlib.util", "inspect", "json", "pdb", "pkgutil", "readline", "select"),
    *("shutil", "subprocess", "tomllib", "typing", "unittest", "pluggy.*", "pytest", "_pytest.*"),
)
_TESTS = f"{WORKSPACE}/grading/round-now"
PYTEST_OF_GRADERS = (
    *("-c", f"{_TESTS}/pytest.ini", "--rootdir", _TESTS, "--confcutdir", _TESTS),
    *("-pno:cacheprovider", "-pno:doctest", "-pno:pastebin", "-pno:setuponly", "-pno:setupplan", "-pno:stepwise"),
    *("--import-mode=importlib", "--continue-on-collection-errors", "--junit-xml", f"{_TESTS}/junit.xml"),
    *("-o", "junit_family=xunit1", "--color=no", "-q", "--tb=short", _TESTS),
)
"""The grader compares: one that wants others has pytest read them itself."""
_GRACE = timedelta(seconds=180)
"""From the command's timeout to the moment when the sandbox must be gone whatever happens."""


class BrokenWorkspace(ValueError):
    """The problem's tar cannot become ``/sandbox/repo``."""


class AgentInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a RunRequested refers to."""

    agent: bytes
    statement: bytes
    repo: bytes
    """The workspace, made by ``below_repo``."""


def agent_spec(
    requested: RunRequested, inputs: AgentInputs, *, runner: bytes, sandbox_id: str, now: datetime
) -> SandboxSpec:
    """The sandbox of one attempt, still without its proxy."""
    timeout_s = requested.limits.agent_timeout_s
    return SandboxSpec(
        sandbox_id=sandbox_id,
        run_id=requested.run_id,
        kind="agent",
        image=requested.image,
        files=(_own_files(inputs, runner), inputs.repo),
        command=("python3", RUNNER_PATH),
        preload=_IMPORTS_OF_RUNNER,
        env=agent_env(requested),
        limits=requested.limits.sandbox,
        timeout_s=timeout_s,
        outputs=(SandboxFile(path=OUTPUT_PATH, max_bytes=MAX_OUTPUT_BYTES),),
        repo=True,
        deadline=now + timedelta(seconds=timeout_s) + _GRACE,
    )


def agent_env(requested: RunRequested) -> dict[str, str]:
    """The environment that existing agents rely on. Source: agent contract, section 1."""
    env = {
        "SANDBOX_PROXY_URL": PROXY_URL,
        "AI_PROXY_URL": PROXY_URL,
        "AI_EMBEDDING_PROXY_URL": PROXY_URL,
        "OPENAI_BASE_URL": f"{PROXY_URL}/v1",
        "OPENROUTER_BASE_URL": f"{PROXY_URL}/v1",
        "OPENAI_API_KEY": PLACEHOLDER_KEY,
        "OPENROUTER_API_KEY": PLACEHOLDER_KEY,
        "EVALUATION_RUN_ID": requested.run_id,
        "RUN_ID": requested.run_id,
        "AGENT_TIMEOUT": str(requested.limits.agent_timeout_s),
        "RIDGES_MAX_COST_USD": usd_text(requested.limits.model.max_cost_nano_usd),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if requested.model:
        env["RIDGES_MODEL"] = requested.model
    return env


def evaluation_spec(requested: EvaluationRequested, bundle: bytes, *, sandbox_id: str, now: datetime) -> SandboxSpec:
    """The sandbox of one evaluation: no network, no socket."""
    return SandboxSpec(
        sandbox_id=sandbox_id,
        run_id=requested.run_id,
        kind="evaluation",
        image=requested.image,
        files=(bundle,),
        command=requested.command,
        preload=IMPORTS_OF_GRADERS,
        pytest=PYTEST_OF_GRADERS,
        env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        limits=requested.limits,
        timeout_s=requested.timeout_s,
        outputs=requested.outputs,
        deadline=now + timedelta(seconds=requested.timeout_s) + _GRACE,
    )


def _own_files(inputs: AgentInputs, runner: bytes) -> bytes:
    statement = inputs.statement.decode("utf-8", "replace")
    contents = {
        "agent.py": inputs.agent,
        PurePosixPath(RUNNER_PATH).name: runner,
        PurePosixPath("input.json").name: json.dumps({"problem_statement": statement}).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def below_repo(workspace: bytes) -> bytes:
    """The tree of a tar below ``repo/``, without anything that git would take for its own.

    Raises:
        BrokenWorkspace: the problem is broken, not the agent.
    """
    buffer = io.BytesIO()
    try:
        with tarfile.open(fileobj=io.BytesIO(workspace)) as given, tarfile.open(fileobj=buffer, mode="w") as tar:
            root = tarfile.TarInfo("repo")
            root.type, root.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(root)
            for entry in given:
                path = PurePosixPath(entry.name)
                if path.is_absolute() or ".." in path.parts:
                    raise BrokenWorkspace(f"the problem's workspace has the unsafe path {entry.name!r}")
                if path.parts[:1] == (".git",) or path == PurePosixPath():
                    continue
                moved = copy.copy(entry)  # TarInfo.replace came with Python 3.11.4
                moved.name, moved.uid, moved.gid, moved.uname, moved.gname = f"repo/{path}", 0, 0, "", ""
                moved.pax_headers = {}
                tar.addfile(moved, given.extractfile(entry) if entry.isreg() else None)
    except tarfile.TarError as error:
        raise BrokenWorkspace(f"the problem's workspace is no tar: {error}") from error
    return buffer.getvalue()
