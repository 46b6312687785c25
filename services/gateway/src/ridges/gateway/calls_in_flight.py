"""The calls inside this gateway: counted, waited for when it ends, cut off when they take too long then."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ridges.gateway.errors import ShuttingDown
from ridges.gateway.run_states import RunView


class CallInFlight:
    """One of them, and the task that works for it."""

    __slots__ = ("cut", "task")

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.cut = False
        """This gateway ended it."""

    def was_cut(self) -> bool:
        """Whether the cancellation that just arrived is ours; then it is over, and the call can still say so."""
        if self.cut and self.task is not None:
            self.task.uncancel()
        return self.cut


class CallsInFlight:
    """All of them."""

    def __init__(self) -> None:
        self.closed = False
        """No new call comes in."""
        self.cut_off = False
        self._calls: set[CallInFlight] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def counted(self, view: RunView) -> Iterator[CallInFlight]:
        """Raises ShuttingDown."""
        if self.closed:
            raise ShuttingDown
        call = CallInFlight()
        view.calls_here += 1
        self._calls.add(call)
        self._idle.clear()
        try:
            yield call
        finally:
            view.calls_here -= 1
            self._calls.discard(call)
            if not self._calls:
                self._idle.set()

    async def ended(self, timeout_s: float | None) -> bool:
        """Whether all have ended within the time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return not self._calls

    def cut(self) -> int:
        """End those that are left; how many."""
        self.cut_off = True
        for call in self._calls:
            call.cut = True
            if call.task is not None:
                call.task.cancel()
        return len(self._calls)
