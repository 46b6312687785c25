"""The evaluator as a process, on a real nats-server; sandboxes by a real sandbox-manager where it matters."""

import asyncio
import signal
from contextlib import asynccontextmanager

import pytest
from docker_images import need_agent_image
from evaluator_process import EvaluatorProcess
from grading import CREATE, FIX, git_patch, problem_of, run_bundle, write_folder
from manager_process import FakeGateway, ManagerProcess, requests_on
from nats_process import NatsServer

from ridges.chassis.ports import DeliveryPolicy
from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.limits import MIB, RunLimits, SandboxLimits

VERDICTS = (ev.TestsFinished, ev.EvaluationFailed)


@pytest.fixture
def problems(tmp_path):
    folder = tmp_path / "problem folders"
    write_folder(folder / "tiny-create", CREATE)
    write_folder(folder / "tiny-fix", FIX)
    write_folder(folder / "half", {**FIX, "statement.md": None})
    return folder


@pytest.fixture
async def log(nats_server, tmp_path):
    async with requests_on(nats_server, tmp_path) as log:
        yield log


@pytest.fixture
async def evaluator(nats_server, tmp_path, problems):
    process = EvaluatorProcess(tmp_path, nats=nats_server, problems=problems, ack_wait_s=2)
    await process.start()
    yield process
    await process.end(signal.SIGKILL)


@asynccontextmanager
async def stand_in_manager(log):
    """Runs each evaluation's bundle in a plain process; tells the log what a manager would."""

    async def run_evaluation(recorded):
        asked = recorded.event
        report, facts = await asyncio.to_thread(run_bundle, await log.blobs.get(asked.bundle.digest))
        content = None if report is None else await log.blobs.put(report, "application/json")
        output = ev.SandboxOutput(path=asked.outputs[0].path, content=content, problem=None if content else "missing")
        exited = ev.EvaluationSandboxExited(
            **log.envelope(asked.run_id), evaluation_id=asked.evaluation_id, exit=facts, outputs=(output,)
        )
        await log.store.append(asked.run_id, [exited])

    async with log.store.consume("stand-in", [ev.EvaluationRequested], run_evaluation, DeliveryPolicy(concurrency=2)):
        yield


async def run_with_patch(log, problem_id: str, patch: bytes, digest: str | None = None) -> str:
    """A run of which the agent has just given its patch."""
    published = await log.wait(f"problem-{problem_id}", ev.ProblemPublished)
    run_id = log.clock.new_id()
    put = log.blobs.put
    requested = ev.RunRequested(
        **log.envelope(run_id), problem_id=problem_id, problem_digest=digest or published.problem_digest,
        statement=published.statement, workspace=published.workspace, agent_name="agent.py",
        agent=await put(b"def agent_main(_): ...", "text/x-python"), limits=RunLimits(evaluation_timeout_s=60),
    )  # fmt: skip
    started = ev.AgentStarted(**log.envelope(run_id), attempt=1, manager="m", sandbox="process")
    produced = ev.PatchProduced(
        **log.envelope(run_id), attempt=1, patch=await put(patch, "text/x-diff"), partial=False, cause=None,
        log=await put(b"", "text/plain"), exit=ev.ExitFacts(exit_code=0),
    )  # fmt: skip
    await log.store.append(run_id, [requested, started, produced])
    return run_id


async def test_problems_are_published_and_listed(evaluator, log, problems):
    status, listed = await evaluator.get("/v1/problems")
    assert status == 200
    assert [problem["problem_id"] for problem in listed["problems"]] == ["tiny-create", "tiny-fix"]
    assert listed["broken"] == [
        {"problem_id": "half", "folder": str(problems / "half"), "reasons": ["statement.md is missing"]}
    ]
    published = await log.wait("problem-tiny-fix", ev.ProblemPublished)
    assert published.problem_digest == listed["problems"][1]["problem_digest"]


async def test_sighup_publishes_what_is_new(evaluator, log, problems):
    write_folder(problems / "late", CREATE)
    evaluator.send(signal.SIGHUP)
    published = await log.wait("problem-late", ev.ProblemPublished, timeout_s=10)
    assert published.title == "Roman numbers"


