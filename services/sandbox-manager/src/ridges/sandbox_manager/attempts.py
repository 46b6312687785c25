"""One attempt at a run: start its agent, run it, tell the log what became of it."""

import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec
import structlog

from ridges.chassis.ports import LeftToOthers, Recorded
from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef
from ridges.contracts.faults import Cause
from ridges.contracts.money import usd_text
from ridges.sandbox_manager.agent_sandbox import agent_spec
from ridges.sandbox_manager.deciding import append_decided, surely_read
from ridges.sandbox_manager.domain import (
    GiveUp,
    Nothing,
    StartAttempt,
    cancelled_at_work,
    decide_agent,
    fold,
    still_ours,
)
from ridges.sandbox_manager.inputs import Inputs
from ridges.sandbox_manager.inside import agent_runner_source
from ridges.sandbox_manager.keeping import keep
from ridges.sandbox_manager.last_word import blamed
from ridges.sandbox_manager.live import LiveSandbox
from ridges.sandbox_manager.metrics import Counted
from ridges.sandbox_manager.mishaps import mishap_of
from ridges.sandbox_manager.outcomes import AgentOutcome, difference_problem, outcome_of, plain
from ridges.sandbox_manager.ports import Sandbox, SandboxSpec
from ridges.sandbox_manager.workbench import LOG_MEDIA_TYPE, Workbench

log = structlog.get_logger(__name__)

PATCH_MEDIA_TYPE = "text/x-diff; charset=utf-8"


class _Prepared(msgspec.Struct, frozen=True, kw_only=True):
    technology: Sandbox
    spec: SandboxSpec
    previous: "_Found"


class _Found(msgspec.Struct, frozen=True):
    """What there is of an attempt that was lost."""

    log: BlobRef | None = None
    patch: BlobRef | None = None
    exit: ev.ExitFacts | None = None


class _Left(msgspec.Struct, frozen=True, kw_only=True):
    """Of an agent that ended: all that is still needed."""

    outcome: AgentOutcome
    log: bytes
    exit: ev.ExitFacts | None
    snapshot: bytes = b""
    """The last difference that was told while it ran, where there is none of its end, or one too large."""
    patch_ref: BlobRef | None = None
    log_ref: BlobRef | None = None
    snapshot_ref: BlobRef | None = None


