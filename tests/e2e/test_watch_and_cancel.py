"""`ridges watch` and `ridges cancel` in every phase of a run, in a system with one slot for agents."""

import os
import signal
import subprocess
import time
from typing import Any

import psutil
import pytest
from e2e.project import FORK_SERVER, Project

pytestmark = pytest.mark.timeout(300)
PROBLEM = "create-energy-bill"
SLEEPER = """
import subprocess, time

def agent_main(problem):
    print("at work", flush=True)
    subprocess.Popen(["sleep", "600"])
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        time.sleep(0.1)
"""
EDITOR = SLEEPER.replace("    print(", "    open('repo/main.py', 'w').write('def bill(): return 2')\n    print(")
SHORT_SLEEPER = SLEEPER.replace("+ 600", "+ 3")
SLOW_TESTS = """
import pathlib, subprocess

def agent_main(problem):
    pathlib.Path("repo/main.py").write_text("import time\\ntime.sleep(50)\\n")
    return subprocess.check_output(["git", "-C", "repo", "diff"], text=True)
"""


class Command:
    """A `ridges run` that is followed from outside."""

    def __init__(self, project: Project, source: str, name: str) -> None:
        self.project = project
        agent = project.agent(f"{name}.py", source)
        self.process = project.start("run", "-a", agent, "-p", PROBLEM, "--sandbox", "bubblewrap", "--json")
        assert self.process.stderr is not None
        self.run_id = next(line.split()[1] for line in self.process.stderr if line.startswith("run "))

    def reached(self, state: str) -> "Command":
        """Returns when the run is in the state."""
        give_up = time.monotonic() + 40
        while (found := self.show()["state"]) != state:
            assert time.monotonic() < give_up, f"{self.run_id} is {found}, not {state}"
            time.sleep(0.05)
        return self

    def show(self) -> dict[str, Any]:
        return dict(self.project.ridges("show", self.run_id, "--json").document)

    def cancel(self) -> dict[str, Any]:
        """The document that `ridges cancel` prints, which must not take long."""
        begun = time.monotonic()
        ended = self.project.ridges("cancel", self.run_id[:13], "--json")
        assert ended.code == 0, ended
        assert time.monotonic() - begun < 10
        return dict(ended.document)

    def exit_code(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture(scope="module")
def one_slot(project: Project) -> Project:
    """A running system that runs one agent at a time."""
    config = project.folder / "ridges.toml"
    config.write_text(f"{config.read_text()}\n[sandbox]\nslots = 1\n")
    up = project.ridges("up")
    assert up.code == 0, up
    return project


def is_fork_server(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith(FORK_SERVER)
    except psutil.NoSuchProcess:
        return True


def sandboxes_are_gone(project: Project) -> None:
    """Fails unless the sandbox-manager soon has no child any more but its fork servers: no sandbox, no proxy."""
    manager = psutil.Process(project.pid("sandbox-manager"))
    give_up = time.monotonic() + 10
    while left := [child for child in manager.children(recursive=True) if not is_fork_server(child)]:
        assert time.monotonic() < give_up, left
        time.sleep(0.05)


def test_a_pending_run_is_cancelled_and_never_starts(one_slot: Project) -> None:
    first = Command(one_slot, SLEEPER, "first").reached("running_agent")
    second = Command(one_slot, SLEEPER, "second").reached("pending")
    document = second.cancel()
    assert (document["state"], document["cause"], document["fault"]) == ("error", "cancelled", "user")
    assert (document["verdict"], document["started_at"]) == (None, None)
    assert second.exit_code() == 1

    first.cancel()
    assert first.exit_code() == 1
    third = Command(one_slot, "def agent_main(problem): return ''\n", "third")
    assert third.exit_code() == 1
    assert third.show()["cause"] == "patch_empty", "the slot is free again"
    assert second.show()["attempt"] == 0
    sandboxes_are_gone(one_slot)


def test_a_running_agent_is_killed(one_slot: Project) -> None:
    command = Command(one_slot, EDITOR, "sleeper").reached("running_agent")
    give_up = time.monotonic() + 40
    while "at work" not in one_slot.ridges("logs", command.run_id).stdout:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    document = command.cancel()
    assert (document["state"], document["cause"], document["verdict"]) == ("error", "cancelled", None)
    assert command.exit_code() == 1
    sandboxes_are_gone(one_slot)
    give_up = time.monotonic() + 20
    while (later := command.show())["exit"] is None:
        assert time.monotonic() < give_up, later
        time.sleep(0.1)
    assert later["exit"]["cancelled"], later
    assert "return 2" in later["patch"]
    assert "at work" in one_slot.ridges("logs", command.run_id).stdout
    evidence = {"exit", "patch", "partial"}
    unchanged = {name: value for name, value in document.items() if name not in evidence}
    assert {name: value for name, value in later.items() if name not in evidence} == unchanged, "it ended as it ended"


def test_running_tests_are_killed(one_slot: Project) -> None:
    command = Command(one_slot, SLOW_TESTS, "slow_tests").reached("running_eval")
    document = command.cancel()
    assert (document["state"], document["cause"], document["verdict"]) == ("error", "cancelled", None)
    assert "time.sleep(50)" in document["patch"], "what the agent did stays"
    assert command.exit_code() == 1
    sandboxes_are_gone(one_slot)


def test_an_ended_run_stays_as_it_is(one_slot: Project) -> None:
    command = Command(one_slot, "def agent_main(problem): return ''\n", "empty")
    assert command.exit_code() == 1
    before = command.show()
    assert command.cancel() == before
    words = one_slot.ridges("cancel", command.run_id)
    assert (words.code, words.stdout) == (0, "")
    assert "had ended before: patch_empty" in words.stderr


def test_watch_follows_a_run_to_its_end(one_slot: Project) -> None:
    command = Command(one_slot, SHORT_SLEEPER, "short").reached("running_agent")
    watched = one_slot.ridges("watch", command.run_id[:13], "--json")
    assert watched.code == 0, watched
    assert (watched.document["state"], watched.document["cause"]) == ("error", "agent_returned_no_patch")
    assert "agent_returned_no_patch" in watched.stderr
    assert command.exit_code() == 1
    assert command.show() == watched.document


def test_leaving_watch_does_not_end_the_run(one_slot: Project) -> None:
    command = Command(one_slot, SLEEPER, "watched").reached("running_agent")
    watch = one_slot.start("watch", command.run_id)
    time.sleep(1.5)
    os.kill(watch.pid, signal.SIGINT)
    assert leave(watch) == (130, "")
    assert command.show()["state"] == "running_agent"
    command.cancel()
    assert command.exit_code() == 1


def test_interrupting_run_cancels_it(one_slot: Project) -> None:
    command = Command(one_slot, SLEEPER, "interrupted").reached("running_agent")
    os.kill(command.process.pid, signal.SIGINT)
    assert leave(command.process) == (130, "")
    assert command.show()["cause"] == "cancelled"
    sandboxes_are_gone(one_slot)


def leave(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stdout of a command that was interrupted."""
    stdout, stderr = process.communicate(timeout=30)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stdout