async def test_verdicts_come_out_of_patches(evaluator, log):
    create, fix = problem_of(CREATE), problem_of(FIX)
    cases = {
        await run_with_patch(log, "tiny-create", create.reference): ("resolved", None),
        await run_with_patch(log, "tiny-fix", fix.reference): ("resolved", None),
        await run_with_patch(log, "tiny-fix", git_patch(fix, {"README.md": "#\n"})): ("unresolved", None),
        await run_with_patch(log, "tiny-fix", create.reference): ("unresolved", Cause.PATCH_DOES_NOT_APPLY),
        await run_with_patch(log, "tiny-fix", b""): ("unresolved", Cause.PATCH_EMPTY),
        await run_with_patch(log, "tiny-fix", b"\xff\xfe"): ("unresolved", Cause.PATCH_INVALID),
    }
    async with stand_in_manager(log):
        for run_id, expected in cases.items():
            finished = await log.wait(run_id, *VERDICTS)
            assert (finished.verdict, finished.cause) == expected


async def test_kill_nine_in_the_middle_loses_and_doubles_nothing(evaluator, log):
    patch = problem_of(CREATE).reference
    runs = [await run_with_patch(log, "tiny-create", patch) for _ in range(4)]
    await log.wait(runs[0], ev.EvaluationRequested)
    await evaluator.end(signal.SIGKILL)
    async with stand_in_manager(log):
        for run_id in runs[:1]:
            await log.wait(run_id, ev.EvaluationSandboxExited)
        await evaluator.start()
        for run_id in runs:
            assert (await log.wait(run_id, *VERDICTS)).verdict == "resolved"
    for run_id in runs:
        assert len(await log.events(run_id, ev.EvaluationRequested)) == 1
        assert len(await log.events(run_id, *VERDICTS)) == 1


async def test_kill_nine_of_the_log_is_survived(evaluator, log, nats_server):
    run_id = await run_with_patch(log, "tiny-create", problem_of(CREATE).reference)
    await log.wait(run_id, ev.EvaluationRequested)
    nats_server.restart()
    async with stand_in_manager(log):
        assert (await log.wait(run_id, *VERDICTS)).verdict == "resolved"


async def test_an_edition_nobody_has_ends_the_run(evaluator, log):
    run_id = await run_with_patch(log, "tiny-fix", b"x", digest="sha256:" + "0" * 64)
    assert (await log.wait(run_id, *VERDICTS)).cause is Cause.EVALUATOR_FAILED


async def test_a_check_through_the_log(evaluator, log):
    async with stand_in_manager(log):
        status, report = await evaluator.post("/v1/checks", {"problem_id": "tiny-fix", "repeats": 2})
    assert (status, report["ok"]) == (200, True), report
    assert [finding["name"] for finding in report["findings"]] == [
        "complete", "the future is hidden", "reference patch", "reference passes", "empty patch fails", "repeats agree",
        "listed tests are those that run",
    ]  # fmt: skip
    assert len(await log.events("problem-tiny-fix", ev.EvaluationRequested)) == 3
    assert await log.events("problem-tiny-fix", *VERDICTS) == []


async def test_a_check_runs_under_the_limits_that_runs_of_the_problem_have(evaluator, log, problems):
    """A reference that needs them would fail its check and pass its runs, or the other way round."""
    more = "memory_mib = 3072\ncpus = 2.0\npids = 99\ndisk_mib = 77\nruntime = 'runsc'\n"
    limited = FIX | {"problem.toml": FIX["problem.toml"].replace("\n[tests]", f"{more}\n[tests]")}
    write_folder(problems / "limited", limited)
    async with stand_in_manager(log):
        status, report = await evaluator.post("/v1/checks", {"problem_id": "limited", "repeats": 1})
    assert (status, report["ok"]) == (200, True), report
    asked = await log.events("problem-limited", ev.EvaluationRequested)
    limits = SandboxLimits(memory_bytes=3072 * MIB, cpus=2.0, pids=99, disk_bytes=77 * MIB, runtime="runsc")
    assert [each.limits for each in asked] == [limits] * 2


