"""The command line as programs use it: one JSON document on stdout, talk on stderr, exit codes that mean something."""

import asyncio
import json
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import nats
import pytest
from e2e.project import Ended, Project

pytestmark = pytest.mark.timeout(300)
PROBLEM = "create-energy-bill"
DIMENSIONS = ("run", "agent", "problem", "model", "provider", "day")
RUN_FIELDS = {
    "run_id": str,
    "problem": str,
    "agent": str,
    "state": str,
    "verdict": str,
    "cause": type(None),
    "tests": list,
    "patch": str,
    "partial": bool,
    "usage": dict,
    "requests": int,
    "cost_usd": str,
    "started_at": str,
    "finished_at": str,
}
ROW_FIELDS = {"run_id", "problem", "agent", "agent_name", "state", "verdict", "cause", "cost_usd", "started_at"}
EMBEDDER = """
import json, os, urllib.request

def agent_main(problem):
    body = {"run_id": os.environ["RUN_ID"], "model": "ridges-replay-embed-1", "input": "text " * 100}
    url, headers = os.environ["SANDBOX_PROXY_URL"] + "/api/embedding", {"Content-Type": "application/json"}
    reply = urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))
    print("embedded", len(json.load(reply)["embedding"]), "\\x1b[31mred\\x1b[0m", flush=True)
    return "no \\x1b[2J diff"
"""
OPTIONS = {"openai": ("--priority", "-7", "--batch", "night & day")}


def documents(ended: Ended) -> Any:
    """The one document that stdout must be."""
    document, end = json.JSONDecoder().raw_decode(ended.stdout)
    assert ended.stdout[end:] == "\n", "more than one document"
    return document


@pytest.fixture(scope="module")
def runs(running_project: Project) -> dict[str, Ended]:
    """Ended runs of several agents on several problems, by name."""
    agents = {
        "resolved": ("examples/agents/llm_agent.py", PROBLEM),
        "openai": ("examples/agents/openai_agent.py", "create-undo-tree"),
        "empty": ("examples/agents/noop_agent.py", PROBLEM),
        "embedder": (running_project.agent("embedder.py", EMBEDDER), PROBLEM),
    }
    commands = {
        name: running_project.start(
            *("run", "-a", agent, "-p", problem, "--sandbox", "bubblewrap", "--json"), *OPTIONS.get(name, ())
        )
        for name, (agent, problem) in agents.items()
    }
    said = {name: command.communicate(timeout=240) for name, command in commands.items()}
    return {name: Ended(commands[name].returncode, *said[name]) for name in commands}


@pytest.fixture(scope="module")
def resolved(runs: dict[str, Ended]) -> dict[str, Any]:
    assert runs["resolved"].code == 0, runs["resolved"]
    return dict(documents(runs["resolved"]))


def test_a_runs_document_has_the_promised_fields(resolved: dict[str, Any]) -> None:
    assert {name: type(resolved[name]) for name in RUN_FIELDS} == RUN_FIELDS
    assert resolved["agent"].startswith("sha256:")
    assert (resolved["problem"], resolved["state"], resolved["verdict"]) == (PROBLEM, "finished", "resolved")
    assert set(resolved["usage"]) == {"input", "cached_input", "output", "reasoning"}
    assert all(set(test) == {"name", "category", "status", "duration_s"} for test in resolved["tests"])
    assert {test["status"] for test in resolved["tests"]} == {"pass"}
    assert Decimal(resolved["cost_usd"]) * 10**9 == resolved["cost_nano_usd"] > 0
    started, finished = (datetime.fromisoformat(resolved[name]) for name in ("started_at", "finished_at"))
    assert started.utcoffset() == finished.utcoffset() is not None
    assert started < finished


@pytest.mark.parametrize(("name", "code"), [("resolved", 0), ("openai", 0), ("empty", 1), ("embedder", 1)])
def test_the_exit_code_tells_the_verdict(runs: dict[str, Ended], name: str, code: int) -> None:
    assert runs[name].code == code, runs[name]
    assert ("resolved" if code == 0 else "unresolved") == documents(runs[name])["verdict"]


def test_progress_is_talk_on_stderr(runs: dict[str, Ended]) -> None:
    words = runs["resolved"].stderr
    for phase in ("agent working", "hidden tests", "resolved"):
        assert phase in words
    assert documents(runs["resolved"])["run_id"] in words


