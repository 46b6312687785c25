"""Runs that ask for another OCI runtime than the engine's, with a real manager and, for gVisor, a real runsc."""

import asyncio
import contextlib
import shutil
import time

import msgspec
import pytest
from docker_images import need_agent_image
from manager_process import FakeGateway, ManagerProcess, leftovers, limits, requests_on, the_runtime_dir
from private_engine import PrivateEngine, need_private_engine

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.limits import MIB, SandboxLimits

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ASKS_A_MODEL_AND_LOOKS = """
import json, os, time, urllib.request
def agent_main(p):
    url = os.environ["SANDBOX_PROXY_URL"] + "/api/inference"
    body = json.dumps({"evaluation_run_id": os.environ["RUN_ID"], "model": "m", "messages": []}).encode()
    call = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    print(json.load(urllib.request.urlopen(call))["content"], open("/proc/version").read(), flush=True)
    time.sleep(3)
    open("repo/a.txt", "w").write("two\\n")
    return os.popen("git -C repo diff").read()
"""


def under(runtime: str) -> SandboxLimits:
    return SandboxLimits(memory_bytes=1024 * MIB, runtime=runtime)


@contextlib.asynccontextmanager
async def manager_at_work(folder, nats_server, **settings):
    async with FakeGateway().serving() as gateway, requests_on(nats_server, folder) as requests:
        manager = ManagerProcess(folder, nats=nats_server, gateway_url=gateway.url, sandbox="docker", **settings)
        await manager.start()
        try:
            yield manager, requests
        finally:
            runtime_dir = the_runtime_dir(manager)
            assert await manager.end() == 0, manager.words()
        assert leftovers(manager, runtime_dir) == []


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Its runtimes: gVisor where it is installed; the engine's own by the name of another; one that starts nothing."""
    need_private_engine()
    runtimes = {"kata": (shutil.which("runc"),), "broken": (shutil.which("false"),)}
    if runsc := shutil.which("runsc"):
        runtimes["runsc"] = (runsc, "--network=none", "--host-uds=open")
    with PrivateEngine(tmp_path_factory.mktemp("engine"), runtimes) as engine:
        yield engine


async def test_a_run_that_asks_for_gvisor_runs_under_it_with_models_and_patch(tmp_path, nats_server, engine):
    if shutil.which("runsc") is None:
        pytest.skip("runsc is not installed (infra/ci/install-runsc.sh)")
    settings = {"docker_url": engine.url, "allowed_runtimes": "runsc"}
    async with manager_at_work(tmp_path, nats_server, **settings) as (manager, requests):
        run_id = await requests.run(ASKS_A_MODEL_AND_LOOKS, limits=limits(agent_timeout_s=90))
        asked = await requests.run(ASKS_A_MODEL_AND_LOOKS, limits=limits(sandbox=under("runsc"), agent_timeout_s=90))
        seen: dict[str, str] = {}
        async with asyncio.timeout(120):
            while set(seen) != {run_id, asked}:
                for container in await asyncio.to_thread(engine.containers):
                    what = '{{index .Config.Labels "ridges.run"}} {{.HostConfig.Runtime}}'
                    with contextlib.suppress(Exception):  # it may be gone by now
                        seen.update([(await asyncio.to_thread(engine.ask, "inspect", "-f", what, container)).split()])
                seen = {run: runtime for run, runtime in seen.items() if run in (run_id, asked)}
        assert seen == {run_id: "runc", asked: "runsc"}
        end = await requests.end_of(asked, timeout_s=120)
        assert (type(end), end.attempt) == (ev.PatchProduced, 1), manager.words()
        assert "+two" in await requests.text(end.patch)
        log = await requests.text(end.log)
        assert log.startswith("hello Linux version 4.4.0"), log  # what gVisor says of itself, whatever the host is
        assert isinstance(await requests.end_of(run_id), ev.PatchProduced)


