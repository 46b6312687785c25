"""The packages that agents use, unmodified, from the index: each in an environment of its own, made here.

Versions are pinned: what is tested is what was meant. None of them is a dependency of the project.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from integration.gateway_world import TOKEN_KEY, mock_config

from ridges.contracts import events as ev
from ridges.contracts.run_token import sign_run_token

ROOT = Path(__file__).resolve().parents[2]
INSTALL_S = 55
RUN_S = 45
OPENAI_2 = ("openai==2.54.0",)
LITELLM_AND_MINI = ("mini-swe-agent==2.4.6", "litellm==1.80.0")

pytestmark = [pytest.mark.packages, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """Requirements -> the python of an environment that has them; skips where the index cannot be reached."""
    made = {}

    def python_with(requirements):
        if requirements not in made:
            made[requirements] = _install(tmp_path_factory.mktemp("packages"), requirements)
        python, why_not = made[requirements]
        if python is None:
            pytest.skip(f"{' '.join(requirements)} could not be installed: {why_not}")
        return python

    return python_with


def _install(folder, requirements):
    uv = shutil.which("uv") or next(map(str, ROOT.glob(".tools/*/bin/uv")), None)
    python = folder / "venv" / "bin" / "python"
    if uv:
        steps = [
            f'"{uv}" venv --quiet --python "{sys.executable}" "{folder}/venv"',
            f'"{uv}" pip install --quiet --python "{python}" {" ".join(requirements)}',
        ]
    else:
        steps = [
            f'"{sys.executable}" -m venv "{folder}/venv"',
            f'"{python}" -m pip install -q {" ".join(requirements)}',
        ]
    script = f'cd "{ROOT}" && . infra/dev/uv-env.sh && {" && ".join(steps)}'
    installing = subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, words = installing.communicate(timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        os.killpg(installing.pid, signal.SIGKILL)
        installing.communicate()
        return None, f"the package index did not give it within {INSTALL_S} s"
    return (python, None) if installing.returncode == 0 else (None, " ".join(words.split())[-300:])


def run(python, program, gateway, run_id, folder):
    """What the program prints, as JSON. It sees what an agent sees: the OpenAI variables, nothing else."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OPENAI_BASE_URL": f"{gateway.url}/v1",
        "OPENAI_API_KEY": sign_run_token(run_id, TOKEN_KEY),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MSWEA_SILENT_STARTUP": "1",
        "MSWEA_COST_TRACKING": "ignore_errors",
    }
    done = subprocess.run(
        [python, "-c", program], env=environment, cwd=folder, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


OPENAI_PROGRAM = """
import json, openai
client = openai.OpenAI(max_retries=2)
messages = [{"role": "user", "content": "Say hello."}]
said = {"version": openai.__version__}
reply = client.chat.completions.create(model="ok", messages=messages, seed=7)
said["buffered"] = [reply.choices[0].message.content, reply.usage.total_tokens]
options = {"include_usage": True}
chunks = list(client.chat.completions.create(model="ok", messages=messages, stream=True, stream_options=options))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
said["streamed"] = [text, chunks[-1].usage.total_tokens]
function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
tools = [{"type": "function", "function": function}]
called = client.chat.completions.create(model="tools", messages=messages, tools=tools)
said["tool"] = called.choices[0].message.tool_calls[0].function.arguments
vector = client.embeddings.create(model="vector", input="x")
said["embedding"] = list(vector.data[0].embedding)
said["models"] = sorted(model.id for model in client.models.list())
headers = {"Idempotency-Key": "k"}
keyed = [client.chat.completions.create(model="ok", messages=messages, extra_headers=headers).id for _ in range(2)]
said["keyed"] = keyed[0] == keyed[1]
try:
    client.chat.completions.create(model="nope", messages=messages)
except openai.NotFoundError as error:
    said["refused"] = error.code
print(json.dumps(said))
"""


def openai_works(said, log, run_id, major):
    assert said.pop("version").split(".")[0] == major
    assert said == {
        "buffered": ["Hello there", 30],
        "streamed": ["Hello there", 30],
        "tool": '{"a": 3}',
        "embedding": [0.5, -0.25],
        "models": ["ok", "tools", "vector"],
        "keyed": True,
        "refused": "model_not_found",
    }
    made = log.events(run_id, ev.InferenceMade)
    assert len(made) == 5
    assert len({event.cost_nano_usd for event in made if event.model == "ok"}) == 1


def test_openai_2(interpreter, start, log, mock, tmp_path):
    gateway = start(mock_config(mock.url, "ok", "tools") + mock_config(mock.url, "vector", name="b", kind="embedding"))
    run_id = log.new_run()
    openai_works(run(interpreter(OPENAI_2), OPENAI_PROGRAM, gateway, run_id, tmp_path), log, run_id, "2")


def test_openai_3_as_installed_here(start, log, mock, tmp_path):
    gateway = start(mock_config(mock.url, "ok", "tools") + mock_config(mock.url, "vector", name="b", kind="embedding"))
    run_id = log.new_run()
    openai_works(run(sys.executable, OPENAI_PROGRAM, gateway, run_id, tmp_path), log, run_id, "3")


LITELLM_PROGRAM = """
import json, os, litellm
litellm.suppress_debug_info = True
where = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
messages = [{"role": "user", "content": "Say hello."}]
reply = litellm.completion(model="openai/ok", messages=messages, **where)
said = {"buffered": [reply.choices[0].message.content, reply.usage.total_tokens]}
chunks = list(litellm.completion(model="openai/ok", messages=messages, stream=True, **where))
said["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
function = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
tools = [{"type": "function", "function": function}]
called = litellm.completion(model="openai/tools", messages=messages, tools=tools, **where)
said["tool"] = called.choices[0].message.tool_calls[0].function.arguments
said["embedding"] = litellm.embedding(model="openai/vector", input=["x"], **where).data[0]["embedding"]
try:
    litellm.completion(model="openai/nope", messages=messages, **where)
except litellm.exceptions.NotFoundError:
    said["refused"] = "not found"
print(json.dumps(said))
"""


def test_litellm_as_a_client(interpreter, start, log, mock, tmp_path):
    gateway = start(mock_config(mock.url, "ok", "tools") + mock_config(mock.url, "vector", name="b", kind="embedding"))
    run_id = log.new_run()
    assert run(interpreter(LITELLM_AND_MINI), LITELLM_PROGRAM, gateway, run_id, tmp_path) == {
        "buffered": ["Hello there", 30],
        "streamed": "Hello there",
        "tool": '{"a": 3}',
        "embedding": [0.5, -0.25],
        "refused": "not found",
    }
    assert len(log.events(run_id, ev.InferenceMade)) == 4


MINI_PROGRAM = """
import json, yaml
from minisweagent import package_dir
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel
config = yaml.safe_load((package_dir / "config" / "mini.yaml").read_text())
names = ("system_template", "instance_template")
agent = DefaultAgent(
    LitellmModel(model_name="openai/bash"),
    LocalEnvironment(),
    **{name: config["agent"][name] for name in names},
)
ended = agent.run("Make a file.")
print(json.dumps({"calls": agent.n_calls, "status": ended["exit_status"], "submission": ended["submission"]}))
"""


def test_mini_swe_agent(interpreter, start, log, mock, tmp_path):
    """A whole small run: the model's commands come as tool calls, the agent runs them and submits."""
    gateway = start(mock_config(mock.url, "bash"))
    run_id = log.new_run()
    said = run(interpreter(LITELLM_AND_MINI), MINI_PROGRAM, gateway, run_id, tmp_path)
    assert (said["calls"], said["status"]) == (2, "Submitted")
    assert "made it" in said["submission"]
    assert (tmp_path / "made.txt").read_text() == "made it\n"
    assert len(log.events(run_id, ev.InferenceMade)) == 2
