"""The agent contract, one row for each of its lines, in every sandbox technology. The agents are in ``agents/``."""

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from docker_images import need_agent_image
from e2e.project import REPOSITORY, Project

AGENTS = Path(__file__).parent / "agents"
PROBLEM = "fix-formula-signs"
STATEMENT = (REPOSITORY / "examples" / "problems" / PROBLEM / "statement.md").read_text("utf-8")
REPO_FILES = {path.name for path in (REPOSITORY / "examples" / "problems" / PROBLEM / "repo").iterdir()}
TWO_MIB = 2 * 1024 * 1024
LOG_CHARS = 500_000
OPTIONS = {
    "slow": ("--agent-timeout", "5"),
    "observer": ("--agent-timeout", "120"),
    "caller": ("--max-cost-usd", "0.5"),
}

RECORDINGS = (
    {
        "conversation": "contract test: say hello",
        "turn": 0,
        "model": "ridges-replay-1",
        "message": {"content": "hello"},
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10},
    },
    {
        "conversation": "contract test: use the tool",
        "turn": 0,
        "model": "ridges-replay-1",
        "message": {
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"path": "a.py", "line": 3}'},
                }
            ],
        },
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10},
    },
)
SOMEBODY_ELSE = "00000000-0000-4000-8000-000000000000"
"""The run that the caller pretends to be."""
HELLO = [200, {"content": "hello", "tool_calls": []}]
LOOKED = {"name": "look", "arguments": [{"name": "path", "value": "a.py"}, {"name": "line", "value": 3}]}


class Seen:
    """An ended run: its JSON document, the agent's log, its events, and what the agent printed behind OBSERVED."""

    def __init__(self, code: int, document: dict[str, Any], log: str, events: list[dict[str, Any]]) -> None:
        self.code, self.document, self.log, self.events = code, document, log, events
        lines = [line for line in log.splitlines() if line.startswith("OBSERVED ")]
        self.observed: dict[str, Any] = json.loads(lines[-1].removeprefix("OBSERVED ")) if lines else {}

    def __getitem__(self, name: str) -> Any:
        return self.observed[name]

    def ending(self) -> tuple[object, ...]:
        return (self.document["verdict"], self.document["cause"], self.document["partial"])


class Row(NamedTuple):
    """One line of the contract."""

    line: str
    agent: str
    look: Callable[[Seen], object]
    expected: object


def environment(*names: str) -> Callable[[Seen], object]:
    return lambda seen: [seen["environment"].get(name) for name in names]


def same(*names: str) -> Callable[[Seen], object]:
    return lambda seen: len({seen["environment"].get(name) for name in names} - {None, ""})


def repository(**expected: object) -> tuple[Callable[[Seen], object], object]:
    return lambda seen: {name: seen["repository"][name] for name in expected}, expected


def answer(name: str) -> Callable[[Seen], object]:
    return lambda seen: seen[name]


def chat_text(name: str) -> Callable[[Seen], object]:
    return lambda seen: [seen[name][0], seen[name][1]["choices"][0]["message"]["content"]]


def changed_files(seen: Seen) -> list[str]:
    lines = str(seen.document["patch"]).splitlines()
    return sorted(line.removeprefix("+++ b/") for line in lines if line.startswith("+++ "))


def spent(seen: Seen, name: str) -> int:
    return round(seen[name][1]["used_cost_usd"] * 10**9)


def not_yours(seen: Seen) -> dict[str, str]:
    words = (
        f"This sandbox belongs to the evaluation run with ID {seen.document['run_id']}; "
        f"it may not act for the evaluation run with ID {SOMEBODY_ELSE}."
    )
    return {"detail": words}


def refusals(seen: Seen, reason: str) -> list[dict[str, Any]]:
    refused = [event for event in seen.events if event["type"] == "InferenceRefused"]
    return [event for event in refused if event["reason"] == reason]


