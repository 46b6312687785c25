"""Contents that are stored soon, many at a time, while their callers go on.

What waits is bounded in bytes; beyond that callers wait for room. A crash loses what was not stored yet.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

log = structlog.get_logger(__name__)

MOST_BYTES = 32 * 1024 * 1024
BATCH = 100
"""Contents of one ``write``: room comes back between two of them."""
LINGER_S = 0.05
"""Contents gather for so long."""
SYNC_EVERY_S = 0.5

Waiting = tuple[str, bytes, str]
"""(digest, content, media type)."""


class WritingBehind:
    """A queue in front of ``write``, which stores contents; ``sync`` makes durable what was stored so far.

    Use within one event loop.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Waiting]], Awaitable[None]],
        sync: Callable[[], Awaitable[None]] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._write, self._sync, self._most_bytes = write, sync, most_bytes
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._hurry = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    async def add(self, digest: str, content: bytes, media_type: str) -> None:
        """Returns at once where there is room."""
        while self._bytes and self._bytes + len(content) > self._most_bytes:
            self._room.clear()
            await self._room.wait()
        self._waiting.append((digest, content, media_type))
        self._bytes += len(content)
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="writing-behind")

    async def flush(self) -> None:
        """Returns when everything that was added before is stored for good."""
        while self._working is not None:
            self._hurry.set()
            await asyncio.wait({self._working})

    async def _work(self) -> None:
        """Until everything is stored and synced."""
        loop = asyncio.get_running_loop()
        synced_at, dirty = loop.time(), False
        try:
            while self._waiting or dirty:
                await self._linger()
                while self._waiting:
                    await self._write_some()
                    dirty = self._sync is not None
                if dirty and (self._hurry.is_set() or loop.time() - synced_at >= SYNC_EVERY_S):
                    await self._sync_now()
                    synced_at, dirty = loop.time(), False
        finally:
            self._working = None
            self._hurry.clear()

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _write_some(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
        try:
            await self._write(some)
        except Exception:  # stores raise what they like; later contents may fit again
            log.exception("contents could not be stored", count=len(some))
        finally:
            self._bytes -= sum(len(content) for _, content, _ in some)
            self._room.set()

    async def _sync_now(self) -> None:
        assert self._sync is not None
        try:
            await self._sync()
        except OSError:
            log.exception("stored contents could not be synced to the disk")
