"""Bring your own provider: an OpenAI-compatible URL and a key in ridges.toml are all it takes."""

import socket
from pathlib import Path

import pytest
from e2e.openai_provider import KEY, Provider, add_provider
from e2e.project import Project


def test_a_configured_provider_serves_the_run_and_its_price_counts(tmp_path: Path, provider: Provider) -> None:
    project = Project(tmp_path)
    add_provider(project, provider.port)

    command = "run -a examples/agents/minimal_agent.py -p create-energy-bill --sandbox bubblewrap --json"
    ended = project.ridges(*command.split(), env={"MY_PROVIDER_KEY": KEY})

    assert ended.code == 1, ended
    [(authorization, body)] = provider.asked
    assert (authorization, body["model"]) == (f"Bearer {KEY}", "vendor/live-one")
    assert (ended.document["model"], ended.document["requests"]) == ("live-1", 1)
    assert ended.document["cost_usd"] == "0.0024"
    assert "return 1" in str(ended.document["patch"])
    assert_key_is_nowhere(project.folder / ".ridges")


FAILURES = {
    "down": ("connect_error", 502, "cannot be reached"),
    "failing": ("http_error", 500, "HTTP 500"),
    "garbage": ("malformed", 502, "made no sense"),
    "slow": ("timeout", 504, "did not answer in time"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_provider_that_fails_is_named_and_charges_for_no_work_it_did_not_do(
    tmp_path: Path, provider: Provider, case: str
) -> None:
    reason, status, words = FAILURES[case]
    port = provider.port
    if case == "down":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = int(unused.getsockname()[1])
    elif case == "failing":
        provider.status, provider.content = 500, b'{"error": {"message": "the cluster is on fire"}}'
    elif case == "garbage":
        provider.content = b"<html>welcome to the hotel network</html>"
    elif case == "slow":
        provider.may_answer.clear()
    project = Project(tmp_path)
    add_provider(project, port, "timeout_s = 2\n")
    env = {"MY_PROVIDER_KEY": KEY}

    command = "run -a examples/agents/minimal_agent.py -p create-energy-bill --sandbox bubblewrap --json"
    ended = project.ridges(*command.split(), env=env)

    document = ended.document
    assert ended.code == 3, ended
    assert (document["cause"], document["fault"], document["verdict"]) == ("provider_failed", "provider", None)
    assert "agent_raised" in str(document["detail"]), "and what the agent made of it"
    assert (document["state"], document["requests"], document["requests_failed"]) == ("error", 0, 1)
    [failed] = document["unanswered"]  # type: ignore[misc]
    assert (failed["outcome"], failed["reason"], failed["status"], failed["calls"]) == ("failed", reason, status, 1)
    assert "mine" in failed["detail"], "the provider is named"
    assert "on fire" in failed["detail"] or case != "failing", "and quoted"
    charged = int(str(document["cost_nano_usd"]))
    assert (charged > 0) == (case == "slow"), "only a provider that took the prompt bills for it"

    shown = project.ridges("show", str(document["run_id"]), env=env)
    assert words in shown.stdout, shown
    total = project.ridges("costs", "--json", env=env).document["total"]
    assert isinstance(total, dict)
    assert (total["cost_nano_usd"], total["reserved_nano_usd"], total["requests_failed"]) == (charged, 0, 1)
    assert total["failed_nano_usd"] == total["estimated_nano_usd"] == charged, (
        "and is told apart from what was answered"
    )
    assert project.wait_for_nothing_left() == []


def assert_key_is_nowhere(folder: Path) -> None:
    """The key stays in the gateway's memory: no event, blob, log or database holds it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
