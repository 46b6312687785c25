"""What the README shows works as it stands."""

import json
import re
import subprocess
import sys

import pytest
from e2e.project import REPOSITORY, Project

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
AGENT, PUBLISH = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_agent_shown_is_the_file_that_is_named() -> None:
    assert (REPOSITORY / "examples" / "agents" / "minimal_agent.py").read_text(encoding="utf-8") == AGENT


@pytest.mark.timeout(300)
def test_the_agent_solves_the_problem_of_the_line_below_it(running_project: Project) -> None:
    (line,) = re.findall(r"^\./just ridges (run .*?)\s+#", README, re.MULTILINE)
    running_project.agent("my_agent.py", AGENT)
    ended = running_project.ridges(*line.split(), "--sandbox", "bubblewrap", "--json")
    assert (ended.code, ended.document["verdict"]) == (0, "resolved"), ended


@pytest.mark.timeout(300)
def test_the_event_that_is_published_becomes_a_run_with_a_verdict(running_project: Project) -> None:
    program = running_project.folder / "publish.py"
    program.write_text(PUBLISH, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=running_project.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["accepted"] is True
    watched = running_project.ridges("watch", answer["run_id"], "--json")
    assert (watched.code, watched.document["verdict"]) == (0, "resolved"), watched
    assert watched.document["problem"] == "create-energy-bill"