def test_show_and_watch_print_the_runs_document(running_project: Project, resolved: dict[str, Any]) -> None:
    for command in ("show", "watch"):
        ended = running_project.ridges(command, resolved["run_id"], "--json")
        assert (ended.code, documents(ended)) == (0, resolved), command


def test_show_prints_the_patch_of_one_attempt(running_project: Project, resolved: dict[str, Any]) -> None:
    ended = running_project.ridges("show", resolved["run_id"], "--attempt", "1")
    assert (ended.code, ended.stdout) == (0, resolved["patch"])
    never = running_project.ridges("show", resolved["run_id"], "--attempt", "2")
    assert (never.code, never.stdout) == (2, "")
    assert "no patch of attempt 2" in never.stderr


@pytest.mark.parametrize("digits", [8, 13, 36])
def test_a_unique_start_of_the_id_is_enough(running_project: Project, resolved: dict[str, Any], digits: int) -> None:
    ended = running_project.ridges("show", resolved["run_id"][:digits], "--json")
    assert (ended.code, documents(ended)["run_id"]) == (0, resolved["run_id"])


@pytest.mark.parametrize("command", ["show", "watch", "cancel"])
@pytest.mark.parametrize("run_id", ["00000000", "no-uuid", "", "../runs"])
def test_an_unknown_id_is_a_usage_error(running_project: Project, command: str, run_id: str) -> None:
    ended = running_project.ridges(command, run_id, "--json")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")


def test_runs_lists_newest_first_and_filters(running_project: Project, runs: dict[str, Ended]) -> None:
    page = documents(running_project.ridges("runs", "--json"))
    assert {row["run_id"] for row in page["runs"]} >= {documents(run)["run_id"] for run in runs.values()}
    assert all(set(row) > ROW_FIELDS for row in page["runs"])
    times = [datetime.fromisoformat(row["requested_at"]) for row in page["runs"]]
    assert all(newer > older - timedelta(seconds=1) for newer, older in pairwise(times)), "some were asked for at once"
    undo = documents(running_project.ridges("runs", "--problem", "create-undo-tree", "--json"))["runs"]
    assert {row["run_id"] for row in undo} == {documents(runs["openai"])["run_id"]}
    batch = documents(running_project.ridges("runs", "--batch", "night & day", "--json"))["runs"]
    assert [(row["run_id"], row["batch_id"]) for row in batch] == [(undo[0]["run_id"], "night & day")]
    assert documents(running_project.ridges("runs", "--state", "running_agent", "--json"))["runs"] == []
    assert len(documents(running_project.ridges("runs", "--limit", "2", "--json"))["runs"]) == 2
    assert running_project.ridges("runs", "--state", "asleep").code == 2


def test_costs_have_the_same_total_by_every_dimension(running_project: Project, runs: dict[str, Ended]) -> None:
    reports = {by: documents(running_project.ridges("costs", "--by", by, "--json")) for by in DIMENSIONS}
    charged = sum(row["cost_nano_usd"] for row in documents(running_project.ridges("runs", "--json"))["runs"])
    assert charged > 0
    for by, report in reports.items():
        assert report["by"] == by
        assert report["total"]["cost_nano_usd"] == sum(row["cost_nano_usd"] for row in report["rows"]) == charged
        assert report["total"]["usage"] == reports["run"]["total"]["usage"]
        assert Decimal(report["total"]["cost_usd"]) * 10**9 == charged
    assert {row["key"] for row in reports["provider"]["rows"]} == {"replay"}
    assert {row["key"] for row in reports["model"]["rows"]} == {"ridges-replay-1", "ridges-replay-embed-1"}
    assert len(reports["agent"]["rows"]) >= 3
    for run in map(documents, runs.values()):
        mine = [row["cost_nano_usd"] for row in reports["run"]["rows"] if row["key"] == run["run_id"]]
        assert mine == ([run["cost_nano_usd"]] if run["requests"] else [])


