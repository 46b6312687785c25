"""Empty networks of Docker sandboxes, made in advance: a sandbox that takes one over starts in two thirds of the time.

Each is held by an idle container and used by one sandbox only. A network that had a tenant is never given to another:
its counters, ports in use and connections that linger would tell the next one what the last one wanted it to know.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import structlog

log = structlog.get_logger(__name__)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A container with an empty network; it ends, and is removed by the engine, when its stdin ends."""

    holder_id: str
    """Its sandbox label."""
    container_id: str
    stdin: socket.socket

    def let_go(self) -> None:
        """Nobody needs it any more. A network stays while a sandbox is in it, whatever becomes of its holder."""
        self.stdin.close()


class IdleNetwork:
    """At most one holder in reserve."""

    def __init__(
        self, make: Callable[[], Awaitable[Holder]], gone: Callable[[Holder], Coroutine[Any, Any, None]]
    ) -> None:
        """Makes nothing yet.

        Args:
            make: starts a holder; what it raises is logged, sandboxes then start without.
            gone: returns when a holder that was let go has been removed.
        """
        self._make, self._gone = make, gone
        self._idle: Holder | None = None
        self._theirs: set[str] = set()
        """Holders that were taken and are not yet gone."""
        self._making: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def holder_ids(self) -> set[str]:
        """What a sweep must leave alone."""
        return self._theirs | ({self._idle.holder_id} if self._idle else set())

    def take(self) -> Holder | None:
        """The one in reserve; the caller lets it go by ``leave``."""
        taken, self._idle = self._idle, None
        if taken:
            self._theirs.add(taken.holder_id)
        return taken

    def leave(self, holder: Holder) -> None:
        """Let a holder go, in the background."""
        holder.let_go()
        task: asyncio.Task[None] = asyncio.create_task(self._gone(holder))
        self._leaving.add(task)
        task.add_done_callback(lambda done: self._left(holder, done))

    def replenish(self) -> None:
        """Begin to make one, unless there is one or one is being made."""
        if self._idle is None and self._making is None:
            self._making = asyncio.create_task(self._fill())

    async def close(self) -> None:
        """Returns when no holder is left."""
        if self._making:
            await asyncio.gather(self._making, return_exceptions=True)
        if holder := self.take():
            self.leave(holder)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _fill(self) -> None:
        try:
            self._idle = await self._make()
        except Exception as error:  # noqa: BLE001 - a sandbox starts without it, more slowly
            log.warning("no network could be made in advance", error=str(error))
        finally:
            self._making = None

    def _left(self, holder: Holder, task: "asyncio.Task[None]") -> None:
        self._leaving.discard(task)
        self._theirs.discard(holder.holder_id)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                log.warning("a network's holder was not removed; the next sweep tries again", error=str(error))
