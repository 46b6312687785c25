"""Managers that are killed, stopped and doubled, and an engine that goes away: nothing lost, nothing twice."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from docker_images import need_agent_image
from engine_proxy import engine_behind
from manager_process import (
    FakeGateway,
    ManagerProcess,
    evaluation,
    leftovers,
    limits,
    requests_on,
    the_runtime_dir,
    until_log_has,
    until_patch_is_kept,
)

from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.sandbox_manager.attempt_copies import AttemptCopies

SLEEPER = """
import os, time, urllib.request
def agent_main(problem):
    print("begun", flush=True)
    time.sleep({seconds})
    url = os.environ["SANDBOX_PROXY_URL"] + "/api/usage?evaluation_run_id=" + os.environ["RUN_ID"]
    urllib.request.urlopen(url).read()
    return "diff x"
"""
"""Its one call stands for what a run does at its end: as many calls as runs that came to it."""


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
async def managers(tmp_path, nats_server, gateway, *names: str, **settings):
    """One manager process for each name, on one log and one blob store, each with its own state; nothing is left."""
    processes = []
    for name in names:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        process = ManagerProcess(folder, nats=nats_server, gateway_url=gateway.url, manager_name=name, **settings)
        process.env["RIDGES_BLOBS_URL"] = f"file://{tmp_path}/blobs"
        processes.append(process)
    async with contextlib.AsyncExitStack() as ending:
        for process in processes:
            await process.start()
            ending.push_async_callback(_end, process, the_runtime_dir(process))
        yield processes


async def _end(process: ManagerProcess, runtime_dir: Path) -> None:
    assert await process.end() == 0, process.words()
    assert leftovers(process, runtime_dir) == []


async def attempts(requests, run_id: str) -> list[tuple[int, str]]:
    return [(event.attempt, event.manager) for event in await requests.events(run_id, ev.AgentStarted)]


EDITOR = """
import time
def agent_main(problem):
    print("begun", flush=True)
    open("repo/mine.txt", "w").write("half done\\n")
    time.sleep({seconds})
    return "diff x"
