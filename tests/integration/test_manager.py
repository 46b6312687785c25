"""The sandbox-manager as a process: requests in, facts out, nothing left. With each sandbox this machine can run."""

import asyncio
import os
import signal

import msgspec
import psutil
import pytest
from docker_images import need_agent_image
from manager_process import (
    KEY,
    FakeGateway,
    ManagerProcess,
    evaluation,
    leftovers,
    limits,
    requests_on,
    the_runtime_dir,
    until_log_has,
)

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.limits import MIB, SandboxLimits
from ridges.contracts.run_token import verify_run_token

PATCH = "diff --git a/a.txt b/a.txt\\n--- a/a.txt\\n+++ b/a.txt\\n@@ -1 +1 @@\\n-one\\n+two\\n"
GOOD_AGENT = f"""
import json, os, urllib.request
def agent_main(problem):
    body = json.dumps({{"evaluation_run_id": os.environ["EVALUATION_RUN_ID"], "model": "m", "temperature": 0,
                       "messages": [{{"role": "user", "content": problem["problem_statement"]}}]}}).encode()
    request = urllib.request.Request(os.environ["SANDBOX_PROXY_URL"] + "/api/inference", body,
                                     {{"Content-Type": "application/json"}})
    print("model says", json.load(urllib.request.urlopen(request))["content"])
    return "{PATCH}"
"""
EDITS = "open('repo/a.txt', 'a').write('two\\n')\n"

FULL = """
 try:
  file = open('/sandbox/full', 'wb', buffering=0)
  while True: file.write(bytes(1 << 20))
 except OSError: pass
"""
NO_INODE = """
 try:
  for number in range(40_000): open(f'/sandbox/{number}', 'w').close()
 except OSError: pass
"""
NO_DESCRIPTOR = """
 try:
  held = [open('agent.py') for _ in range(100_000)]
 except OSError: pass
"""
LETS_ROOM_GO = """
 import os
 for name in os.listdir('/proc/self/fd'):
  try: os.ftruncate(int(name), 0)
  except OSError: pass
"""


@pytest.fixture(
    params=[pytest.param("docker", marks=pytest.mark.docker), pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)]
)
def sandbox(request):
    if request.param == "docker":
        need_agent_image()
    return request.param


@pytest.fixture
async def gateway():
    async with FakeGateway().serving() as gateway:
        yield gateway


@pytest.fixture
async def requests(nats_server, tmp_path):
    async with requests_on(nats_server, tmp_path) as requests:
        yield requests


@pytest.fixture
async def manager(nats_server, tmp_path, gateway, sandbox):
    process = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url, sandbox=sandbox)
    await process.start()
    runtime_dir = the_runtime_dir(process)
    yield process
    assert await process.end() == 0, process.words()
    assert leftovers(process, runtime_dir) == []


async def test_an_agent_makes_a_call_and_returns_a_patch(manager, requests, gateway):
    run_id = await requests.run(GOOD_AGENT, limits=limits())
    end = await requests.end_of(run_id)
    assert isinstance(end, ev.PatchProduced), (end, manager.words())
    assert (end.partial, end.cause, end.attempt, end.exit.exit_code) == (False, None, 1, 0)
    assert await requests.text(end.patch) == PATCH.encode().decode("unicode_escape")
    assert "model says hello" in await requests.text(end.log)
    assert [path for path, _ in gateway.calls] == ["/api/inference"]
    assert verify_run_token(gateway.calls[0][1].removeprefix("Bearer "), bytes.fromhex(KEY)) == run_id
    started = (await requests.events(run_id))[1]
    assert isinstance(started, ev.AgentStarted)
    assert started.attempt == 1


