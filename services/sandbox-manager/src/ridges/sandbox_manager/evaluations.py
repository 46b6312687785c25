"""One evaluation: start its sandbox, run it, tell the log what it left."""

import contextlib
from collections.abc import Sequence

import msgspec
import structlog

from ridges.chassis.ports import Recorded
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef
from ridges.sandbox_manager.agent_sandbox import evaluation_spec
from ridges.sandbox_manager.deciding import Appended, append_decided
from ridges.sandbox_manager.domain import (
    GiveUp,
    Nothing,
    StartEvaluation,
    cancelled_in_evaluation,
    decide_evaluation,
    evaluation_is_ours,
    starts_of,
)
from ridges.sandbox_manager.keeping import keep
from ridges.sandbox_manager.live import LiveSandbox
from ridges.sandbox_manager.metrics import Counted
from ridges.sandbox_manager.mishaps import mishap_of
from ridges.sandbox_manager.outcomes import plain
from ridges.sandbox_manager.ports import Sandbox, SandboxExit, SandboxSpec
from ridges.sandbox_manager.workbench import LOG_MEDIA_TYPE, Workbench

log = structlog.get_logger(__name__)

OUTPUT_MEDIA_TYPE = "application/octet-stream"


class Evaluations:
    """The evaluations of one manager."""

    def __init__(self, workbench: Workbench) -> None:
        self._bench = workbench

    async def evaluate(self, requested: ev.EvaluationRequested, live: LiveSandbox) -> bool:
        """Whatever the evaluation needs now; returns when the log knows it. Whether it is surely over.

        Raises:
            Exception: it must be tried again.
        """
        bench = self._bench
        known = await bench.store.read_run(requested.run_id)
        events = [recorded.event for recorded in known]
        decision = decide_evaluation(events, requested, bench.max_attempts)
        if isinstance(decision, Nothing):
            log.info("nothing to do", why=decision.why)
            return True
        if isinstance(decision, GiveUp):
            await self._give_up(requested, decision)
            return False
        last_chance = len(starts_of(events, requested.evaluation_id)) + 1 >= bench.max_attempts
        prepared = await self._prepare(requested, live)
        if prepared is None:
            return False
        technology, spec = prepared
        started = await self._start(requested, technology, live, known)
        if started is None:
            return False
        with bench.metrics.sandbox("evaluation", technology.name) as counted:
            spec = msgspec.structs.replace(spec, on_log=live.tail.add)
            exited: ev.EvaluationSandboxExited | None
            async with contextlib.AsyncExitStack() as removing:
                try:
                    left = await removing.enter_async_context(bench.ran(technology, spec, live, 0))
                except Exception as error:
                    if mishap_of(error).retry and not last_chance and not live.cancelled.is_set():
                        raise
                    exited = self._lost(requested, _given_up(requested, error))
                else:
                    exited = None if live.overtaken else await self._exited(requested, left)
                return await self._end(requested, exited, started, counted)

    async def _prepare(
        self, requested: ev.EvaluationRequested, live: LiveSandbox
    ) -> tuple[Sandbox, SandboxSpec] | None:
        """Everything that may fail before the evaluation is ours. None: it was given up."""
        bench = self._bench
        try:
            await bench.free_space.check()
            runtime = requested.limits.runtime
            technology = await bench.technologies.pick(requested.sandbox, image=requested.image, runtime=runtime)
            bundle = await bench.blobs.get(requested.bundle.digest)
            spec = evaluation_spec(requested, bundle, sandbox_id=live.sandbox_id, now=bench.now)
            await technology.admit(spec)
        except Exception as error:
            if bench.must_wait(live.key, error):
                raise
            await self._give_up(requested, _given_up(requested, error))
            return None
        bench.patience.forget(live.key)
        return technology, spec

    async def _start(
        self, requested: ev.EvaluationRequested, technology: Sandbox, live: LiveSandbox, known: Sequence[Recorded]
    ) -> Appended | None:
        """What made it ours; None when somebody was faster or nobody wants it any more."""
        bench = self._bench
        started = ev.EvaluationStarted(
            **bench.envelope(requested),
            evaluation_id=requested.evaluation_id,
            manager=bench.manager_name,
            sandbox=technology.name,
        )

        def decide(events: Sequence[ev.AnyEvent]) -> ev.EvaluationStarted | None:
            wanted = decide_evaluation(events, requested, bench.max_attempts)
            return started if isinstance(wanted, StartEvaluation) else None

        ours = await append_decided(bench.store, requested.run_id, started.id, decide, known)
        if ours is None or live.cancelled.is_set():
            return None
        live.started_position = ours.entry.position
        return ours

    async def _exited(self, requested: ev.EvaluationRequested, left: SandboxExit) -> ev.EvaluationSandboxExited:
        """What it left, in the blob store."""
        read = [file for file in left.outputs if file.content is not None]
        contents = [(left.log, LOG_MEDIA_TYPE), *((file.content or b"", OUTPUT_MEDIA_TYPE) for file in read)]
        evaluation_log, *refs = await keep(self._bench.blobs, contents)
        stored: dict[str, BlobRef] = dict(zip((file.path for file in read), refs, strict=True))
        outputs = [
            ev.SandboxOutput(path=file.path, content=stored.get(file.path), problem=file.problem)
            for file in left.outputs
        ]
        return ev.EvaluationSandboxExited(
            **self._bench.envelope(requested),
            evaluation_id=requested.evaluation_id,
            exit=left.exit,
            outputs=tuple(outputs),
            log=evaluation_log,
        )

    def _lost(self, requested: ev.EvaluationRequested, given_up: GiveUp) -> ev.EvaluationSandboxExited:
        return ev.EvaluationSandboxExited(
            **self._bench.envelope(requested),
            evaluation_id=requested.evaluation_id,
            exit=ev.ExitFacts(exit_code=None),
            outputs=(),
            cause=given_up.cause,
            detail=given_up.detail,
        )

    async def _give_up(self, requested: ev.EvaluationRequested, given_up: GiveUp) -> None:
        """End it without starting a sandbox."""
        bench = self._bench
        bench.patience.forget(requested.evaluation_id)
        if await self._tell(requested, self._lost(requested, given_up), None):
            bench.metrics.given_up("evaluation", given_up.cause)
            log.info("evaluation given up", cause=given_up.cause)

    async def _end(
        self,
        requested: ev.EvaluationRequested,
        exited: ev.EvaluationSandboxExited | None,
        started: Appended,
        counted: Counted,
    ) -> bool:
        if exited is None or not await self._tell(requested, exited, started):
            counted.end = "overtaken"
            log.warning("evaluation result dropped: another one began, or nobody waits for it any more")
            return False
        counted.end = "cancelled" if exited.exit.cancelled else exited.cause or "none"
        log.info("evaluation ended", exit_code=exited.exit.exit_code, cause=exited.cause)
        return True

    async def _tell(
        self, requested: ev.EvaluationRequested, exited: ev.EvaluationSandboxExited, started: Appended | None
    ) -> bool:
        """Whether it was appended: wanted, and of the newest start; after a cancel as what it left."""
        started_id, known = (None, ()) if started is None else (started.entry.event.id, started.run)

        def decide(events: Sequence[ev.AnyEvent]) -> ev.EvaluationSandboxExited | None:
            if not evaluation_is_ours(events, requested.evaluation_id, started_id):
                return None
            wanted = decide_evaluation(events, requested, self._bench.max_attempts)
            if isinstance(wanted, Nothing) and not cancelled_in_evaluation(events, requested.evaluation_id):
                return None
            return exited

        return await append_decided(self._bench.store, requested.run_id, exited.id, decide, known) is not None


def _given_up(requested: ev.EvaluationRequested, error: Exception) -> GiveUp:
    return GiveUp(requested.attempt, mishap_of(error).cause, plain(str(error)))
