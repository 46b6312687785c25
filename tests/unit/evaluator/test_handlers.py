"""Patch to evaluation, what a sandbox left to a verdict; also when deliveries repeat and replicas race."""

import asyncio
import io
import tarfile

import pytest
from grading import CREATE, run_bundle, write_folder

from ridges.contracts import events as ev
from ridges.contracts.codec import encode
from ridges.contracts.faults import Cause
from ridges.contracts.limits import MIB, RunLimits, SandboxLimits
from ridges.evaluator.handlers import fitted


def reference(world, problem_id="tiny-create") -> bytes:
    return world.publisher.find(problem_id).reference


async def ask(world, patch: bytes | None = None, problem_id="tiny-create", **more) -> ev.EvaluationRequested:
    run_id = await world.start_run(problem_id, **more)
    produced = await world.produce(run_id, reference(world, problem_id) if patch is None else patch)
    await world.subscribers.on_patch_produced(produced)
    return (await world.events(run_id, ev.EvaluationRequested))[0]


async def graded(world, asked):
    bundle = await world.blobs.get(asked.bundle.digest)
    report, facts = await asyncio.to_thread(run_bundle, bundle)
    return await world.exit(asked, report, exit=facts)


async def test_a_patch_becomes_an_evaluation_and_then_a_verdict(world):
    limits = RunLimits(sandbox=SandboxLimits(memory_bytes=256 * MIB), evaluation_timeout_s=50)
    asked = await ask(world, limits=limits)
    assert asked.limits == limits.sandbox
    assert asked.timeout_s == 2 * 50 + 30
    assert asked.command == ("python3", "-I", "grading/start.py")
    exited = await graded(world, asked)
    await world.subscribers.on_sandbox_exited(exited)
    (finished,) = await world.events(asked.run_id, ev.TestsFinished)
    assert (finished.verdict, finished.cause, finished.evaluation_id) == ("resolved", None, asked.evaluation_id)
    assert [(test.status, test.category) for test in finished.tests] == [("pass", "default")] * 4
    assert finished.causation_id == exited.event.id


async def test_the_bundle_holds_pristine_repo_patch_tests_and_grader(world):
    asked = await ask(world)
    with tarfile.open(fileobj=io.BytesIO(await world.blobs.get(asked.bundle.digest))) as tar:
        names = {entry.name for entry in tar if entry.isreg()}
        stub = tar.extractfile("repo/main.py").read()
    assert names == {
        "repo/main.py",
        "patch.diff",
        "grading/plan.json",
        "grading/rounds",
        "grading/compiled",
        "grading/grade.py",
        "grading/pytest_processes.py",
        "grading/repository.py",
        "grading/run_tests.py",
        "grading/start.py",
        "grading/tests/tests.py",
    }
    assert stub.decode() == CREATE["main.py"]


async def test_nothing_hidden_is_in_the_event_that_publishes_a_problem(world):
    for problem_id in ("tiny-create", "tiny-fix"):
        (published,) = await world.events(f"problem-{problem_id}", ev.ProblemPublished)
        seen = encode(published)
        for ref in (published.statement, published.workspace):
            seen += await world.blobs.get(ref.digest)
        for hidden in (b"RomanTest", b"MCMXCIV", b"test_even", b"(ordered[middle - 1]"):
            assert hidden not in seen


@pytest.mark.parametrize(
    ("patch", "cause"),
    [
        (b"", Cause.PATCH_EMPTY),
        (b"no diff at all", Cause.PATCH_INVALID),
        (b"--- /dev/null\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n", Cause.PATCH_INVALID),
        (b"x" * 200_000, Cause.PATCH_INVALID),
    ],
)
async def test_a_patch_that_must_not_be_applied_ends_the_run_at_once(world, patch, cause):
    run_id = await world.start_run("tiny-create")
    await world.subscribers.on_patch_produced(await world.produce(run_id, patch))
    assert await world.events(run_id, ev.EvaluationRequested) == []
    (finished,) = await world.events(run_id, ev.TestsFinished)
    assert (finished.verdict, finished.cause) == ("unresolved", cause)
    assert [test.status for test in finished.tests] == ["fail"] * 4


