"""`ridges logs`: what an agent says, while it says it and afterwards."""

import json
import time

from e2e.project import Project

PROBLEM = "create-energy-bill"
TALKER = """
import time

def agent_main(problem):
    for number in range(12):
        print("line", number, flush=True)
        time.sleep(0.5)
    print("\\x1b[31mred\\x1b[0m the end")
    return ""
"""
WHOLE = [f"line {number}" for number in range(12)] + ["\x1b[31mred\x1b[0m the end"]


def test_a_log_is_followed_live_and_read_afterwards(running_project: Project) -> None:
    agent = running_project.agent("talker.py", TALKER)
    run = running_project.start("run", "-a", agent, "-p", PROBLEM, "--sandbox", "bubblewrap", "--json")
    run_id = newest_run_of(running_project, "talker.py")
    before = time.monotonic()
    following = running_project.start("logs", run_id, "--follow")
    assert following.stdout is not None
    assert following.stdout.readline().strip() == "line 0"
    snapshot = running_project.ridges("logs", run_id)
    assert snapshot.code == 0, snapshot
    if run.poll() is None:
        assert snapshot.stdout.splitlines() == WHOLE[: len(snapshot.stdout.splitlines())]
    rest = following.stdout.read()
    assert following.stderr is not None
    assert following.wait(60) == 0, following.stderr.read()
    following.stdout.close()
    following.stderr.close()
    assert ["line 0", *rest.splitlines()] == WHOLE
    assert time.monotonic() - before < 60
    run.communicate(timeout=60)
    after = running_project.ridges("logs", run_id[:13])
    assert after.stdout.splitlines() == WHOLE


def newest_run_of(project: Project, agent: str) -> str:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        listed = project.ridges("runs", "--json").stdout
        if f'"{agent}"' in listed:
            return str(json.loads(listed)["runs"][0]["run_id"])
        time.sleep(0.2)
    raise AssertionError("no run")


def test_without_a_manager_to_ask_it_says_what_to_set(running_project: Project) -> None:
    agent = running_project.agent("other_talker.py", TALKER)
    run = running_project.start("run", "-a", agent, "-p", PROBLEM, "--sandbox", "bubblewrap", "--json")
    run_id = newest_run_of(running_project, "other_talker.py")
    remote = {"RIDGES_LEDGER_URL": str(running_project.state()["ledger_url"])}
    said = running_project.ridges("logs", run_id, env=remote)
    if run.poll() is None:
        assert said.code == 2, said
        assert "RIDGES_SANDBOX_MANAGER_URL" in said.stderr
    manager = {"RIDGES_SANDBOX_MANAGER_URL": str(running_project.state()["sandbox_manager_url"])}
    followed = running_project.ridges("logs", run_id, "-f", env=remote | manager)
    assert followed.stdout.splitlines() == WHOLE, followed
    run.communicate(timeout=60)
