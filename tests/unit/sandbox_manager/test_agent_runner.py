"""The agent contract, section 1: one row per line of it. The runner is run as it runs in a sandbox: as a program."""

import json
import os
import subprocess
import sys

import pytest

from ridges.sandbox_manager.inside import agent_runner_source

DATACLASS = """
from __future__ import annotations
import dataclasses, sys
@dataclasses.dataclass
class Plan:
    steps: list[str]
def agent_main(input_dict):
    return __file__.rsplit("/", 1)[1] + str(sys.modules["agent"].Plan(["a"]))
"""

THREAD = """
import threading, time
def agent_main(input_dict):
    threading.Thread(target=time.sleep, args=(99,)).start()
    return "diff"
"""

FORK = """
import os
def agent_main(input_dict):
    children = [os.fork() for _ in range(3)]
    if not all(children):
        return "of a child"
    for child in children:
        os.waitpid(child, 0)
    return "of the parent"
"""
CLOSES = """
import os
def agent_main(input_dict):
    os.closerange(3, 100)
    files = [open(f"mine{number}", "w") for number in range(5)]
    return "diff"
"""


def run(tmp_path, agent: str | bytes):
    """(exit code, output.json, log)."""
    (tmp_path / "agent_runner.py").write_bytes(agent_runner_source())
    (tmp_path / "agent.py").write_bytes(agent if isinstance(agent, bytes) else agent.encode())
    (tmp_path / "input.json").write_text('{"problem_statement": "fix é"}')
    (tmp_path / "repo").mkdir(exist_ok=True)
    ended = subprocess.run(
        [sys.executable, tmp_path / "agent_runner.py"],
        stdout=-1,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # as sandboxes have it
        cwd="/",
        timeout=20,
        check=False,
    )
    return ended.returncode, json.loads((tmp_path / "output.json").read_text()), ended.stdout.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("agent", "patch"),
    [
        ("def agent_main(input_dict): return 'diff ' + input_dict['problem_statement']", "diff fix é"),
        ("def agent_main(input_dict): return {'patch': 'diff'}", "diff"),
        ("def agent_main(i, repo_dir='repo', test_mode=False): return f'{repo_dir} {test_mode}'", "repo False"),
        (
            "def agent_main(*args, **kwargs): return f'{len(args)} {len(kwargs)} {list(args[0])}'",
            "1 0 ['problem_statement']",
        ),
        (
            "import os\ndef agent_main(i): return ' '.join(sorted(os.listdir('.')))",
            "agent.py agent_runner.py input.json repo",
        ),
        ("import os\nos.chdir('repo')\ndef agent_main(i): return os.getcwd()[-4:]", "repo"),
        (DATACLASS, "agent.pyPlan(steps=['a'])"),
        ("class A:\n def __call__(self, i): return 'callable'\nagent_main = A()", "callable"),
        ("def agent_main(i):\n open('output.json', 'w').write('mine')\n return 'diff'", "diff"),
        ("import os\ndef agent_main(i):\n os.symlink('/etc/passwd', 'output.json')\n return 'diff'", "diff"),
        (THREAD, "diff"),
        (FORK, "of the parent"),
        (CLOSES, "diff"),
        ("import sys\ndef agent_main(i):\n sys.stdout = sys.stderr = None\n return 'diff'", "diff"),
        ("def agent_main(i): return '\\ud800'", "\ud800"),
        ("def agent_main(i): return ''", ""),
    ],
)
def test_what_it_returns_is_the_patch(tmp_path, agent, patch):
    code, output, log = run(tmp_path, agent)
    assert output == {"success": True, "output": patch}, log
    assert code == 0
    assert all(file.stat().st_size == 0 for file in tmp_path.glob("mine*"))


@pytest.mark.parametrize(
    ("agent", "kind", "error"),
    [
        ("def agent_main(i): raise ValueError('boom')", "raised", "ValueError: boom"),
        ("def agent_main(i): raise KeyboardInterrupt", "raised", "KeyboardInterrupt"),
        ("def agent_main(): return 'x'", "raised", "TypeError"),
        ("class E(BaseException):\n def __str__(s): raise E()\ndef agent_main(i): raise E()", "raised", "E"),
        ("def agent_main(i): return agent_main(i)", "raised", "RecursionError"),
        ("import sys\ndef agent_main(i): sys.exit(3)", "exited", "sys.exit(3)"),
        ("import sys\nsys.exit('early')", "exited", "sys.exit('early')"),
        ("def agent_main(i): return None", "no_patch", "NoneType"),
        ("def agent_main(i): return 7", "no_patch", "int"),
        ("def agent_main(i): return b'bytes'", "no_patch", "bytes"),
        ("def agent_main(i): return {'diff': 'x'}", "no_patch", "dict without the text 'patch'"),
        ("def agent_main(i): return {'patch': 1}", "no_patch", "dict without the text 'patch'"),
        ("async def agent_main(i): return 'x'", "no_patch", "coroutine"),
        ("def agent_main(:", "not_loadable", "SyntaxError"),
        ("import no_such_module", "not_loadable", "no_such_module"),
        ("1 / 0", "not_loadable", "ZeroDivisionError"),
        ("def main(i): return 'x'", "not_loadable", "agent_main"),
        ("agent_main = 'text'", "not_loadable", "agent_main"),
        (b"x = '\xff'", "not_loadable", "SyntaxError"),
    ],
)
def test_what_goes_wrong_is_told(tmp_path, agent, kind, error):
    code, output, log = run(tmp_path, agent)
    assert output["success"] is False
    assert output["kind"] == kind, output
    assert error in output["error"]
    assert code == 1
    if kind != "no_patch":
        assert "Traceback" in output["traceback"] or kind == "not_loadable"
        assert output["traceback"] in log
