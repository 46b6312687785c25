"""What goes into an agent's sandbox."""

import io
import json
import tarfile

import msgspec
import pytest
from unit.sandbox_manager.samples import (
    AGENT,
    NOW,
    RUN,
    STATEMENT,
    WORKSPACE,
    evaluation_requested,
    requested,
    tar_of,
)

from ridges.contracts.limits import ModelLimits, RunLimits
from ridges.sandbox_manager.agent_sandbox import (
    AgentInputs,
    BrokenWorkspace,
    agent_env,
    agent_spec,
    below_repo,
    evaluation_spec,
)

URL = "{proxy_url}"


def made(workspace: bytes = WORKSPACE, statement: bytes = STATEMENT):
    inputs = AgentInputs(agent=AGENT, statement=statement, repo=below_repo(workspace))
    return agent_spec(requested(), inputs, runner=b"run it", sandbox_id="s", now=NOW)


def contents(*tars: bytes) -> dict[str, bytes | str | None]:
    found: dict[str, bytes | str | None] = {}
    for content in tars:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isreg() else None
                found[entry.name] = file.read() if file else entry.linkname or None
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SANDBOX_PROXY_URL", URL),
        ("AI_PROXY_URL", URL),
        ("AI_EMBEDDING_PROXY_URL", URL),
        ("OPENAI_BASE_URL", f"{URL}/v1"),
        ("OPENROUTER_BASE_URL", f"{URL}/v1"),
        ("EVALUATION_RUN_ID", RUN),
        ("RUN_ID", RUN),
        ("AGENT_TIMEOUT", "60"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("RIDGES_MAX_COST_USD", "0.05"),
        ("RIDGES_MODEL", "some/model"),
    ],
)
def test_the_environment_of_the_contract(name, value):
    limits = RunLimits(agent_timeout_s=60, model=ModelLimits(max_cost_nano_usd=50_000_000))
    assert agent_env(requested(limits=limits, model="some/model"))[name] == value


def test_keys_are_there_but_worthless_and_no_model_means_no_variable():
    env = agent_env(requested())
    assert env["OPENAI_API_KEY"] == env["OPENROUTER_API_KEY"] == "ridges-run"
    assert "RIDGES_MODEL" not in env


def test_the_files_of_the_contract():
    spec = made(workspace=tar_of({"./pkg/a.py": b"x", "b.txt": b"y", ".git/config": b"the future"}))
    files = contents(*spec.files)
    assert files.pop("input.json") == json.dumps({"problem_statement": "Mend it."}).encode()
    assert files == {
        "agent.py": AGENT,
        "agent_runner.py": b"run it",
        "repo": None,
        "repo/pkg/a.py": b"x",
        "repo/b.txt": b"y",
    }
    assert (spec.repo, spec.kind, spec.timeout_s, spec.proxy_dir) == (True, "agent", 60, None)
    assert spec.deadline > NOW


def test_a_statement_that_is_no_utf8_reaches_the_agent_all_the_same():
    (statement,) = json.loads(contents(*made(statement=b"caf\xe9").files)["input.json"]).values()
    assert statement == "caf\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("workspace", [b"no tar at all" * 100, tar_of({"../x": b""}), tar_of({"/etc/x": b""})])
def test_a_broken_workspace_is_the_problems_fault(workspace):
    with pytest.raises(BrokenWorkspace):
        made(workspace=workspace)


def test_an_evaluation_gets_its_bundle_and_no_way_out():
    asked = evaluation_requested()
    spec = evaluation_spec(asked, b"bundle", sandbox_id="s", now=NOW)
    assert (spec.files, spec.command, spec.outputs) == ((b"bundle",), asked.command, asked.outputs)
    assert (spec.proxy_dir, spec.repo, spec.kind) == (None, False, "evaluation")
    assert not [value for value in spec.env.values() if URL in value]
    assert msgspec.structs.replace(spec, env={}).timeout_s == 30