class AgentAttempts:
    """The attempts of one manager."""

    def __init__(self, workbench: Workbench) -> None:
        self._bench = workbench
        self._runner = agent_runner_source()
        self._inputs = Inputs(workbench.blobs)

    async def attempt(self, requested: ev.RunRequested, live: LiveSandbox) -> bool:
        """Whatever the run needs now; returns when the log knows it. Whether its agent's part is surely over.

        Raises:
            Exception: it must be tried again.
        """
        known = await self._bench.store.read_run(requested.run_id)
        decision = decide_agent(fold(recorded.event for recorded in known), self._bench.max_attempts)
        if isinstance(decision, Nothing):
            log.info("nothing to do", why=decision.why)
            self._bench.attempt_copies.forget(requested.run_id)
            return True
        if isinstance(decision, GiveUp):
            await self._give_up(requested, decision)
            return False
        live.phase = "preparing"
        prepared = await self._prepare(requested, live, decision.attempt - 1)
        if prepared is None or not await self._start(requested, decision, prepared, live, known):
            return False
        with self._bench.metrics.sandbox("agent", prepared.technology.name) as counted:
            async with self._ran(requested, decision.attempt, prepared, live) as left:
                return await self._end(requested, decision.attempt, left, live, counted)

    async def _prepare(self, requested: ev.RunRequested, live: LiveSandbox, attempt: int) -> _Prepared | None:
        """Everything that may fail before the run is ours. None: it was given up."""
        bench = self._bench
        try:
            await bench.free_space.check()
            wanted = requested.limits.sandbox
            technology = await bench.technologies.pick(
                requested.sandbox, image=requested.image, runtime=wanted.runtime, network=wanted.network
            )
            inputs = await self._inputs.of(requested)
            spec = agent_spec(requested, inputs, runner=self._runner, sandbox_id=live.sandbox_id, now=bench.now)
            await technology.admit(spec)
            previous = await self._found(requested.run_id, attempt)
        except Exception as error:
            if bench.must_wait(live.key, error):
                raise
            await self._give_up(requested, GiveUp(attempt, mishap_of(error).cause, plain(str(error))))
            return None
        bench.patience.forget(live.key)
        return _Prepared(technology=technology, spec=spec, previous=previous)

    async def _start(
        self,
        requested: ev.RunRequested,
        decision: StartAttempt,
        prepared: _Prepared,
        live: LiveSandbox,
        known: Sequence[Recorded],
    ) -> bool:
        """Whether the attempt is ours: appended before its sandbox starts, and nobody was faster."""
        bench = self._bench
        live.attempt = decision.attempt
        technology = prepared.technology.name
        started = ev.AgentStarted(
            **bench.envelope(requested),
            attempt=decision.attempt,
            manager=bench.manager_name,
            sandbox=technology,
            image=(requested.image or bench.docker_image) if technology == "docker" else None,
            previous_log=prepared.previous.log,
            previous_patch=prepared.previous.patch,
            previous_exit=prepared.previous.exit,
        )

        def decide(events: Sequence[ev.AnyEvent]) -> ev.AgentStarted | None:
            return started if decide_agent(fold(events), bench.max_attempts) == decision else None

        ours = await append_decided(bench.store, requested.run_id, started.id, decide, known) is not None
        if ours:
            bench.attempt_copies.forget(requested.run_id)
        log.info("attempt started" if ours else "another manager was faster", attempt=decision.attempt)
        return ours and not live.cancelled.is_set()

    @contextlib.asynccontextmanager
    async def _ran(
        self, requested: ev.RunRequested, attempt: int, prepared: _Prepared, live: LiveSandbox
    ) -> AsyncIterator[_Left]:
        """What the agent left, or what is left to say of a sandbox that broke for the last time. Gone after the block.

        Raises:
            LeftToOthers: the sandbox broke, and another manager has begun a newer attempt.
            Exception: the sandbox broke, and the run has another attempt.
        """
        bench = self._bench
        copy = bench.attempt_copies.new(requested.run_id, attempt)

        def on_log(offset: int, chunk: bytes) -> None:
            live.tail.add(offset, chunk)
            copy.add_to_log(offset, chunk)

        spec = msgspec.structs.replace(
            prepared.spec,
            on_log=on_log,
            on_difference=copy.keep_patch,
            on_usage=copy.keep_exit,
            difference_every_s=bench.partial_patch_interval_s,
        )
        async with contextlib.AsyncExitStack() as removing:
            ran = bench.ran(prepared.technology, spec, live, requested.limits.model.max_concurrency)
            try:
                exited = await removing.enter_async_context(ran)
            except Exception as error:
                mishap = mishap_of(error)
                if mishap.retry and attempt < bench.max_attempts and not live.cancelled.is_set():
                    await self._leave_when_overtaken(requested.run_id, attempt)
                    raise
                broken = AgentOutcome(cause=mishap.cause, detail=plain(str(error)))
                left = _Left(outcome=broken, log=live.tail.content, exit=copy.exit, snapshot=copy.patch)
            else:
                snapshot = copy.patch if exited.difference is None or difference_problem(exited) else b""
                outcome = outcome_of(exited, spec.timeout_s)
                left = _Left(outcome=outcome, log=exited.log, exit=exited.exit, snapshot=snapshot)
                del exited  # a blob store that is away may hold up the block for hours
            yield left

    async def _end(
        self, requested: ev.RunRequested, attempt: int, left: _Left, live: LiveSandbox, counted: Counted
    ) -> bool:
        """Keep what the attempt left and tell it, unless another manager began a newer one. Whether it was told."""
        told = None
        if not live.overtaken:
            told = await self._tell(requested, attempt, await self._kept(left))
        self._bench.attempt_copies.forget(requested.run_id)
        if told is None:
            counted.end = "overtaken"
            log.warning("result dropped: the run ended or a newer attempt began", attempt=attempt)
            return False
        counted.told(told.cause)
        log.info("attempt ended", attempt=attempt, appended=type(told).__name__, cause=told.cause)
        return True

    async def _kept(self, left: _Left) -> _Left:
        contents = {
            "log_ref": (left.log, LOG_MEDIA_TYPE) if left.log or left.exit else None,
            "patch_ref": None if left.outcome.patch is None else (left.outcome.patch, PATCH_MEDIA_TYPE),
            "snapshot_ref": (left.snapshot, PATCH_MEDIA_TYPE) if left.snapshot else None,
        }
        there = {name: content for name, content in contents.items() if content is not None}
        refs = dict(zip(there, await keep(self._bench.blobs, there.values()), strict=True))
        return msgspec.structs.replace(left, log=b"", snapshot=b"", **refs)

    async def _tell(
        self, requested: ev.RunRequested, attempt: int, left: _Left
    ) -> ev.PatchProduced | ev.AgentFailed | None:
        """The event that was appended: the attempt's end, or after a cancel what it left."""
        envelope = self._bench.envelope(requested)

        def decide(events: Sequence[ev.AnyEvent]) -> ev.PatchProduced | ev.AgentFailed | None:
            if still_ours(fold(events), attempt):
                return _ending(envelope, attempt, left, _blame(requested, left.outcome, events, attempt))
            if cancelled_at_work(events, attempt):
                return _left_by_cancelled(envelope, attempt, left)
            return None

        told = await append_decided(self._bench.store, requested.run_id, envelope["id"], decide)
        if told is None:
            return None
        event = told.entry.event
        assert isinstance(event, ev.PatchProduced | ev.AgentFailed)
        return event

    async def _give_up(self, requested: ev.RunRequested, given_up: GiveUp) -> None:
        """End the run without starting a sandbox, with what there is of its last attempt."""
        bench = self._bench
        found = await self._found(requested.run_id, given_up.attempt)
        bench.patience.forget(requested.run_id)
        outcome = AgentOutcome(cause=given_up.cause, detail=given_up.detail)
        left = _Left(outcome=outcome, log=b"", exit=found.exit, log_ref=found.log, snapshot_ref=found.patch)
        told = await self._tell(requested, given_up.attempt, left)
        if told is None:
            log.warning("not given up: the run ended or a newer attempt began", attempt=given_up.attempt)
            return
        bench.attempt_copies.forget(requested.run_id)
        bench.metrics.given_up("agent", given_up.cause)
        log.info("run given up", attempt=given_up.attempt, cause=given_up.cause)

    async def _leave_when_overtaken(self, run_id: str, attempt: int) -> None:
        """Before an attempt is tried again: not when somebody else does so already."""
        run = fold(recorded.event for recorded in await surely_read(self._bench.store, run_id))
        if run is not None and not run.ended and run.attempt > attempt:
            raise LeftToOthers

    async def _found(self, run_id: str, attempt: int) -> _Found:
        """What a lost attempt left here, in the blob store."""
        blobs, copy = self._bench.blobs, self._bench.attempt_copies.of(run_id, attempt)
        return _Found(
            log=await blobs.put(content, LOG_MEDIA_TYPE) if (content := copy.log) else None,
            patch=await blobs.put(content, PATCH_MEDIA_TYPE) if (content := copy.patch) else None,
            exit=copy.exit,
        )


