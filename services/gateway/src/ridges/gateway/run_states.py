"""What the gateway knows of runs: folded from the log, kept in memory, never stored anywhere else.

A run is read once, at its first call, and kept current by one live subscription over all runs. What the gateway
itself appends is applied at once (``applied``); the subscription may bring it a second time: the fold does not
mind.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import structlog

from ridges.chassis.ports import EventStore, Recorded
from ridges.contracts import events as ev
from ridges.contracts.lifecycle import Run, RunState, evolve
from ridges.gateway.domain import Spending
from ridges.gateway.idempotency_keys import keyed_call_in

log = structlog.get_logger(__name__)

INFERENCE = (ev.InferenceReserved, ev.InferenceMade, ev.InferenceFailed, ev.InferenceRefused, ev.InferenceSettled)
FOLLOWED: tuple[type[ev.Event], ...] = (
    ev.RunRequested,
    ev.RunCancelled,
    ev.AgentStarted,
    ev.PatchProduced,
    ev.AgentFailed,
    ev.EvaluationRequested,
    ev.EvaluationStarted,
    ev.TestsFinished,
    ev.EvaluationFailed,
    *INFERENCE,
)


class RunView:
    """One run as the log has it, give or take the milliseconds of the subscription."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.run: Run | None = None
        self.spending = Spending()
        self.reserving = asyncio.Lock()
        """Held while this gateway decides about a call of the run and appends the reservation."""
        self.calls_here = 0
        """Calls of the run inside this gateway; such a view is not forgotten."""
        self.refusals_on_the_way = 0
        self.left_behind: set[asyncio.Future[int]] = set()
        """Appends of reservations whose callers did not wait for the log's answer."""
        self.unsure = 0
        """Reservations of this gateway that may be stored though nobody said so, since the run was read."""
        self._lifecycle_position = self._newest = 0
        self._since: list[list[Recorded]] = []
        self._changed = asyncio.Event()

    @property
    def state(self) -> RunState | None:
        return self.run.state if self.run else None

    def apply(self, recorded: Recorded) -> None:
        event, position = recorded.event, recorded.position
        self.spending.apply(event, position)
        self._newest = max(self._newest, position)
        for since in self._since:
            since.append(recorded)
        if position > self._lifecycle_position and not isinstance(event, INFERENCE):
            self.run = evolve(self.run, event)
            self._lifecycle_position = position
        self._changed.set()

    def begin_anew(self, read: Sequence[Recorded], since: Sequence[Recorded]) -> None:
        """Take in the whole run as it was read, and what has come since the reading began."""
        self.spending = Spending()
        for recorded in read:
            self.apply(recorded)
        self.spending.whole_until(read[-1].position if read else 0)
        for recorded in since:
            self.apply(recorded)

    async def catch_up(self, read_run: Callable[[str], Awaitable[Sequence[Recorded]]]) -> None:
        """Read the run again. Raises what the reading does."""
        newest, unsure, since = self._newest, self.unsure, list[Recorded]()
        self._since.append(since)
        try:
            read = await read_run(self.run_id)
        finally:
            self._since = [one for one in self._since if one is not since]
        if read and read[-1].position >= newest:  # else it is older than what is known here
            self.begin_anew(read, since)
            self.unsure -= unsure

    async def change(self, timeout_s: float) -> None:
        """Returns after the next event of the run, or after the timeout."""
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass


def _nothing(_: RunView) -> None:
    """Nobody asked."""


class RunStates:
    """The runs that called lately."""

    def __init__(self, store: EventStore, capacity: int) -> None:
        self._store, self._capacity = store, capacity
        self._views: OrderedDict[str, RunView] = OrderedDict()
        self._loading: dict[str, asyncio.Task[RunView]] = {}
        self._buffers: dict[str, list[Recorded]] = {}
        self._following = asyncio.Event()
        self.start_position = 0
        """Where the log ended when this gateway began: what is older was done by others, or by its earlier life."""
        self.on_loaded: Callable[[RunView], None] = _nothing
        """Called with every run that was read from the log."""

    async def follow(self) -> None:
        """Keep the views current until cancelled; ends with an error only when the log holds what cannot be read."""
        self.start_position = position = await self._first_position()
        self._following.set()
        async for recorded in self._store.subscribe(after=position, types=FOLLOWED, own=False):
            self._take(recorded)

    async def following(self) -> None:
        """Returns once the subscription stands: earlier, a view could miss what follows its reading."""
        await self._following.wait()

    def is_following(self) -> bool:
        return self._following.is_set()

    async def view(self, run_id: str) -> RunView | None:
        """The run, or None when the log has no such run.

        Raises:
            EventStoreUnavailable: the log does not answer.

        """
        view = self._views.get(run_id)
        if view is None:
            view = await self._load(run_id)
        else:
            self._views.move_to_end(run_id)
        return view if view.run is not None else None

    async def catch_up(self, view: RunView) -> None:
        """Read the run again: the subscription may be some milliseconds behind the log."""
        await view.catch_up(self._store.read_run)

    async def recall(self, view: RunView, key: str) -> None:
        """Look an idempotency key up in the log and keep what stands under it. Raises EventStoreUnavailable."""
        read = await self._store.read_run(view.run_id)
        found = keyed_call_in((recorded.event for recorded in read), key)
        if found is not None:
            view.spending.keys.recalled(key, found)

    def applied(self, view: RunView, event: ev.AnyEvent, position: int) -> None:
        """The gateway appended this itself; the subscription need not bring it."""
        recorded = Recorded(position=position, event=event)
        view.apply(recorded)
        if self._views.get(view.run_id) is not view:  # forgotten since; somebody may be reading the run again
            self._take(recorded)

    async def _first_position(self) -> int:
        """Where the log ends now; waits for the log."""
        delay_s = 0.2
        while True:
            try:
                return await self._store.last_position()
            except Exception as error:  # noqa: BLE001 - /readyz tells; the service waits
                log.warning("the event log does not answer yet", error=str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, 3.0)

    def _take(self, recorded: Recorded) -> None:
        run_id = recorded.event.run_id
        if run_id in self._buffers:
            self._buffers[run_id].append(recorded)
        elif (view := self._views.get(run_id)) is not None:
            view.apply(recorded)

    async def _load(self, run_id: str) -> RunView:
        """Many calls of one run wait for one reading."""
        task = self._loading.get(run_id)
        if task is None:
            task = asyncio.create_task(self._read(run_id))
            self._loading[run_id] = task
            task.add_done_callback(lambda _: self._loading.pop(run_id, None))
        return await asyncio.shield(task)

    async def _read(self, run_id: str) -> RunView:
        buffer = self._buffers[run_id] = []
        try:
            recorded_so_far: Sequence[Recorded] = await self._store.read_run(run_id)
            view = RunView(run_id)
            view.begin_anew(recorded_so_far, buffer)
        finally:
            del self._buffers[run_id]
        if view.run is not None:
            self._views[run_id] = view
            self._forget_oldest()
            self.on_loaded(view)
        return view

    def _forget_oldest(self) -> None:
        idle = (run_id for run_id, view in self._views.items() if view.calls_here == 0)
        for run_id in [run_id for run_id, _ in zip(idle, range(len(self._views) - self._capacity), strict=False)]:
            del self._views[run_id]
