"""What this process works on right now: who waits, which sandboxes run, and the end of their logs."""

import asyncio
import codecs
import contextlib
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Literal

import msgspec

TAIL_BYTES = 64 * 1024
"""Of each live log; the whole log (with its own cap) is in the blob of the ended run."""
Kind = Literal["agent", "evaluation"]
Phase = Literal["waiting", "preparing", "running"]


class LogTail:
    """The end of a log that is still being written."""

    def __init__(self, most: int = TAIL_BYTES) -> None:
        self._most = most
        self._kept = bytearray()
        self._start = 0
        self._told = 0
        self._grown = asyncio.Event()

    def add(self, offset: int, chunk: bytes) -> None:
        """The bytes that stand at the offset of the sandbox's log; what was left out before them is said."""
        if offset > self._told:
            self._kept += f"\n<{offset - self._told} bytes not shown live>\n".encode()
        self._told = offset + len(chunk)
        self._kept += chunk
        surplus = len(self._kept) - self._most
        if surplus > 0:
            del self._kept[:surplus]
            self._start += surplus
        self._grown.set()
        self._grown = asyncio.Event()

    def after(self, position: int) -> tuple[str, int, int]:
        """(Text, position to ask from next, bytes that are gone already). Cuts no character in two."""
        position = min(max(position, 0), self._start + len(self._kept))
        gone = max(0, self._start - position)
        begin = position + gone
        text, used = codecs.utf_8_decode(bytes(self._kept[begin - self._start :]), "replace", False)
        return text, begin + used, gone

    @property
    def content(self) -> bytes:
        """What is kept, as UTF-8."""
        return bytes(self._kept).decode("utf-8", "replace").encode()

    async def grown(self) -> None:
        """Returns with the next bytes."""
        await self._grown.wait()


class LiveSandbox(msgspec.Struct, kw_only=True, eq=False):
    """One piece of work: a run's attempt, or an evaluation."""

    key: str
    """What it works on: a run id, or an evaluation id."""
    run_id: str
    sandbox_id: str
    kind: Kind = "agent"
    since: datetime | None = None
    phase: Phase = "waiting"
    attempt: int = 0
    """Of the agent; 0 until it is decided."""
    technology: str | None = None
    tail: LogTail = msgspec.field(default_factory=LogTail)
    cancelled: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set when it must end: the run was cancelled, another manager began it anew, its budget is spent."""
    overtaken: bool = False
    """Another manager began it anew: nobody wants what it leaves."""
    started_position: int = 0
    """Of its EvaluationStarted in the log; 0 = not started."""
    end_when_spent: bool = False
    """It is to end at the first model call that is refused for its cost."""
    ended: asyncio.Event = msgspec.field(default_factory=asyncio.Event)


class LiveSandboxes:
    """Who is at work; at most one for each key."""

    def __init__(self) -> None:
        self._by_key: dict[str, LiveSandbox] = {}
        self.ids: set[str] = set()
        """Sandbox ids that a sweep must leave alone: always up to date, a sandbox is in it before it exists."""

    @contextlib.asynccontextmanager
    async def enter(
        self, key: str, run_id: str, sandbox_id: str, kind: Kind = "agent", since: datetime | None = None
    ) -> AsyncIterator[LiveSandbox]:
        """Register one for the time of the block.

        When the same key is at work here already (its message came again because heartbeats were lost, not the work),
        this waits until that work ended.
        """
        while (earlier := self._by_key.get(key)) is not None:
            await earlier.ended.wait()
        live = LiveSandbox(key=key, run_id=run_id, sandbox_id=sandbox_id, kind=kind, since=since)
        self._by_key[key] = live
        self.ids.add(sandbox_id)
        try:
            yield live
        finally:
            self.ids.discard(sandbox_id)
            del self._by_key[key]
            live.ended.set()

    def all(self) -> Iterable[LiveSandbox]:
        return tuple(self._by_key.values())

    def find(self, run_id: str, kind: Kind) -> LiveSandbox | None:
        return next((live for live in self._by_key.values() if (live.run_id, live.kind) == (run_id, kind)), None)

    def cancel(self, run_id: str) -> int:
        """Ends the run's sandboxes; how many."""
        found = [live for live in self._by_key.values() if live.run_id == run_id]
        for live in found:
            live.cancelled.set()
        return len(found)

    def overtaken(self, run_id: str, attempt: int) -> int:
        """Ends the run's earlier attempts, which another manager took for lost; how many."""
        live = self._by_key.get(run_id)
        return _overtaken(live) if live is not None and 0 < live.attempt < attempt else 0

    def evaluation_overtaken(self, evaluation_id: str, position: int) -> int:
        """Ends the evaluation when another start of it stands in the log after ours; how many."""
        live = self._by_key.get(evaluation_id)
        return _overtaken(live) if live is not None and 0 < live.started_position < position else 0

    def spent(self, run_id: str) -> int:
        """Ends the run's agent if it is to end with its budget; how many."""
        live = self._by_key.get(run_id)
        if live is None or not live.end_when_spent or live.phase != "running" or live.cancelled.is_set():
            return 0
        live.cancelled.set()
        return 1


def _overtaken(live: LiveSandbox) -> int:
    live.overtaken = True
    live.cancelled.set()
    return 1