def test_people_get_tables(running_project: Project, resolved: dict[str, Any]) -> None:
    short = resolved["run_id"][:8]
    for command, words in {
        ("runs",): (short, PROBLEM, "resolved", resolved["cost_usd"]),
        ("show", short): (resolved["run_id"], "pass", resolved["cost_usd"], "diff --git"),
        ("costs", "--by", "problem"): (PROBLEM, "total"),
        ("problem", "list"): (PROBLEM, "An electricity bill"),
    }.items():
        ended = running_project.ridges(*command)
        assert ended.code == 0, ended
        assert [word for word in words if word not in ended.stdout] == [], ended


def test_the_agents_log_can_be_read(running_project: Project, runs: dict[str, Ended]) -> None:
    ended = running_project.ridges("logs", documents(runs["embedder"])["run_id"])
    assert (ended.code, ended.stdout) == (0, "embedded 256 \x1b[31mred\x1b[0m\n")


def test_no_escape_of_an_agent_reaches_the_terminal(running_project: Project, runs: dict[str, Ended]) -> None:
    ended = running_project.ridges("show", documents(runs["embedder"])["run_id"])
    assert "patch_invalid" in ended.stdout
    assert "\x1b" not in ended.stdout


BROKEN_USE = {
    "an unknown command": ("walk",),
    "an unknown option": ("runs", "--colour", "red"),
    "a priority beyond all": (*("run", "-a", "examples/agents/noop_agent.py", "-p", PROBLEM, "--priority", "101"),),
    "no agent": ("run", "-p", PROBLEM),
    "an unknown dimension": ("costs", "--by", "week"),
    "an unknown sandbox": ("run", "-a", "examples/agents/noop_agent.py", "-p", PROBLEM, "--sandbox", "hope"),
    "a timeout of nothing": ("run", "-a", "examples/agents/noop_agent.py", "-p", PROBLEM, "--agent-timeout", "0"),
    "a folder as the agent": ("run", "-a", "examples/agents", "-p", PROBLEM),
    "a limit of nothing": ("runs", "--limit", "0"),
}


@pytest.mark.parametrize("case", BROKEN_USE)
def test_wrong_use_is_exit_code_2_with_words_on_stderr(running_project: Project, case: str) -> None:
    ended = running_project.ridges(*BROKEN_USE[case])
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert ended.stderr.strip()
    assert "Traceback" not in ended.stderr


def test_our_own_fault_is_exit_code_3(running_project: Project) -> None:
    """The sandbox without isolation is not allowed in this system."""
    ended = running_project.ridges(
        "run", "-a", "examples/agents/noop_agent.py", "-p", PROBLEM, "--sandbox", "process", "--json"
    )
    assert ended.code == 3, ended
    document = documents(ended)
    assert (document["verdict"], document["fault"]) == (None, "platform")
    assert "RIDGES_ALLOW_PROCESS" in document["detail"]


def test_a_spent_budget_is_exit_code_4(running_project: Project) -> None:
    ended = running_project.ridges(
        "run", "-a", "examples/agents/llm_agent.py", "-p", PROBLEM, "--sandbox", "bubblewrap", "--max-cost-usd",
        "0.004", "--json",
    )  # fmt: skip
    assert ended.code == 4, ended
    document = documents(ended)
    assert document["requests_refused"] > 0
    assert 0 < document["cost_nano_usd"] <= 4_000_000


def test_an_agent_can_be_ended_with_its_budget_and_its_changes_are_judged(running_project: Project) -> None:
    """Without the option this agent would wait for ever."""
    agent = running_project.agent("stubborn.py", STUBBORN_AGENT)
    ended = running_project.ridges(
        "run", "-a", agent, "-p", PROBLEM, "--sandbox", "bubblewrap", "--max-cost-usd", "0", "--end-when-spent",
        "--agent-timeout", "600", "--json", timeout_s=120,
    )  # fmt: skip
    assert ended.code == 4, ended
    document = documents(ended)
    assert (document["cause"], document["partial"], document["verdict"]) == ("budget_spent", True, "unresolved")
    assert "the best I could" in document["patch"]
    assert document["tests"], "it was judged"


STUBBORN_AGENT = """
import json, os, time, urllib.error, urllib.request

def agent_main(problem):
    with open("repo/main.py", "a") as file:
        file.write("# the best I could\\n")
    body = {"model": os.environ.get("RIDGES_MODEL") or "ridges-replay-1", "temperature": 0.0,
            "evaluation_run_id": os.environ["RUN_ID"], "messages": [{"role": "user", "content": "more"}]}
    while True:
        url, headers = os.environ["SANDBOX_PROXY_URL"] + "/api/inference", {"Content-Type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
        except urllib.error.HTTPError as error:
            print(error.code, flush=True)
        time.sleep(1)
"""