CALL = [
    Row("called with one positional argument", "observer", lambda s: (s["positional_arguments"], s["named_arguments"]),
        (1, [])),
    Row("the argument is a dict with problem_statement", "observer", lambda s: (s["argument_type"], s["argument_keys"]),
        ("dict", ["problem_statement"])),
    Row("problem_statement is the statement", "observer", answer("statement"), STATEMENT),
    Row("parameters with defaults are never passed", "older", lambda s: s.observed,
        {"repo_dir": "repo", "test_mode": False, "verbose": None}),
    Row("a file of exactly 2 MiB with UTF-8 text is taken", "older", lambda s: s.document["cause"], None),
    Row("a returned str is the patch", "observer",
        lambda s: (s.document["patch"].count("+noted"), s.ending(), changed_files(s)),
        (1, ("unresolved", None, False), ["NOTES.txt"])),
    Row("a returned dict with patch is taken", "older",
        lambda s: ("größer" in s.document["patch"], s.ending()), (True, ("unresolved", None, False))),
    Row("the returned patch counts, not the work tree", "returner", changed_files, ["NOTES.txt"]),
    Row("a returned patch is judged by the hidden tests", "returner", lambda s: (s.code, len(s.document["tests"])),
        (1, 22)),
]  # fmt: skip

PLACE = [
    Row("the working directory is /sandbox", "observer", answer("cwd"), "/sandbox"),
    Row("it holds agent.py, input.json, repo/", "observer",
        lambda s: {"agent.py", "input.json", "repo"} <= set(s["files"]), True),
    Row("agent.py is the agent's file", "observer", answer("agent_file_is_me"), True),
    Row("input.json holds the argument", "observer", answer("input"), {"problem_statement": STATEMENT}),
    Row("repo/ holds the problem's files", "observer", lambda s: set(s["repo_files"]), REPO_FILES | {".git"}),
    Row("repo/ is a git repository with one commit", "observer",
        *repository(is_work_tree="true", commits="1", commit_objects=1, parents="")),
    Row("it has no remotes, tags, further branches, stashes", "observer",
        *repository(remotes="", tags="", branches=1, stashes="")),
    Row("it has no reflog of a past", "observer", *repository(other_commits_in_reflogs=[])),
    Row("it has no unreachable objects", "observer", *repository(unreachable="")),
    Row("it is clean", "observer", *repository(status="")),
    Row("output.json after a patch", "returner", lambda s: (sorted(s.observed), s["success"], "+noted" in s["output"]),
        (["output", "success"], True, True)),
    Row("output.json after an exception", "raiser",
        lambda s: (s["success"], "it broke: schön" in s["error"], "LookupError" in s["traceback"]),
        (False, True, True)),
]  # fmt: skip

LOADING = [
    Row("__file__ is set while the module is executed", "observer", answer("file"), "/sandbox/agent.py"),
    Row("the module is in sys.modules while it is executed", "observer", answer("in_sys_modules"), True),
    Row("dataclasses with postponed annotations work", "observer", answer("thought"),
        {"text": "a", "children": [{"text": "b", "children": []}]}),
    Row("sys.exit in agent_main keeps the log", "leaver",
        lambda s: ("first words" in s.log, "last words" in s.log, s.ending()),
        (True, True, ("unresolved", "agent_exited", True))),
    Row("sys.exit while imported keeps the log", "unloadable",
        lambda s: ("before the exit" in s.log, s.document["cause"], s.document["fault"], s.code),
        (True, "agent_exited", "agent", 1)),
    Row("an exception is told with its words", "raiser",
        lambda s: (s.document["cause"], "it broke: schön" in s.document["detail"], "LookupError" in s.log),
        ("agent_raised", True, True)),
]  # fmt: skip

PARTIAL = [
    Row("sys.exit keeps the difference", "leaver", changed_files,
        [".gitignore", "README.md", "committed.txt", "uncommitted.txt"]),
    Row("it is the difference against the base, whatever was committed or reset", "leaver",
        lambda s: ("+committed" in s.document["patch"], "lost" in s.document["patch"]), (True, False)),
    Row("a timeout keeps it", "slow", lambda s: (changed_files(s), s.ending()),
        (["half.txt"], ("unresolved", "agent_timed_out", True))),
    Row("a timeout keeps the log", "slow", lambda s: "half done" in s.log, True),
    Row("a timeout has the public code 1020", "slow", lambda s: s.document["code"], 1020),
    Row("a killed agent keeps it", "killed", lambda s: (changed_files(s), s.ending()),
        (["half.txt"], ("unresolved", "agent_exited", True))),
    Row("a killed agent keeps the log", "killed", lambda s: "half done" in s.log, True),
    Row("an exception keeps it", "raiser", lambda s: (changed_files(s), s.ending()),
        (["half.txt"], ("unresolved", "agent_raised", True))),
    Row("an exception has the public code 1000", "raiser", lambda s: s.document["code"], 1000),
]  # fmt: skip

