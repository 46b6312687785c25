"""Hostile agents, asked for as anybody asks: over HTTP, in each sandbox. Then everything that is left is searched."""

import asyncio
import contextlib
import json
import os
import pty
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from docker_images import docker, need_agent_image
from e2e.project import Project
from grading import CREATE, git_patch, problem_of, write_folder
from hostile.cases import CASES, IN_COMPANY, PROGRAMS, Case
from hostile.cheats import CHEATS
from hostile.host import Host
from hostile.world import Bait
from sandboxes import SMALL

from ridges.contracts.faults import Cause

pytestmark = pytest.mark.timeout(600)

ALL = (*sorted(IN_COMPANY), *CASES)
"""Siblings come side by side, and each next tenant soon after the last."""
CANARY = f"CANARY-{secrets.token_hex(8)}"
RUN_TOKEN = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}\.[0-9a-f]{64}")
PROVIDER = """
[[provider]]
name = "openrouter"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
key_env = "OPENROUTER_API_KEY"

[[provider.model]]
name = "live-1"
context = 100000
max_output = 4096
input_usd = "2.00"
output_usd = "8.00"
"""
RETURNS_NOTHING = "\n\ndef agent_main(problem):\n    return ''\n"
ENDS_AT_ONCE = "\n\nos._exit(0)\n"
"""So the difference of its repository is its patch, which is vetted and judged."""
RAN = {Cause.PATCH_EMPTY}
OUT_OF_TIME = {Cause.AGENT_TIMED_OUT}
OUT_OF_MEMORY = {Cause.AGENT_OUT_OF_MEMORY, Cause.AGENT_NOT_LOADABLE}
BOUNDED = OUT_OF_MEMORY | {Cause.PATCH_EMPTY, Cause.AGENT_EXITED}
UNSAFE = {Cause.AGENT_OUTPUT_UNSAFE}
OTHERWISE: dict[str, set[Cause]] = {
    "resources/fork_bomb": BOUNDED | OUT_OF_TIME,
    "resources/memory_bomb": OUT_OF_MEMORY,
    "resources/hidden_memory": BOUNDED,
    "resources/shared_memory": BOUNDED,
    "resources/pipe_bomb": BOUNDED,
    "resources/inode_bomb": BOUNDED | OUT_OF_TIME,
    "resources/sparse_sea": BOUNDED,
    "resources/fd_bomb": BOUNDED,
    "escape/victims_of_memory": OUT_OF_MEMORY,
    "time/deaf": OUT_OF_TIME,
    "time/kill_everything": {Cause.AGENT_EXITED},
    "time/stop_everything": OUT_OF_TIME,
    "time/slow_death": OUT_OF_TIME,
    "time/writes_after_the_deadline": OUT_OF_TIME,
    "time/ends_just_before": RAN | OUT_OF_TIME,
    "time/ends_just_after": RAN | OUT_OF_TIME,
    "output/forge_result": {Cause.AGENT_EXITED},
    "output/os_exit": {Cause.AGENT_EXITED},
    "output/deep_json": UNSAFE,
    "output/odd_json": UNSAFE,
    "output/huge_patch": {Cause.PATCH_INVALID},
    "output/no_text": {Cause.PATCH_INVALID},
    "output/terminal_escapes": {Cause.AGENT_RAISED},
    "output/replaces_the_runner": UNSAFE,
    "output/fills_before_the_report": {Cause.AGENT_EXITED},
    "patch/maze": {Cause.PATCH_INVALID},
    "patch/git_traps": {Cause.PATCH_INVALID},
    "patch/links_out": {Cause.PATCH_INVALID},
    "patch/odd_names": {Cause.PATCH_INVALID},
}
EXPECTED = {name: OTHERWISE.get(name, {Cause.AGENT_EXITED} if name.startswith("patch/") else RAN) for name in ALL}