async def test_any_runtime_that_an_operator_registers_is_tested_and_then_used(tmp_path, nats_server, engine):
    settings = {"docker_url": engine.url, "allowed_runtimes": "kata"}
    began = str(int(time.time()))
    async with manager_at_work(tmp_path, nats_server, **settings) as (manager, requests):
        runs = [await requests.run(ASKS_A_MODEL_AND_LOOKS, limits=limits(sandbox=under("kata"))) for _ in range(2)]
        for run_id in runs:
            end = await requests.end_of(run_id, timeout_s=120)
            assert (type(end), end.attempt) == (ev.PatchProduced, 1), manager.words()
            assert "+two" in await requests.text(end.patch)
    starts = ("events", "--since", began, "--until", str(int(time.time()) + 1), "--filter", "event=start")
    told = await asyncio.to_thread(engine.ask, *starts, "--format", '{{index .Actor.Attributes "ridges.run"}}')
    started = told.split()
    assert started[:2] == ["self-test"] * 2, "the manager's own runtime, then the one that is asked for"
    assert sorted(started[2:]) == sorted(runs)


async def test_a_runtime_that_fails_its_self_test_gets_no_run(tmp_path, nats_server, engine):
    settings = {"docker_url": engine.url, "allowed_runtimes": "broken", "sandbox_wait_s": 1}
    async with manager_at_work(tmp_path, nats_server, **settings) as (_, requests):
        run_id = await requests.run(ASKS_A_MODEL_AND_LOOKS, limits=limits(sandbox=under("broken")))
        end = await requests.end_of(run_id)
        assert (type(end), end.cause) == (ev.AgentFailed, Cause.SANDBOX_UNAVAILABLE)
        assert "docker (runtime broken): the engine did not start it" in end.detail
        assert "ask for another runtime, or mend this one" in end.detail
        assert await requests.events(run_id, ev.AgentStarted) == []
        other = await requests.run("def agent_main(p): return 'diff x'", limits=limits())
        assert isinstance(await requests.end_of(other), ev.PatchProduced)


async def test_gvisor_shares_no_network_so_the_mode_internal_is_refused_under_it(tmp_path, nats_server, engine):
    settings = {"docker_url": engine.url, "allowed_runtimes": "runsc", "sandbox_wait_s": 3}
    async with manager_at_work(tmp_path, nats_server, **settings) as (_, requests):
        sandbox = msgspec.structs.replace(under("runsc"), network="internal")
        end = await requests.end_of(await requests.run("", limits=limits(sandbox=sandbox)), timeout_s=120)
        assert (type(end), end.cause) == (ev.AgentFailed, Cause.SANDBOX_UNAVAILABLE)
        assert "(runtime runsc, network internal)" in end.detail
        assert "ask for the network socket" in end.detail


async def test_a_runtime_that_the_engine_does_not_know_is_our_fault_and_costs_no_attempt(tmp_path, nats_server):
    need_agent_image()
    async with manager_at_work(tmp_path, nats_server, allowed_runtimes="kata", sandbox_wait_s=3) as (_, requests):
        run_id = await requests.run(ASKS_A_MODEL_AND_LOOKS, limits=limits(sandbox=under("kata")))
        end = await requests.end_of(run_id)
        assert (type(end), end.cause) == (ev.AgentFailed, Cause.SANDBOX_UNAVAILABLE)
        assert "register kata in /etc/docker/daemon.json" in end.detail
        assert await requests.events(run_id, ev.AgentStarted) == []
        other = await requests.run("def agent_main(p): return 'diff x'", limits=limits())
        assert isinstance(await requests.end_of(other), ev.PatchProduced)


async def test_a_runtime_above_the_ceiling_is_refused(tmp_path, nats_server):
    need_agent_image()
    async with manager_at_work(tmp_path, nats_server, allowed_runtimes="runsc") as (_, requests):
        end = await requests.end_of(await requests.run("", limits=limits(sandbox=under("kata"))))
        assert (type(end), end.cause) == (ev.AgentFailed, Cause.LIMITS_REFUSED)
        assert "the runtime kata is not allowed (RIDGES_ALLOWED_RUNTIMES)" in end.detail
