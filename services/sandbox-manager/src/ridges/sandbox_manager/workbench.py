"""What agents and evaluations have in common: the means of one manager, and how a sandbox is run with them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
import structlog

from ridges.chassis.ports import BlobStore, Clock, EventStore, EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.sandbox_manager.attempt_copies import AttemptCopies
from ridges.sandbox_manager.capacity import FreeSpace
from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.live import LiveSandbox
from ridges.sandbox_manager.metrics import ManagerMetrics
from ridges.sandbox_manager.mishaps import Patience, mishap_of
from ridges.sandbox_manager.ports import Sandbox, SandboxExit, SandboxSpec
from ridges.sandbox_manager.proxy import NginxProxies
from ridges.sandbox_manager.technologies import Technologies

log = structlog.get_logger(__name__)

LOG_MEDIA_TYPE = "text/plain; charset=utf-8"
_SPARE_CONNECTIONS = 32
"""Beyond the run's concurrent model calls: the gateway, not nginx, is to answer the call that is one too many."""


class Workbench(msgspec.Struct, frozen=True, kw_only=True):
    """One per manager."""

    store: EventStore
    blobs: BlobStore
    clock: Clock
    technologies: Technologies
    proxies: NginxProxies
    metrics: ManagerMetrics
    patience: Patience
    free_space: FreeSpace
    attempt_copies: AttemptCopies
    manager_name: str
    docker_image: str
    max_attempts: int
    partial_patch_interval_s: float = 0.0

    @contextlib.asynccontextmanager
    async def ran(
        self, technology: Sandbox, spec: SandboxSpec, live: LiveSandbox, connections: int
    ) -> AsyncIterator[SandboxExit]:
        """What a sandbox left, as soon as nothing in it runs any more. It is removed beside the block, gone after it.

        Raises:
            Exception: before the block, it broke. The technology is tested before its next use when that was its doing.
        """
        live.phase, live.technology = "running", technology.name
        left: list[SandboxExit] = []
        known = asyncio.get_running_loop().create_future()

        def keep(exited: SandboxExit) -> None:
            if not known.done():
                left.append(exited)
                known.set_result(None)

        async def run() -> None:
            keep(await self._run(technology, msgspec.structs.replace(spec, on_exit=keep), live.cancelled, connections))

        running = asyncio.create_task(run())
        try:
            await asyncio.wait((running, known), return_when=asyncio.FIRST_COMPLETED)
            if not known.done():
                await running
            yield left.pop()
        finally:
            if not known.done():
                running.cancel()
            problem = await _end_of(running)
            if known.done() and problem:
                log.warning("a sandbox was not removed; the next sweep tries again", error=repr(problem))

    async def _run(
        self, technology: Sandbox, spec: SandboxSpec, cancelled: asyncio.Event, connections: int
    ) -> SandboxExit:
        """The sandbox, behind its own proxy when it is an agent's."""
        try:
            with self.metrics.timed(spec.kind, technology.name):
                if spec.kind == "evaluation":
                    return await technology.run(spec, cancelled)
                most = connections + _SPARE_CONNECTIONS
                async with self.proxies.serve(spec.run_id, spec.sandbox_id, most) as directory:
                    return await technology.run(msgspec.structs.replace(spec, proxy_dir=directory), cancelled)
        except (SandboxUnavailable, SandboxFailed):
            self.technologies.distrust(technology.name)
            raise

    def must_wait(self, key: str, error: Exception) -> bool:
        """Whether what could not be prepared is left to the queue to deliver again."""
        if isinstance(error, EventStoreUnavailable):
            return True
        return mishap_of(error).retry and self.patience.lasts(key)

    def envelope(self, cause: ev.Event) -> dict[str, Any]:
        """Of an event that follows from another one."""
        return {
            "id": self.clock.new_id(),
            "run_id": cause.run_id,
            "time": self.clock.now(),
            "causation_id": cause.id,
            "correlation_id": cause.correlation_id,
            "traceparent": cause.traceparent,
        }

    @property
    def now(self) -> datetime:
        return self.clock.now()


async def _end_of(running: asyncio.Task[None]) -> BaseException | None:
    """Waits for it, also when the caller is cancelled meanwhile; what it raised."""
    ended = asyncio.gather(running, return_exceptions=True)
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        await ended
        raise
    return ended.result()[0]
