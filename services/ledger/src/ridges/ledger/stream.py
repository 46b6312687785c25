"""Live rows for server-sent events. A slow listener gets the newest row of each run, never a growing backlog."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager

from ridges.contracts.lifecycle import ENDED
from ridges.contracts.views import RunRow

HEARTBEAT_S = 15.0


class _Listener:
    def __init__(self, run_id: str | None) -> None:
        self.run_id = run_id
        self.changed: dict[str, None] = {}
        self.wake = asyncio.Event()


class Hub:
    """Fans changes out to listeners."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()
        self._closed = False

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def publish(self, run_ids: Iterable[str]) -> None:
        """Tell that the rows of these runs changed."""
        run_ids = tuple(run_ids)
        for listener in self._listeners:
            mine = [run_id for run_id in run_ids if listener.run_id in (None, run_id)]
            if mine:
                listener.changed.update(dict.fromkeys(mine))
                listener.wake.set()

    def close(self) -> None:
        """End every stream; for the drain."""
        self._closed = True
        for listener in self._listeners:
            listener.wake.set()

    async def rows(
        self,
        first: Callable[[], Iterable[RunRow]],
        row: Callable[[str], RunRow | None],
        *,
        run_id: str | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> AsyncIterator[RunRow | None]:
        """The rows as they are now, then each that changes; None = nothing happened for ``heartbeat_s``.

        With ``run_id`` only that run's, and the end after the run has ended.
        """
        with self._listening(run_id) as listener:
            for current in first():
                yield current
                if run_id is not None and current.state in ENDED:
                    return
            while not self._closed:
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await listener.wake.wait()
                except TimeoutError:
                    yield None
                    continue
                listener.wake.clear()
                changed, listener.changed = listener.changed, {}
                for current in filter(None, map(row, changed)):
                    yield current
                    if run_id is not None and current.state in ENDED:
                        return

    @contextmanager
    def _listening(self, run_id: str | None) -> Iterator[_Listener]:
        listener = _Listener(run_id)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
