"""However a command ends, the embedded system that it started does not outlive its last user."""

import os
import signal
import subprocess
import time

import pytest
from e2e.project import Project

pytestmark = pytest.mark.timeout(300)
SLEEPER = "import time\n\ndef agent_main(problem):\n    print('at work', flush=True)\n    time.sleep({seconds})\n"


def start_run(project: Project, seconds: float) -> tuple[subprocess.Popen[str], str]:
    """A `ridges run` whose agent is at work, and the run's id."""
    agent = project.agent(f"sleeper-{seconds}.py", SLEEPER.format(seconds=seconds))
    command = project.start("run", "-a", agent, "-p", "create-energy-bill", "--sandbox", "bubblewrap")
    assert command.stderr is not None
    run_id = ""
    for line in command.stderr:
        run_id = line.split()[1] if line.startswith("run ") else run_id
        if "agent working" in line:
            break
    assert run_id, "the run did not start"
    return command, run_id


def leave(command: subprocess.Popen[str], number: signal.Signals) -> None:
    """The command after a signal: it ends as after Ctrl-C."""
    os.kill(command.pid, number)
    stdout, stderr = command.communicate(timeout=60)
    assert (command.returncode, stdout) == (130, ""), stderr
    assert "Traceback" not in stderr


def test_two_runs_share_one_system_and_the_last_stops_it_even_when_it_is_told_to_go(project: Project) -> None:
    polite, first = start_run(project, 600)
    closed_terminal, second = start_run(project, 601)
    pids = project.state()["pids"]

    leave(polite, signal.SIGTERM)
    time.sleep(1)
    assert project.state()["pids"] == pids
    states = {row["run_id"]: row["state"] for row in runs(project)}
    assert (states[first], states[second]) == ("error", "running_agent")

    leave(closed_terminal, signal.SIGHUP)
    assert project.wait_for_nothing_left() == []
    assert {row["cause"] for row in runs(project)} == {"cancelled"}


def runs(project: Project) -> list[dict[str, object]]:
    found = project.ridges("runs", "--json").document["runs"]
    assert isinstance(found, list)
    return found


def test_the_system_of_a_killed_command_stops_and_its_run_comes_to_its_end(project: Project) -> None:
    command, run_id = start_run(project, 4)
    command.kill()
    command.communicate(timeout=60)
    assert project.wait_for_nothing_left(timeout_s=60) == []

    watched = project.ridges("watch", run_id, "--json")
    assert watched.code == 0, watched
    assert watched.document["cause"] == "agent_returned_no_patch"
    assert project.wait_for_nothing_left() == []
