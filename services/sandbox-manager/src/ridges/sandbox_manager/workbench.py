"""What agents and evaluations have in common: the means of one manager, and how a sandbox is run with them."""

from datetime import datetime
from typing import Any

import msgspec

from ridges.chassis.ports import BlobStore, Clock, EventStore, EventStoreUnavailable
from ridges.contracts import events as ev
from ridges.sandbox_manager.attempt_logs import AttemptLogs
from ridges.sandbox_manager.capacity import FreeSpace
from ridges.sandbox_manager.errors import SandboxFailed, SandboxUnavailable
from ridges.sandbox_manager.live import LiveSandbox
from ridges.sandbox_manager.metrics import ManagerMetrics
from ridges.sandbox_manager.mishaps import Patience, mishap_of
from ridges.sandbox_manager.ports import Sandbox, SandboxExit, SandboxSpec
from ridges.sandbox_manager.proxy import NginxProxies
from ridges.sandbox_manager.technologies import Technologies

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
    attempt_logs: AttemptLogs
    manager_name: str
    docker_image: str
    max_attempts: int

    async def run(self, technology: Sandbox, spec: SandboxSpec, live: LiveSandbox, connections: int) -> SandboxExit:
        """The sandbox, behind its own proxy when it is an agent's.

        Raises:
            Exception: it broke. The technology is tested before its next use when that was its doing.
        """
        live.phase, live.technology = "running", technology.name
        try:
            with self.metrics.timed(spec.kind, technology.name):
                if spec.kind == "evaluation":
                    return await technology.run(spec, live.cancelled)
                most = connections + _SPARE_CONNECTIONS
                async with self.proxies.serve(spec.run_id, spec.sandbox_id, most) as directory:
                    return await technology.run(msgspec.structs.replace(spec, proxy_dir=directory), live.cancelled)
        except (SandboxUnavailable, SandboxFailed):
            self.technologies.distrust(technology.name)
            raise

    def must_wait(self, key: str, error: Exception) -> bool:
        """Whether what could not be prepared is left to the queue to deliver again."""
        if isinstance(error, EventStoreUnavailable):
            return True
        return mishap_of(error).retry and self.patience.lasts(key)

    async def events(self, run_id: str) -> list[ev.AnyEvent]:
        """Of one run, in order."""
        return [recorded.event for recorded in await self.store.read_run(run_id)]

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
