"""However a command ends, the embedded system that it started does not outlive its last user."""

import os
import signal
import subprocess
import time

import pytest
from e2e.project import Project

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["a polite kill", "a closed terminal"])
def test_the_run_is_cancelled_and_the_system_stopped(project: Project, number: signal.Signals) -> None:
    command, run_id = start_run(project, 600)
    os.kill(command.pid, number)
    stdout, stderr = command.communicate(timeout=60)
    assert (command.returncode, stdout) == (130, ""), stderr
    assert "Traceback" not in stderr
    assert project.wait_for_nothing_left() == []
    assert project.ridges("show", run_id, "--json").document["cause"] == "cancelled"


def test_the_system_of_a_killed_command_stops_and_its_run_goes_on_at_the_next_start(project: Project) -> None:
    command, run_id = start_run(project, 4)
    command.kill()
    command.communicate(timeout=60)
    assert project.wait_for_nothing_left(timeout_s=60) == []

    watched = project.ridges("watch", run_id, "--json")
    assert watched.code == 0, watched
    assert watched.document["cause"] == "agent_returned_no_patch"
    assert watched.document["attempt"] == 2
    assert project.wait_for_nothing_left() == []


def test_two_runs_at_once_share_one_system_and_the_last_stops_it(project: Project) -> None:
    short, _ = start_run(project, 0.5)
    long, _ = start_run(project, 6)
    pids = project.state()["pids"]
    assert short.communicate(timeout=60) is not None
    assert short.returncode == 1
    time.sleep(1)
    assert project.state()["pids"] == pids
    long.communicate(timeout=60)
    assert long.returncode == 1
    assert project.wait_for_nothing_left() == []