HOW_AGENTS_END = {
    "raises": ("def agent_main(p): raise ValueError('no idea')", Cause.AGENT_RAISED, "no idea", None),
    "raises after edits": (f"def agent_main(p):\n {EDITS} raise ValueError", Cause.AGENT_RAISED, "", "+two"),
    "not loadable": ("import nowhere_at_all", Cause.AGENT_NOT_LOADABLE, "nowhere_at_all", None),
    "no agent_main": ("x = 1", Cause.AGENT_NOT_LOADABLE, "agent_main", None),
    "returns None": (f"def agent_main(p):\n {EDITS}", Cause.AGENT_RETURNED_NO_PATCH, "NoneType", None),
    "returns an int": ("def agent_main(p): return 3", Cause.AGENT_RETURNED_NO_PATCH, "int", None),
    "returns nothing much": ("def agent_main(p): return ' \\n'", Cause.PATCH_EMPTY, "empty", None),
    "returns half a character": ("def agent_main(p): return 'diff \\ud800'", Cause.PATCH_INVALID, "Unicode", None),
    "sys.exit": (f"import sys\ndef agent_main(p):\n {EDITS} sys.exit(3)", Cause.AGENT_EXITED, "3", "+two"),
    "os._exit": (f"import os\ndef agent_main(p):\n {EDITS} os._exit(7)", Cause.AGENT_EXITED, "exit code 7", "+two"),
    "kills itself": ("import os\ndef agent_main(p): os.kill(os.getpid(), 9)", Cause.AGENT_EXITED, "signal 9", None),
    "sleeps": (f"import time\ndef agent_main(p):\n {EDITS} time.sleep(99)", Cause.AGENT_TIMED_OUT, "its 4 s", "+two"),
    "eats memory": (
        "def agent_main(p):\n x = []\n while True: x.append(bytearray(10 << 20))",
        (Cause.AGENT_OUT_OF_MEMORY, Cause.AGENT_RAISED),
        "",
        None,
    ),
    "links its output": (
        "import os\ndef agent_main(p):\n os.symlink('/etc/hostname', 'output.json'); os._exit(0)",
        Cause.AGENT_OUTPUT_UNSAFE,
        "regular",
        None,
    ),
    "forges its output": (
        "import os\ndef agent_main(p):\n open('output.json', 'w').write('[' * 100000); os._exit(0)",
        Cause.AGENT_OUTPUT_UNSAFE,
        "output.json",
        None,
    ),
    "huge output": (
        "import os\ndef agent_main(p):\n f = open('output.json', 'w'); f.truncate(100 << 20); f.close(); os._exit(0)",
        Cause.AGENT_OUTPUT_UNSAFE,
        "bytes",
        None,
    ),
    "huge patch": ("def agent_main(p): return 'x' * (9 << 20)", Cause.PATCH_INVALID, "bytes", None),
    "empty output": (
        f"import os\ndef agent_main(p):\n {EDITS} open('output.json', 'w').close(); os._exit(0)",
        Cause.AGENT_EXITED,
        "exit code 0",
        "+two",
    ),
    "full disk, returns": (f"def agent_main(p):\n{FULL} return 'all of it' * 100_000", None, "", "all of it" * 100_000),
    "full disk, raises": (f"def agent_main(p):\n {EDITS}{FULL} raise KeyError('x')", Cause.AGENT_RAISED, "'x'", "+two"),
    "full disk, returns too much": (
        f"def agent_main(p):\n {EDITS}{FULL} return 'x' * (7 << 20)",
        Cause.AGENT_EXITED,
        "returned a patch; output.json has no room",
        "+two",
    ),
    "full disk, nothing held back": (
        f"def agent_main(p):\n {EDITS}{LETS_ROOM_GO}{FULL} return 'x' * 100_000",
        Cause.AGENT_EXITED,
        "exit code 1",
        "+two",
    ),
    "changes too much": (
        f"def agent_main(p):\n {EDITS} open('repo/big', 'w').write('x\\n' * (5 << 20)); raise ValueError",
        Cause.AGENT_RAISED,
        "no partial patch: the difference has",
        None,
    ),
    "no inode left": (f"def agent_main(p):\n{NO_INODE} return 'all of it'", None, "", "all of it"),
    "no descriptor left": (f"def agent_main(p):\n{NO_DESCRIPTOR} return 'all of it'", None, "", "all of it"),
    "file over the limit": (
        f"def agent_main(p):\n {EDITS} open('x', 'w').truncate(200 << 20)",
        Cause.AGENT_RAISED,
        "too large",
        "+two",
    ),
}


