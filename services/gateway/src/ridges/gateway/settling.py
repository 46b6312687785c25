"""Appending what happened to a call. Once a provider was asked, it must get into the log, whoever has left by then."""

import asyncio

import structlog

from ridges.chassis.ports import EventRefused, EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.gateway.appending import Appending
from ridges.gateway.run_states import RunStates, RunView

log = structlog.get_logger(__name__)

PATIENCE_S = 5.0
"""How long an answer waits for its settlement; the reservation stands in the log, so nothing is lost by going on."""
MOST_UNSETTLED = 1_000
"""While so many settlements wait for the log, no new call is accepted."""
LONGEST_PAUSE_S = 5.0


class Settler:
    """Every settlement is a task of its own that tries until the log has it."""

    def __init__(self, appending: Appending, states: RunStates) -> None:
        self._appending, self._states = appending, states
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def overloaded(self) -> bool:
        return len(self._tasks) >= MOST_UNSETTLED

    async def settle(self, view: RunView, event: ev.InferenceMade | ev.InferenceFailed) -> None:
        """Returns when the log has the event, or after ``PATIENCE_S`` while the attempts go on."""
        task = self.later(view, event)
        await asyncio.wait({task}, timeout=PATIENCE_S)

    def later(self, view: RunView, event: ev.InferenceMade | ev.InferenceFailed) -> asyncio.Task[None]:
        """Append without waiting: for callers that have left."""
        task = asyncio.create_task(self._until_stored(view, event), name=f"settle-{event.call_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def record_refusal(self, view: RunView, event: ev.InferenceRefused) -> None:
        """One try: a refusal costs nothing, so the log may miss it when it is away."""
        try:
            position = await self._appending.append(event)
        except (EventStoreUnavailable, EventRefused) as error:
            log.warning("a refusal could not be recorded", run_id=view.run_id, error=str(error))
        else:
            self._states.applied(view, event, position)

    async def drain(self) -> None:
        """Returns when nothing waits for the log any more."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _until_stored(self, view: RunView, event: ev.InferenceMade | ev.InferenceFailed) -> None:
        pause_s = 0.2
        while True:
            try:
                position = await self._appending.append(event)
            except EventStoreUnavailable:
                log.warning("the log is away; a settlement waits for it", run_id=view.run_id, call_id=event.call_id)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except EventRefused:
                log.exception(
                    "the log refuses a settlement; its reservation stays open until the ledger settles it",
                    run_id=view.run_id,
                    call_id=event.call_id,
                )
                return
            else:
                self._states.applied(view, event, position)
                return