async def test_checks_of_broken_and_unknown_problems(evaluator):
    status, report = await evaluator.post("/v1/checks", {"problem_id": "half"})
    assert (status, report["ok"], report["findings"][0]["detail"]) == (200, False, "statement.md is missing")
    status, problem = await evaluator.post("/v1/checks", {"problem_id": "none"})
    assert status == 404
    assert "tiny-create, tiny-fix" in problem["detail"]
    status, problem = await evaluator.post("/v1/checks", {"problem_id": "half", "repeat": 3})
    assert status in (400, 422)
    assert "repeat" in problem["detail"]


async def test_bad_settings_end_with_one_line(tmp_path, nats_server, problems):
    process = EvaluatorProcess(tmp_path, nats=nats_server, problems=problems, rescan_s="often", blobs_url="ftp://x")
    process.launch()
    assert await process.exit_code() == 2
    (line,) = process.words().strip().splitlines()
    assert "RIDGES_RESCAN_S is 'often'" in line


async def test_without_a_log_it_lives_but_is_not_ready(tmp_path, problems):
    nats = NatsServer(tmp_path / "nats")
    process = EvaluatorProcess(tmp_path, nats=nats, problems=problems)
    process.launch()
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    assert (await process.get("/livez"))[0] == 200
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        status, said = await process.get("/readyz")
        assert status == 503
        assert nats.url in said["failing"]["log"]
        nats.start()
        await nats.migrate()
        async with asyncio.timeout(20):
            while (await process.get("/readyz"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await process.end(signal.SIGTERM) == 0
    finally:
        await process.end(signal.SIGKILL)
        nats.kill9()


async def test_a_taken_port_is_one_clear_line(tmp_path, nats_server, problems, evaluator):
    (tmp_path / "second").mkdir()
    second = EvaluatorProcess(tmp_path / "second", nats=nats_server, problems=problems, http_port=evaluator.port)
    second.launch()
    assert await second.exit_code() == 3
    assert str(evaluator.port) in second.words()


@pytest.fixture(
    params=[pytest.param("docker", marks=pytest.mark.docker), pytest.param("bubblewrap", marks=pytest.mark.bubblewrap)]
)
def sandbox(request):
    if request.param == "docker":
        need_agent_image()
    return request.param


async def test_a_whole_run_and_a_check_with_a_real_manager(evaluator, log, nats_server, tmp_path, sandbox):
    """Agent, patch, evaluation, verdict: both services as processes, in each sandbox that this machine can run."""
    reference = problem_of(FIX).reference.decode()
    agent = f"def agent_main(problem):\n    assert 'median' in problem['problem_statement']\n    return {reference!r}\n"
    published = await log.wait("problem-tiny-fix", ev.ProblemPublished)
    async with FakeGateway().serving() as gateway:
        manager = ManagerProcess(tmp_path, nats=nats_server, gateway_url=gateway.url, sandbox=sandbox)
        await manager.start()
        try:
            run_id = log.clock.new_id()
            put = log.blobs.put
            requested = ev.RunRequested(
                **log.envelope(run_id), problem_id="tiny-fix", problem_digest=published.problem_digest,
                statement=published.statement, workspace=published.workspace,
                agent=await put(agent.encode(), "text/x-python"), agent_name="agent.py",
                limits=RunLimits(agent_timeout_s=60, evaluation_timeout_s=60),
            )  # fmt: skip
            await log.store.append(run_id, [requested])
            finished = await log.wait(run_id, *VERDICTS, ev.AgentFailed)
            assert isinstance(finished, ev.TestsFinished), finished
            assert (finished.verdict, finished.detail) == ("resolved", None)
            assert finished.log is not None
            status, report = await evaluator.post("/v1/checks", {"problem_id": "tiny-create", "repeats": 2})
            assert (status, report["ok"]) == (200, True), report
        finally:
            await manager.end(signal.SIGTERM)