async def test_every_way_an_agent_ends_has_its_cause_and_loses_nothing(manager, requests):
    small = SandboxLimits(memory_bytes=256 * MIB, disk_bytes=128 * MIB)
    ids = {
        name: await requests.run(source, limits=limits(agent_timeout_s=4, sandbox=small))
        for name, (source, *_) in HOW_AGENTS_END.items()
    }
    wrong = []
    for name, (_, causes, detail, difference) in HOW_AGENTS_END.items():
        end = await requests.end_of(ids[name], timeout_s=100)
        fits = (
            end.cause in (causes if isinstance(causes, tuple) else (causes,))
            and detail in (end.detail or "")
            and isinstance(end, ev.PatchProduced) == (difference is not None)
            and (difference is None or difference in await requests.text(end.patch))
            and (difference is None or end.partial == (end.cause is not None))
            and end.log is not None
            and end.exit is not None
        )
        if not fits:
            wrong.append((name, end))
    assert not wrong, wrong


async def test_a_dict_with_a_patch_is_taken_and_a_huge_log_is_cut(manager, requests):
    source = f"""
import os, sys
def agent_main(p):
    for _ in range(1000): os.write(1, bytes(range(256)) * 400)
    print("the end", file=sys.stderr)
    return {{"patch": "{PATCH}"}}
"""
    end = await requests.end_of(await requests.run(source, limits=limits()))
    assert isinstance(end, ev.PatchProduced), end
    log = await requests.text(end.log)
    assert log.startswith("<truncated ")
    assert log.rstrip().endswith("the end")
    assert end.exit.log_truncated_chars > 50_000_000
    assert len(log) <= 500_000 + 60


async def test_what_an_agent_finds_in_its_sandbox_is_the_contract(manager, requests):
    source = """
import json, os, subprocess
def agent_main(problem):
    facts = {"cwd": os.getcwd(), "files": sorted(os.listdir()), "problem": problem,
             "env": {k: v for k, v in os.environ.items()},
             "git": subprocess.check_output(["git", "-C", "repo", "log", "--format=%H %D"], text=True).split("\\n"),
             "future": subprocess.check_output(["git", "-C", "repo", "for-each-ref"], text=True)}
    subprocess.check_call(["git", "config", "--global", "x.y", "z"])
    open(os.path.expanduser("~/probe"), "w").close()
    return "FACTS" + json.dumps(facts)
"""
    run_id = await requests.run(source, limits=limits(), model="some/model")
    end = await requests.end_of(run_id)
    assert isinstance(end, ev.PatchProduced), end
    facts = msgspec.json.decode((await requests.text(end.patch)).removeprefix("FACTS"))
    env = facts["env"]
    assert facts["problem"] == {"problem_statement": "Make it two. \N{SNOWMAN}"}
    assert {"agent.py", "input.json", "repo"} <= set(facts["files"])
    assert len([line for line in facts["git"] if line]) == 1
    assert env["RUN_ID"] == env["EVALUATION_RUN_ID"] == run_id
    assert env["AGENT_TIMEOUT"] == "30"
    assert env["SANDBOX_PROXY_URL"] == env["AI_PROXY_URL"] == env["AI_EMBEDDING_PROXY_URL"]
    assert env["OPENAI_BASE_URL"] == env["OPENROUTER_BASE_URL"] == env["SANDBOX_PROXY_URL"] + "/v1"
    assert env["OPENAI_API_KEY"]
    assert (env["PYTHONUNBUFFERED"], env["PYTHONDONTWRITEBYTECODE"]) == ("1", "1")
    assert (env["RIDGES_MAX_COST_USD"], env["RIDGES_MODEL"]) == ("1.00", "some/model")
    assert not {name for name in env if name.startswith("RIDGES_")} - {"RIDGES_MAX_COST_USD", "RIDGES_MODEL"}