ENVIRONMENT = [
    Row("SANDBOX_PROXY_URL is a base URL", "observer",
        lambda s: s["environment"]["SANDBOX_PROXY_URL"].startswith("http://127.0.0.1:"), True),
    Row("AI_PROXY_URL and AI_EMBEDDING_PROXY_URL are the same", "observer",
        same("SANDBOX_PROXY_URL", "AI_PROXY_URL", "AI_EMBEDDING_PROXY_URL"), 1),
    Row("EVALUATION_RUN_ID and RUN_ID are the run's id", "observer",
        lambda s: {s["environment"][name] for name in ("EVALUATION_RUN_ID", "RUN_ID")} == {s.document["run_id"]}, True),
    Row("AGENT_TIMEOUT is seconds, readable while imported", "observer", answer("seconds"), 120),
    Row("Python writes unbuffered and no byte code", "observer",
        environment("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"), ["1", "1"]),
    Row("RIDGES_MAX_COST_USD is the cost limit", "observer", environment("RIDGES_MAX_COST_USD"), ["1.00"]),
    Row("OPENAI_BASE_URL and OPENROUTER_BASE_URL end in /v1", "observer",
        lambda s: {s["environment"][name] for name in ("OPENAI_BASE_URL", "OPENROUTER_BASE_URL")}
        == {s["environment"]["SANDBOX_PROXY_URL"] + "/v1"}, True),
    Row("the keys are worthless placeholders", "observer", environment("OPENAI_API_KEY", "OPENROUTER_API_KEY"),
        ["ridges-run", "ridges-run"]),
    Row("nothing of the user's environment gets in", "observer", environment("CONTRACT_TEST_SECRET"), [None]),
]  # fmt: skip

MACHINE = [
    Row("HOME is writable", "observer", lambda s: s["machine"]["home_file"], "kept"),
    Row("git config --global works", "observer", answer("config_global"), "Some Agent"),
    Row("threads work", "observer", lambda s: s["machine"]["threads"], list(range(8))),
    Row("subprocesses and pipes work", "observer", lambda s: s["machine"]["pipe"], "a"),
    Row("temporary files work", "observer", lambda s: s["machine"]["temporary_file"], "temporary"),
    Row("git, bash, python3 and pytest are there", "observer",
        lambda s: {name: s["machine"]["programs"][name] for name in ("git", "bash", "python3", "pytest")},
        dict.fromkeys(("git", "bash", "python3", "pytest"), True)),
    Row("requests, pydantic, numpy and pytest can be imported", "observer", lambda s: s["machine"]["packages"],
        dict.fromkeys(("requests", "pydantic", "numpy", "pytest"), True)),
    Row("python3 is an interpreter with these packages", "observer",
        lambda s: (s["machine"]["child_python"], s["machine"]["pytest"]), ("imported", ["pytest"])),
]  # fmt: skip

LOG = [
    Row("stdout and stderr are one, in order, children included", "talker",
        lambda s: "<0><1><2><3><4><5><6><7><8><9><child-out><child-err>" in s.log, True),
    Row("the last 500,000 characters are kept", "talker",
        lambda s: (len(s.log.partition(">")[2]), s.log.rstrip().endswith("THE END"), "LOST" in s.log),
        (LOG_CHARS, True, False)),
    Row("the prefix tells how many are gone", "talker",
        lambda s: s.log.startswith(f"<truncated {s.document['exit']['log_truncated_chars']} chars>"), True),
    Row("any bytes may come", "talker", lambda s: "\N{REPLACEMENT CHARACTER}" in s.log, True),
    Row("a short log is whole", "raiser", lambda s: "truncated" in s.log, False),
]  # fmt: skip