class System:
    """A whole system, and what it answered."""

    def __init__(self, project: Project, bait: Bait) -> None:
        self.project = project
        self.bait = bait
        self.url = str(project.state()["ledger_url"])
        self.answers: dict[str, bytes] = {}

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer = reply.read()
        self.answers[path if body is None else f"{path} {uuid4()}"] = answer
        return json.loads(answer) if "json" in reply.headers["Content-Type"] else answer

    def let_loose(self, technology: str, **sandbox: str) -> dict[str, dict[str, Any]]:
        """What became of each program's run, with its log."""
        ids = {name: self._request(name, technology, sandbox) for name in EXPECTED}
        give_up_at = time.monotonic() + 400
        while not all(self.ask(f"/v1/runs/{run_id}")["finished_at"] for run_id in ids.values()):
            assert time.monotonic() < give_up_at
            time.sleep(0.5)
        for run_id in ids.values():
            for part in ("events", "log"):
                self.ask(f"/v1/runs/{run_id}/{part}")
        ended = {name: self.ask(f"/v1/runs/{run_id}") for name, run_id in ids.items()}
        for name, run_id in ids.items():
            ended[name]["log"] = self.answers[f"/v1/runs/{run_id}/log"]
        return ended

    def _request(self, name: str, technology: str, sandbox: dict[str, str]) -> str:
        env = self.bait.env() | {"OTHER_RUN": str(uuid4())}
        source = f"import os\nos.environ |= {env!r}\n" + (PROGRAMS / f"{name}.py").read_text()
        if name.startswith("patch/"):
            source += ENDS_AT_ONCE
        if "def agent_main" not in source:
            source += RETURNS_NOTHING
        timeout_s = int(CASES.get(name, Case()).timeout_s)
        limits = {"agent_timeout_s": timeout_s, "sandbox": msgspec.to_builtins(SMALL) | sandbox}
        agent = {"agent_source": source, "agent_name": f"{Path(name).name}.py"}
        body = {"problem": "roman", "sandbox": technology, "limits": limits, **agent}
        return str(self.ask("/v1/runs", body)["run_id"])


@pytest.fixture(scope="module")
def system(tmp_path_factory, bubblewrap_works):
    project = Project(tmp_path_factory.mktemp("hostile"))
    with (project.folder / "ridges.toml").open("a") as file:
        file.write(PROVIDER)
    write_folder(project.folder / "examples" / "problems" / "roman", CREATE)
    project.env |= dict.fromkeys(("OPENROUTER_API_KEY", "AWS_SECRET_ACCESS_KEY", "RIDGES_API_TOKEN_OF_NOBODY"), CANARY)
    temporary = project.folder / "tmp"
    temporary.mkdir()
    project.env["TMPDIR"] = str(temporary)
    before = Host()
    up = project.ridges("up", timeout_s=120)
    assert up.code == 0, up
    bait = Bait(project.folder)
    try:
        yield System(project, bait)
    finally:
        bait.close()
        project.ridges("down")
    assert bait.visitors == []
    assert project.wait_for_no_traces(10) == [], "processes, containers, networks, sockets, files that were begun"
    assert asyncio.run(before.left_since()) == [], "mounts, processes of the users that sandboxes are"
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def runs(system):
    """By technology and program, made once for each technology."""
    known: dict[str, dict[str, dict[str, Any]]] = {}

    def of(technology: str, **sandbox: str) -> dict[str, dict[str, Any]]:
        key = " ".join((technology, *sandbox.values()))
        if key not in known:
            known[key] = system.let_loose(technology, **sandbox)
        return known[key]

    return of


@pytest.mark.bubblewrap
@pytest.mark.parametrize("program", EXPECTED)
def test_it_ends_as_its_own_fault_in_bubblewrap(runs, program):
    is_its_own_fault(runs("bubblewrap")[program], program)


@pytest.mark.docker
@pytest.mark.parametrize("program", EXPECTED)
def test_it_ends_as_its_own_fault_in_docker(runs, program):
    need_agent_image()
    is_its_own_fault(runs("docker")[program], program)


@pytest.mark.docker
@pytest.mark.parametrize("program", EXPECTED)
def test_it_ends_as_its_own_fault_in_docker_behind_a_relay(runs, program):
    need_agent_image()
    is_its_own_fault(runs("docker", network="internal")[program], program)


def is_its_own_fault(run: dict[str, Any], program: str) -> None:
    assert b"BROKE OUT" not in run["log"], run["log"][-3000:]
    assert run["cause"] in EXPECTED[program], (run["cause"], run["detail"])
    assert (run["verdict"], run["fault"], run["attempt"]) == ("unresolved", "agent", 1)
    assert "\x1b" not in (run["detail"] or "")


@pytest.mark.docker
def test_no_cheat_that_an_agent_hands_in_is_resolved(system):
    """All of them in each technology; the honest solution is."""
    need_agent_image()
    problem = problem_of(CREATE)
    patches = {name: git_patch(problem, files) for name, files in CHEATS.items()} | {"honest": problem.reference}
    asked = {
        (technology, name): system.ask(
            "/v1/runs",
            {
                "problem": "roman",
                "sandbox": technology,
                "agent_source": f"def agent_main(p):\n    return {patch.decode()!r}\n",
            },
        )["run_id"]
        for technology in ("bubblewrap", "docker")
        for name, patch in patches.items()
    }
    give_up_at = time.monotonic() + 300
    while not all(system.ask(f"/v1/runs/{run_id}")["finished_at"] for run_id in asked.values()):
        assert time.monotonic() < give_up_at
        time.sleep(0.5)
    verdicts = {name: system.ask(f"/v1/runs/{run_id}")["verdict"] for name, run_id in asked.items()}
    assert verdicts == {name: "resolved" if name[1] == "honest" else "unresolved" for name in asked}


SLEEPS = "import time\n\n\ndef agent_main(problem):\n    time.sleep(8)\n    return ''\n"


