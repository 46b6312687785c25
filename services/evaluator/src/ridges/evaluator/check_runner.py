"""Sandboxes for the check of a problem, by way of the log: a sandbox-manager runs them like any evaluation."""

import asyncio

from ridges.chassis.ports import BlobStore, Clock, EventStore
from ridges.contracts import events as ev
from ridges.contracts.faults import Cause
from ridges.contracts.limits import SandboxLimits
from ridges.contracts.subjects import problem_stream_id
from ridges.evaluator.bundle import COMMAND, REPORT, sandbox_timeout_s
from ridges.evaluator.checks import SandboxLeft
from ridges.evaluator.domain import Plan
from ridges.evaluator.errors import EvaluationLost
from ridges.evaluator.handlers import BUNDLE_MEDIA_TYPE, report_of


class LogSandboxes:
    """Appends EvaluationRequested to the problem's own stream and waits for EvaluationSandboxExited."""

    def __init__(
        self,
        *,
        store: EventStore,
        blobs: BlobStore,
        clock: Clock,
        wait_s: float,
        limits: SandboxLimits,
        image: str | None = None,
    ) -> None:
        """``limits`` and ``image`` (null = the default) are the problem's: its runs are judged under them."""
        self._store, self._blobs, self._clock = store, blobs, clock
        self._wait_s, self._limits, self._image = wait_s, limits, image

    async def run(self, plan: Plan, bundle: bytes) -> SandboxLeft:
        """Run one bundle.

        Raises:
            EvaluationLost: the platform could not, or no sandbox-manager took it in time.
        """
        stream_id = problem_stream_id(plan.problem_id)
        asked = ev.EvaluationRequested(
            id=self._clock.new_id(),
            run_id=stream_id,
            time=self._clock.now(),
            evaluation_id=self._clock.new_id(),
            attempt=0,
            bundle=await self._blobs.put(bundle, BUNDLE_MEDIA_TYPE),
            command=COMMAND,
            outputs=(REPORT,),
            limits=self._limits,
            timeout_s=sandbox_timeout_s(plan),
            image=self._image,
        )
        position = await self._store.append(stream_id, [asked])
        try:
            async with asyncio.timeout(asked.timeout_s + self._wait_s):
                exited = await self._exited(asked.evaluation_id, position)
        except TimeoutError:
            detail = (
                f"no sandbox-manager ran the evaluation within {asked.timeout_s + self._wait_s:.0f} s; is one running?"
            )
            raise EvaluationLost(Cause.SANDBOX_UNAVAILABLE, f"{detail} `ridges doctor` tells") from None
        if exited.cause is not None:
            raise EvaluationLost(exited.cause, exited.detail or str(exited.cause))
        return SandboxLeft(report=await report_of(self._blobs, exited), exit=exited.exit)

    async def _exited(self, evaluation_id: str, after: int) -> ev.EvaluationSandboxExited:
        async for recorded in self._store.subscribe(after, [ev.EvaluationSandboxExited]):
            event = recorded.event
            if isinstance(event, ev.EvaluationSandboxExited) and event.evaluation_id == evaluation_id:
                return event
        raise EvaluationLost(Cause.PLATFORM_FAILED, "the subscription to the log ended")