async def test_a_cancelled_run_ends_at_once_and_only_what_its_agent_left_follows(manager, requests):
    source = f"import time\ndef agent_main(p):\n {EDITS} print('half done', flush=True)\n time.sleep(60)"
    run_id = await requests.run(source, limits=limits(agent_timeout_s=120))
    await requests.wait(run_id, ev.AgentStarted)
    await until_log_has(manager, run_id, "half done")
    await requests.cancel(run_id)
    after = await requests.end_of(await requests.run(GOOD_AGENT, limits=limits()))
    assert isinstance(after, ev.PatchProduced)
    left = await requests.wait(run_id, ev.AgentFailed)
    assert (left.cause, left.attempt, left.exit.cancelled) == (Cause.CANCELLED, 1, True)
    assert left.exit.wall_s < 60
    assert "half done" in await requests.text(left.log)
    assert "+two" in await requests.text(left.unjudged_patch)
    assert [type(event).__name__ for event in await requests.events(run_id)] == [
        "RunRequested",
        "AgentStarted",
        "RunCancelled",
        "AgentFailed",
    ]


async def test_a_run_cancelled_before_it_was_claimed_never_starts(manager, requests):
    run_id = requests.clock.new_id()
    cancel = ev.RunCancelled(**requests.envelope(run_id), reason="enough")
    other = await requests.run(GOOD_AGENT, limits=limits())
    (asked,) = await requests.events(other, ev.RunRequested)
    fields = requests.envelope(run_id)
    await requests.store.append(run_id, [msgspec.structs.replace(asked, **fields), cancel])
    await requests.end_of(other)
    await asyncio.sleep(1)
    assert not await requests.events(run_id, ev.AgentStarted, ev.PatchProduced)


async def test_a_killed_manager_loses_its_attempt_and_nothing_else(manager, requests):
    source = """
import time
def agent_main(p):
    print("begun", flush=True)
    time.sleep(4)
    return "diff x"
"""
    run_id = await requests.run(source, limits=limits())
    await requests.wait(run_id, ev.AgentStarted)
    await until_log_has(manager, run_id, "begun")
    runtime_dir = the_runtime_dir(manager)
    await manager.end(signal.SIGKILL)
    await manager.start()
    end = await requests.end_of(run_id)
    assert isinstance(end, ev.PatchProduced), end
    assert end.attempt == 2
    first, second = await requests.events(run_id, ev.AgentStarted)
    assert (first.attempt, second.attempt, first.previous_log) == (1, 2, None)
    assert await requests.text(second.previous_log) == "begun\n"
    await asyncio.sleep(2)
    assert leftovers(manager, runtime_dir) == []


async def test_an_agent_whose_proxy_dies_is_not_to_blame(manager, requests, gateway):
    source = "import time\ndef agent_main(p): return agent(p)\n" + GOOD_AGENT.replace("def agent_main", "def agent")
    first = 'urllib.request.urlopen(os.environ["SANDBOX_PROXY_URL"] + "/v1/models").read()'
    source = source.replace("    body =", f'    {first}\n    print("begun", flush=True)\n    time.sleep(3)\n    body =')
    run_id = await requests.run(source, limits=limits())
    await requests.wait(run_id, ev.AgentStarted)
    await until_log_has(manager, run_id, "begun")
    [nginx] = [
        each.pid
        for each in psutil.process_iter(["cmdline"])
        if str(the_runtime_dir(manager)) in " ".join(each.info["cmdline"] or ())
    ]
    os.kill(nginx, signal.SIGKILL)
    end = await requests.end_of(run_id)
    assert (type(end), end.cause, end.attempt) == (ev.PatchProduced, None, 2), end
    assert [path for path, _ in gateway.calls] == ["/v1/models", "/v1/models", "/api/inference"]