def test_an_address_that_is_none_is_named(running_project: Project) -> None:
    ended = running_project.ridges("runs", "--json", env={"RIDGES_LEDGER_URL": "127.0.0.1:8100"})
    assert (ended.code, ended.stdout) == (2, ""), ended
    assert "RIDGES_LEDGER_URL" in ended.stderr


def test_problems_are_listed(running_project: Project) -> None:
    listed = documents(running_project.ridges("problem", "list", "--json"))
    folders = {path.name for path in (running_project.folder / "examples" / "problems").iterdir()}
    assert {row["problem_id"] for row in listed} == folders
    assert {row["kind"] for row in listed} == {"fix", "create"}


@pytest.mark.parametrize("problem", ["fix-formula-signs", "create-energy-bill"])
def test_example_problems_are_sound(running_project: Project, problem: str) -> None:
    ended = running_project.ridges("problem", "check", problem, "--json")
    assert ended.code == 0, ended
    (report,) = documents(ended)
    assert (report["problem_id"], report["ok"]) == (problem, True)
    assert {finding["ok"] for finding in report["findings"]} == {True}
    assert {evaluation["verdict"] for evaluation in report["evaluations"]} == {"resolved", "unresolved"}


def test_an_unsound_problem_is_exit_code_1_and_names_the_reason(running_project: Project) -> None:
    folder = running_project.folder / "examples" / "problems" / "create-nothing"
    folder.mkdir()
    try:
        (folder / "instructions.md").write_text("# Nothing\n")
        ended = running_project.ridges("problem", "check", "create-nothing")
        assert ended.code == 1, ended
        assert "create-nothing: NOT sound" in ended.stdout
        assert "tests.py" in ended.stdout
    finally:
        (folder / "instructions.md").unlink()
        folder.rmdir()
    assert running_project.ridges("problem", "check", "no-such-problem").code == 2


def test_doctor_finds_nothing_wrong_here_and_shows_a_refused_request(running_project: Project) -> None:
    before = running_project.ridges("doctor", "--json")
    assert before.code == 0, before
    names = {finding["name"] for finding in documents(before)}
    assert names >= {"python", "nats-server", "configuration", "sandbox bubblewrap", "disk", "ledger", "gateway"}

    asyncio.run(publish(str(running_project.state()["nats_url"]), {"problem": PROBLEM, "agent_sauce": "…"}))

    def refused() -> list[str]:
        after = running_project.ridges("doctor", "--json")
        assert after.code == 0, "a refused request keeps nothing from working"
        return [row["detail"] for row in documents(after) if row["name"] == "refused request"]

    assert [detail for detail in refused() if "agent_sauce" in detail and "in.RunRequested" in detail]


async def publish(url: str, request: dict[str, object]) -> None:
    """Asks for a run on NATS, and returns when the request was answered."""
    connection = await nats.connect(url)
    inbox = connection.new_inbox()
    answers = await connection.subscribe(inbox)
    await connection.jetstream().publish(
        "in.RunRequested", json.dumps(request).encode(), headers={"Ridges-Reply-To": inbox}
    )
    answer = json.loads((await answers.next_msg(timeout=20)).data)
    assert answer["accepted"] is False
    await connection.close()


def test_up_and_down_print_documents_too(running_project: Project) -> None:
    up = running_project.ridges("up", "--json")
    assert up.code == 0
    assert {"ledger_url", "gateway_url", "nats_url", "pids"} <= set(documents(up))
    for stopped in (True, False):
        down = running_project.ridges("down", "--json")
        assert (down.code, documents(down)) == (0, {"stopped": stopped})


def test_the_past_can_be_read_when_nothing_runs(running_project: Project, resolved: dict[str, Any]) -> None:
    """The last test: the system is started for the question, and stopped again."""
    assert running_project.ridges("down").code == 0
    ended = running_project.ridges("show", resolved["run_id"], "--json")
    assert (ended.code, documents(ended)) == (0, resolved)
    assert running_project.wait_for_nothing_left() == []
