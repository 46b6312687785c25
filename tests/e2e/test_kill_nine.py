"""kill -9 of any one process in the middle of a run: the run ends with its true result, nothing is charged twice."""

import os
import signal
import time

import pytest
from e2e.project import Project

PROBLEM = "fix-formula-signs"
PROCESSES = ("nats", "ledger", "gateway", "sandbox-manager", "evaluator")


def wait_for_calls(project: Project, run_id: str, calls: int) -> dict[str, object]:
    """The run once its agent had some model calls answered."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        document = project.ridges("show", run_id, "--json").document
        if int(str(document["requests"])) >= calls:
            return document
    pytest.fail(f"{run_id} made no {calls} calls in 60 s")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", PROCESSES)
def test_a_run_survives_kill_nine(running_project: Project, victim: str) -> None:
    project = running_project
    command = project.start(
        "run", "-a", "examples/agents/llm_agent.py", "-p", PROBLEM, "--sandbox", "bubblewrap", "--json"
    )
    assert command.stderr is not None
    run_id = next(line.split()[1] for line in command.stderr if line.startswith("run "))
    wait_for_calls(project, run_id, 2)

    os.kill(project.pid(victim), signal.SIGKILL)

    stdout, stderr = command.communicate(timeout=240)
    assert command.returncode == 0, stdout + stderr
    document = project.ridges("show", run_id, "--json").document
    assert document["verdict"] == "resolved"
    assert charged_once(project, run_id) == document["cost_nano_usd"]


def charged_once(project: Project, run_id: str) -> int:
    """The run's cost by a fold of its events that shares no code with the ledger. No call may be charged twice."""
    import asyncio

    import msgspec
    import nats

    async def read() -> list[dict[str, object]]:
        connection = await nats.connect(str(project.state()["nats_url"]))
        subscription = await connection.jetstream().subscribe(f"ev.{run_id}.>", ordered_consumer=True)
        events = []
        try:
            while True:
                message = await subscription.next_msg(timeout=1.0)
                events.append(msgspec.json.decode(message.data))
        except TimeoutError:
            return events
        finally:
            await connection.close()

    charged: dict[str, int] = {}
    for event in asyncio.run(read()):
        if event["type"] in ("InferenceMade", "InferenceFailed", "InferenceSettled"):
            call = str(event["call_id"])
            assert call not in charged, f"call {call} is charged twice"
            charged[call] = int(str(event["cost_nano_usd"]))
    return sum(charged.values())
