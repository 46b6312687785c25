"""What the sandbox-manager does about a request: start, run, tell the log what became of it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import structlog

from ridges.chassis.ports import BlobStore, Clock, EventStore, EventStoreUnavailable, GiveBack, LeftToOthers, Recorded
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef
from ridges.sandbox_manager.admission import Admission, Want
from ridges.sandbox_manager.agent_sandbox import AgentInputs, agent_spec, evaluation_spec
from ridges.sandbox_manager.capacity import FreeSpace
from ridges.sandbox_manager.deciding import append_decided, surely_read
from ridges.sandbox_manager.domain import (
    GiveUp,
    Nothing,
    StartAttempt,
    StartEvaluation,
    decide_agent,
    decide_evaluation,
    fold,
    still_ours,
)
from ridges.sandbox_manager.inside import agent_runner_source
from ridges.sandbox_manager.live import Kind, LiveSandbox, LiveSandboxes
from ridges.sandbox_manager.metrics import ManagerMetrics
from ridges.sandbox_manager.mishaps import Patience, mishap_of
from ridges.sandbox_manager.outcomes import outcome_of, plain
from ridges.sandbox_manager.ports import Sandbox, SandboxExit, SandboxSpec
from ridges.sandbox_manager.proxy import NginxProxies
from ridges.sandbox_manager.technologies import Technologies

log = structlog.get_logger(__name__)

LOG_MEDIA_TYPE = "text/plain; charset=utf-8"
PATCH_MEDIA_TYPE = "text/x-diff; charset=utf-8"
OUTPUT_MEDIA_TYPE = "application/octet-stream"
_SPARE_CONNECTIONS = 32
"""Beyond the run's concurrent model calls: the gateway, not nginx, is to answer the call that is one too many."""