@pytest.mark.docker
@pytest.mark.parametrize(("network", "containers"), [("socket", 1), ("internal", 2)])
def test_the_containers_of_a_run_were_given_no_secret(system, network, containers):
    """As whoever may ask the engine sees them, while they work."""
    need_agent_image()
    limits = {"sandbox": {"network": network}}
    asked = {"problem": "roman", "agent_source": SLEEPS, "sandbox": "docker", "limits": limits}
    run_id = system.ask("/v1/runs", asked)["run_id"]
    give_up_at = time.monotonic() + 30
    while len(found := docker("ps", "-q", "--filter", f"label=ridges.run={run_id}").split()) < containers:
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    assert len(found) == containers
    told = docker("inspect", *found)
    assert run_id in told
    assert CANARY not in told
    assert not RUN_TOKEN.search(told.encode())
    keys = [file.read_text() for file in (system.project.folder / ".ridges").rglob("*key*") if file.is_file()]
    assert [key for key in keys if key.strip() and key.strip() in told] == []


ORDERS = (b"\x1b", b"\x07", b"\x9b", b"\xe2\x80\xae", b"\xff", b" \r")
"""What the programs below print, in names, contents, logs and errors."""


@pytest.mark.bubblewrap
def test_names_that_are_no_text_come_out_of_the_patch_as_they_were(system, runs, tmp_path):
    """The whole way: the agent's repository, the patch that anybody may fetch, a repository that git applies it to."""
    run = runs("bubblewrap")["patch/odd_names"]
    patch = system.ask(f"/v1/runs/{run['run_id']}/patch")
    assert all(order in patch for order in ORDERS)
    assert all(line.isascii() and line.isprintable() for line in _lines_that_name(patch))
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], cwd=tmp_path, input=patch, check=True)
    names = {os.fsencode(path.name) for path in tmp_path.iterdir() if path.name != ".git"}
    assert {b"\xff\xfe", b"new\nline", b"\x1b[2J\x1b]0;owned\x07", b"-rf"} <= names
    assert len(names) == 8
    for name in names:
        assert (tmp_path / os.fsdecode(name)).read_bytes().startswith(name)


def _lines_that_name(patch: bytes) -> list[str]:
    heads = (b"diff --git ", b"--- ", b"+++ ")
    return [line.decode("latin-1") for line in patch.split(b"\n") if line.startswith(heads)]


@pytest.mark.bubblewrap
@pytest.mark.parametrize(
    "command", ["show", "show --attempt 1", "logs", "logs --attempt 1", "watch", "runs --limit 500"]
)
def test_no_order_of_an_agent_reaches_a_terminal(system, runs, command):
    name, *options = command.split()
    run_id = runs("bubblewrap")["patch/odd_names"]["run_id"]
    shown = on_a_terminal(system.project, name, *([] if name == "runs" else [run_id]), *options)
    assert b"odd_na" in shown or "\N{REPLACEMENT CHARACTER}" in shown.decode(), shown
    assert [order for order in ORDERS if order in shown.replace(b"\r\n", b"\n")] == []


@pytest.mark.bubblewrap
def test_no_order_in_the_words_of_an_error_reaches_a_terminal(system, runs):
    shown = on_a_terminal(system.project, "show", runs("bubblewrap")["output/terminal_escapes"]["run_id"])
    assert "\N{REPLACEMENT CHARACTER}[2J" in shown.decode()
    assert [order for order in ORDERS if order in shown.replace(b"\r\n", b"\n")] == []


def on_a_terminal(project: Project, *arguments: str) -> bytes:
    """What the command writes to a terminal that has no colours: whatever escape comes is not ours."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ridges.cli", *arguments]
    env = project.env | {"TERM": "dumb", "COLUMNS": "300"}
    with subprocess.Popen(command, cwd=project.folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = bytearray()
        with contextlib.suppress(OSError):  # EIO: nobody writes to it any more
            while piece := os.read(ours, 1 << 16):
                shown += piece
        os.close(ours)
        process.wait(30)
    return bytes(shown)


@pytest.mark.bubblewrap
def test_no_answer_log_or_file_of_the_system_holds_a_secret(system, runs):
    """Last of this module: over all that came before."""
    runs("bubblewrap")
    for path in ("/v1/runs", "/v1/costs?by=run", "/v1/problems", "/v1/refusals"):
        system.ask(path)
    for what in ("runs", "costs", "doctor"):
        system.answers[f"ridges {what}"] = system.project.ridges(what, "--json").stdout.encode()
    state = system.project.folder / ".ridges"
    files = {str(path): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert len(files) > 20
    assert len(system.answers) > 60
    for name, content in (system.answers | files).items():
        assert CANARY.encode() not in content, name
        assert not RUN_TOKEN.search(content), name
        assert b"BROKE OUT" not in content or not name.endswith("/log"), name
