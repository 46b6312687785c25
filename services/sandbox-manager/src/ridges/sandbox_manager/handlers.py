"""What the sandbox-manager does about a request, and about news that end one."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from ridges.chassis.ports import GiveBack, LeftToOthers, Recorded
from ridges.contracts import events as ev
from ridges.sandbox_manager.admission import Admission, Want
from ridges.sandbox_manager.attempts import AgentAttempts
from ridges.sandbox_manager.deciding import surely_read
from ridges.sandbox_manager.domain import Nothing, decide_agent, decide_evaluation, fold
from ridges.sandbox_manager.evaluations import Evaluations
from ridges.sandbox_manager.live import Kind, LiveSandbox, LiveSandboxes
from ridges.sandbox_manager.workbench import Workbench

log = structlog.get_logger(__name__)


class Handlers:
    """The handlers of one manager."""

    def __init__(
        self,
        workbench: Workbench,
        *,
        live: LiveSandboxes,
        agents: Admission,
        evaluations: Admission,
        claim_s: float,
    ) -> None:
        """``agents`` and ``evaluations`` are the places of either: evaluations never wait behind agents."""
        self._bench, self._live = workbench, live
        self._agent_places, self._evaluation_places, self._claim_s = agents, evaluations, claim_s
        self._attempts, self._evaluations = AgentAttempts(workbench), Evaluations(workbench)

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
                live.end_when_spent = requested.limits.model.end_when_spent
                want = Want.of(recorded)
                over = False
                async with self._agent_places.place(want, given_up=live.cancelled, wait_s=self._claim_s) as placed:
                    if placed and not live.cancelled.is_set():
                        over = await self._attempts.attempt(requested, live)
                if not placed and not live.cancelled.is_set():
                    self._bench.metrics.given_back()
                    raise GiveBack
                if not over:
                    await self._leave_unless_over(
                        requested.run_id, lambda events: decide_agent(fold(events), self._bench.max_attempts)
                    )

    async def run_evaluation(self, recorded: Recorded) -> None:
        """One evaluation sandbox, once there is room for it, told to the log from start to end.

        Raises:
            GiveBack: there was none in time.
            LeftToOthers: another manager has begun it anew: the request is in its hands.
            Exception: it must be tried again.
        """
        requested = recorded.event
        assert isinstance(requested, ev.EvaluationRequested)
        with structlog.contextvars.bound_contextvars(run_id=requested.run_id, evaluation_id=requested.evaluation_id):
            async with self._enter(requested.evaluation_id, requested.run_id, "evaluation") as live:
                want = Want(position=recorded.position, memory_bytes=requested.limits.memory_bytes)
                over = False
                places = self._evaluation_places
                async with places.place(want, given_up=live.cancelled, wait_s=self._claim_s) as placed:
                    if placed:
                        over = await self._evaluations.evaluate(requested, live)
                if not placed and not live.cancelled.is_set():
                    raise GiveBack
                if not over:
                    await self._leave_unless_over(
                        requested.run_id, lambda events: decide_evaluation(events, requested, self._bench.max_attempts)
                    )

    async def watch(self, after: int) -> None:
        """Ends the sandboxes that must not go on, from that position of the log on. Never returns."""
        types = (ev.RunCancelled, ev.AgentStarted, ev.EvaluationStarted, ev.InferenceRefused)
        async for recorded in self._bench.store.subscribe(after, types):
            self._heard(recorded)

    def _heard(self, recorded: Recorded) -> None:
        match recorded.event:
            case ev.RunCancelled() as event:
                if self._live.cancel(event.run_id):
                    log.info("cancelling", run_id=event.run_id)
            case ev.AgentStarted() as event:
                if self._live.overtaken(event.run_id, event.attempt):
                    log.warning("another manager took this run for lost", run_id=event.run_id, manager=event.manager)
            case ev.EvaluationStarted() as event:
                if self._live.evaluation_overtaken(event.evaluation_id, recorded.position):
                    log.warning(
                        "another manager took this evaluation for lost", run_id=event.run_id, manager=event.manager
                    )
            case ev.InferenceRefused(reason="cost") as event:
                if self._live.spent(event.run_id):
                    log.info("ending the agent: its budget is spent", run_id=event.run_id)

    async def _leave_unless_over(self, run_id: str, decide: Callable[[list[ev.AnyEvent]], object]) -> None:
        """A request is done with when the log says so, not when this manager has nothing more to do about it.

        Settling it any earlier would take it from the manager that works on it: lost, it would never come again.
        """
        events = [recorded.event for recorded in await surely_read(self._bench.store, run_id)]
        if not isinstance(decide(events), Nothing):
            raise LeftToOthers

    def _enter(self, key: str, run_id: str, kind: Kind) -> AbstractAsyncContextManager[LiveSandbox]:
        clock = self._bench.clock
        return self._live.enter(key, run_id, clock.new_id(), kind, clock.now())