async def test_sigterm_gives_runs_back_for_another_manager(manager, requests):
    run_id = await requests.run("import time\ndef agent_main(p):\n time.sleep(5)\n return 'diff x'", limits=limits())
    await requests.wait(run_id, ev.AgentStarted)
    runtime_dir = the_runtime_dir(manager)
    assert await manager.end(signal.SIGTERM) == 0
    assert leftovers(manager, runtime_dir) == []
    await manager.start()
    end = await requests.end_of(run_id)
    assert (type(end), end.attempt) == (ev.PatchProduced, 2)


async def test_a_log_that_is_killed_meanwhile_costs_nothing(manager, requests, nats_server):
    run_id = await requests.run("import time\ndef agent_main(p):\n time.sleep(3)\n return 'diff x'", limits=limits())
    await requests.wait(run_id, ev.AgentStarted)
    await asyncio.to_thread(nats_server.kill9)
    await asyncio.sleep(5)
    await asyncio.to_thread(nats_server.start)
    end = await requests.end_of(run_id)
    assert (type(end), end.attempt) == (ev.PatchProduced, 1)


async def test_an_evaluation_runs_without_network_and_hands_over_its_files(manager, requests, gateway):
    run_id = await requests.run(GOOD_AGENT, limits=limits())
    await requests.end_of(run_id)
    script = """
import os, socket
names = sorted(name for _, name in socket.if_nameindex())
open("/sandbox/report.xml", "w").write(repr((names, "SANDBOX_PROXY_URL" in os.environ)))
print("graded")
raise SystemExit(1)
"""
    asked = await evaluation(requests, run_id, script)
    exited = await requests.wait(run_id, ev.EvaluationSandboxExited)
    assert (exited.evaluation_id, exited.exit.exit_code, exited.cause) == (asked.evaluation_id, 1, None)
    report, missing = exited.outputs
    assert await requests.text(report.content) == "(['lo'], False)"
    assert (missing.path, missing.problem, missing.content) == ("/sandbox/missing", "missing", None)
    assert "graded" in await requests.text(exited.log)
    assert [event.evaluation_id for event in await requests.events(run_id, ev.EvaluationStarted)] == [
        asked.evaluation_id
    ]


async def test_evaluations_do_not_wait_behind_agents(nats_server, tmp_path, gateway, sandbox, requests):
    process = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url, sandbox=sandbox, slots=1)
    await process.start()
    judged = await requests.run(GOOD_AGENT, limits=limits())
    await requests.end_of(judged)
    sleepers = [
        await requests.run("import time\ndef agent_main(p): time.sleep(50)", limits=limits(agent_timeout_s=60))
        for _ in range(3)
    ]
    await requests.wait(sleepers[0], ev.AgentStarted)
    await evaluation(requests, judged, "pass")
    exited = await requests.wait(judged, ev.EvaluationSandboxExited, timeout_s=15)
    assert exited.exit.exit_code == 0
    for run_id in sleepers:
        await requests.cancel(run_id)
    assert await process.end() == 0


@pytest.mark.docker
async def test_a_missing_image_is_named_with_what_builds_it(nats_server, tmp_path, gateway, requests):
    need_agent_image()
    process = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url)
    await process.start()
    run_id = await requests.run(GOOD_AGENT, limits=limits(), image="ridges-nowhere:1", sandbox="docker")
    end = await requests.end_of(run_id)
    assert (type(end), end.cause) == (ev.AgentFailed, Cause.IMAGE_MISSING)
    assert "ridges-nowhere:1" in end.detail
    assert await requests.events(run_id, ev.AgentStarted) == []
    assert await process.end() == 0