GATEWAY = [
    Row("POST /api/inference", "caller", answer("inference"), HELLO),
    Row("POST /agents/inference", "caller", answer("inference_alias"), HELLO),
    Row("only run_id: the reply is the bare content", "caller", answer("older"), [200, "hello"]),
    Row("only run_id on the alias path at AI_PROXY_URL", "caller", answer("older_alias"), [200, "hello"]),
    Row("unknown extra fields are ignored", "caller", answer("unknown_fields"), HELLO),
    Row("an empty list of tools with none is fine", "caller", answer("empty_tools"), HELLO),
    Row("tool_mode auto", "caller", answer("tool_auto"), [200, {"content": "", "tool_calls": [LOOKED]}]),
    Row("tool_mode required", "caller", answer("tool_required"), [200, {"content": "", "tool_calls": [LOOKED]}]),
    Row("POST /api/embedding", "caller", answer("embedding"), [200, {"embedding": 256}]),
    Row("POST /agents/embedding at AI_EMBEDDING_PROXY_URL", "caller", answer("embedding_alias"),
        [200, {"embedding": 256}]),
    Row("GET /api/usage before any call", "caller", answer("usage_before"),
        [200, {"used_cost_usd": 0.0, "remaining_cost_usd": 0.5, "max_cost_usd": 0.5}]),
    Row("GET /api/usage after the calls is what the run cost", "caller", lambda s: spent(s, "usage_after")
        == s.document["cost_nano_usd"] > 0, True),
    Row("used and remaining are the maximum", "caller",
        lambda s: round(s["usage_after"][1]["used_cost_usd"] + s["usage_after"][1]["remaining_cost_usd"], 12), 0.5),
    Row("GET /api/inference-models", "caller", answer("inference_models"),
        [200, [{"name": "ridges-replay-1", "external_name": "ridges-replay-1", "max_input_tokens": 200000,
                "cost_usd_per_million_input_tokens": 0.25, "cost_usd_per_million_output_tokens": 1.25}]]),
    Row("GET /api/embedding-models", "caller", answer("embedding_models"),
        [200, [{"name": "ridges-replay-embed-1", "external_name": "ridges-replay-embed-1", "max_input_tokens": 8192,
                "pricing_mode": "per_token", "cost_usd_per_million_input_tokens": 0.02,
                "cost_usd_per_second": None}]]),
    Row("POST /v1/chat/completions at OPENAI_BASE_URL", "caller", chat_text("openai"), [200, "hello"]),
    Row("POST /v1/chat/completions at OPENROUTER_BASE_URL", "caller", chat_text("openrouter"), [200, "hello"]),
    Row("POST /v1/chat/completions at SANDBOX_PROXY_URL, whatever the key", "caller", chat_text("openai_by_proxy_url"),
        [200, "hello"]),
    Row("POST /v1/chat/completions, streamed", "caller", answer("openai_streamed"),
        {"text": "hello", "last_line": "[DONE]"}),
    Row("GET /v1/models", "caller", lambda s: [model["id"] for model in s["openai_models"][1]["data"]],
        ["ridges-replay-1", "ridges-replay-embed-1"]),
    Row("POST /v1/embeddings", "caller", lambda s: len(s["openai_embeddings"][1]["data"]), 2),
    Row("a prompt may be large", "caller", answer("large_prompt"), HELLO),
    Row("the run's calls are counted", "caller", lambda s: (s.document["requests"], s.document["requests_refused"]),
        (16, 4)),
]  # fmt: skip

