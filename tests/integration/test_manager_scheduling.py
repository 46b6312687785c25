"""Who gets the slots, what can be seen of it, and cancels and drains at any moment."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal

import aiohttp
import pytest
from docker_images import need_agent_image
from hostile.host import Host
from manager_process import FakeGateway, ManagerProcess, leftovers, limits, requests_on, the_runtime_dir
from prometheus_client.parser import text_string_to_metric_families

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause

QUICK = "def agent_main(problem): return 'diff x'"
SLOW = "import time\ndef agent_main(problem):\n time.sleep(60)"


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


@contextlib.asynccontextmanager
async def manager(tmp_path, nats_server, gateway, **settings):
    process = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url, **settings)
    await process.start()
    runtime_dir = the_runtime_dir(process)
    try:
        yield process
    finally:
        code = await process.end()
    assert code == 0, process.words()
    assert leftovers(process, runtime_dir) == []


async def get(process: ManagerProcess, path: str, **query):
    url = f"http://127.0.0.1:{process.port}{path}"
    async with aiohttp.ClientSession() as http, http.get(url, params=query) as reply:
        text = await reply.text()
        return reply.status, json.loads(text) if "json" in reply.content_type else text


async def starts_in_order(requests, ids: list[str]) -> list[str]:
    started = {run_id: (await requests.wait(run_id, ev.AgentStarted)).time for run_id in ids}
    return sorted(ids, key=started.__getitem__)


async def test_priority_first_then_users_in_turn(tmp_path, nats_server, gateway, requests):
    async with manager(tmp_path, nats_server, gateway, sandbox="bubblewrap", slots=1) as process:
        blocker = await requests.run(SLOW, limits=limits(agent_timeout_s=60))
        await requests.wait(blocker, ev.AgentStarted)
        many = [await requests.run(QUICK, limits=limits(), requested_by="many") for _ in range(4)]
        few = await requests.run(QUICK, limits=limits(), requested_by="few")
        late = await requests.run(QUICK, limits=limits(), requested_by="many", priority=-1)
        first = await requests.run(QUICK, limits=limits(), requested_by="many", priority=9)
        await until_waiting(process, 7)
        await requests.cancel(blocker)
        assert await starts_in_order(requests, [*many, few, late, first]) == [first, few, *many, late]


async def until_waiting(process: ManagerProcess, count: int) -> None:
    async with asyncio.timeout(20):
        while True:
            _, rows = await get(process, "/v1/sandboxes")
            if sum(row["phase"] == "waiting" for row in rows) == count:
                return
            await asyncio.sleep(0.05)


async def test_slots_starts_ends_and_waiting_are_metrics(tmp_path, nats_server, gateway, requests):
    async with manager(tmp_path, nats_server, gateway, sandbox="bubblewrap", slots=1, evaluation_slots=3) as process:
        ids = [await requests.run(SLOW, limits=limits(agent_timeout_s=60)) for _ in range(3)]
        await until_waiting(process, 2)
        await requests.wait(ids[0], ev.AgentStarted)
        await until_running(process, 1)
        _, text = await get(process, "/metrics")
        for line in (
            'ridges_sandbox_slots{kind="agent"} 1.0',
            'ridges_sandbox_slots{kind="evaluation"} 3.0',
            "ridges_runs_waiting 2.0",
            'ridges_sandboxes_running{kind="agent",sandbox="bubblewrap"} 1.0',
            'ridges_sandboxes_started_total{kind="agent",sandbox="bubblewrap"} 1.0',
        ):
            assert line in text
        for run_id in ids:
            await requests.cancel(run_id)
        end = await requests.end_of(await requests.run("def agent_main(p): raise ValueError", limits=limits()))
        assert end.cause is Cause.AGENT_RAISED
        async with asyncio.timeout(20):
            while (await counts(process))[1]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        _, text = await get(process, "/metrics")
        assert 'ridges_sandboxes_ended_total{cause="agent_raised",kind="agent"} 1.0' in text
        assert 'ridges_sandboxes_ended_total{cause="cancelled",kind="agent"} 1.0' in text
        assert await counts(process) == (2, 0, 2)
        assert "ridges_runs_waiting 0.0" in text


async def until_running(process: ManagerProcess, count: int) -> None:
    async with asyncio.timeout(20):
        while True:
            _, rows = await get(process, "/v1/sandboxes")
            if sum(row["phase"] == "running" for row in rows) == count:
                return
            await asyncio.sleep(0.05)


async def test_a_live_log_can_be_followed_to_its_end(tmp_path, nats_server, gateway, requests, sandbox):
    source = """
import time
def agent_main(problem):
    for number in range(6):
        print("step", number, flush=True)
        time.sleep(0.6)
    return "diff x"