"""


@pytest.mark.parametrize("max_attempts", [1, 2])
async def test_what_an_agent_had_changed_survives_its_manager(
    tmp_path, nats_server, gateway, requests, sandbox, max_attempts
):
    settings = {"sandbox": sandbox, "partial_patch_interval_s": 0.5, "max_attempts": max_attempts}
    async with managers(tmp_path, nats_server, gateway, "m", **settings) as (manager,):
        run_id = await requests.run(EDITOR.format(seconds=6), limits=limits(agent_timeout_s=60))
        await requests.wait(run_id, ev.AgentStarted)
        await until_patch_is_kept(manager, run_id)
        await manager.end(signal.SIGKILL)
        await manager.start()
        end = await requests.end_of(run_id, timeout_s=60)
        if max_attempts == 1:
            assert (type(end), end.cause) == (ev.AgentFailed, Cause.LOST_WHILE_RUNNING_AGENT)
            found, facts = end.unjudged_patch, end.exit
        else:
            assert (type(end), end.attempt) == (ev.PatchProduced, 2)
            _, second = await requests.events(run_id, ev.AgentStarted)
            found, facts = second.previous_patch, second.previous_exit
        assert "+half done" in await requests.text(found)
        assert facts.exit_code is None
        assert all((facts.wall_s, facts.cpu_s, facts.peak_memory_bytes, facts.pids_peak)), facts


@pytest.mark.parametrize(
    ("sandbox", "more"),
    [
        pytest.param("docker", {}, marks=pytest.mark.docker),
        pytest.param("bubblewrap", {}, marks=pytest.mark.bubblewrap),
        pytest.param("docker", {"docker_network": "internal"}, marks=pytest.mark.docker, id="docker-internal"),
    ],
    indirect=["sandbox"],
)
async def test_a_manager_killed_with_eight_sandboxes_loses_no_run_and_ends_none_twice(
    tmp_path, nats_server, gateway, requests, sandbox, more
):
    async with managers(tmp_path, nats_server, gateway, "m", sandbox=sandbox, slots=8, **more) as (manager,):
        source = SLEEPER.format(seconds=6)
        ids = [await requests.run(source, limits=limits(agent_timeout_s=60)) for _ in range(8)]
        for run_id in ids:
            await requests.wait(run_id, ev.AgentStarted)
        await manager.end(signal.SIGKILL)
        assert gateway.calls == []
        async with asyncio.timeout(60):
            await manager.start()
            for run_id in ids:
                await requests.wait(run_id, *_ENDS_OR_SECOND, timeout_s=60)
                assert await attempts(requests, run_id) in ([(1, "m")], [(1, "m"), (2, "m")])
        ends = [await requests.end_of(run_id, timeout_s=90) for run_id in ids]
        assert [(type(end), end.attempt) for end in ends] == [(ev.PatchProduced, 2)] * 8
        await asyncio.sleep(1)
        for run_id in ids:
            assert len(await requests.events(run_id, ev.PatchProduced, ev.AgentFailed)) == 1
        assert len(gateway.calls) == 8


_ENDS_OR_SECOND = (ev.AgentStarted, ev.PatchProduced, ev.AgentFailed)


async def test_two_managers_share_the_work_and_leave_each_others_sandboxes_alone(
    tmp_path, nats_server, gateway, requests, sandbox
):
    settings = {"sandbox": sandbox, "slots": 2, "claim_s": 1}
    async with managers(tmp_path, nats_server, gateway, "one", "two", **settings) as (one, _):
        source = SLEEPER.format(seconds=20)
        ids = [await requests.run(source, limits=limits(agent_timeout_s=60)) for _ in range(4)]
        for run_id in ids:
            await requests.wait(run_id, ev.AgentStarted, timeout_s=20)
        at_work = [(await attempts(requests, run_id))[0][1] for run_id in ids]
        assert sorted(at_work) == ["one", "one", "two", "two"]
        assert len(await rows(one)) == 2
        ends = [await requests.end_of(run_id) for run_id in ids]
        assert [(type(end), end.attempt) for end in ends] == [(ev.PatchProduced, 1)] * 4


async def test_what_one_manager_holds_without_a_slot_goes_to_one_that_comes_later(
    tmp_path, nats_server, gateway, requests
):
    settings = {"sandbox": "bubblewrap", "slots": 1, "claim_s": 2}
    async with managers(tmp_path, nats_server, gateway, "one", **settings):
        long = await requests.run(SLEEPER.format(seconds=110), limits=limits(agent_timeout_s=115))
        await requests.wait(long, ev.AgentStarted)
        waiting = await requests.run(SLEEPER.format(seconds=0), limits=limits())
        await asyncio.sleep(0.5)
        async with managers(tmp_path, nats_server, gateway, "two", **settings):
            end = await requests.end_of(waiting, timeout_s=60)
            assert (end.attempt, await attempts(requests, waiting)) == (1, [(1, "two")])
            assert await requests.events(long, *_ENDS_OR_SECOND[1:]) == []
        assert await attempts(requests, long) == [(1, "one")]
        await requests.cancel(long)


async def test_a_manager_that_falls_silent_loses_its_run_and_its_late_result_is_refused(
    tmp_path, nats_server, gateway, requests, sandbox
):
    async with managers(tmp_path, nats_server, gateway, "silent", "other", sandbox=sandbox, slots=1) as processes:
        run_id = await requests.run(SLEEPER.format(seconds=5), limits=limits())
        first = await requests.wait(run_id, ev.AgentStarted)
        silent = next(process for process in processes if process.env["RIDGES_MANAGER_NAME"] == first.manager)
        await asyncio.sleep(1)
        os.kill(silent.pid, signal.SIGSTOP)
        try:
            end = await requests.end_of(run_id, timeout_s=60)
            other = "other" if first.manager == "silent" else "silent"
            assert await attempts(requests, run_id) == [(1, first.manager), (2, other)]
            assert (type(end), end.attempt) == (ev.PatchProduced, 2)
        finally:
            os.kill(silent.pid, signal.SIGCONT)
        await asyncio.sleep(4)
        assert len(await requests.events(run_id, ev.PatchProduced, ev.AgentFailed, ev.AgentStarted)) == 3
        again = await requests.end_of(await requests.run(SLEEPER.format(seconds=0), limits=limits()))
        assert isinstance(again, ev.PatchProduced)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_evaluation_whose_manager_is_lost_is_made_again_and_the_late_result_refused(
    tmp_path, nats_server, gateway, requests, sandbox, how
):
    async with managers(tmp_path, nats_server, gateway, "one", "other", sandbox=sandbox, slots=1) as processes:
        run_id = await requests.run(SLEEPER.format(seconds=0), limits=limits())
        await requests.end_of(run_id)
        asked = await evaluation(requests, run_id, "import time\ntime.sleep(5)\nprint('graded')")
        first = await requests.wait(run_id, ev.EvaluationStarted)
        lost = next(process for process in processes if process.env["RIDGES_MANAGER_NAME"] == first.manager)
        if how is signal.SIGKILL:
            await lost.end(how)
        else:
            os.kill(lost.pid, how)
        try:
            exited = await requests.wait(run_id, ev.EvaluationSandboxExited, timeout_s=90)
            assert (exited.evaluation_id, exited.cause, exited.exit.exit_code) == (asked.evaluation_id, None, 0)
            starts = await requests.events(run_id, ev.EvaluationStarted)
            assert starts[0].manager == first.manager
            assert len({start.manager for start in starts}) == 2
        finally:
            if how is signal.SIGSTOP:
                os.kill(lost.pid, signal.SIGCONT)
            else:
                await lost.start()
        async with asyncio.timeout(60):
            while await rows(lost):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert len(await requests.events(run_id, ev.EvaluationSandboxExited)) == 1


async def rows(process: ManagerProcess) -> list[dict]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{process.port}/v1/sandboxes") as reply,
    ):
        assert reply.status == 200, await reply.text()
        return await reply.json()


@pytest.mark.docker
@pytest.mark.parametrize("away_s", [0, 6])
async def test_an_engine_that_goes_away_meanwhile_costs_an_attempt_and_no_run(
    tmp_path, nats_server, gateway, requests, away_s
):
    need_agent_image()
    socket = tmp_path / "engine.sock"
    async with (
        engine_behind(socket) as engine,
        managers(tmp_path, nats_server, gateway, "m", sandbox="docker", slots=3, docker_url=f"unix://{socket}") as (
            manager,
        ),
    ):
        ids = [await requests.run(SLEEPER.format(seconds=10), limits=limits()) for _ in range(3)]
        for run_id in ids:
            await requests.wait(run_id, ev.AgentStarted)
            await until_log_has(manager, run_id, r"begun\n")
        engine.away = away_s > 0
        engine.cut()
        await asyncio.sleep(away_s)
        engine.away = False
        ends = [await requests.end_of(run_id, timeout_s=90) for run_id in ids]
        assert [(type(end), end.attempt) for end in ends] == [(ev.PatchProduced, 2)] * 3, manager.words()
        for run_id in ids:
            _, second = await requests.events(run_id, ev.AgentStarted)
            assert await requests.text(second.previous_log) == "begun\n"
        assert len(gateway.calls) == 3
        await asyncio.sleep(3)


@pytest.mark.docker
async def test_an_engine_that_stays_away_ends_the_run_as_our_fault(tmp_path, nats_server, gateway, requests):
    need_agent_image()
    socket = tmp_path / "engine.sock"
    async with engine_behind(socket) as engine:
        settings = {"sandbox": "docker", "docker_url": f"unix://{socket}", "sandbox_wait_s": 3}
        async with managers(tmp_path, nats_server, gateway, "m", **settings):
            engine.away = True
            run_id = await requests.run(SLEEPER.format(seconds=1), limits=limits())
            end = await requests.end_of(run_id, timeout_s=90)
            assert (type(end), end.cause) == (ev.AgentFailed, Cause.SANDBOX_UNAVAILABLE)
            engine.away = False


@pytest.mark.parametrize("ends_well", [True, False])
async def test_what_an_agent_left_waits_for_room_on_a_full_disk(
    tmp_path, small_disk, nats_server, gateway, requests, sandbox, ends_well
):
    (tmp_path / "blobs").symlink_to(small_disk.path)
    settings = {"sandbox": sandbox, "slots": 1, "min_free_bytes": 0}
    async with managers(tmp_path, nats_server, gateway, "m", **settings) as (manager,):
        seconds, timeout_s = (4, 60) if ends_well else (60, 4)
        run_id = await requests.run(EDITOR.format(seconds=seconds), limits=limits(agent_timeout_s=timeout_s))
        await requests.wait(run_id, ev.AgentStarted)
        small_disk.fill()
        async with asyncio.timeout(60):
            while "it is held" not in manager.words():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await requests.events(run_id, *_ENDS_OR_SECOND[1:]) == []
        small_disk.make_room()
        end = await requests.end_of(run_id)
        assert (type(end), end.attempt, await attempts(requests, run_id)) == (ev.PatchProduced, 1, [(1, "m")])
        assert (end.partial, end.cause) == (not ends_well, None if ends_well else Cause.AGENT_TIMED_OUT)
        assert ("diff x" if ends_well else "+half done") in await requests.text(end.patch)
        assert await requests.text(end.log) == "begun\n"
        assert all((end.exit.wall_s > 3, end.exit.cpu_s, end.exit.peak_memory_bytes, end.exit.pids_peak)), end.exit


def test_a_disk_that_is_full_keeps_the_patch_before_and_takes_the_next(small_disk):
    copy = AttemptCopies(small_disk.path / "logs").new("run", 1)
    copy.keep_patch(b"first")
    small_disk.fill()
    copy.keep_patch(b"x" * 4_000_000)
    assert copy.patch == b"first"
    small_disk.make_room()
    copy.keep_patch(b"second")
    assert copy.patch == b"second"
    assert [path.name for path in (small_disk.path / "logs").iterdir()] == ["run.1.patch"]