async def test_an_empty_partial_patch_keeps_the_reason_why_it_is_partial(world):
    run_id = await world.start_run("tiny-create")
    await world.subscribers.on_patch_produced(await world.produce(run_id, b"", cause=Cause.AGENT_TIMED_OUT))
    (finished,) = await world.events(run_id, ev.TestsFinished)
    assert finished.cause is Cause.AGENT_TIMED_OUT
    assert "its time was over" in finished.detail


async def test_what_was_mended_is_in_the_event(world):
    asked = await ask(world, reference(world).rstrip(b"\n"))
    assert asked.mended == ("last newline added",)


async def test_redelivery_and_racing_replicas_ask_once(world):
    run_id = await world.start_run("tiny-create")
    produced = await world.produce(run_id, reference(world))
    others = [world.another_evaluator() for _ in range(3)]
    await asyncio.gather(*(other.on_patch_produced(produced) for other in others))
    await world.subscribers.on_patch_produced(produced)
    assert len(await world.events(run_id, ev.EvaluationRequested)) == 1


async def test_redelivery_and_racing_replicas_judge_once(world):
    asked = await ask(world)
    exited = await graded(world, asked)
    others = [world.another_evaluator() for _ in range(3)]
    await asyncio.gather(*(other.on_sandbox_exited(exited) for other in others))
    await world.subscribers.on_sandbox_exited(exited)
    assert len(await world.events(asked.run_id, ev.TestsFinished)) == 1


async def test_the_patch_of_an_overtaken_attempt_is_not_evaluated(world):
    run_id = await world.start_run("tiny-create")
    await world.start_agent(run_id, 2)
    await world.subscribers.on_patch_produced(await world.produce(run_id, reference(world), attempt=1))
    assert await world.events(run_id, ev.EvaluationRequested) == []
    await world.subscribers.on_patch_produced(await world.produce(run_id, reference(world), attempt=2))
    assert [asked.attempt for asked in await world.events(run_id, ev.EvaluationRequested)] == [2]


async def test_a_cancelled_run_gets_neither_evaluation_nor_verdict(world):
    run_id = await world.start_run("tiny-create")
    produced = await world.produce(run_id, reference(world))
    await world.append(ev.RunCancelled, run_id, reason="enough")
    await world.subscribers.on_patch_produced(produced)
    assert await world.events(run_id, ev.EvaluationRequested) == []

    asked = await ask(world)
    await world.append(ev.RunCancelled, asked.run_id, reason="enough")
    await world.subscribers.on_sandbox_exited(await world.exit(asked, None))
    assert await world.events(asked.run_id, ev.TestsFinished) == []


async def test_a_run_is_judged_by_the_edition_it_was_asked_for(world):
    """Also by an evaluator that never saw the folder as it was then."""
    run_id = await world.start_run("tiny-create")
    write_folder(world.folder / "tiny-create", {"tests.py": CREATE["tests.py"].replace('"IV"', '"IIII"')})
    await world.publisher.scan()
    patch = world.publisher.find("tiny-create").reference
    await world.another_evaluator().on_patch_produced(await world.produce(run_id, patch))
    (asked,) = await world.events(run_id, ev.EvaluationRequested)
    await world.subscribers.on_sandbox_exited(await graded(world, asked))
    assert [finished.verdict for finished in await world.events(run_id, ev.TestsFinished)] == ["resolved"]