"""
    async with manager(tmp_path, nats_server, gateway, sandbox=sandbox) as process:
        run_id = await requests.run(source, limits=limits())
        await requests.wait(run_id, ev.AgentStarted)
        seen, position, pieces = "", 0, 0
        while True:
            status, piece = await get(process, f"/v1/sandboxes/{run_id}/log", after=position, wait_s=10)
            if status == 404:
                break
            assert status == 200, piece
            pieces += bool(piece["text"])
            seen, position = seen + piece["text"], piece["next"]
            if piece["ended"]:
                break
        assert pieces >= 3
        assert seen.splitlines()[:4] == [f"step {n}" for n in range(4)]
        end = await requests.end_of(run_id)
        assert (await requests.text(end.log)).startswith(seen)
        assert (await get(process, f"/v1/sandboxes/{run_id}/log"))[0] == 404


async def test_a_flood_of_log_leaves_a_capped_tail_and_delays_nothing(
    tmp_path, nats_server, gateway, requests, sandbox
):
    source = """
import os, time
def agent_main(problem):
    until = time.time() + 4
    while time.time() < until: os.write(1, b"y" * 65536)
    return "diff x"
"""
    async with manager(tmp_path, nats_server, gateway, sandbox=sandbox) as process:
        run_id = await requests.run(source, limits=limits())
        await requests.wait(run_id, ev.AgentStarted)
        await until_running(process, 1)
        await asyncio.sleep(3)
        _, piece = await get(process, f"/v1/sandboxes/{run_id}/log", wait_s=5)
        assert len(piece["text"]) <= 65_536
        assert "bytes not shown live" in piece["text"]
        end = await requests.end_of(run_id)
        assert isinstance(end, ev.PatchProduced), end
        assert end.exit.wall_s < 15


async def test_strangers_do_not_see_live_logs(tmp_path, nats_server, gateway, requests):
    async with manager(tmp_path, nats_server, gateway, sandbox="bubblewrap", api_token="t" * 16) as process:
        assert (await get(process, "/v1/sandboxes"))[0] == 401
        url = f"http://127.0.0.1:{process.port}/v1/sandboxes"
        for token, status in (("t" * 16, 200), ("x" * 16, 401)):
            headers = {"Authorization": f"Bearer {token}"}
            async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as reply:
                assert reply.status == status


async def test_starts_that_are_cancelled_at_random_moments_leave_nothing(
    tmp_path, nats_server, gateway, requests, sandbox
):
    moments, before = random.Random(4), Host()
    async with manager(tmp_path, nats_server, gateway, sandbox=sandbox, slots=20) as process:
        ids = await asyncio.gather(*(requests.run(SLOW, limits=limits(agent_timeout_s=60)) for _ in range(20)))

        async def cancel(run_id: str) -> None:
            await asyncio.sleep(moments.uniform(0, 4))
            await requests.cancel(run_id)

        await asyncio.gather(*map(cancel, ids))
        async with asyncio.timeout(60):
            while (await get(process, "/v1/sandboxes"))[1]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        for run_id in ids:
            left = await requests.events(run_id, ev.PatchProduced, ev.AgentFailed)
            assert [(type(event), event.cause) for event in left] in ([], [(ev.AgentFailed, Cause.CANCELLED)])
        started, running, ended = await counts(process)
        assert (running, ended) == (0, started)
        assert started > 0
    assert await before.left_since() == []
    assert [top for top, *_ in os.walk("/sys/fs/cgroup") if f"/ridges-{process.pid}-" in top] == []


async def counts(process: ManagerProcess) -> tuple[float, float, float]:
    """Agent sandboxes that were started, run and have ended, as /metrics has it."""
    _, text = await get(process, "/metrics")
    samples = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("kind") == "agent"
    ]
    names = ("ridges_sandboxes_started_total", "ridges_sandboxes_running", "ridges_sandboxes_ended_total")
    started, running, ended = (sum(each.value for each in samples if each.name == name) for name in names)
    return started, running, ended


async def test_what_a_sweep_removes_is_counted(tmp_path, nats_server, gateway, requests):
    async with manager(tmp_path, nats_server, gateway, sandbox="bubblewrap") as process:
        left = the_runtime_dir(process) / requests.clock.new_id()
        left.mkdir(parents=True)
        forgotten = process.state_dir / "logs" / f"{requests.clock.new_id()}.1.patch"
        forgotten.write_text("of a run that another manager went on with")
        os.utime(forgotten, (0, 0))
        async with asyncio.timeout(30):
            while left.exists() or forgotten.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            text = ""
            while not re.search(r"^ridges_leftovers_swept_total [1-9]", text, re.MULTILINE):
                _, text = await get(process, "/metrics")


async def test_sigterm_starts_nothing_more_and_gives_back_what_waits(tmp_path, nats_server, gateway, requests, sandbox):
    settings = {"sandbox": sandbox, "slots": 1, "drain_timeout_s": 20}
    source = "import time\ndef agent_main(p):\n time.sleep(3)\n return 'diff x'"
    async with manager(tmp_path, nats_server, gateway, **settings) as process:
        at_work, waiting = [await requests.run(source, limits=limits()) for _ in range(2)]
        await requests.wait(at_work, ev.AgentStarted)
        await until_waiting(process, 1)
        assert await process.end(signal.SIGTERM) == 0
        assert (await requests.end_of(at_work, timeout_s=1)).attempt == 1
        assert not await requests.events(waiting, ev.AgentStarted)
        await process.start()
        end = await requests.end_of(waiting)
        assert (type(end), end.attempt) == (ev.PatchProduced, 1), process.words()