REFUSED = [
    Row("tools with NONE", "caller", answer("none_with_tools"),
        [422, {"detail": "If you specify a tool mode of NONE, you must not specify any tools."}]),
    Row("REQUIRED without tools", "caller", answer("required_without_tools"),
        [422, {"detail": "If you specify a tool mode of REQUIRED, you must specify at least one tool."}]),
    Row("a body that does not fit is 422 with a list", "caller",
        lambda s: (s["no_messages"][0], type(s["no_messages"][1]["detail"]).__name__), (422, "list")),
    Row("another run's id is refused", "caller", lambda s: s["other_run"] == [403, not_yours(s)], True),
    Row("another run's usage is not told", "caller", lambda s: s["other_run_usage"] == [403, not_yours(s)], True),
    Row("both are recorded, for the run that asked", "caller",
        lambda s: [(refused["status"], refused["model"]) for refused in refusals(s, "identity")],
        [(403, "ridges-replay-1"), (403, None)]),
    Row("unknown model", "caller", answer("unknown_model"),
        [404, {"detail": "The model gpt-nothing is not supported by Ridges for inference."}]),
    Row("unknown embedding model", "caller", answer("unknown_embedding_model"),
        [404, {"detail": "The model gpt-nothing is not supported by Ridges for embedding."}]),
    Row("nothing but the API is served", "caller", lambda s: s["no_such_path"][0], 404),
]  # fmt: skip

ROWS = [*CALL, *PLACE, *LOADING, *PARTIAL, *ENVIRONMENT, *MACHINE, *LOG, *GATEWAY, *REFUSED]
pytestmark = pytest.mark.timeout(300)
TECHNOLOGIES = (
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("docker internal", marks=pytest.mark.docker),
)


@pytest.fixture(scope="module")
def contract_project(project: Project) -> Project:
    """A project with the recordings of this table and a slot for each agent."""
    recordings = "".join(json.dumps(recording) + "\n" for recording in RECORDINGS)
    (project.folder / "examples" / "recordings" / "contract.jsonl").write_text(recordings)
    config = project.folder / "ridges.toml"
    config.write_text(f"{config.read_text()}\n[sandbox]\nslots = 12\n")
    project.env["CONTRACT_TEST_SECRET"] = "not for agents"
    up = project.ridges("up")
    assert up.code == 0, up
    return project


@pytest.fixture(scope="module", params=TECHNOLOGIES)
def seen(request: pytest.FixtureRequest, contract_project: Project) -> dict[str, Seen]:
    """Every agent's run in one technology; all of them at once."""
    technology, *network = str(request.param).split()
    if technology == "docker":
        need_agent_image()
    else:
        request.getfixturevalue("bubblewrap_works")
    names = sorted({row.agent for row in ROWS})
    commands = {name: start(contract_project, name, technology, network) for name in names}
    said = {name: command.communicate(timeout=240) for name, command in commands.items()}
    return {name: ended(contract_project, commands[name].returncode, *said[name]) for name in commands}


def start(project: Project, name: str, technology: str, network: list[str]) -> subprocess.Popen[str]:
    source = (AGENTS / f"{name}.py").read_bytes()
    if name == "older":
        source += b"#" * (TWO_MIB - len(source))
    agent = project.agent(f"{name}.py", source)
    options = (*OPTIONS.get(name, ()), *(["--network", *network] if network else ()))
    return project.start("run", "-a", agent, "-p", PROBLEM, "--sandbox", technology, "--json", *options)


def ended(project: Project, code: int, stdout: str, stderr: str) -> Seen:
    assert stdout, stderr
    document = json.loads(stdout)
    run = f"{project.state()['ledger_url']}/v1/runs/{document['run_id']}"
    with urllib.request.urlopen(f"{run}/log") as log, urllib.request.urlopen(f"{run}/events") as events:
        return Seen(code, document, log.read().decode(), [row["event"] for row in json.load(events)])


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.agent}-{row.line}" for row in ROWS])
def test_contract(seen: dict[str, Seen], row: Row) -> None:
    run = seen[row.agent]
    try:
        found = row.look(run)
    except (KeyError, TypeError, AttributeError) as error:
        pytest.fail(f"{error!r}; the run: {run.document}; the log: {run.log[-2000:]}")
    assert found == row.expected, run.log[-2000:] if len(run.log) < 20_000 else ""


def test_node_runs_where_it_is_promised(seen: dict[str, Seen], request: pytest.FixtureRequest) -> None:
    """Only the image promises node; a bubblewrap sandbox shows the host's programs."""
    machine = seen["observer"]["machine"]
    if "docker" in request.node.name or machine["programs"]["node"]:
        assert machine["node"] == "42"
