"""kill -9 of any one process in the middle of a run: true result, nothing charged twice, nothing left behind."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from docker_images import need_agent_image
from e2e.charges import CHARGES, events_of
from e2e.project import Project
from e2e.upstream import Upstream

PROBLEM = "fix-formula-signs"
SLOW_TEST = "import time\n\n\ndef test_takes_its_time():\n    time.sleep(6)\n"
"""So that there is a middle of the evaluation."""
AGENT_AT_WORK, TESTS_AT_WORK = "running_agent", "running_eval"
CASES = [
    *((AGENT_AT_WORK, victim) for victim in ("nats", "ledger", "gateway", "sandbox-manager", "evaluator")),
    *((TESTS_AT_WORK, victim) for victim in ("nats", "sandbox-manager", "evaluator")),
]
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def upstream(project: Project) -> Iterator[Upstream]:
    with Upstream(project.folder / "examples" / "recordings" / f"{PROBLEM}.jsonl") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.let_go()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def system(project: Project, upstream: Upstream) -> Iterator[Project]:
    """`ridges up` with that provider and a slow hidden test; when it is down, nothing of it is on this machine."""
    with (project.folder / "ridges.toml").open("a") as config:
        config.write(upstream.config)
    problem = project.folder / "examples" / "problems" / PROBLEM
    (problem / "tests" / "test_slow.py").write_text(SLOW_TEST)
    definition = problem / "problem.toml"
    slow_too = 'pass_to_pass = [\n    "test_slow.py::test_takes_its_time",'
    definition.write_text(definition.read_text().replace("pass_to_pass = [", slow_too))
    up = project.ridges("up", timeout_s=120)
    assert up.code == 0, up
    yield project
    assert project.ridges("down").code == 0
    assert project.wait_for_no_traces(10) == []


@pytest.mark.parametrize(("state", "victim"), CASES)
@pytest.mark.parametrize(
    "sandbox",
    [pytest.param("bubblewrap", marks=pytest.mark.bubblewrap), pytest.param("docker", marks=pytest.mark.docker)],
)
def test_a_run_survives_kill_nine(
    system: Project, upstream: Upstream, bubblewrap_works: None, sandbox: str, state: str, victim: str
) -> None:
    if sandbox == "docker":
        need_agent_image()
    upstream.begin(hold_at=2 if state == AGENT_AT_WORK else None)
    command = system.start("run", "-a", "examples/agents/llm_agent.py", "-p", PROBLEM, "--sandbox", sandbox, "--json")
    assert command.stderr is not None
    run_id = next(line.split()[1] for line in command.stderr if line.startswith("run "))
    if state == AGENT_AT_WORK:
        assert upstream.held.wait(120), "the agent made no third call"
    wait_for_state(system, run_id, state)

    os.kill(system.pid(victim), signal.SIGKILL)
    upstream.let_go()

    stdout, stderr = command.communicate(timeout=240)
    assert command.returncode == 0, stdout + stderr
    document = json.loads(stdout)
    assert (document["state"], document["verdict"], document["cause"], document["partial"]) == (
        "finished",
        "resolved",
        None,
        False,
    )
    charges = charges_of(system, run_id)
    assert len(charges) == upstream.calls, "every call that went out is charged, and nothing else"
    assert system.ridges("show", run_id, "--json").document["cost_nano_usd"] == sum(charges.values())
    assert system.wait_for_no_traces() == []


def wait_for_state(system: Project, run_id: str, state: str) -> None:
    """Returns in the middle of it."""
    url, seen = f"{system.state()['ledger_url']}/v1/runs/{run_id}", ""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                seen = json.load(reply)["state"]
        except (urllib.error.HTTPError, OSError):
            seen = "unknown"
        if seen == state:
            return
        assert seen not in ("finished", "error"), f"{run_id} is {seen} already"
        time.sleep(0.02)
    pytest.fail(f"{run_id} is {seen}, not {state}")


def charges_of(system: Project, run_id: str) -> dict[str, int]:
    """Cost in nano-USD by call, by a fold that shares no code with the ledger. No call may be charged twice."""
    give_up = time.monotonic() + 60
    while True:
        reserved: set[str] = set()
        charged: dict[str, int] = {}
        for event in events_of(system, run_id):
            if event["type"] == "InferenceReserved":
                reserved.add(event["call_id"])
            if event["type"] in CHARGES:
                assert event["call_id"] not in charged, f"call {event['call_id']} is charged twice"
                charged[event["call_id"]] = event["cost_nano_usd"]
        if reserved == set(charged):
            return charged
        assert time.monotonic() < give_up, f"{run_id}: never settled: {reserved - set(charged)}"
        time.sleep(0.5)
