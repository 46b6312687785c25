"""Bad input gets a clear answer and the right exit code, and nothing is lost."""

import json

import pytest
from e2e.project import Project

PROBLEM = "fix-formula-signs"
FIX = (
    "diff --git a/NOTES.txt b/NOTES.txt\nnew file mode 100644\n--- /dev/null\n+++ b/NOTES.txt\n@@ -0,0 +1 @@\n+a note\n"
)


def run(project: Project, source: str | bytes, *args: str) -> tuple[int, dict[str, object], str]:
    agent = project.agent("agent.py", source)
    ended = project.ridges("run", "-a", agent, "-p", PROBLEM, "--sandbox", "bubblewrap", "--json", *args)
    return ended.code, json.loads(ended.stdout or "{}"), ended.stderr


LINK = (
    "diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n"
    "@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n"
)

REFUSED = {
    "not utf-8": (b"def agent_main(x): return '\xff'\n", "UTF-8"),
    "over 2 MiB": (b"#" * (2 * 1024 * 1024 + 1), "2 MiB"),
    "a syntax error": ("def agent_main(x:\n", "line 1"),
    "no agent_main": ("def main(x): return ''\n", "agent_main"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_agent_file_that_cannot_work_is_refused(running_project: Project, case: str) -> None:
    source, word = REFUSED[case]
    code, _, stderr = run(running_project, source)
    assert code == 2
    assert word in stderr
    assert "Traceback" not in stderr


def test_a_missing_agent_file_is_a_usage_error(running_project: Project) -> None:
    ended = running_project.ridges("run", "-a", "nowhere.py", "-p", PROBLEM)
    assert (ended.code, "nowhere.py" in ended.stderr) == (2, True)


def test_an_unknown_problem_is_a_usage_error_that_says_where_to_look(running_project: Project) -> None:
    ended = running_project.ridges("run", "-a", "examples/agents/noop_agent.py", "-p", "no-such-problem")
    assert ended.code == 2
    assert "no-such-problem" in ended.stderr
    assert "ridges problem list" in ended.stderr


AGENTS = {
    "raises": ("def agent_main(x):\n    raise RuntimeError('it broke')\n", "agent_raised", "it broke"),
    "fails while imported": (
        "import nothing_like_this\ndef agent_main(x): ...\n",
        "agent_not_loadable",
        "nothing_like",
    ),
    "returns None": ("def agent_main(x): return None\n", "agent_returned_no_patch", "NoneType"),
    "returns an int": ("def agent_main(x): return 7\n", "agent_returned_no_patch", "int"),
    "returns a dict without a patch": ("def agent_main(x): return {'a': 1}\n", "agent_returned_no_patch", "dict"),
    "returns an empty patch": ("def agent_main(x): return ''\n", "patch_empty", ""),
    "calls sys.exit": ("import sys\ndef agent_main(x): sys.exit(0)\n", "agent_exited", ""),
    "calls os._exit": ("import os\ndef agent_main(x): os._exit(0)\n", "agent_exited", ""),
    "writes a symlink as output": (
        "import os\ndef agent_main(x):\n    os.symlink('/etc/passwd', '/sandbox/output.json')\n    os._exit(0)\n",
        "agent_output_unsafe",
        "",
    ),
    "uses too much memory": ("def agent_main(x):\n    return str(len(b'x' * (6 << 30)))\n", None, ""),
}


@pytest.mark.parametrize("case", AGENTS)
def test_an_agent_that_misbehaves_is_at_fault_and_says_why(running_project: Project, case: str) -> None:
    source, cause, word = AGENTS[case]
    code, document, stderr = run(running_project, source)
    assert code == 1, stderr
    assert document["verdict"] == "unresolved"
    assert document["fault"] == "agent"
    if cause:
        assert document["cause"] == cause
    assert word in str(document["detail"])


PATCHES = {
    "malformed": ("this is no diff", "patch_invalid"),
    "not applying": (
        "diff --git a/README.md b/README.md\n--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-no such line\n+another\n",
        "patch_does_not_apply",
    ),
    "outside of the repository": (
        "diff --git a/../x b/../x\nnew file mode 100644\n--- /dev/null\n+++ b/../x\n@@ -0,0 +1 @@\n+a\n",
        "patch_invalid",
    ),
    "a symbolic link": (LINK, "patch_invalid"),
    "with CRLF line ends": (FIX.replace("\n", "\r\n"), None),
    "without its last newline": (FIX.rstrip("\n"), None),
}


@pytest.mark.parametrize("case", PATCHES)
def test_a_bad_patch_is_named_and_a_mendable_one_is_mended(running_project: Project, case: str) -> None:
    patch, cause = PATCHES[case]
    code, document, stderr = run(running_project, f"def agent_main(x): return {patch!r}\n")
    assert code == 1, stderr
    assert document["cause"] == cause
    if cause is None:
        assert document["tests"], "a mended patch is judged by the tests"


def test_a_timeout_keeps_what_the_agent_did_as_a_partial_patch(running_project: Project) -> None:
    source = (
        "import pathlib, time\n"
        "def agent_main(x):\n"
        "    pathlib.Path('repo/half_done.txt').write_text('half\\n')\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
    )
    code, document, _ = run(running_project, source, "--agent-timeout", "2")
    assert code == 1
    assert (document["partial"], document["cause"]) == (True, "agent_timed_out")
    assert "half_done.txt" in str(document["patch"])


def test_a_hundred_megabytes_of_output_keep_their_end(running_project: Project) -> None:
    source = (
        "import sys\n"
        "def agent_main(x):\n"
        "    for _ in range(100):\n"
        "        sys.stdout.buffer.write(b'\\xff' + b'x' * 1_000_000)\n"
        "    print('THE END', flush=True)\n"
        "    raise ValueError('after much talk')\n"
    )
    code, document, _ = run(running_project, source)
    assert (code, document["cause"]) == (1, "agent_raised")
    exit_facts = document["exit"]
    assert isinstance(exit_facts, dict)
    assert exit_facts["log_truncated_chars"] > 90_000_000


def test_a_budget_of_zero_refuses_the_first_call(running_project: Project) -> None:
    ended = running_project.ridges(
        "run", "-a", "examples/agents/llm_agent.py", "-p", PROBLEM, "--max-cost-usd", "0", "--sandbox", "bubblewrap",
        "--json",
    )  # fmt: skip
    assert ended.code == 4, ended
    assert (ended.document["requests"], ended.document["cost_nano_usd"]) == (0, 0)


def test_an_unknown_model_is_refused_and_costs_nothing(running_project: Project) -> None:
    ended = running_project.ridges(
        "run", "-a", "examples/agents/llm_agent.py", "-p", PROBLEM, "-m", "no-such-model", "--sandbox", "bubblewrap",
        "--json",
    )  # fmt: skip
    assert ended.code == 1, ended
    assert ended.document["cost_nano_usd"] == 0
    assert int(str(ended.document["requests_refused"])) > 0


@pytest.mark.parametrize("amount", ["-1", "abc", "1e3", "0.0000000001"])
def test_an_amount_that_is_none_is_a_usage_error(running_project: Project, amount: str) -> None:
    ended = running_project.ridges(
        "run", "-a", "examples/agents/noop_agent.py", "-p", PROBLEM, "--max-cost-usd", amount
    )
    assert ended.code == 2, ended
    assert "Traceback" not in ended.stderr


def test_a_second_up_says_that_the_system_is_running(running_project: Project) -> None:
    again = running_project.ridges("up")
    assert (again.code, "already running" in again.stderr) == (0, True)


def test_short_ids_work_and_unknown_ones_are_a_usage_error(running_project: Project) -> None:
    runs = running_project.ridges("runs", "--json").document["runs"]
    assert isinstance(runs, list)
    run_id = runs[0]["run_id"]
    # Runs of the same moment share their first digits (UUIDv7).
    assert running_project.ridges("show", run_id[:-2], "--json").document["run_id"] == run_id
    assert running_project.ridges("show", "ffffffff").code == 2
