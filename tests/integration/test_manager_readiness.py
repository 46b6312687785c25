"""A manager that cannot work says what it lacks, in /readyz and to the runs that wait, and goes on when it is there."""

import asyncio
import contextlib

import pytest
from docker_images import need_agent_image
from engine_proxy import engine_behind
from manager_process import FakeGateway, ManagerProcess, leftovers, limits, requests_on, the_runtime_dir

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause

AGENT = "def agent_main(problem): return 'diff x'"
MORE_THAN_ANY_DISK = 1 << 60
ROOM = "make room, or set RIDGES_MIN_FREE_BYTES lower"


@pytest.fixture
async def gateway():
    async with FakeGateway().serving() as gateway:
        yield gateway


@pytest.fixture
async def requests(nats_server, tmp_path):
    async with requests_on(nats_server, tmp_path) as requests:
        yield requests


@contextlib.asynccontextmanager
async def launched(tmp_path, nats_server, gateway, **settings):
    """A manager that may never become ready; nothing of it is left."""
    process = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url, **settings)
    process.launch()
    try:
        yield process
    finally:
        code = await process.end()
    assert code == 0, process.words()
    assert leftovers(process, the_runtime_dir(process)) == []


async def test_readyz_names_the_event_log(tmp_path, nats_server, gateway):
    async with launched(tmp_path, nats_server, gateway, sandbox="bubblewrap") as process:
        await process.until_ready()
        nats_server.kill9()
        told = await process.failing("event log")
        assert f"the connection to {nats_server.url} is lost; is nats-server running?" in told
        nats_server.start()
        await process.until_ready()


@pytest.mark.docker
async def test_readyz_names_the_sandbox_when_the_engine_is_away(tmp_path, nats_server, gateway):
    need_agent_image()
    socket = tmp_path / "engine.sock"
    async with engine_behind(socket) as engine:
        engine.away = True
        settings = {"sandbox": "docker", "docker_url": f"unix://{socket}"}
        async with launched(tmp_path, nats_server, gateway, **settings) as process:
            told = await process.failing("sandbox")
            assert f"the Docker Engine at unix://{socket} does not answer" in told
            engine.away = False
            await process.until_ready()


async def test_readyz_names_the_disk_and_a_run_waits_until_there_is_room(tmp_path, nats_server, gateway, requests):
    settings = {"sandbox": "bubblewrap", "sandbox_wait_s": 600, "min_free_bytes": MORE_THAN_ANY_DISK}
    async with launched(tmp_path, nats_server, gateway, **settings) as process:
        told = await process.failing("disk")
        assert told.startswith(f"the disk of {process.state_dir} has ")
        assert told.endswith(f"bytes left, {MORE_THAN_ANY_DISK:,} must stay free; {ROOM}")

        run_id = await requests.run(AGENT, limits=limits())
        async with asyncio.timeout(60):
            while process.words().count(ROOM) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert run_id in process.words()
        assert await requests.events(run_id, ev.AgentStarted, ev.AgentFailed) == []

        assert await process.end() == 0, process.words()
        await process.start({"RIDGES_MIN_FREE_BYTES": "0"})
        end = await requests.end_of(run_id)
        assert (type(end), end.attempt) == (ev.PatchProduced, 1), process.words()


async def test_a_run_that_waited_in_vain_for_room_ends_as_our_fault_with_what_mends_it(
    tmp_path, nats_server, gateway, requests
):
    settings = {"sandbox": "bubblewrap", "sandbox_wait_s": 1, "min_free_bytes": MORE_THAN_ANY_DISK}
    async with launched(tmp_path, nats_server, gateway, **settings):
        run_id = await requests.run(AGENT, limits=limits())
        end = await requests.end_of(run_id)
        assert (type(end), end.cause) == (ev.AgentFailed, Cause.SANDBOX_UNAVAILABLE)
        assert end.detail.endswith(f"must stay free; {ROOM}")