@pytest.mark.parametrize("cause", [Cause.SANDBOX_FAILED, Cause.IMAGE_MISSING, Cause.LOST_WHILE_RUNNING_EVALUATION])
async def test_a_sandbox_that_the_platform_lost_is_not_the_agents_fault(world, cause):
    asked = await ask(world)
    exited = await world.exit(asked, None, cause=cause, detail="the engine is gone", outputs=())
    await world.subscribers.on_sandbox_exited(exited)
    await world.subscribers.on_sandbox_exited(exited)
    (failed,) = await world.events(asked.run_id, ev.EvaluationFailed)
    assert (failed.cause, failed.detail) == (cause, "the engine is gone")
    assert await world.events(asked.run_id, ev.TestsFinished) == []


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"timed_out": True}, Cause.EVALUATION_TIMED_OUT),
        ({"out_of_memory": True}, Cause.EVALUATION_OUT_OF_MEMORY),
        ({}, Cause.EVALUATION_RAISED),
    ],
)
async def test_a_sandbox_without_a_report(world, facts, cause):
    asked = await ask(world)
    await world.subscribers.on_sandbox_exited(await world.exit(asked, None, exit=ev.ExitFacts(exit_code=-9, **facts)))
    (finished,) = await world.events(asked.run_id, ev.TestsFinished)
    assert (finished.verdict, finished.cause) == ("unresolved", cause)


async def test_something_else_in_the_reports_place(world):
    asked = await ask(world)
    output = ev.SandboxOutput(path="/sandbox/grading/report.json", problem="not_a_regular_file")
    await world.subscribers.on_sandbox_exited(await world.exit(asked, None, outputs=(output,)))
    (finished,) = await world.events(asked.run_id, ev.TestsFinished)
    assert finished.cause is Cause.VERDICT_FORGED


async def test_a_missing_edition_ends_the_run_with_our_fault(world):
    run_id = await world.start_run("tiny-create")
    produced = await world.produce(run_id, reference(world))
    del world.blobs.contents[world.publisher.find("tiny-create").problem_digest]
    await world.another_evaluator().on_patch_produced(produced)
    (failed,) = await world.events(run_id, ev.EvaluationFailed)
    assert failed.cause is Cause.EVALUATOR_FAILED
    assert "RIDGES_BLOBS_URL" in failed.detail


async def test_an_edition_that_cannot_be_used_is_a_broken_problem(world):
    run_id = await world.start_run("tiny-create")
    produced = await world.produce(run_id, reference(world))
    requested = (await world.store.read_run(run_id))[0].event
    broken = await world.blobs.put(b"", "application/x-tar")
    again = await world.append(
        ev.RunRequested, world.clock.new_id(), problem_id="tiny-create", problem_digest=broken.digest, agent_name="a",
        statement=requested.statement, workspace=requested.workspace, agent=requested.agent, limits=requested.limits,
    )  # fmt: skip
    run_id = again.event.run_id
    await world.start_agent(run_id, 1)
    produced = await world.produce(run_id, reference(world))
    await world.subscribers.on_patch_produced(produced)
    (failed,) = await world.events(run_id, ev.EvaluationFailed)
    assert failed.cause is Cause.PROBLEM_BROKEN
    assert "ridges problem check tiny-create" in failed.detail


async def test_an_unforeseen_error_is_tried_again_and_then_told(world, monkeypatch):
    run_id = await world.start_run("tiny-create")
    produced = await world.produce(run_id, reference(world))

    async def explode(_digest):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(world.blobs, "get", explode)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await world.subscribers.on_patch_produced(produced)
    await world.subscribers.on_patch_produced(produced)
    (failed,) = await world.events(run_id, ev.EvaluationFailed)
    assert failed.cause is Cause.EVALUATOR_FAILED
    assert "odd" in failed.detail


async def test_a_blob_store_that_is_down_is_waited_for(world, monkeypatch):
    run_id = await world.start_run("tiny-create")
    produced = await world.produce(run_id, reference(world))

    async def down(_digest):
        raise OSError("down")

    with monkeypatch.context() as patched:
        patched.setattr(world.blobs, "get", down)
        for _ in range(10):
            with pytest.raises(OSError, match="down"):
                await world.subscribers.on_patch_produced(produced)
    await world.subscribers.on_patch_produced(produced)
    assert len(await world.events(run_id, ev.EvaluationRequested)) == 1


def test_results_always_fit_into_one_event():
    tests = tuple(
        ev.TestResult(name=f"tests.py::test_{n}", category="default", status="fail", message="\N{SNOWMAN}" * 2000)
        for n in range(800)
    )
    cut = fitted(tests)
    assert len(cut) == 800
    assert sum(len(encode_one.message or "") for encode_one in cut) * 3 < 200_000