def _blame(
    requested: ev.RunRequested, outcome: AgentOutcome, events: Sequence[ev.AnyEvent], attempt: int
) -> AgentOutcome:
    """The outcome with the cause that its model calls tell."""
    if outcome.cause is None:
        return outcome
    limit = f"the cost limit of {usd_text(requested.limits.model.max_cost_nano_usd)} USD was reached"
    if outcome.cause is Cause.CANCELLED:  # and the run goes on: only its budget can have ended it
        return msgspec.structs.replace(outcome, cause=Cause.BUDGET_SPENT, detail=f"{limit}; {outcome.detail}")
    cause = blamed(outcome.cause, events, attempt)
    if cause is outcome.cause:
        return outcome
    why = limit if cause is Cause.BUDGET_SPENT else "the last model calls failed at every provider"
    return msgspec.structs.replace(
        outcome, cause=cause, detail=plain(f"{why}; then {outcome.cause}: {outcome.detail or ''}".rstrip(": "))
    )


def _ending(
    envelope: dict[str, object], attempt: int, left: _Left, outcome: AgentOutcome
) -> ev.PatchProduced | ev.AgentFailed:
    if left.patch_ref is not None and left.log_ref is not None and left.exit is not None:
        return ev.PatchProduced(
            **envelope,  # type: ignore[arg-type]
            attempt=attempt,
            patch=left.patch_ref,
            partial=outcome.partial,
            cause=outcome.cause,
            detail=outcome.detail,
            log=left.log_ref,
            exit=left.exit,
        )
    assert outcome.cause is not None
    return ev.AgentFailed(
        **envelope,  # type: ignore[arg-type]
        attempt=attempt,
        cause=outcome.cause,
        detail=outcome.detail or str(outcome.cause),
        log=left.log_ref,
        exit=left.exit,
        unjudged_patch=left.snapshot_ref,
    )


def _left_by_cancelled(envelope: dict[str, object], attempt: int, left: _Left) -> ev.AgentFailed:
    detail = left.outcome.detail or "the agent had returned its patch"
    return ev.AgentFailed(
        **envelope,  # type: ignore[arg-type]
        attempt=attempt,
        cause=Cause.CANCELLED,
        detail=detail,
        log=left.log_ref,
        exit=left.exit,
        unjudged_patch=left.patch_ref or left.snapshot_ref,
    )
