"""A Docker Engine that is really restarted, while agents are at work."""

import asyncio
import signal

import pytest
from aiohttp import web
from manager_process import (
    FakeGateway,
    ManagerProcess,
    leftovers,
    limits,
    requests_on,
    the_runtime_dir,
    until_log_has,
    until_patch_is_kept,
)
from private_engine import PrivateEngine, need_private_engine

from ridges.contracts import events as ev

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

WAITS_FOR_A_WORD = """
import os, time, urllib.request
def agent_main(p):
    open("repo/mine.txt", "w").write("half done\\n")
    print("begun", flush=True)
    url = os.environ["SANDBOX_PROXY_URL"] + "/api/usage?evaluation_run_id=" + os.environ["RUN_ID"]
    while b"go" not in urllib.request.urlopen(url).read():
        time.sleep(0.2)
    return "diff x"
"""


class Gate(FakeGateway):
    """Says to all agents whether they may end."""

    word = "wait"

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"word": self.word})


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    need_private_engine()
    with PrivateEngine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.mark.parametrize(
    ("how", "network"), [(signal.SIGTERM, "socket"), (signal.SIGKILL, "socket"), (signal.SIGKILL, "internal")]
)
async def test_an_engine_that_is_restarted_costs_an_attempt_and_no_run(tmp_path, nats_server, engine, how, network):
    async with Gate().serving() as gateway, requests_on(nats_server, tmp_path) as requests:
        settings = {"sandbox": "docker", "slots": 2, "sandbox_wait_s": 300, "docker_url": engine.url}
        settings |= {"partial_patch_interval_s": 0.5, "docker_network": network}
        manager = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url, **settings)
        await manager.start()
        try:
            ids = [await requests.run(WAITS_FOR_A_WORD, limits=limits(agent_timeout_s=600)) for _ in range(2)]
            for run_id in ids:
                await requests.wait(run_id, ev.AgentStarted)
                await until_log_has(manager, run_id, "begun")
                await until_patch_is_kept(manager, run_id)
            assert len(engine.containers()) == {"socket": 2, "internal": 4}[network]
            await asyncio.to_thread(engine.end, how)
            await asyncio.to_thread(engine.start)
            gateway.word = "go"
            async with asyncio.timeout(60):
                ends = [await requests.end_of(run_id) for run_id in ids]
            assert [(type(end), end.attempt) for end in ends] == [(ev.PatchProduced, 2)] * 2, manager.words()
            for run_id in ids:
                _, second = await requests.events(run_id, ev.AgentStarted)
                assert await requests.text(second.previous_log) == "begun\n"
                assert "+half done" in await requests.text(second.previous_patch)
                used = second.previous_exit
                assert all((used.wall_s, used.cpu_s, used.peak_memory_bytes, used.pids_peak)), used
                assert len(await requests.events(run_id, ev.PatchProduced, ev.AgentFailed)) == 1
            async with asyncio.timeout(60):
                while await asyncio.to_thread(engine.containers):  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
        finally:
            runtime_dir = the_runtime_dir(manager)
            assert await manager.end() == 0, manager.words()
        assert leftovers(manager, runtime_dir) == []