class Handlers:
    """The handlers of one manager, with all they need."""

    def __init__(
        self,
        *,
        store: EventStore,
        blobs: BlobStore,
        clock: Clock,
        technologies: Technologies,
        proxies: NginxProxies,
        live: LiveSandboxes,
        metrics: ManagerMetrics,
        patience: Patience,
        admission: Admission,
        free_space: FreeSpace,
        claim_s: float,
        manager_name: str,
        docker_image: str,
        max_attempts: int,
    ) -> None:
        self._store, self._blobs, self._clock = store, blobs, clock
        self._technologies, self._proxies, self._live = technologies, proxies, live
        self._metrics, self._patience = metrics, patience
        self._admission, self._free_space, self._claim_s = admission, free_space, claim_s
        self._manager_name, self._docker_image, self._max_attempts = manager_name, docker_image, max_attempts
        self._runner = agent_runner_source()

    async def run_agent(self, recorded: Recorded) -> None:
        """One attempt at a requested run, once a slot is free, told to the log from start to end.

        Raises:
            GiveBack: no slot was free in time.
            LeftToOthers: another manager has begun a newer attempt: the request is in its hands.
            Exception: it must be tried again; the queue delivers the request once more after a delay.
        """
        requested = recorded.event
        assert isinstance(requested, ev.RunRequested)
        with structlog.contextvars.bound_contextvars(run_id=requested.run_id):
            async with self._enter(requested.run_id, requested.run_id, "agent") as live:
                want = Want.of(recorded)
                async with self._admission.place(want, given_up=live.cancelled, wait_s=self._claim_s) as placed:
                    if placed and not live.cancelled.is_set():
                        await self._attempt(requested, live)
                if not placed and not live.cancelled.is_set():
                    self._metrics.given_back()
                    raise GiveBack
                await self._leave_unless_over(
                    requested.run_id, lambda events: decide_agent(fold(events), self._max_attempts)
                )

    async def run_evaluation(self, recorded: Recorded) -> None:
        """One evaluation sandbox, told to the log from start to end.

        Raises:
            LeftToOthers: other managers have begun it as often as it may be: the request is in their hands.
            Exception: it must be tried again.
        """
        requested = recorded.event
        assert isinstance(requested, ev.EvaluationRequested)
        with structlog.contextvars.bound_contextvars(run_id=requested.run_id, evaluation_id=requested.evaluation_id):
            async with self._enter(requested.evaluation_id, requested.run_id, "evaluation") as live:
                await self._evaluate(requested, live)
                await self._leave_unless_over(
                    requested.run_id, lambda events: decide_evaluation(events, requested, self._max_attempts)
                )

    async def watch_cancels(self, after: int) -> None:
        """Ends the sandboxes whose result nobody wants any more, from that position of the log on. Never returns."""
        async for recorded in self._store.subscribe(after, [ev.RunCancelled, ev.AgentStarted]):
            event = recorded.event
            if isinstance(event, ev.AgentStarted):
                if self._live.overtaken(event.run_id, event.attempt):
                    log.warning("another manager took this run for lost", run_id=event.run_id, manager=event.manager)
            elif self._live.cancel(event.run_id):
                log.info("cancelling", run_id=event.run_id)

    # -- agents

    async def _attempt(self, requested: ev.RunRequested, live: LiveSandbox) -> None:
        decision = decide_agent(fold(await self._events(requested.run_id)), self._max_attempts)
        if isinstance(decision, Nothing):
            log.info("nothing to do", why=decision.why)
            return
        if isinstance(decision, GiveUp):
            await self._agent_failed(requested, decision)
            return
        live.phase = "preparing"
        prepared = await self._prepare(requested, live, decision.attempt - 1)
        if prepared is None:
            return
        technology, spec = prepared
        if not await self._start(requested, decision, technology, live):
            return
        try:
            left = await self._run(technology, spec, live, requested.limits.model.max_concurrency)
            if not live.cancelled.is_set():
                await self._agent_ended(requested, decision.attempt, left)
        except Exception as error:
            self._technologies.distrust(technology.name)
            mishap = mishap_of(error)
            if mishap.retry and decision.attempt < self._max_attempts:
                await self._leave_when_overtaken(requested.run_id, decision.attempt)
                raise
            await self._agent_failed(requested, GiveUp(decision.attempt, mishap.cause, plain(str(error))))

    async def _prepare(
        self, requested: ev.RunRequested, live: LiveSandbox, attempt: int
    ) -> tuple[Sandbox, SandboxSpec] | None:
        """Everything that may fail before the run is ours. None: it was given up."""
        try:
            await self._free_space.check()
            technology = await self._technologies.pick(requested.sandbox)
            refs = (requested.agent, requested.statement, requested.workspace)
            agent, statement, workspace = await asyncio.gather(*(self._blobs.get(ref.digest) for ref in refs))
            spec = await asyncio.to_thread(
                agent_spec,
                requested,
                AgentInputs(agent=agent, statement=statement, workspace=workspace),
                runner=self._runner,
                sandbox_id=live.sandbox_id,
                now=self._clock.now(),
            )
        except Exception as error:
            if self._must_wait(live.key, error):
                raise
            await self._agent_failed(requested, GiveUp(attempt, mishap_of(error).cause, plain(str(error))))
            return None
        self._patience.forget(live.key)
        return technology, spec

    async def _start(
        self, requested: ev.RunRequested, decision: StartAttempt, technology: Sandbox, live: LiveSandbox
    ) -> bool:
        """Whether the attempt is ours: appended before its sandbox starts, and nobody was faster."""
        live.attempt = decision.attempt
        image = (requested.image or self._docker_image) if technology.name == "docker" else None
        started = ev.AgentStarted(
            **self._envelope(requested),
            attempt=decision.attempt,
            manager=self._manager_name,
            sandbox=technology.name,
            image=image,
        )

        def decide(events: Sequence[ev.AnyEvent]) -> ev.AgentStarted | None:
            return started if decide_agent(fold(events), self._max_attempts) == decision else None

        ours = await append_decided(self._store, requested.run_id, started.id, decide) is not None
        log.info("attempt started" if ours else "another manager was faster", attempt=decision.attempt)
        return ours and not live.cancelled.is_set()

    async def _agent_ended(self, requested: ev.RunRequested, attempt: int, left: SandboxExit) -> None:
        outcome = outcome_of(left)
        blobs = [self._blobs.put(left.log, LOG_MEDIA_TYPE)]
        if outcome.patch is not None:
            blobs.append(self._blobs.put(outcome.patch, PATCH_MEDIA_TYPE))
        agent_log, *patch = await asyncio.gather(*blobs)
        envelope = self._envelope(requested)
        event: ev.PatchProduced | ev.AgentFailed
        if patch:
            event = ev.PatchProduced(
                **envelope,
                attempt=attempt,
                patch=patch[0],
                partial=outcome.partial,
                cause=outcome.cause,
                detail=outcome.detail,
                log=agent_log,
                exit=left.exit,
            )
        else:
            assert outcome.cause is not None
            detail = outcome.detail or str(outcome.cause)
            event = ev.AgentFailed(
                **envelope, attempt=attempt, cause=outcome.cause, detail=detail, log=agent_log, exit=left.exit
            )
        await self._end_attempt(requested, event)

    async def _agent_failed(self, requested: ev.RunRequested, given_up: GiveUp) -> None:
        self._patience.forget(requested.run_id)
        envelope = self._envelope(requested)
        failed = ev.AgentFailed(**envelope, attempt=given_up.attempt, cause=given_up.cause, detail=given_up.detail)
        await self._end_attempt(requested, failed)

    async def _end_attempt(self, requested: ev.RunRequested, event: ev.PatchProduced | ev.AgentFailed) -> None:
        def decide(events: Sequence[ev.AnyEvent]) -> ev.PatchProduced | ev.AgentFailed | None:
            return event if still_ours(fold(events), event.attempt) else None

        told = await append_decided(self._store, requested.run_id, event.id, decide)
        if told is None:
            log.warning("result dropped: the run ended or a newer attempt began", attempt=event.attempt)
            return
        self._metrics.ended("agent", event.cause)
        log.info("attempt ended", attempt=event.attempt, appended=type(event).__name__, cause=event.cause)

    # -- evaluations

    async def _evaluate(self, requested: ev.EvaluationRequested, live: LiveSandbox) -> None:
        events = await self._events(requested.run_id)
        decision = decide_evaluation(events, requested, self._max_attempts)
        if isinstance(decision, Nothing):
            log.info("nothing to do", why=decision.why)
            return
        if isinstance(decision, GiveUp):
            await self._evaluation_lost(requested, decision)
            return
        last_chance = sum(isinstance(event, ev.EvaluationStarted) for event in events) + 1 >= self._max_attempts
        try:
            await self._free_space.check()
            technology = await self._technologies.pick(requested.sandbox)
            bundle = await self._blobs.get(requested.bundle.digest)
        except Exception as error:
            if self._must_wait(live.key, error):
                raise
            await self._evaluation_lost(requested, _given_up(requested, error))
            return
        if not await self._start_evaluation(requested, technology, live):
            return
        spec = evaluation_spec(requested, bundle, sandbox_id=live.sandbox_id, now=self._clock.now())
        try:
            left = await self._run(technology, spec, live, 0)
            if not live.cancelled.is_set():
                await self._evaluation_ended(requested, left)
        except Exception as error:
            self._technologies.distrust(technology.name)
            if mishap_of(error).retry and not last_chance:
                raise
            await self._evaluation_lost(requested, _given_up(requested, error))

    async def _start_evaluation(
        self, requested: ev.EvaluationRequested, technology: Sandbox, live: LiveSandbox
    ) -> bool:
        envelope = self._envelope(requested)
        started = ev.EvaluationStarted(
            **envelope,
            evaluation_id=requested.evaluation_id,
            manager=self._manager_name,
            sandbox=technology.name,
        )

        def decide(events: Sequence[ev.AnyEvent]) -> ev.EvaluationStarted | None:
            wanted = decide_evaluation(events, requested, self._max_attempts)
            return started if isinstance(wanted, StartEvaluation) else None

        ours = await append_decided(self._store, requested.run_id, started.id, decide) is not None
        return ours and not live.cancelled.is_set()

    async def _evaluation_ended(self, requested: ev.EvaluationRequested, left: SandboxExit) -> None:
        read = [file for file in left.outputs if file.content is not None]
        contents = (self._blobs.put(file.content or b"", OUTPUT_MEDIA_TYPE) for file in read)
        evaluation_log, *refs = await asyncio.gather(self._blobs.put(left.log, LOG_MEDIA_TYPE), *contents)
        stored: dict[str, BlobRef] = dict(zip((file.path for file in read), refs, strict=True))
        outputs = [
            ev.SandboxOutput(path=file.path, content=stored.get(file.path), problem=file.problem)
            for file in left.outputs
        ]
        await self._end_evaluation(
            requested,
            ev.EvaluationSandboxExited(
                **self._envelope(requested),
                evaluation_id=requested.evaluation_id,
                exit=left.exit,
                outputs=tuple(outputs),
                log=evaluation_log,
            ),
        )

    async def _evaluation_lost(self, requested: ev.EvaluationRequested, given_up: GiveUp) -> None:
        self._patience.forget(requested.evaluation_id)
        await self._end_evaluation(
            requested,
            ev.EvaluationSandboxExited(
                **self._envelope(requested),
                evaluation_id=requested.evaluation_id,
                exit=ev.ExitFacts(exit_code=None),
                outputs=(),
                cause=given_up.cause,
                detail=given_up.detail,
            ),
        )

    async def _end_evaluation(self, requested: ev.EvaluationRequested, exited: ev.EvaluationSandboxExited) -> None:
        def decide(events: Sequence[ev.AnyEvent]) -> ev.EvaluationSandboxExited | None:
            wanted = decide_evaluation(events, requested, self._max_attempts)
            return None if isinstance(wanted, Nothing) else exited

        told = await append_decided(self._store, requested.run_id, exited.id, decide)
        if told is None:
            log.warning("evaluation result dropped: nobody waits for it any more")
            return
        self._metrics.ended("evaluation", exited.cause)
        log.info("evaluation ended", exit_code=exited.exit.exit_code, cause=exited.cause)

    # -- both

    async def _leave_unless_over(self, run_id: str, decide: Callable[[list[ev.AnyEvent]], object]) -> None:
        """A request is done with when the log says so, not when this manager has nothing more to do about it.

        Settling it any earlier would take it from the manager that works on it: lost, it would never come again.
        """
        events = [recorded.event for recorded in await surely_read(self._store, run_id)]
        if not isinstance(decide(events), Nothing):
            raise LeftToOthers

    async def _leave_when_overtaken(self, run_id: str, attempt: int) -> None:
        """Before an attempt is tried again: not when somebody else does so already."""
        run = fold(recorded.event for recorded in await surely_read(self._store, run_id))
        if run is not None and not run.ended and run.attempt > attempt:
            raise LeftToOthers

    def _enter(self, key: str, run_id: str, kind: Kind) -> AbstractAsyncContextManager[LiveSandbox]:
        return self._live.enter(key, run_id, self._clock.new_id(), kind, self._clock.now())

    async def _run(self, technology: Sandbox, spec: SandboxSpec, live: LiveSandbox, connections: int) -> SandboxExit:
        """The sandbox, behind its own proxy when it is an agent's."""
        live.phase, live.technology = "running", technology.name
        spec = msgspec.structs.replace(spec, on_log=live.tail.add)
        with self._metrics.running(spec.kind, technology.name):
            if spec.kind == "evaluation":
                return await technology.run(spec, live.cancelled)
            async with self._proxies.serve(spec.run_id, spec.sandbox_id, connections + _SPARE_CONNECTIONS) as directory:
                return await technology.run(msgspec.structs.replace(spec, proxy_dir=directory), live.cancelled)

    def _must_wait(self, key: str, error: Exception) -> bool:
        """Whether what could not be prepared is left to the queue to deliver again."""
        if isinstance(error, EventStoreUnavailable):
            return True
        return mishap_of(error).retry and self._patience.lasts(key)

    async def _events(self, run_id: str) -> list[ev.AnyEvent]:
        return [recorded.event for recorded in await self._store.read_run(run_id)]

    def _envelope(self, cause: ev.Event) -> dict[str, Any]:
        return {
            "id": self._clock.new_id(),
            "run_id": cause.run_id,
            "time": self._clock.now(),
            "causation_id": cause.id,
            "correlation_id": cause.correlation_id,
            "traceparent": cause.traceparent,
        }


def _given_up(requested: ev.EvaluationRequested, error: Exception) -> GiveUp:
    return GiveUp(requested.attempt, mishap_of(error).cause, plain(str(error)))
