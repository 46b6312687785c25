"""kill -9 of one process after another while runs are at work: each ends with a true result, charged once.

``RIDGES_KILLS`` (default 10; nightly 100) and ``RIDGES_KILL_SEED`` (default: another one each time, printed).
"""

import os
import random
import signal
import subprocess
import time
from typing import Any

import pytest
from e2e.charges import charges_of
from e2e.project import Project

KILLS = int(os.environ.get("RIDGES_KILLS", "10"))
AT_ONCE = 3
PROBLEM = "fix-formula-signs"
VICTIMS = ("nats", "ledger", "gateway", "sandbox-manager", "evaluator")
UP_AGAIN_WITHIN_S = 90.0


class Load:
    """Some runs at work at any time."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._at_work: list[subprocess.Popen[str]] = []
        self.ended: list[tuple[int, str, str]] = []

    def keep_up(self) -> None:
        for command in [each for each in self._at_work if each.poll() is not None]:
            self._collect(command)
        while len(self._at_work) < AT_ONCE:
            arguments = ("run", "-a", "examples/agents/llm_agent.py", "-p", PROBLEM, "--sandbox", "bubblewrap")
            self._at_work.append(self._project.start(*arguments, "--json"))

    def wait(self) -> None:
        for command in list(self._at_work):
            self._collect(command)

    def end(self) -> None:
        for command in self._at_work:
            command.kill()
            command.communicate()

    def _collect(self, command: subprocess.Popen[str]) -> None:
        stdout, stderr = command.communicate(timeout=300)
        self._at_work.remove(command)
        self.ended.append((command.returncode, stdout, stderr))


def all_runs(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: list[str] = []
    while True:
        listed = project.ridges("runs", "--json", "--limit", "100", *cursor)
        assert listed.code == 0, listed
        page: dict[str, Any] = listed.document
        found += page["runs"]
        if not page.get("next_cursor"):
            return found
        cursor = ["--cursor", page["next_cursor"]]


def kill(project: Project, victim: str) -> None:
    """And wait until its successor is there."""
    killed = wait_for_pid(project, victim, None)
    os.kill(killed, signal.SIGKILL)
    wait_for_pid(project, victim, killed)


def wait_for_pid(project: Project, victim: str, other_than: int | None) -> int:
    give_up = time.monotonic() + UP_AGAIN_WITHIN_S
    while time.monotonic() < give_up:
        pids = project.state()["pids"]
        assert isinstance(pids, dict)
        if (pid := pids.get(victim)) not in (None, other_than):
            return int(pid)
        time.sleep(0.2)
    pytest.fail(f"{victim} was not started again within {UP_AGAIN_WITHIN_S:g} s")


@pytest.mark.timeout(600 + 30 * KILLS)
def test_runs_under_a_storm_of_kills_end_truthfully_and_are_charged_once(running_project: Project) -> None:
    project = running_project
    seed = os.environ.get("RIDGES_KILL_SEED") or str(random.randrange(10**6))
    print(f"again with: RIDGES_KILL_SEED={seed} RIDGES_KILLS={KILLS}")
    dice = random.Random(seed)
    victims = [*VICTIMS * (KILLS // len(VICTIMS)), *dice.sample(VICTIMS, KILLS % len(VICTIMS))]
    dice.shuffle(victims)
    load = Load(project)
    try:
        for victim in victims:
            load.keep_up()
            time.sleep(dice.uniform(0.5, 4.0))
            kill(project, victim)
        load.wait()
    finally:
        load.end()

    runs = all_runs(project)
    assert len(runs) == len(load.ended), "every run that was asked for is there once"
    for run in runs:
        assert run["state"] in ("finished", "error"), run
        resolved = (run["state"], run["verdict"]) == ("finished", "resolved")
        assert resolved or run["fault"] == "platform", run  # this agent solves this problem
        charged = sum(charges_of(project, run["run_id"]).values())
        assert project.ridges("show", run["run_id"], "--json").document["cost_nano_usd"] == charged
    resolved_runs = sum(run["verdict"] == "resolved" for run in runs)
    assert resolved_runs >= len(runs) / 2, [run["cause"] for run in runs]
    assert sum(code == 0 for code, _, _ in load.ended) == resolved_runs, load.ended
    verified = project.ridges("ledger", "verify")
    assert verified.code == 0, verified
