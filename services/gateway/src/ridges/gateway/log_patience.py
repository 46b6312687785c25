"""Calls that begin while the event log is away: refused at once, or kept waiting for a while, as configured."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ridges.chassis.ports import Clock
from ridges.gateway.errors import LogUnavailable

Result = TypeVar("Result")

MOST_WAITING = 500
"""Calls that may wait in one gateway, each with its body in memory; one more is refused at once."""
LOOK_AGAIN_S = 0.5


class LogPatience:
    """Tries again what the log's absence prevented. Nothing was asked of a provider yet."""

    def __init__(self, clock: Clock, wait_s: float) -> None:
        self._clock, self._wait_s = clock, wait_s
        self._waiting = 0

    async def outlast(self, act: Callable[[], Awaitable[Result]], began_at: float) -> Result:
        """What the act returns.

        Raises:
            LogUnavailable: ``wait_s`` after ``began_at`` the log is still away, or too many calls wait for it.

        """
        try:
            return await act()
        except LogUnavailable:
            if not self._wait_s or self._waiting >= MOST_WAITING:
                raise
        self._waiting += 1
        try:
            while True:
                left_s = began_at + self._wait_s - self._clock.monotonic()
                await asyncio.sleep(max(0.0, min(LOOK_AGAIN_S, left_s)))
                try:
                    return await act()
                except LogUnavailable:
                    if self._clock.monotonic() >= began_at + self._wait_s:
                        raise
        finally:
            self._waiting -= 1
