"""Ctrl-C in every phase of a command: exit code 130, and nothing goes on or spends any more."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from e2e.project import Project

pytestmark = pytest.mark.timeout(300)
SLEEPER = "import time\n\ndef agent_main(problem):\n    time.sleep(600)\n"
SLOW_TESTS = """
import pathlib, subprocess

def agent_main(problem):
    pathlib.Path("repo/main.py").write_text("import time\\ntime.sleep(600)\\n")
    return subprocess.check_output(["git", "-C", "repo", "diff"], text=True)
"""
PATIENCE_S = 120


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return Project(tmp_path)


def run(project: Project, source: str) -> subprocess.Popen[str]:
    agent = project.agent("agent.py", source)
    return project.start("run", "-a", agent, "-p", "create-energy-bill", "--sandbox", "bubblewrap")


def said(command: subprocess.Popen[str], word: str) -> str:
    """What the command says up to the word, which it must say."""
    assert command.stderr is not None
    lines: list[str] = []
    for line in command.stderr:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError(f"{word!r} was never said: {''.join(lines)}")


def interrupt(command: subprocess.Popen[str]) -> str:
    """stderr after Ctrl-C, which ends the command in the agreed way."""
    os.kill(command.pid, signal.SIGINT)
    stdout, stderr = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, stdout) == (130, ""), stderr
    assert "Traceback" not in stderr
    return stderr


def runs(project: Project) -> list[dict[str, Any]]:
    return list(project.ridges("runs", "--json").document["runs"])  # type: ignore[call-overload]


@pytest.mark.parametrize("word", ["starting nats", "starting services"])
def test_while_the_system_starts(fresh: Project, word: str) -> None:
    command = run(fresh, SLEEPER)
    said(command, word)
    interrupt(command)
    assert fresh.wait_for_nothing_left() == []


@pytest.mark.parametrize(("source", "word"), [(SLEEPER, "agent working"), (SLOW_TESTS, "hidden tests")])
def test_while_a_run_is_under_way(fresh: Project, source: str, word: str) -> None:
    command = run(fresh, source)
    said(command, word)
    assert "was cancelled" in interrupt(command)
    assert fresh.wait_for_nothing_left() == []
    assert [row["cause"] for row in runs(fresh)] == ["cancelled"]


def test_while_a_run_waits_for_a_slot(fresh: Project) -> None:
    with (fresh.folder / "ridges.toml").open("a") as file:
        file.write("\n[sandbox]\nslots = 1\n")
    assert fresh.ridges("up").code == 0
    first = run(fresh, SLEEPER)
    said(first, "agent working")
    second = run(fresh, SLEEPER)
    said(second, "waiting for a slot")
    assert "was cancelled" in interrupt(second)
    interrupt(first)
    rows = runs(fresh)
    assert [(row["cause"], row["attempt"]) for row in rows] == [("cancelled", 0), ("cancelled", 1)], "newest first"
    assert fresh.ridges("down").code == 0
    assert fresh.wait_for_nothing_left() == []


def test_while_the_demo_runs(fresh: Project) -> None:
    fresh.agent("examples/agents/sleeper.py", SLEEPER)
    demo = fresh.folder / "examples" / "demo.toml"
    demo.write_text(demo.read_text().replace("llm_agent.py", "sleeper.py"))
    command = fresh.start("demo", "--sandbox", "bubblewrap")
    said(command, "agent working")
    assert interrupt(command).count("was cancelled") == 5
    assert fresh.wait_for_nothing_left() == []
    assert [row["cause"] for row in runs(fresh)] == ["cancelled"] * 5


class SlowLedger(ThreadingHTTPServer):
    """A ledger that hears requests for runs, and answers none of them before it is told to."""

    def __init__(self, cancel_status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Listening)
        self.asked: list[tuple[str, str]] = []
        self.heard = threading.Event()
        self.gone = threading.Event()
        self.cancel_status = cancel_status


class _Listening(BaseHTTPRequestHandler):
    server: SlowLedger

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/runs":
            self.server.asked.append(("run", body["run_id"]))
            self.server.heard.set()
            self.server.gone.wait(PATIENCE_S)
            return
        self.server.asked.append(("cancel", self.path.split("/")[3]))
        content = json.dumps({"detail": "as the test says"}).encode()
        self.send_response(self.server.cancel_status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def slow_ledger(cancel_status: int) -> Iterator[SlowLedger]:
    with SlowLedger(cancel_status) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.gone.set()
        server.shutdown()
        thread.join()


COMMANDS: dict[str, Callable[[Project], tuple[str, ...]]] = {
    "run": lambda project: ("run", "-a", project.agent("a.py", SLEEPER), "-p", "create-energy-bill"),
    "demo": lambda _: ("demo", "--sandbox", "bubblewrap"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("cancel_status", [404, 500])
def test_before_the_ledger_answered(fresh: Project, command: str, cancel_status: int) -> None:
    """The run may have been stored: it is cancelled under the id that the command chose, whatever the answer is."""
    with slow_ledger(cancel_status) as ledger:
        fresh.env["RIDGES_LEDGER_URL"] = f"http://127.0.0.1:{ledger.server_address[1]}"
        started = fresh.start(*COMMANDS[command](fresh))
        assert ledger.heard.wait(PATIENCE_S)
        begun = time.monotonic()
        stderr = interrupt(started)
    (asked, run_id), *then = ledger.asked
    assert asked == "run"
    assert set(then) == {("cancel", run_id)}
    assert ("did not begin" if cancel_status == 404 else "may go on") in stderr
    assert time.monotonic() - begun < PATIENCE_S
