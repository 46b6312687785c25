"""Removes what dead managers left, at the start and every minute."""

import asyncio

import structlog

from ridges.sandbox_manager.attempt_copies import AttemptCopies
from ridges.sandbox_manager.live import LiveSandboxes
from ridges.sandbox_manager.metrics import ManagerMetrics
from ridges.sandbox_manager.proxy import NginxProxies
from ridges.sandbox_manager.technologies import Technologies

log = structlog.get_logger(__name__)

_LAST_SWEEP_S = 2.0


class Sweeper:
    """Knows leftovers by this installation's own marks only."""

    def __init__(
        self,
        technologies: Technologies,
        proxies: NginxProxies,
        live: LiveSandboxes,
        metrics: ManagerMetrics,
        attempt_copies: AttemptCopies,
    ) -> None:
        self._technologies, self._proxies, self._live, self._metrics = technologies, proxies, live, metrics
        self._attempt_copies = attempt_copies

    async def sweep(self) -> int:
        """One round; how many leftovers were removed."""
        self._attempt_copies.forget_old()
        removed = self._proxies.sweep(self._live.ids)
        removed += await self._technologies.sweep(self._live.ids)
        if removed:
            log.info("leftovers removed", count=removed)
            self._metrics.swept(removed)
        return removed

    async def last_sweep(self) -> None:
        """At the end of a drain: what an engine that was away could not remove in time."""
        try:
            async with asyncio.timeout(_LAST_SWEEP_S):
                await self.sweep()
        except Exception as error:  # noqa: BLE001 - the next start sweeps again
            log.warning("the last sweep failed, the next start sweeps again", error=repr(error))

    async def keep_sweeping(self, interval_s: float) -> None:
        """Never returns; a round that fails is logged, the next one comes."""
        while True:
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - a broken engine must not end the manager
                log.warning("the sweep failed, the next one comes", error=str(error), next_in_s=interval_s)
            await asyncio.sleep(interval_s)
