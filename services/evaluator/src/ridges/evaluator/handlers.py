"""What the evaluator does about an event: ask for an evaluation, or give the verdict on one.

Deliveries may repeat and replicas may race: event ids are made from what the event is about, so the first one stored
wins and every later append of it is the same event.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from ridges.chassis.ports import BlobStore, Clock, EventStore, LastPosition, Recorded, WrongPosition
from ridges.contracts import events as ev
from ridges.contracts.faults import Cause, counts_against_agent
from ridges.contracts.lifecycle import Run, RunState, evolve
from ridges.evaluator.bundle import COMMAND, REPORT, fixed_part, make_bundle, make_plan, plan_of, sandbox_timeout_s
from ridges.evaluator.domain import Plan, Problem, event_id
from ridges.evaluator.errors import EvaluationLost, PatchRefused
from ridges.evaluator.patches import PatchLimits, VettedPatch, vet
from ridges.evaluator.problems.editions import Editions
from ridges.evaluator.verdict import Judgement, judge, unresolved

log = structlog.get_logger(__name__)
Kept = TypeVar("Kept")

BUNDLE_MEDIA_TYPE = "application/x-tar"
MAX_DETAIL_CHARS = 2_000
MAX_TESTS_BYTES = 160 * 1024
"""Of all test results in one event; an event holds at most 256 KiB."""
MAX_NAMES = 50
KEPT_PLANS = 100
"""Of evaluations at work; others are read from their bundles."""
KEPT_PARTS, KEPT_PART_BYTES = 8, 4 * 1024 * 1024
"""Tars of problems, and how large one may be; a larger one is made for each run."""


class Evaluations:
    """The handlers, with all they need."""

    def __init__(
        self, *, store: EventStore, blobs: BlobStore, clock: Clock, editions: Editions, patch_limits: PatchLimits
    ) -> None:
        self._store, self._blobs, self._clock = store, blobs, clock
        self._editions, self._patch_limits = editions, patch_limits
        self._plans: dict[str, Plan] = {}
        self._fixed: dict[str, bytes] = {}

    async def request_evaluation(self, produced: ev.PatchProduced) -> None:
        """Vet the run's patch; append EvaluationRequested, or TestsFinished for a patch that must not be applied.

        Raises:
            ProblemBroken: the edition cannot be used.
            BlobMissing: the patch or the edition is not in the blob store.
        """
        recorded = await self._store.read_run(produced.run_id)
        requested = _requested(recorded)
        if requested is None or not _is_awaited(recorded, produced):
            log.info("patch not evaluated: its run has ended, moved on or has an evaluation", run_id=produced.run_id)
            return
        problem = await self._editions.get(requested.problem_id, requested.problem_digest)
        patch = await self._blobs.get(produced.patch.digest)
        timeout_s = requested.limits.evaluation_timeout_s
        try:
            vetted, plan, bundle = await asyncio.to_thread(self._made, problem, patch, timeout_s)
        except PatchRefused as refused:
            await self._finish(produced, evaluation_id_of(produced), _refusal(problem, produced, refused))
            return
        evaluation_id = evaluation_id_of(produced)
        stored = await self._blobs.put(bundle, BUNDLE_MEDIA_TYPE)
        _keep(self._plans, stored.digest, plan, KEPT_PLANS)
        asked = ev.EvaluationRequested(
            **self._envelope(produced, "EvaluationRequested", evaluation_id),
            evaluation_id=evaluation_id,
            attempt=produced.attempt,
            bundle=stored,
            command=COMMAND,
            outputs=(REPORT,),
            limits=requested.limits.sandbox,
            timeout_s=sandbox_timeout_s(plan),
            image=requested.image,
            sandbox=requested.sandbox,
            mended=_few(vetted.mended),
        )
        await self._append_first(asked, recorded)

    def _made(self, problem: Problem, patch: bytes, timeout_s: int) -> tuple[VettedPatch, Plan, bytes]:
        """In a thread. Raises PatchRefused."""
        vetted = vet(patch, problem.workspace, problem.python_path, self._patch_limits)
        plan = make_plan(problem, vetted, timeout_s)
        fixed = self._fixed.get(problem.problem_digest)
        if fixed is None:
            fixed = fixed_part(problem)
            if len(fixed) <= KEPT_PART_BYTES:
                _keep(self._fixed, problem.problem_digest, fixed, KEPT_PARTS)
        return vetted, plan, make_bundle(problem, vetted, plan, fixed)

    async def judge_evaluation(self, exited: ev.EvaluationSandboxExited) -> None:
        """Append the verdict on an evaluation whose sandbox is gone.

        Raises:
            EvaluationLost: there is no verdict, and it is not the agent's fault.
            BlobMissing: what the sandbox left is not in the blob store.
        """
        recorded = await self._store.read_run(exited.run_id)
        asked = _asked(recorded, exited.evaluation_id)
        if asked is None or _has_ended(recorded):
            log.info("evaluation not judged: unknown, or its run has ended", run_id=exited.run_id)
            return
        judgement = await self._judged(asked, exited)
        await self._finish(exited, exited.evaluation_id, judgement, exited)

    async def _judged(self, asked: ev.EvaluationRequested, exited: ev.EvaluationSandboxExited) -> Judgement:
        plan = self._plans.get(asked.bundle.digest)
        bundle = b"" if plan is not None else await self._blobs.get(asked.bundle.digest)
        report = await report_of(self._blobs, exited) if exited.cause is None else None
        judgement = await asyncio.to_thread(_judged, plan or bundle, report, exited)
        self._plans.pop(asked.bundle.digest, None)
        return judgement

    async def give_up(self, trigger: ev.Event, evaluation_id: str, cause: Cause, detail: str) -> None:
        """Append EvaluationFailed, unless the run has ended."""
        if _has_ended(await self._store.read_run(trigger.run_id)):
            return
        failed = ev.EvaluationFailed(
            **self._envelope(trigger, "EvaluationFailed", evaluation_id),
            evaluation_id=evaluation_id,
            cause=cause,
            detail=plain(detail),
        )
        await self._store.append(failed.run_id, [failed])

    async def _finish(
        self,
        trigger: ev.Event,
        evaluation_id: str,
        judgement: Judgement,
        exited: ev.EvaluationSandboxExited | None = None,
    ) -> None:
        finished = ev.TestsFinished(
            **self._envelope(trigger, "TestsFinished", evaluation_id),
            evaluation_id=evaluation_id,
            verdict=judgement.verdict,
            tests=fitted(judgement.tests),
            cause=judgement.cause,
            detail=plain(judgement.detail) if judgement.detail else None,
            log=exited.log if exited else None,
            flagged=_few(judgement.flagged),
        )
        await self._append_first(finished, ())
        log.info("verdict", run_id=trigger.run_id, verdict=judgement.verdict, cause=judgement.cause)

    async def _append_first(self, event: ev.Event, recorded: Sequence[Recorded]) -> None:
        """Append it unless another of its type has come in since the run was read."""
        of_type = [entry.position for entry in recorded if isinstance(entry.event, type(event))]
        try:
            await self._store.append(event.run_id, [event], LastPosition(max(of_type, default=0), type(event)))
        except WrongPosition:
            log.info("another evaluator was first", run_id=event.run_id, type=type(event).__name__)

    def _envelope(self, trigger: ev.Event, event_type: str, evaluation_id: str) -> dict[str, Any]:
        return {
            "id": event_id(trigger.run_id, evaluation_id, event_type),
            "run_id": trigger.run_id,
            "time": self._clock.now(),
            "causation_id": trigger.id,
            "correlation_id": trigger.correlation_id,
            "traceparent": trigger.traceparent,
        }


def _judged(known: Plan | bytes, report: bytes | None, exited: ev.EvaluationSandboxExited) -> Judgement:
    """The verdict on what a sandbox left, by its plan or by the bundle that carries the plan.

    Raises:
        EvaluationLost: the platform, not the command, is why it ended; or the grader could not start.
    """
    plan = known if isinstance(known, Plan) else plan_of(known)
    if exited.cause is not None:
        if counts_against_agent(exited.cause):
            expected = [(test.id, test.category) for test in plan.expected]
            return unresolved(expected, exited.cause, exited.detail or exited.cause.value, plan.flagged)
        raise EvaluationLost(exited.cause, exited.detail or f"the evaluation sandbox was lost: {exited.cause}")
    return judge(plan, report, exited.exit)


async def report_of(blobs: BlobStore, exited: ev.EvaluationSandboxExited) -> bytes | None:
    """``report.json``; None when it is missing, empty when something else stood in its place."""
    for output in exited.outputs:
        if output.path == REPORT.path:
            if output.content is not None:
                return await blobs.get(output.content.digest)
            return None if output.problem == "missing" else b""
    return None


def _keep(kept: dict[str, Kept], key: str, value: Kept, most: int) -> None:
    """The oldest goes where there are too many."""
    kept[key] = value
    while len(kept) > most:
        kept.pop(next(iter(kept)), None)


def evaluation_id_of(produced: ev.PatchProduced) -> str:
    """One evaluation per attempt."""
    return event_id(produced.run_id, produced.attempt, "evaluation")


def fitted(tests: tuple[ev.TestResult, ...]) -> tuple[ev.TestResult, ...]:
    """The results with messages cut so far that they fit into one event."""
    for limit in (MAX_DETAIL_CHARS, 500, 120, 0):
        cut = tuple(msgspec.structs.replace(test, message=(test.message or "")[:limit] or None) for test in tests)
        if len(msgspec.json.encode(cut)) <= MAX_TESTS_BYTES:
            return cut
    return cut


def plain(text: str) -> str:
    """Text of a stranger, fit for an event."""
    return text.encode("utf-8", "replace").decode("utf-8", "replace")[:MAX_DETAIL_CHARS]


def _few(names: tuple[str, ...]) -> tuple[str, ...]:
    shown = tuple(plain(name) for name in names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else (*shown, f"and {len(names) - MAX_NAMES} more")


def _refusal(problem: Problem, produced: ev.PatchProduced, refused: PatchRefused) -> Judgement:
    """An empty partial patch says less than why it is partial."""
    cause, detail = refused.cause, refused.detail
    if cause is Cause.PATCH_EMPTY and produced.cause is not None:
        cause, detail = produced.cause, f"{produced.detail or produced.cause.value}; nothing had been changed by then"
    return unresolved([(test.id, test.category) for test in problem.expected], cause, detail)


def _requested(recorded: Sequence[Recorded]) -> ev.RunRequested | None:
    return next((entry.event for entry in recorded if isinstance(entry.event, ev.RunRequested)), None)


def _asked(recorded: Sequence[Recorded], evaluation_id: str) -> ev.EvaluationRequested | None:
    for entry in recorded:
        if isinstance(entry.event, ev.EvaluationRequested) and entry.event.evaluation_id == evaluation_id:
            return entry.event
    return None


def _fold(recorded: Sequence[Recorded]) -> Run | None:
    run: Run | None = None
    for entry in recorded:
        run = evolve(run, entry.event)
    return run


def _has_ended(recorded: Sequence[Recorded]) -> bool:
    run = _fold(recorded)
    return run is None or run.ended


def _is_awaited(recorded: Sequence[Recorded], produced: ev.PatchProduced) -> bool:
    run = _fold(recorded)
    return (
        run is not None
        and run.state is RunState.INITIALIZING_EVAL
        and run.attempt == produced.attempt
        and _asked(recorded, evaluation_id_of(produced)) is None
    )
