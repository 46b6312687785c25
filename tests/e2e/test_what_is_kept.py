"""Whatever ends an agent: its log, its changes, the facts of its end and its costs are there. In both technologies."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker_images import need_agent_image
from e2e.charges import charges_of, events_of
from e2e.openai_provider import KEY, Provider, add_provider
from e2e.project import Project
from private_engine import PrivateEngine, need_private_engine

pytestmark = pytest.mark.timeout(400)

CALL_NANO_USD = 1000 * 2_000 + 50 * 8_000
"""What the provider's one answer costs."""
AGENT = """
import json, os, signal, time, urllib.request

def agent_main(problem):
    print("begun", flush=True)
    with open("repo/main.py", "a") as file:
        file.write("# half done\\n")
    body = json.dumps({{"model": "live-1", "messages": [{{"role": "user", "content": "x"}}]}}).encode()
    call = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)
    call.add_header("Content-Type", "application/json")
    urllib.request.urlopen(call).read()
    print("asked", flush=True)
{end}
"""
SLEEPS = "    time.sleep(600)"
EATS = "    hoard = []\n    while True: hoard.append(bytearray(b'x' * (8 << 20)))"
CRASHES = "    os.kill(os.getpid(), signal.SIGSEGV)"
FILLS = """
    try:
        with open("/sandbox/full", "wb", buffering=0) as full:
            while True: full.write(bytes(1 << 20))
    except OSError:
        pass
    raise ValueError("no room")
"""
ENDS = {
    "timeout": (SLEEPS, "agent_timed_out", "timed_out"),
    "memory": (EATS, "agent_out_of_memory", "out_of_memory"),
    "crash": (CRASHES, "agent_exited", None),
    "full disk": (FILLS, "agent_raised", None),
    "cancel": (SLEEPS, "cancelled", "cancelled"),
}
TECHNOLOGIES = pytest.mark.parametrize(
    "sandbox",
    [pytest.param("bubblewrap", marks=pytest.mark.bubblewrap), pytest.param("docker", marks=pytest.mark.docker)],
)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def system(project: Project, provider: Provider) -> Iterator[Project]:
    with up_with(project, provider) as system:
        yield system


@contextlib.contextmanager
def up_with(project: Project, provider: Provider) -> Iterator[Project]:
    add_provider(project, provider.port)
    project.env |= {"MY_PROVIDER_KEY": KEY, "RIDGES_PARTIAL_PATCH_INTERVAL_S": "0.5"}
    up = project.ridges("up", timeout_s=120)
    assert up.code == 0, up
    yield project
    assert project.ridges("down").code == 0
    assert project.wait_for_no_traces(10) == []


def started(system: Project, sandbox: str, end: str, timeout_s: int = 300) -> str:
    """The run's id; its agent has begun, or will soon."""
    agent = system.agent("agent.py", AGENT.format(end=end))
    limits = ("--memory", "256M", "--disk", "64M", "--agent-timeout", str(timeout_s))
    arguments = ("-a", agent, "-p", "create-energy-bill", "--sandbox", sandbox, *limits)
    command = system.start("run", *arguments, "--json")
    assert command.stderr is not None
    return next(line.split()[1] for line in command.stderr if line.startswith("run "))


def until(what: Callable[[], Any], timeout_s: float = 120) -> Any:
    give_up = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < give_up
        time.sleep(0.2)
    return found


def asked_a_model(system: Project, run_id: str, attempt: int = 1) -> bool:
    row = system.ridges("show", run_id, "--json").document
    return row["attempt"] == attempt and "asked" in system.ridges("logs", run_id).stdout


def ended(system: Project, run_id: str) -> dict[str, Any]:
    def shown() -> dict[str, Any]:
        return dict(system.ridges("show", run_id, "--json").document)

    return dict(until(lambda: (row := shown())["finished_at"] and row["exit"] and row))


@TECHNOLOGIES
@pytest.mark.parametrize("kind", ENDS)
def test_what_an_agent_had_done_survives_its_end(
    system: Project, bubblewrap_works: None, sandbox: str, kind: str
) -> None:
    if sandbox == "docker":
        need_agent_image()
    end, cause, said = ENDS[kind]
    run_id = started(system, sandbox, end, timeout_s=8 if kind == "timeout" else 300)
    if kind == "cancel":
        until(lambda: asked_a_model(system, run_id))
        assert system.ridges("cancel", run_id).code == 0
    row = ended(system, run_id)
    assert (row["cause"], row["attempt"]) == (cause, 1), row
    assert system.ridges("logs", run_id).stdout.startswith("begun\nasked\n")
    assert "+# half done" in row["patch"]
    assert list(charges_of(system, run_id).values()) == [CALL_NANO_USD]
    assert row["cost_nano_usd"] == CALL_NANO_USD
    facts = row["exit"]
    flags = {name for name in ("timed_out", "out_of_memory", "cancelled") if facts[name]}
    assert flags == ({said} if said else set())
    assert facts["wall_s"] > 0
    assert all(facts[name] for name in ("cpu_s", "peak_memory_bytes", "pids_peak", "written_bytes")), facts


def lost_attempt_is_kept(system: Project, run_id: str) -> None:
    """Of a run whose first attempt was lost, and whose second one is at work."""
    until(lambda: asked_a_model(system, run_id, attempt=2))
    assert system.ridges("logs", run_id, "--attempt", "1").stdout == "begun\nasked\n"
    assert "+# half done" in system.ridges("show", run_id, "--attempt", "1").stdout
    (used,) = [event["previous_exit"] for event in events_of(system, run_id) if event.get("previous_exit")]
    assert used["exit_code"] is None, "nobody saw its end"
    assert all(used[name] for name in ("wall_s", "cpu_s", "peak_memory_bytes", "pids_peak")), used
    assert system.ridges("cancel", run_id).code == 0
    row = ended(system, run_id)
    assert (row["cause"], row["attempt"]) == ("cancelled", 2)
    assert sorted(charges_of(system, run_id).values()) == [CALL_NANO_USD] * 2, "both calls were made, and are paid"
    assert row["cost_nano_usd"] == 2 * CALL_NANO_USD


def has_copy(system: Project, run_id: str) -> bool:
    """The manager has seen the agent's changes."""
    return bool(list((system.folder / ".ridges" / "manager" / "logs").glob(f"{run_id}.*.patch")))


@TECHNOLOGIES
def test_what_an_agent_had_done_survives_its_manager(system: Project, bubblewrap_works: None, sandbox: str) -> None:
    if sandbox == "docker":
        need_agent_image()
    run_id = started(system, sandbox, SLEEPS)
    until(lambda: asked_a_model(system, run_id) and has_copy(system, run_id))
    os.kill(system.pid("sandbox-manager"), signal.SIGKILL)
    lost_attempt_is_kept(system, run_id)


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_what_an_agent_had_done_survives_its_engine(
    tmp_path_factory: pytest.TempPathFactory, provider: Provider
) -> None:
    need_private_engine()
    with PrivateEngine(tmp_path_factory.mktemp("engine")) as engine:
        project = Project(tmp_path_factory.mktemp("on its own engine"))
        project.env |= {"DOCKER_HOST": engine.url, "RIDGES_SANDBOX_WAIT_S": "300"}
        with up_with(project, provider) as system:
            run_id = started(system, "docker", SLEEPS)
            until(lambda: asked_a_model(system, run_id) and has_copy(system, run_id))
            engine.end(signal.SIGKILL)
            engine.start()
            lost_attempt_is_kept(system, run_id)
            until(lambda: engine.containers() == [])