@pytest.mark.bubblewrap
async def test_an_image_is_never_left_out(nats_server, tmp_path, gateway, requests):
    """Where no engine answers, what needs an image ends as our fault; in a sandbox without images it is refused."""
    nowhere = f"unix://{tmp_path}/no.sock"
    process = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url, docker_url=nowhere, sandbox_wait_s=1)
    await process.start()
    run_id = await requests.run(GOOD_AGENT, limits=limits(), image="tools:1")
    end = await requests.end_of(run_id)
    assert (type(end), end.cause) == (ev.AgentFailed, Cause.SANDBOX_UNAVAILABLE)
    assert "no Docker Engine answers" in end.detail
    end = await requests.end_of(await requests.run(GOOD_AGENT, limits=limits(), image="tools:1", sandbox="bubblewrap"))
    assert (type(end), end.cause) == (ev.AgentFailed, Cause.LIMITS_REFUSED)
    assert "the image tools:1 needs the sandbox docker" in end.detail
    judged = await requests.run(GOOD_AGENT, limits=limits())
    assert isinstance(await requests.end_of(judged), ev.PatchProduced)
    asked = await evaluation(requests, judged, "pass", image="tools:1")
    exited = await requests.wait(judged, ev.EvaluationSandboxExited)
    assert (exited.evaluation_id, exited.cause) == (asked.evaluation_id, Cause.SANDBOX_UNAVAILABLE)
    assert await process.end() == 0


async def test_what_the_operator_forbids_is_refused_before_anything_starts(nats_server, tmp_path, gateway, requests):
    process = ManagerProcess(
        tmp_path, nats=nats_server, gateway_url=gateway.url, sandbox="bubblewrap", max_pids=100, max_timeout_s=600
    )
    await process.start()
    over = await requests.run(GOOD_AGENT, limits=limits(sandbox=SandboxLimits(pids=101)))
    judged = await requests.run(GOOD_AGENT, limits=limits(sandbox=SandboxLimits(pids=100)))
    end = await requests.end_of(over)
    assert (end.attempt, end.cause) == (0, Cause.LIMITS_REFUSED)
    assert "RIDGES_MAX_PIDS" in end.detail
    assert await requests.events(over, ev.AgentStarted) == []
    assert isinstance(await requests.end_of(judged), ev.PatchProduced)
    await evaluation(requests, judged, "pass")
    exited = await requests.wait(judged, ev.EvaluationSandboxExited)
    assert (exited.cause, await requests.events(judged, ev.EvaluationStarted)) == (Cause.LIMITS_REFUSED, [])
    assert await process.end() == 0


async def test_what_cannot_be_served_here_ends_truthfully(nats_server, tmp_path, gateway, requests):
    process = ManagerProcess(
        tmp_path,
        nats=nats_server,
        gateway_url=gateway.url,
        sandbox="bubblewrap",
        sandbox_wait_s=1,
        docker_url=f"unix://{tmp_path}/no.sock",
    )
    await process.start()
    unavailable = await requests.run(GOOD_AGENT, limits=limits(), sandbox="docker")
    not_allowed = await requests.run(GOOD_AGENT, limits=limits(), sandbox="process")
    damaged = await requests.run(GOOD_AGENT, limits=limits())
    broken = await requests.run(GOOD_AGENT, limits=limits(), repo={"../x": b""})
    end = await requests.end_of(unavailable)
    assert (end.cause, end.attempt) == (Cause.SANDBOX_UNAVAILABLE, 0)
    assert "no Docker Engine answers" in end.detail
    end = await requests.end_of(not_allowed)
    assert (end.cause, end.attempt) == (Cause.SANDBOX_UNAVAILABLE, 0)
    assert "RIDGES_ALLOW_PROCESS" in end.detail
    assert (await requests.end_of(broken)).cause is Cause.PROBLEM_BROKEN
    await requests.end_of(damaged)
    assert await process.end() == 0
