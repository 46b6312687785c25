"""The sandboxes that this process runs right now."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec


class LiveSandbox(msgspec.Struct, kw_only=True, eq=False):
    """One of them."""

    key: str
    """What it works on: a run id, or an evaluation id."""
    run_id: str
    sandbox_id: str
    cancelled: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set when the run is cancelled."""
    ended: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class LiveSandboxes:
    """Who is at work; at most one sandbox for each key."""

    def __init__(self) -> None:
        self._by_key: dict[str, LiveSandbox] = {}
        self.ids: set[str] = set()
        """Sandbox ids that a sweep must leave alone: always up to date, a sandbox is in it before it exists."""

    @contextlib.asynccontextmanager
    async def enter(self, key: str, run_id: str, sandbox_id: str) -> AsyncIterator[LiveSandbox]:
        """Register one for the time of the block.

        When the same key is at work here already (its message came again because heartbeats were lost, not the work),
        this waits until that work ended.
        """
        while (earlier := self._by_key.get(key)) is not None:
            await earlier.ended.wait()
        live = self._by_key[key] = LiveSandbox(key=key, run_id=run_id, sandbox_id=sandbox_id)
        self.ids.add(sandbox_id)
        try:
            yield live
        finally:
            self.ids.discard(sandbox_id)
            del self._by_key[key]
            live.ended.set()

    def cancel(self, run_id: str) -> int:
        """Ends the run's sandboxes; how many."""
        found = [live for live in self._by_key.values() if live.run_id == run_id]
        for live in found:
            live.cancelled.set()
        return len(found)
